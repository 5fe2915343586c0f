# SPDX-License-Identifier: Apache-2.0
"""Growing the data partition, with the real sfdisk on a disk that is a file."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.guest import grow, host
from appliance.guest.grow import Partition
from appliance.guest.host import Done
from gateway.errors import HostError
from tests.unit.appliance.box import Box

MIB = 2048  # sectors
TABLE = """\
label: gpt
start=2048, size=2048, name=bios
start=4096, size=32768, name=root-a
start=36864, size=131072, name={last}
"""

needs_sfdisk = pytest.mark.skipif(
    shutil.which("sfdisk") is None, reason="sfdisk (Debian: fdisk) is not installed"
)


def disk(path: Path, mib: int, last: str = "data") -> Path:
    """A disk whose table was made when it had 96 MiB."""
    with path.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["sfdisk", "--quiet", path], input=TABLE.format(last=last), text=True, check=True)
    with path.open("r+b") as file:
        file.truncate(mib << 20)
    return path


def table(path: Path) -> dict[str, dict[str, int]]:
    done = subprocess.run(["sfdisk", "--json", path], capture_output=True, text=True, check=True)
    return {entry["name"]: entry for entry in json.loads(done.stdout)["partitiontable"]["partitions"]}


def part(size_mib: int, disk_mib: int) -> Partition:
    return Partition(Path("/dev/vda"), Path("/dev/vda3"), 3, 18 * MIB, size_mib * MIB, disk_mib * MIB)


@pytest.mark.parametrize(
    ("size_mib", "disk_mib", "wanted_mib"),
    [(64, 83, 0), (64, 96, 0), (64, 100, 81), (64, 1024, 1005), (1005, 1024, 0), (64, 60, 0)],
)
def test_it_takes_what_is_left_and_leaves_room_for_the_second_table(
    size_mib: int, disk_mib: int, wanted_mib: int
) -> None:
    assert part(size_mib, disk_mib).size_wanted() == wanted_mib * MIB


@needs_sfdisk
def test_the_table_grows_and_nothing_else_in_it_changes(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk", 256)
    before = table(path)
    grow.grow_table(host.run, path, 3, 237 * MIB)
    after = table(path)
    assert after["data"]["size"] == 237 * MIB and after["data"]["start"] == before["data"]["start"]
    assert after["data"]["uuid"] == before["data"]["uuid"]
    assert {name: after[name] for name in ("bios", "root-a")} == {
        name: before[name] for name in ("bios", "root-a")
    }
    assert subprocess.run(["sfdisk", "--quiet", "--verify", path], check=False).returncode == 0


@needs_sfdisk
def test_a_partition_that_is_not_the_last_is_left_alone(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk", 256, last="other")
    before = table(path)
    with pytest.raises(HostError, match="not the last one"):
        grow.grow_table(host.run, path, 2, 100 * MIB)
    assert table(path) == before


def a_disk(box: Box) -> None:
    """The data partition of a disk of 256 MiB that was made for 83."""
    root = box.layout.root
    entry = root / "sys/devices/virtio0/block/vda/vda7"
    entry.mkdir(parents=True)
    for path, text in (
        (entry / "partition", "7"),
        (entry / "start", "36864"),
        (entry / "size", "131072"),
        (entry.parent / "size", "524288"),
    ):
        path.write_text(f"{text}\n")
    box.layout.blocks.mkdir(parents=True)
    (box.layout.blocks / "vda7").symlink_to(entry)
    (root / "dev/vda7").write_text("")
    (box.layout.by_partlabel / "data").symlink_to("../../vda7")
    (root / "dev/vda").write_text("")


def test_it_is_found_by_its_label(box: Box) -> None:
    a_disk(box)
    root = box.layout.root
    found = grow.find(box.layout)
    assert found == Partition(root / "dev/vda", root / "dev/vda7", 7, 36864, 131072, 524288)


def test_udev_is_kept_away_until_table_and_kernel_agree(box: Box) -> None:
    """Whoever asks for the lock, as udev does, is refused while sfdisk and partx run, and gets it afterwards."""
    a_disk(box)
    node = json.dumps(
        {"partitiontable": {"partitions": [{"node": "/dev/vda7", "start": 36864, "name": "data"}]}}
    )
    held = []

    def is_locked() -> bool:
        with (box.layout.root / "dev/vda").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def answer(command: Sequence[str], _text: str) -> Done:
        held.append((command[0], is_locked()))
        return Done(0, node)

    box.programs.answer = answer
    assert grow.grow(box.layout, box.programs) == "vda7: the data partition has 237 MiB now"
    assert held == [*[("sfdisk", True)] * 3, ("partx", True), (grow.GROW_FILE_SYSTEM, False)]


def test_a_boot_goes_on_without_it(box: Box) -> None:
    a_disk(box)
    box.programs.answer = lambda command, _text: Done(1, "", "no") if command[0] == "sfdisk" else None
    box.power_on = lambda: None  # type: ignore[method-assign]  # it would take the disk out again
    told = f"sfdisk --json {box.layout.root}/dev/vda: no"
    assert box.boot().problems == [f"the data partition keeps its size: {told}"]
    assert box.layout.gateway_key.exists()


def test_a_live_system_has_nothing_to_grow(box: Box) -> None:
    assert grow.grow(box.layout, box.programs) == ""
    assert not box.programs.calls


@pytest.mark.parametrize("verdict", ["live", "no such device"])
def test_a_partition_that_is_not_in_use_here_is_somebody_elses(box: Box, verdict: str) -> None:
    a_disk(box)
    box.layout.data_verdict.parent.mkdir(parents=True)
    box.layout.data_verdict.write_text(f"{verdict}\n")
    assert grow.grow(box.layout, box.programs) == ""
    assert not box.programs.calls
