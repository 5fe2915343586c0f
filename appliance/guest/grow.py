# SPDX-License-Identifier: Apache-2.0
"""Growing the data partition, the last one of the disk, to the disk's end; and the file system in it.

Not systemd-repart: it looks for partitions by their type, and here several have the same. Each step is done again by
the next boot if it was cut off, and none of them touches what is before the partition.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
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
# Inode tables and journal of ext4 are not counted by statvfs; measured: 3 % of 2 GB, 10 % of 64 MB.
_FILLED: Final = 0.8
GROW_FILE_SYSTEM: Final = "/lib/systemd/systemd-growfs"


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
    """The data partition by its label. None when /data is not on it: a live system beside a disk that was installed."""
    link = layout.by_partlabel / LABEL
    if files.read_text(layout.data_verdict) not in ("", "ok") or not link.exists():
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
    """Grow what can grow; a sentence, '' when there is nothing to do."""
    found = find(layout)
    if found is None:
        return ""
    size = found.size_wanted()
    if size:
        with locked(found.disk):
            grow_table(run, found.disk, found.number, size)
            require(run, ["partx", "--update", "--nr", str(found.number), str(found.disk)])
    # Also without a new size: the last boot may have been cut off right here.
    if not size and fills(layout.data, found.size):
        return ""
    require(run, [GROW_FILE_SYSTEM, str(layout.data)])
    return f"{found.device.name}: the data partition has {(size or found.size) // 2048} MiB now"


@contextlib.contextmanager
def locked(disk: Path) -> Iterator[None]:
    """Keep udev away: between the table and the kernel's copy of it the partition would look like none, and what is
    mounted from it would be unmounted. udev takes the same lock for each look (systemd's BLOCK_DEVICE_LOCKING).
    """
    descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fills(mounted: Path, partition_sectors: int) -> bool:
    """Whether the file system is as large as its partition, less what ext4 needs for itself."""
    found = os.statvfs(mounted)
    return found.f_blocks * found.f_frsize >= partition_sectors * 512 * _FILLED


def grow_table(run: Run, disk: Path, number: int, size: int) -> None:
    """Write the new size into the partition table. The disk is in use: the kernel is told of this partition alone."""
    quiet = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--lock=no"]
    _refuse_unless_last(run, disk, number)
    require(run, [*quiet, "--relocate", "gpt-bak-std", str(disk)])
    require(run, [*quiet, "-N", str(number), str(disk)], f",{size}\n")


def _refuse_unless_last(run: Run, disk: Path, number: int) -> None:
    table = json.loads(require(run, ["sfdisk", "--json", str(disk)]))["partitiontable"]["partitions"]
    last = max(table, key=lambda entry: int(entry["start"]))
    if last.get("name") != LABEL or not last["node"].endswith(str(number)):
        raise HostError(f"{disk}: the data partition is not the last one; it is left as it is")
