# SPDX-License-Identifier: Apache-2.0
"""The power may fail after any step of an update: the next start is a whole slot, and beginning again works."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Final

import pytest

from appliance.update import apply, bundle, grubenv
from appliance.update.bundle import Manifest
from appliance.update.confirm import Confirm, Standing, standing
from appliance.update.places import SLOTS
from appliance.update.sign import make_manifest
from appliance.update.slotrule import Start, boot_choice
from appliance.update.slots import BootState, decode_state
from tests.unit.appliance.powercut import SECTOR_BYTES, ModelDisk, PowerCut
from tests.unit.appliance.updating import Box, make_box, make_bundle, make_slot, manifest_of

# Besides all lost and all kept: how many of the ways in which a part of what was not flushed survives.
FATES: Final = 12


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several writes for each file, so that there is something to cut between."""
    monkeypatch.setattr(bundle, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(apply, "CHUNK_BYTES", 4096)


def start(box: Box) -> Start:
    """What GRUB does with this disk; it stores what it stores."""
    names = box.places
    begun = boot_choice(
        decode_state(box.disk.read(names.grubenv, 0, grubenv.BLOCK_BYTES)),
        lambda slot: box.disk.exists(names.on_esp(slot, "slot.cfg")),
    )
    box.disk.overwrite(names.grubenv, 0, begun.state.encode())
    box.disk.flush(names.grubenv)
    return begun


def fates(disk: ModelDisk, cut: int) -> list[ModelDisk]:
    some = [disk.after_power_cut(Random(f"{cut} {n}")) for n in range(FATES)]
    return [disk.after_power_cut(None), disk.after_power_cut(None, keep_all=True), *some]


@pytest.fixture
def model(tmp_path: Path) -> Box:
    """A machine in memory."""
    made = make_box(tmp_path)
    return Box(made.root, ModelDisk.of_folder(made.root))


@pytest.fixture
def old(tmp_path: Path) -> Manifest:
    return make_manifest(make_slot(tmp_path / "again", 1_700_000_000, "1.0.0"), "cloud")


def cut(box: Box, new: Path, at: int) -> ModelDisk | None:
    """The disk of a fresh copy after ``at`` steps of the update; None when it came to its end."""
    assert isinstance(box.disk, ModelDisk)
    disk = box.disk.after_power_cut(None)
    disk.cut_at = at
    try:
        Box(box.root, disk).update(new)
    except PowerCut:
        return disk
    return None


def test_every_cut_leaves_a_whole_slot_to_start_and_an_update_to_begin_again(
    model: Box, tmp_path: Path, old: Manifest
) -> None:
    new = make_bundle(tmp_path)
    manifest = manifest_of(new)
    at = 0
    while (disk := cut(model, new, at)) is not None:
        for left in fates(disk, at):
            box = Box(model.root, left)
            begun = start(box)
            assert box.holds("a", old), f"step {at}: the running slot was touched"
            if begun.slot == "b":
                assert begun.trial and box.holds("b", manifest), f"step {at}: half a slot was started"
                continue
            assert begun == Start("a", False, begun.state)
            box.update(new)
            assert start(box).slot == "b" and box.holds("b", manifest), f"step {at}: beginning again failed"
        at += 1
    assert at > 30, "the update has fewer steps than it is made of"


def test_a_second_update_over_a_confirmed_one_is_as_safe(model: Box, tmp_path: Path) -> None:
    """Slot b holds a whole older system, and grubenv names it as tried: the worst that a new update can find."""
    assert isinstance(model.disk, ModelDisk)
    model.update(make_bundle(tmp_path, 1_750_000_000, "1.5.0"))
    first_steps = model.disk.steps
    armed = Box(model.root, model.disk.after_power_cut(None, keep_all=True))
    new = make_bundle(tmp_path)
    manifest = manifest_of(new)
    held = {
        1_750_000_000: manifest_of(tmp_path / "jumping-vpn-1.5.0-1750000000-amd64.jvpnup"),
        manifest.serial: manifest,
    }
    for at in range(first_steps + 10):
        disk = cut(armed, new, at)
        if disk is None:
            break
        for left in fates(disk, at):
            box = Box(model.root, left)
            if not any(box.holds("b", manifest) for manifest in held.values()):
                # Either of the two would do; that both hold is what keeps one mistake from being the last.
                assert box.slots.config("b") is None, f"step {at}: half a slot looks like a slot"
                assert not box.slots.state().trial_is_due, f"step {at}: half a slot is to be tried"
            begun = start(box)
            if begun.slot == "b":
                config = box.slots.config("b")
                assert config is not None and box.holds("b", held[config.serial]), f"step {at}"
    else:
        pytest.fail("the update never came to its end")


def test_what_was_said_to_be_done_outlives_a_power_cut(model: Box, tmp_path: Path) -> None:
    model.update(make_bundle(tmp_path))
    assert isinstance(model.disk, ModelDisk)
    left = Box(model.root, model.disk.after_power_cut(None))
    assert start(left) == Start("b", True, BootState("a", "b", "0"))
    assert left.record.last() == model.record.last()


def test_a_cut_confirmation_starts_a_whole_slot(model: Box, tmp_path: Path) -> None:
    model.update(make_bundle(tmp_path))
    assert start(model).slot == "b"
    assert isinstance(model.disk, ModelDisk)
    line = model.places.command_line
    for at in range(100):
        disk = model.disk.after_power_cut(None, keep_all=True)
        disk.overwrite(line, 0, disk.read(line, 0, 100).replace(b"jvpn.slot=a", b"jvpn.slot=b"))
        disk.flush(line)
        disk.steps, disk.cut_at = 0, at
        box = Box(model.root, disk)
        try:
            Confirm(box.slots, box.record, box.mounted, lambda _: None).settle()
        except PowerCut:
            assert {start(Box(model.root, left)).slot for left in fates(disk, at)} <= set(SLOTS)
            continue
        disk.cut_at = None
        assert start(box) == Start("b", False, BootState("b"))
        return
    pytest.fail("the confirmation never came to its end")


def test_only_the_other_slot_is_written(model: Box, tmp_path: Path) -> None:
    assert isinstance(model.disk, ModelDisk)
    model.update(make_bundle(tmp_path))
    places = model.places
    allowed = {
        places.grubenv,
        places.partition("root", "b"),
        places.partition("verity", "b"),
        *(places.on_esp("b", name) for name in ("vmlinuz", "initrd", "slot.cfg")),
        places.own / "update.json",
    }
    fresh = {path.with_name(f"{path.name}.new") for path in allowed}
    assert model.disk.written <= allowed | fresh


def test_the_switch_is_one_sector() -> None:
    states = [
        BootState(slot, next_, try_) for slot in ("a", "b") for next_ in ("", "a", "b") for try_ in "01"
    ]
    assert len({state.encode()[SECTOR_BYTES:] for state in states}) == 1
    assert {len(state.encode()) for state in states} == {grubenv.BLOCK_BYTES}


def test_a_trial_that_never_comes_back_falls_back(model: Box, tmp_path: Path) -> None:
    model.update(make_bundle(tmp_path))
    assert [start(model).slot for _ in range(3)] == ["b", "a", "a"]
    assert standing("a", model.slots.state()) is Standing.FELL_BACK
