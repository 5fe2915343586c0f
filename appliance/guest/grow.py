# SPDX-License-Identifier: Apache-2.0
"""Growing the data partition, the last one of the disk, to the disk's end; and the file system in it.

Not systemd-repart: it looks for partitions by their type, and here several have the same. Each step is done again by
the next boot if it was cut off, and none of them touches what is before the partition.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

from appliance.guest import files
from appliance.guest.host import Run, require
from appliance.guest.layout import Layout
from gateway.errors import HostError

LABEL: Final = "data"
# GPT's backup: 32 sectors of entries and a header. The rest is alignment.
_TAIL_SECTORS: Final = 33
_ALIGN_SECTORS: Final = 2048
# Less than this is not worth a write to the partition table.
_GAIN_MIN_SECTORS: Final = 16 * 2048


class Partition(NamedTuple):
    """The partition and the disk around it, in sectors of 512 bytes."""

    disk: Path
    device: Path
    number: int
    start: int
    size: int
    disk_size: int

    def size_wanted(self) -> int:
        """Up to the disk's end, 0 when it is not worth it."""
        end = (self.disk_size - _TAIL_SECTORS) // _ALIGN_SECTORS * _ALIGN_SECTORS
        return end - self.start if end - self.start >= self.size + _GAIN_MIN_SECTORS else 0


def find(layout: Layout) -> Partition | None:
    """The data partition by its label; None in a live system, which has none."""
    link = layout.by_partlabel / LABEL
    if not link.exists():
        return None
    device = link.resolve()
    entry = (layout.blocks / device.name).resolve()
    number, start, size = (_number(entry / name) for name in ("partition", "start", "size"))
    return Partition(
        device.with_name(entry.parent.name), device, number, start, size, _number(entry.parent / "size")
    )


def _number(path: Path) -> int:
    text = files.read_text(path)
    if not text.isdigit():
        raise HostError(f"{path} has no number")
    return int(text)


def grow(layout: Layout, run: Run) -> str:
    """Grow what can grow; a sentence."""
    found = find(layout)
    if found is None:
        return "no data partition on a disk: nothing to grow"
    size = found.size_wanted()
    if size:
        grow_table(run, found.disk, found.number, size)
        require(run, ["partx", "--update", "--nr", str(found.number), str(found.disk)])
    # Also without a new size: the last boot may have been cut off right here.
    require(run, ["resize2fs", str(found.device)])
    return f"{found.device}: grown to {size // 2048} MiB" if size else f"{found.device}: as large as its disk"


def grow_table(run: Run, disk: Path, number: int, size: int) -> None:
    """Write the new size into the partition table. The disk is in use: the kernel is told of this partition alone."""
    require(run, ["sfdisk", "--quiet", "--relocate", "gpt-bak-std", str(disk)])
    _refuse_unless_last(run, disk, number)
    command = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "-N", str(number), str(disk)]
    require(run, command, f",{size}\n")


def _refuse_unless_last(run: Run, disk: Path, number: int) -> None:
    table = json.loads(require(run, ["sfdisk", "--json", str(disk)]))["partitiontable"]["partitions"]
    last = max(table, key=lambda entry: int(entry["start"]))
    if last.get("name") != LABEL or not last["node"].endswith(str(number)):
        raise HostError(f"{disk}: the data partition is not the last one; it is left as it is")
