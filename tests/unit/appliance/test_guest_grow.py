# SPDX-License-Identifier: Apache-2.0
"""Growing the data partition, with the real sfdisk on a disk that is a file."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.guest import grow, host
from appliance.guest.grow import Partition
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


def test_it_is_found_by_its_label(box: Box) -> None:
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
    found = grow.find(box.layout)
    assert found == Partition(root / "dev/vda", root / "dev/vda7", 7, 36864, 131072, 524288)


def test_a_live_system_has_nothing_to_grow(box: Box) -> None:
    assert grow.grow(box.layout, box.programs) == "no data partition on a disk: nothing to grow"
    assert not box.programs.calls
