# SPDX-License-Identifier: Apache-2.0
"""What of the boot tests needs no machine: a screen that is read, a document that is written, hardware as words."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import pytest

from gateway.ops.cli.qr import qr_text
from tests.image.camera import scan
from tests.image.console import plain
from tests.image.machine import Card, Hardware
from tests.image.media import FIRST_LINE, user_data
from tests.image.qmp import separate

TEXTS = ["k", "0U3qUpCQb3C2Q9012FJ/voB29Qig6x+X0EC52WGhnY=", "[Interface]\nPrivateKey = =\n" * 9]


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("text", TEXTS, ids=["short", "key", "file"])
def test_a_code_on_a_screen_is_read_as_a_phone_reads_it(text: str, colour: bool) -> None:
    shown = plain(f"Scan this.\r\n\n{qr_text(text, colour=colour)}\n\nEnter goes on. ".encode())
    assert scan(shown) == text


def test_codes_of_many_sizes_are_read() -> None:
    letters = random.Random(1)
    for length in range(20, 600, 45):
        text = "".join(letters.choices("abcXYZ0189+/=\n", k=length))
        assert scan(qr_text(text, colour=False)) == text


def test_a_screen_without_a_code_has_none() -> None:
    with pytest.raises(ValueError, match="no QR code"):
        scan("gateway    serving, 0 sessions of 0 peers\n" * 24)


def test_the_document_is_the_toml_it_was_made_from() -> None:
    tables = {
        "appliance": {"hostname": 'a "b"', "ssh_keys": ["x", "y"]},
        "network.wan": {"dhcp": True},
        "peer": [{"name": "one"}, {"name": "two"}],
    }
    text = user_data(tables)
    assert text.splitlines()[0] == FIRST_LINE
    assert tomllib.loads(text) == {
        "appliance": tables["appliance"],
        "network": {"wan": {"dhcp": True}},
        "peer": tables["peer"],
    }


def test_disks_are_booted_in_order_and_a_cd_before_them(tmp_path: Path) -> None:
    hardware = Hardware(
        disks=[Path("a.qcow2"), Path("b.raw")],
        cdrom=Path("c.iso"),
        media=[Path("d.iso")],
        cards=[Card("tapwan", "52:54:00:00:00:01")],
    )
    words = hardware.argv(tmp_path)
    order = {word.split(",")[1]: word.rpartition("=")[2] for word in words if "bootindex" in word}
    assert order == {"drive=cd": "0", "drive=disk0": "1", "drive=disk1": "2"}
    drives = [word for word in words if word.startswith("if=none")]
    assert [("readonly=on" in word) for word in drives] == [False, False, True, True]
    assert any("mac=52:54:00:00:00:01" in word for word in words)


def test_firmware_variables_are_a_copy(tmp_path: Path) -> None:
    if not Path("/usr/share/OVMF/OVMF_VARS_4M.fd").exists():
        pytest.skip("no OVMF here")
    words = Hardware(firmware="uefi").argv(tmp_path)
    assert any(f"file={tmp_path}/ovmf-vars.fd" in word for word in words)
    assert (tmp_path / "ovmf-vars.fd").stat().st_size == Path(
        "/usr/share/OVMF/OVMF_VARS_4M.fd"
    ).stat().st_size


def test_a_restart_and_the_reset_of_its_firmware_are_one() -> None:
    assert separate([], 5.0) == 0
    assert separate([10.0, 11.2, 95.0, 96.0, 190.0], 5.0) == 3
