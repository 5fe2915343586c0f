# SPDX-License-Identifier: Apache-2.0
"""The disk's layout, as the installer makes it: the image's own (a test compares), but data is as large as the disk."""

from __future__ import annotations

from typing import Final, NamedTuple

MIB: Final = 1 << 20
SECTOR_BYTES: Final = 512
_BIOS: Final = "21686148-6449-6E6F-744E-656564454649"
_ESP: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_LINUX: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


class Partition(NamedTuple):
    """One partition; the last one's size is its least."""

    label: str
    start_mib: int
    size_mib: int
    type_guid: str

    @property
    def start_bytes(self) -> int:
        return self.start_mib * MIB

    @property
    def size_bytes(self) -> int:
        return self.size_mib * MIB


PARTITIONS: Final = (
    Partition("bios", 1, 1, _BIOS),
    Partition("esp", 2, 128, _ESP),
    Partition("root-a", 130, 160, _LINUX),
    Partition("verity-a", 290, 8, _LINUX),
    Partition("root-b", 298, 160, _LINUX),
    Partition("verity-b", 458, 8, _LINUX),
    Partition("data", 466, 64, _LINUX),
)
# Behind the last partition: the second copy of the table.
LEAST_DISK_BYTES: Final = (466 + 64 + 1) * MIB


def partition(label: str) -> Partition:
    """The partition of that label."""
    return next(entry for entry in PARTITIONS if entry.label == label)


def sfdisk_script(disk_bytes: int) -> str:
    """For sfdisk, without identifiers: it makes fresh ones, so that two disks are never taken for each other."""
    lines = ["label: gpt", "unit: sectors", "first-lba: 34"]
    for entry in PARTITIONS:
        size_bytes = data_bytes(disk_bytes) if entry.label == "data" else entry.size_bytes
        lines.append(
            f"start={entry.start_bytes // SECTOR_BYTES}, size={size_bytes // SECTOR_BYTES}, "
            f'type={entry.type_guid}, name="{entry.label}"'
        )
    return "\n".join(lines) + "\n"


def data_bytes(disk_bytes: int) -> int:
    """What is left for data: whole MiB, and the last MiB is the table's."""
    return disk_bytes // MIB * MIB - MIB - partition("data").start_bytes
