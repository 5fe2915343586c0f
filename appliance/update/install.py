# SPDX-License-Identifier: Apache-2.0
"""Puts the system of the live medium onto a disk: the same disk that the image is, with identifiers of its own.

    check      a whole disk, large enough, not in use, not the medium itself; the medium's slot is whole
    clear      the table at the front and its copy at the end
    contents   BIOS loader, boot partition with slot a, squashfs, verity; an empty file system for data
    verify     the slot's verity tree, computed from what the disk gives back
    table      GPT by sfdisk; then 440 bytes of boot code

Rule: the table and the boot code come last, so that a disk whose installation was cut off does not boot half a system.
Only bytes at known places are written: nothing is mounted, and a plain file does for a test.
"""

from __future__ import annotations

import lzma
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from appliance.update import slotcfg, verity
from appliance.update.bundle import Progress
from appliance.update.disk import CHUNK_BYTES, Disk, read_small
from appliance.update.partitions import LEAST_DISK_BYTES, MIB, data_bytes, partition, sfdisk_script
from appliance.update.programs import Run
from gateway.errors import HostError, ProtocolError, Refused

DATA_LABEL: Final = "jvpn-data"
# The boot code's part of the first sector; the table of the old kind follows it.
_MBR_CODE_BYTES: Final = 440


class Medium(NamedTuple):
    """The live medium's files."""

    folder: Path

    @property
    def squashfs(self) -> Path:
        return self.folder / "live/root.squashfs"

    def file(self, name: str) -> Path:
        return self.folder / "install" / name


class Machine(NamedTuple):
    """What tells about disks, below one root."""

    root: Path

    def block(self, name: str) -> Path:
        return self.root / "sys/class/block" / name

    def mounted(self) -> set[str]:
        """``major:minor`` of everything that is mounted."""
        lines = (self.root / "proc/self/mountinfo").read_text().splitlines()
        return {line.split()[2] for line in lines}

    def swaps(self) -> set[str]:
        """Names of devices that are swapped to."""
        lines = (self.root / "proc/swaps").read_text().splitlines()[1:]
        return {Path(line.split()[0]).name for line in lines if line}


class DiskFacts(NamedTuple):
    """What is asked about before a disk is erased."""

    name: str
    model: str
    size_bytes: int

    def sentence(self) -> str:
        return f"{self.name}: {self.model or 'a disk'}, {self.size_bytes / 1e9:.1f} GB"


def require_disk(machine: Machine, device: Path) -> DiskFacts:
    """``Refused`` unless the device is a whole disk that nobody uses."""
    name = device.resolve().name
    folder = machine.block(name)
    if not folder.exists():
        raise Refused(f"{device} is no block device")
    if (folder / "partition").exists():
        raise Refused(f"{device} is a partition; name the whole disk")
    if _text(folder / "ro") == "1":
        raise Refused(f"{device} cannot be written")
    size_bytes = int(_text(folder / "size") or "0") * 512
    if size_bytes < LEAST_DISK_BYTES:
        raise Refused(f"{device} has {size_bytes // MIB} MiB; the appliance needs {LEAST_DISK_BYTES // MIB}")
    mounted, swaps = machine.mounted(), machine.swaps()
    for part in (folder, *sorted(path for path in folder.glob(f"{name}*") if (path / "partition").exists())):
        used = _text(part / "dev") in mounted or part.name in swaps
        if used or any((part / "holders").glob("*")):
            raise Refused(f"{part.name} is in use; is it the disk that this system runs from?")
    return DiskFacts(name, _text(folder / "device/model"), size_bytes)


