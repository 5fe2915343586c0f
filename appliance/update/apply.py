# SPDX-License-Identifier: Apache-2.0
"""Writes a bundle into the slot that does not run, and has GRUB try it once.

    judge       signature, serial, sizes; the whole bundle where it can be read twice
    disarm      grubenv: no trial is due
    empty       slot.cfg of the other slot goes: it is no slot any more
    write       squashfs and verity into their partitions; vmlinuz and initrd beside, flushed, renamed
    read back   every hash again from the medium, and the verity tree computed from the data
    complete    slot.cfg: it is a slot again
    arm         grubenv: next, try=1: one sector

Rule: the running slot's partitions and files are never written, and grubenv never names a slot that is not complete. So
the power may fail anywhere: the next start is the running slot, or after the last step a whole new one. Beginning
again is always right: every step makes things be as wanted, whatever it finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance.update import slotcfg, verity
from appliance.update.bundle import BundleReader, FileEntry, Manifest, Progress
from appliance.update.disk import CHUNK_BYTES, Disk, read_small, replace_file
from appliance.update.places import Places
from appliance.update.record import LastUpdate, Record
from appliance.update.slots import Slots
from gateway.errors import HostError, ProtocolError, Refused

_PARTITIONS: Final = {"root.squashfs": "root", "root.verity": "verity"}
_OS_RELEASE_MAX_BYTES: Final = 16 * 1024


def refuse_older(manifest: Manifest, running_serial: int, floor: int, allow_older: bool) -> None:
    """Anti-rollback. ``Refused`` says which bound it was."""
    if manifest.serial < floor:
        raise Refused(
            f"version {manifest.version} (serial {manifest.serial}) is below the floor {floor} of this appliance: "
            "an update that was confirmed here forbids it"
        )
    if manifest.serial <= running_serial and not allow_older:
        raise Refused(
            f"version {manifest.version} (serial {manifest.serial}) is not newer than what runs "
            f"(serial {running_serial}); --allow-older installs it all the same"
        )


def refuse_flavour(manifest: Manifest, os_release: bytes) -> None:
    """``Refused`` for an update whose kernel may not know this machine's disk."""
    lines = os_release.decode("utf-8", "replace").splitlines()
    flavours = [line.partition("=")[2].strip('"') for line in lines if line.startswith("VARIANT_ID=")]
    if flavours != [manifest.flavour]:
        own = ", ".join(flavours) or "unknown"
        raise Refused(f"the update has the {manifest.flavour} kernel, this appliance the other kind ({own})")


