# SPDX-License-Identifier: Apache-2.0
"""What the tests of updates share: a small slot, its bundle, and a machine below a folder."""

from __future__ import annotations

import base64
import hashlib
import struct
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.update import slotcfg, verity
from appliance.update.apply import Apply
from appliance.update.bundle import BundleReader, Manifest
from appliance.update.disk import Disk, RealDisk
from appliance.update.places import Places
from appliance.update.record import Record
from appliance.update.sign import write_bundle
from appliance.update.slotcfg import SlotConfig
from appliance.update.slots import BootState, Slots
from gateway import crypto

SEED: Final = bytes(range(32))
PUBLIC: Final = crypto.ed25519_seed_keypair(SEED)[0]
SALT: Final = bytes.fromhex("00112233445566778899aabbccddeeff")
OLD: Final = 1_700_000_000
NEW: Final = 1_800_000_000
PARTITION_BYTES: Final = 64 * 1024


def superblock(blocks: int, salt: bytes = SALT) -> bytes:
    """As veritysetup writes it, in a block of its own."""
    packed = struct.pack(
        "<8sII16s32sIIQH6x256s168x",
        b"verity\0\0",
        1,
        1,
        b"u" * 16,
        b"sha256",
        4096,
        4096,
        blocks,
        len(salt),
        salt,
    )
    return packed.ljust(verity.BLOCK_BYTES, b"\0")


def blocks(count: int, flavour: str = "") -> bytes:
    """So many different blocks of data."""
    return b"".join(hashlib.sha256(f"{flavour}{n}".encode()).digest() * 128 for n in range(count))


def make_slot(folder: Path, serial: int = NEW, version: str = "2.0.0", data_blocks: int = 5) -> Path:
    """A slot as a build leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = blocks(data_blocks, version)
    tree = verity.Tree(SALT)
    tree.update(data)
    root, levels = tree.finish()
    contents = {
        "root.squashfs": data,
        "root.verity": superblock(data_blocks) + levels,
        "vmlinuz": f"kernel {version} ".encode() * 300,
        "initrd": f"initrd {version} ".encode() * 200,
        "slot.cfg": slotcfg.encode(SlotConfig(root, version, serial)).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def make_bundle(folder: Path, serial: int = NEW, version: str = "2.0.0", floor: int | None = None) -> Path:
    """A signed bundle of such a slot."""
    slot = make_slot(folder / f"slot-{version}-{serial}", serial, version)
    output = folder / f"jumping-vpn-{version}-{serial}-amd64.jvpnup"
    write_bundle(slot, output, SEED, floor=floor)
    return output


def quiet(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True)
class Box:
    """A machine below ``root``: slot a runs and is confirmed, slot b is empty."""

    root: Path
    disk: Disk

    @property
    def places(self) -> Places:
        return Places(self.root)

    @property
    def slots(self) -> Slots:
        return Slots(self.places, self.disk)

    @property
    def record(self) -> Record:
        return Record(self.places, self.disk)

    @staticmethod
    def mounted() -> AbstractContextManager[None]:
        """The boot partition is always there."""
        return nullcontext()

    def runs(self, slot: str) -> None:
        """What the kernel's command line says from now on."""
        self.places.command_line.write_text(f"boot=appliance jvpn.slot={slot} quiet\n")

    def update(self, bundle: Path, allow_older: bool = False, served: bool = True) -> None:
        """The whole of it, as the command does it."""
        apply = Apply(self.slots, self.record, quiet)
        with bundle.open("rb") as file:
            reader = BundleReader(file, PUBLIC)
            apply.judge(reader.manifest, allow_older)
            apply.write(reader, served)

    def holds(self, slot: str, manifest: Manifest) -> bool:
        """Whether every file of a slot is that of the manifest."""
        paths = {
            "root.squashfs": self.places.partition("root", slot),
            "root.verity": self.places.partition("verity", slot),
        }
        for entry in manifest.files:
            path = paths.get(entry.name, self.places.on_esp(slot, entry.name))
            if not self.disk.exists(path):
                return False
            if hashlib.sha256(self.disk.read(path, 0, entry.size_bytes)).hexdigest() != entry.sha256:
                return False
        return True


def manifest_of(bundle: Path) -> Manifest:
    with bundle.open("rb") as file:
        return BundleReader(file, PUBLIC).manifest


def write_machine(places: Places, slot_folder: Path) -> None:
    """The files of a machine whose slot a holds what lies in ``slot_folder``."""
    for path in (
        places.grubenv,
        places.command_line,
        places.public_key,
        places.own / "x",
        places.runtime / "x",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
    places.grubenv.write_bytes(BootState("a").encode())
    places.command_line.write_text("boot=appliance jvpn.slot=a quiet\n")
    places.os_release.parent.mkdir()
    places.os_release.write_text("ID=debian\nVARIANT_ID=cloud\n")
    places.public_key.write_bytes(base64.b64encode(PUBLIC) + b"\n")
    for slot in ("a", "b"):
        for kind in ("root", "verity"):
            partition = places.partition(kind, slot)
            partition.parent.mkdir(parents=True, exist_ok=True)
            partition.write_bytes(bytes(PARTITION_BYTES))
    _fill(places.partition("root", "a"), slot_folder / "root.squashfs")
    _fill(places.partition("verity", "a"), slot_folder / "root.verity")
    (places.esp / "a").mkdir()
    for name in ("vmlinuz", "initrd", "slot.cfg"):
        places.on_esp("a", name).write_bytes((slot_folder / name).read_bytes())


def _fill(partition: Path, source: Path) -> None:
    with partition.open("r+b") as file:
        file.write(source.read_bytes())


def make_box(folder: Path) -> Box:
    """A machine in files, with the real disk."""
    box = Box(folder / "root", RealDisk())
    write_machine(box.places, make_slot(folder / "old", OLD, "1.0.0"))
    return box