def require_block_device(path: Path) -> None:
    """``Refused`` for a plain file that happens to have a disk's name."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
    if not stat.S_ISBLK(mode):
        raise Refused(f"{path} is no block device")


def install(medium: Medium, target: Path, disk: Disk, run: Run, progress: Progress) -> slotcfg.SlotConfig:
    """Write the whole disk; what slot a holds now."""
    config = _require_medium(medium, disk)
    size_bytes = disk.size_bytes(target)
    _clear(disk, target, size_bytes)
    for label, chunks in _contents(medium, disk):
        entry = partition(label)
        at_bytes = 0
        for chunk in chunks:
            if at_bytes + len(chunk) > entry.size_bytes:
                raise HostError(f"{label}: the medium holds more than the partition of {entry.size_mib} MiB")
            disk.overwrite(target, entry.start_bytes + at_bytes, chunk)
            at_bytes += len(chunk)
            progress(f"writing {label}", at_bytes, 0)
    disk.flush(target)
    _verify(disk, target, config, progress)
    _make_data(run, target, size_bytes)
    run(
        ["sfdisk", "--quiet", "--wipe", "never", "--wipe-partitions", "never", str(target)],
        sfdisk_script(size_bytes),
    )
    disk.overwrite(target, 0, disk.read(medium.file("mbr.bin"), 0, _MBR_CODE_BYTES))
    disk.flush(target)
    return config


def _require_medium(medium: Medium, disk: Disk) -> slotcfg.SlotConfig:
    names = ("mbr.bin", "bios.bin", "esp.img.xz", "root.verity", "slot.cfg")
    missing = [path.name for path in (medium.squashfs, *map(medium.file, names)) if not disk.exists(path)]
    if missing:
        raise Refused(
            f"this is not the live system of an installation medium: {', '.join(missing)} not found in {medium.folder}"
        )
    if disk.size_bytes(medium.file("mbr.bin")) != _MBR_CODE_BYTES:
        raise ProtocolError("the medium's boot code has not 440 bytes")
    return slotcfg.decode(
        read_small(disk, medium.file("slot.cfg"), slotcfg.MOST_BYTES).decode("ascii", "replace")
    )


def _clear(disk: Disk, target: Path, size_bytes: int) -> None:
    for at_bytes in (0, size_bytes - MIB):
        disk.overwrite(target, at_bytes, bytes(MIB))
    # Data may stand where a file system was: what mkfs leaves of it must not be found again.
    disk.overwrite(target, partition("data").start_bytes, bytes(MIB))
    disk.flush(target)


def _contents(medium: Medium, disk: Disk) -> Iterator[tuple[str, Iterator[bytes]]]:
    yield "bios", _stored(disk, medium.file("bios.bin"))
    yield "esp", _unpacked(medium.file("esp.img.xz"))
    yield "root-a", _stored(disk, medium.squashfs)
    yield "verity-a", _stored(disk, medium.file("root.verity"))


def _stored(disk: Disk, path: Path) -> Iterator[bytes]:
    for at_bytes in range(0, disk.size_bytes(path), CHUNK_BYTES):
        yield disk.read(path, at_bytes, CHUNK_BYTES)


def _unpacked(path: Path) -> Iterator[bytes]:
    try:
        with lzma.open(path) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except (lzma.LZMAError, EOFError) as error:
        raise ProtocolError(f"the medium's {path.name} is damaged: {error}") from None


def _verify(disk: Disk, target: Path, config: slotcfg.SlotConfig, progress: Progress) -> None:
    data, hashes = partition("root-a"), partition("verity-a")
    superblock = verity.read_superblock(disk.read(target, hashes.start_bytes, verity.BLOCK_BYTES))
    tree = verity.Tree(superblock.salt)
    size_bytes = min(superblock.data_blocks * verity.BLOCK_BYTES, data.size_bytes)
    for at_bytes in range(0, size_bytes, CHUNK_BYTES):
        tree.update(disk.read(target, data.start_bytes + at_bytes, min(CHUNK_BYTES, size_bytes - at_bytes)))
        progress("verifying root-a", min(at_bytes + CHUNK_BYTES, size_bytes), size_bytes)
    root, levels = tree.finish()
    stored = disk.read(target, hashes.start_bytes + verity.BLOCK_BYTES, len(levels))
    if root != config.roothash or stored != levels:
        raise HostError("the disk does not hold what was written, or the medium is damaged")


def _make_data(run: Run, target: Path, disk_bytes: int) -> None:
    offset = f"offset={partition('data').start_bytes}"
    size = f"{data_bytes(disk_bytes) // 1024}k"
    run(["mkfs.ext4", "-q", "-F", "-L", DATA_LABEL, "-m", "1", "-E", offset, str(target), size], "")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