class Apply:
    """One update of one machine."""

    def __init__(self, slots: Slots, record: Record, progress: Progress) -> None:
        self._slots = slots
        self._places: Places = slots.places
        self._disk: Disk = slots.disk
        self._record = record
        self._progress = progress
        self._target = slots.other

    def judge(self, manifest: Manifest, allow_older: bool) -> None:
        """``Refused`` or ``HostError`` before anything is touched."""
        self._slots.require_settled()
        running = self._slots.config(self._slots.running)
        if running is None:
            raise HostError(
                f"slot {self._slots.running} runs, but its slot.cfg on the boot partition cannot be read"
            )
        refuse_flavour(manifest, read_small(self._disk, self._places.os_release, _OS_RELEASE_MAX_BYTES))
        refuse_older(manifest, running.serial, self._record.floor(), allow_older)
        for name, kind in _PARTITIONS.items():
            partition = self._places.partition(kind, self._target)
            size_bytes = manifest.entry(name).size_bytes
            if size_bytes > self._disk.size_bytes(partition):
                raise HostError(f"{name} has {size_bytes} bytes, more than {partition} holds: install anew")

    def write(self, reader: BundleReader, served: bool) -> None:
        """Everything up to the armed trial."""
        manifest = reader.manifest
        self._slots.disarm()
        self._empty()
        for entry, chunks in reader.files():
            self._write_file(entry, self._counted(f"writing {entry.name}", entry, chunks), manifest)
        self._read_back(manifest)
        self._complete(manifest)
        self._record.set_last(
            LastUpdate(self._target, manifest.version, manifest.serial, manifest.floor, served, "written")
        )
        self._slots.arm(self._target)

    def _empty(self) -> None:
        """slot.cfg first, so that nothing takes the rest for a slot."""
        folder = self._places.on_esp(self._target, "slot.cfg").parent
        for name in ("slot.cfg", "slot.cfg.new", "vmlinuz", "vmlinuz.new", "initrd", "initrd.new"):
            self._disk.remove(folder / name)
            if name == "slot.cfg":
                self._disk.flush_folder(folder)
        self._disk.flush_folder(folder)

    def _write_file(self, entry: FileEntry, chunks: Iterator[bytes], manifest: Manifest) -> None:
        if entry.name == "slot.cfg":
            _require_slot_config(b"".join(chunks), manifest)
        elif entry.name in _PARTITIONS:
            partition = self._places.partition(_PARTITIONS[entry.name], self._target)
            at_bytes = 0
            for chunk in chunks:
                self._disk.overwrite(partition, at_bytes, chunk)
                at_bytes += len(chunk)
            self._disk.flush(partition)
        else:
            replace_file(self._disk, self._places.on_esp(self._target, entry.name), chunks)

    def _read_back(self, manifest: Manifest) -> None:
        """From the medium. A whole slot is known to be good, not only the blocks that a start reads."""
        tree_path = self._places.partition("verity", self._target)
        superblock = self._disk.read(tree_path, 0, verity.BLOCK_BYTES)
        tree = verity.Tree(verity.read_superblock(superblock).salt)
        for entry in manifest.files:
            if entry.name != "slot.cfg":
                self._read_back_file(entry, tree if entry.name == "root.squashfs" else None)
        root, levels = tree.finish()
        stored = self._disk.read(tree_path, verity.BLOCK_BYTES, len(levels))
        if root != manifest.roothash or stored != levels:
            raise ProtocolError("the update's verity tree is not that of its data")

    def _read_back_file(self, entry: FileEntry, tree: verity.Tree | None) -> None:
        path = self._path(entry.name)
        digest = hashlib.sha256()
        for chunk in self._counted(f"reading back {entry.name}", entry, self._stored(path, entry.size_bytes)):
            digest.update(chunk)
            if tree is not None:
                tree.update(chunk)
        if digest.hexdigest() != entry.sha256:
            raise HostError(f"{path} does not hold what was written: the disk fails")

    def _stored(self, path: Path, size_bytes: int) -> Iterator[bytes]:
        for at_bytes in range(0, size_bytes, CHUNK_BYTES):
            yield self._disk.read(path, at_bytes, min(CHUNK_BYTES, size_bytes - at_bytes))

    def _complete(self, manifest: Manifest) -> None:
        path = self._places.on_esp(self._target, "slot.cfg")
        replace_file(self._disk, path, [slotcfg.encode(manifest.slot_config()).encode("ascii")])
        _require_slot_config(read_small(self._disk, path, slotcfg.MOST_BYTES), manifest)

    def _path(self, name: str) -> Path:
        kind = _PARTITIONS.get(name)
        return self._places.partition(kind, self._target) if kind else self._places.on_esp(self._target, name)

    def _counted(self, what: str, entry: FileEntry, chunks: Iterator[bytes]) -> Iterator[bytes]:
        done_bytes = 0
        for chunk in chunks:
            yield chunk
            done_bytes += len(chunk)
            self._progress(what, done_bytes, entry.size_bytes)


def _require_slot_config(data: bytes, manifest: Manifest) -> None:
    if data != slotcfg.encode(manifest.slot_config()).encode("ascii"):
        raise ProtocolError("the update's slot.cfg does not say what its manifest says")


def verify_slot(slots: Slots, slot: str, progress: Progress) -> None:
    """Compute a slot's verity tree from its data. ``Refused`` when it is not whole."""
    config = slots.config(slot)
    files = [slots.places.on_esp(slot, name) for name in ("vmlinuz", "initrd")]
    if config is None or not all(map(slots.disk.exists, files)):
        raise Refused(f"slot {slot} holds no whole system")
    data, hashes = slots.places.partition("root", slot), slots.places.partition("verity", slot)
    superblock = verity.read_superblock(slots.disk.read(hashes, 0, verity.BLOCK_BYTES))
    tree = verity.Tree(superblock.salt)
    size_bytes = min(superblock.data_blocks * verity.BLOCK_BYTES, slots.disk.size_bytes(data))
    for at_bytes in range(0, size_bytes, CHUNK_BYTES):
        tree.update(slots.disk.read(data, at_bytes, min(CHUNK_BYTES, size_bytes - at_bytes)))
        progress(f"verifying slot {slot}", min(at_bytes + CHUNK_BYTES, size_bytes), size_bytes)
    root, levels = tree.finish()
    if root != config.roothash or slots.disk.read(hashes, verity.BLOCK_BYTES, len(levels)) != levels:
        raise Refused(f"slot {slot} is damaged: its data is not what it was when it was written")
