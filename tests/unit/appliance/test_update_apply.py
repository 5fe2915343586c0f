# SPDX-License-Identifier: Apache-2.0
"""An update on files: what is written where, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.update.apply import verify_slot
from appliance.update.bundle import FILES
from appliance.update.disk import RealDisk
from appliance.update.record import LastUpdate
from appliance.update.slots import BootState
from gateway.errors import HostError, JumpError, ProtocolError, Refused, TryLater
from tests.unit.appliance.updating import NEW, OLD, Box, make_box, make_bundle, manifest_of, quiet


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return make_box(tmp_path)


def everything(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_update_fills_the_other_slot_and_has_it_tried(box: Box, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, floor=OLD)
    box.update(bundle)
    assert box.holds("b", manifest_of(bundle))
    assert box.slots.state() == BootState("a", "b", "1")
    assert box.record.last() == LastUpdate("b", "2.0.0", NEW, OLD, True, "written")
    assert sorted(path.name for path in (box.places.esp / "b").iterdir()) == ["initrd", "slot.cfg", "vmlinuz"]
    verify_slot(box.slots, "b", quiet)


def test_from_slot_b_it_fills_slot_a(box: Box, tmp_path: Path) -> None:
    box.update(make_bundle(tmp_path, OLD + 5, "1.1.0"))
    box.runs("b")
    box.slots.settle()
    newer = make_bundle(tmp_path)
    box.update(newer)
    assert box.holds("a", manifest_of(newer))
    assert box.slots.state() == BootState("b", "a", "1")


@pytest.mark.parametrize(
    ("serial", "floor", "allow_older", "word"),
    [
        (OLD, 0, False, "not newer"),
        (OLD - 1, 0, False, "not newer"),
        (OLD - 1, OLD, False, "below the floor"),
        (OLD - 1, OLD, True, "below the floor"),
        (NEW, NEW + 1, True, "below the floor"),
    ],
)
def test_an_older_one_is_refused_untouched(
    box: Box, tmp_path: Path, serial: int, floor: int, allow_older: bool, word: str
) -> None:
    box.record.raise_floor(floor)
    before = everything(box.root)
    with pytest.raises(Refused, match=word):
        box.update(make_bundle(tmp_path, serial, "1.9"), allow_older)
    assert everything(box.root) == before


def test_an_older_one_above_the_floor_is_taken_when_asked_for(box: Box, tmp_path: Path) -> None:
    box.record.raise_floor(OLD - 10)
    older = make_bundle(tmp_path, OLD - 10, "0.9")
    box.update(older, allow_older=True)
    assert box.holds("b", manifest_of(older))


def test_a_slot_on_trial_does_not_overwrite_its_way_back(box: Box, tmp_path: Path) -> None:
    box.update(make_bundle(tmp_path))
    box.disk.overwrite(box.places.grubenv, 0, BootState("a", "b", "0").encode())
    box.runs("b")
    newer = make_bundle(tmp_path, NEW + 1, "2.1")
    before = everything(box.root)
    with pytest.raises(TryLater, match="slot b is not confirmed, and a restart goes back to slot a"):
        box.update(newer)
    assert everything(box.root) == before


@pytest.mark.parametrize(
    "text", ["VARIANT_ID=generic\n", "ID=debian\n", "", "VARIANT_ID=cloud\nVARIANT_ID=generic\n"]
)
def test_another_kernel_is_refused_untouched(box: Box, tmp_path: Path, text: str) -> None:
    box.places.os_release.write_text(text)
    before = everything(box.root)
    with pytest.raises(Refused, match="the update has the cloud kernel"):
        box.update(make_bundle(tmp_path))
    assert everything(box.root) == before


def test_what_does_not_fit_is_refused_untouched(box: Box, tmp_path: Path) -> None:
    box.places.partition("root", "b").write_bytes(bytes(4096))
    before = everything(box.root)
    with pytest.raises(HostError, match=r"root\.squashfs has 20480 bytes"):
        box.update(make_bundle(tmp_path))
    assert everything(box.root) == before


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_bundle_is_never_armed(box: Box, tmp_path: Path, name: str) -> None:
    """As a download without room for it would come: written as it is read."""
    path = make_bundle(tmp_path)
    data = path.read_bytes()
    content = (tmp_path / f"slot-2.0.0-{NEW}" / name).read_bytes()
    at = data.rindex(content) + len(content) - 1
    path.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
    with pytest.raises(ProtocolError):
        box.update(path)
    assert box.slots.state() == BootState("a")
    assert box.slots.config("b") is None


class FailingDisk(RealDisk):
    """Takes every write and keeps a byte of one file wrong: a bad disk."""

    def __init__(self, bad: Path) -> None:
        self._bad = bad

    def flush(self, path: Path) -> None:
        super().flush(path)
        if path.name.removesuffix(".new") == self._bad.name and path.parent == self._bad.parent:
            data = bytearray(path.read_bytes())
            data[100 % len(data)] ^= 1
            path.write_bytes(data)


def test_a_disk_that_does_not_keep_what_it_took_is_noticed(tmp_path: Path) -> None:
    good = make_box(tmp_path)
    places = good.places
    for bad in (
        places.partition("root", "b"),
        places.partition("verity", "b"),
        *(places.on_esp("b", name) for name in ("vmlinuz", "initrd", "slot.cfg")),
    ):
        box = Box(good.root, FailingDisk(bad))
        with pytest.raises(JumpError):
            box.update(make_bundle(tmp_path))
        assert box.slots.state() == BootState("a"), bad


def test_a_slot_that_was_damaged_later_is_found_out(box: Box, tmp_path: Path) -> None:
    box.update(make_bundle(tmp_path))
    verify_slot(box.slots, "b", quiet)
    with box.places.partition("root", "b").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff")
    with pytest.raises(Refused, match="slot b is damaged"):
        verify_slot(box.slots, "b", quiet)


def test_an_empty_slot_is_no_whole_system(box: Box) -> None:
    with pytest.raises(Refused, match="holds no whole system"):
        verify_slot(box.slots, "b", quiet)


def test_the_floor_never_goes_down(box: Box) -> None:
    box.record.raise_floor(5)
    box.record.raise_floor(3)
    assert box.record.floor() == 5
    (box.places.own / "floor").write_text("rubbish\n")
    assert box.record.floor() == 0


def test_a_record_that_cannot_be_read_is_none(box: Box) -> None:
    assert box.record.last() is None
    (box.places.own / "update.json").write_text('{"slot": 1}')
    assert box.record.last() is None
