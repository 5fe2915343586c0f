# SPDX-License-Identifier: Apache-2.0
"""grubenv, slot.cfg and which slot runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.update import grubenv, slotcfg
from appliance.update.slotcfg import SlotConfig
from appliance.update.slots import LIVE, BootState, Slots, decode_state, running_slot
from gateway.errors import HostError, Refused
from tests.unit.appliance.updating import make_box

CONFIG = SlotConfig("ab" * 32, "1.2.3~rc1", 1_700_000_000)


def test_a_block_is_what_grub_writes(tmp_path: Path) -> None:
    """Byte for byte as grub-editenv of GRUB 2.06 makes it with the same variables."""
    expected = b"# GRUB Environment Block\nslot=a\nnext=\ntry=0\n"
    assert BootState("a").encode() == expected.ljust(1024, b"#")


def test_grub_itself_reads_it(tmp_path: Path) -> None:
    editor = shutil.which("grub-editenv")
    if editor is None:
        pytest.skip("grub-editenv is not installed")
    path = tmp_path / "grubenv"
    path.write_bytes(BootState("a", "b", "1").encode())
    said = subprocess.run([editor, path, "list"], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["slot=a", "next=b", "try=1"]
    subprocess.run([editor, path, "set", "try=0"], check=True)
    assert decode_state(path.read_bytes()) == BootState("a", "b", "0")


@given(st.sampled_from(["a", "b", ""]), st.sampled_from(["a", "b", ""]), st.sampled_from(["0", "1"]))
def test_a_state_is_read_as_it_was_written(slot: str, next_: str, try_: str) -> None:
    state = BootState(slot, next_, try_)
    assert decode_state(state.encode()) == state


@given(st.binary(max_size=1100))
def test_a_block_that_grub_refuses_says_nothing(block: bytes) -> None:
    assert decode_state(block) == BootState()


@pytest.mark.parametrize(
    "variables", [{"a b": "x"}, {"a": "x\ny"}, {"a": "x\\"}, {"a": "ü"}, {"a": "x" * 500}]
)
def test_what_could_not_be_read_back_is_not_written(variables: dict[str, str]) -> None:
    with pytest.raises(HostError, match="grubenv"):
        grubenv.encode(variables)


def test_slot_cfg_is_read_as_it_was_written() -> None:
    text = slotcfg.encode(CONFIG)
    assert text == f"set roothash={'ab' * 32}\nset version=1.2.3~rc1\nset serial=1700000000\n"
    assert slotcfg.decode(text) == CONFIG


@pytest.mark.parametrize(
    "config",
    [
        CONFIG._replace(roothash="AB" * 32),
        CONFIG._replace(roothash="ab"),
        CONFIG._replace(version="1;halt"),
        CONFIG._replace(version="1\nhalt"),
        CONFIG._replace(version=""),
        CONFIG._replace(serial=-1),
        CONFIG._replace(serial=1 << 53),
    ],
)
def test_slot_cfg_holds_nothing_that_grub_could_run(config: SlotConfig) -> None:
    with pytest.raises(HostError, match=r"slot\.cfg"):
        slotcfg.encode(config)


@given(st.text(max_size=200))
def test_any_other_text_is_no_slot(text: str) -> None:
    for wrong in (text, slotcfg.encode(CONFIG) + (text or " "), (text or " ") + slotcfg.encode(CONFIG)):
        with pytest.raises(HostError):
            slotcfg.decode(wrong)


@pytest.mark.parametrize(
    ("line", "slot"),
    [("boot=appliance jvpn.slot=a quiet\n", "a"), ("jvpn.slot=b", "b"), ("quiet jvpn.slot=live", LIVE)],
)
def test_the_command_line_names_the_slot(line: str, slot: str) -> None:
    assert running_slot(line) == slot


@pytest.mark.parametrize("line", ["", "quiet", "jvpn.slot=c", "jvpn.slot=", "xjvpn.slot=a"])
def test_another_machine_has_no_slot(line: str) -> None:
    with pytest.raises(HostError, match="is it an appliance"):
        running_slot(line)


def test_the_live_system_has_no_other_slot(tmp_path: Path) -> None:
    box = make_box(tmp_path)
    box.runs(LIVE)
    with pytest.raises(Refused, match="live system"):
        _ = box.slots.other


def test_states_go_to_the_disk_and_come_back(tmp_path: Path) -> None:
    box = make_box(tmp_path)
    slots = box.slots
    assert (slots.running, slots.other) == ("a", "b")
    slots.arm("b")
    assert slots.state() == BootState("a", "b", "1")
    slots.disarm()
    assert slots.state() == BootState("a")
    assert box.places.grubenv.stat().st_size == 1024
    configs = slots.configs()
    assert configs["b"] is None and configs["a"] is not None and configs["a"].version == "1.0.0"


def test_a_grubenv_of_another_size_is_not_made_longer(tmp_path: Path) -> None:
    box = make_box(tmp_path)
    box.places.grubenv.unlink()
    with pytest.raises(HostError, match="is not there"):
        Slots(box.places, box.disk).arm("b")
    assert not box.places.grubenv.exists()
