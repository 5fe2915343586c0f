# SPDX-License-Identifier: Apache-2.0
"""The disk: GPT, boot code, ESP, slot a, an empty slot b and the data partition; and the formats of hypervisors.

Written into a plain file by offsets: no loop device, no mount. What is empty stays a hole.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Final

from appliance.image import grub, plan, vhd
from appliance.image.shell import environment, run
from appliance.update import grubenv

CHUNK_BYTES: Final = 1 << 20
ON_ESP: Final = ("vmlinuz", "initrd", "slot.cfg")
FIRST: Final = {"slot": "a", "next": "", "try": "0"}
DISK_NAME: Final = uuid.UUID(plan.DISK_GUID)


def boot_files(work: Path) -> Path:
    """The part of the ESP that is no slot: GRUB and what it remembers."""
    folder = work / "esp"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "grub").mkdir(parents=True)
    (folder / "EFI/BOOT").mkdir(parents=True)
    shutil.copyfile(plan.FILES / "grub/grub.cfg", folder / "grub/grub.cfg")
    (folder / "grub/grubenv").write_bytes(grubenv.encode(FIRST))
    grub.disk_efi(folder / "EFI/BOOT/BOOTX64.EFI")
    return folder


def date(folder: Path, epoch: int) -> None:
    """All times of a tree are the epoch's, the folders' last."""
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (epoch, epoch))


def esp(image: Path, folder: Path, epoch: int) -> None:
    """A FAT of the partition's size with what is in ``folder``."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(plan.partition("esp").size_mib * plan.MIB)
    env = environment(epoch)
    run("mkfs.vfat", "--invariant", "-i", plan.ESP_SERIAL, "-n", plan.ESP_LABEL, "-F", "32", image, env=env)
    run("mcopy", "-s", "-m", "-Q", "-i", image, *sorted(folder.iterdir()), "::/", env=env)


def data(image: Path, epoch: int) -> None:
    """An empty ext4 that can grow: blocks of 4 KiB, or it would have those of a small one for ever."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(plan.partition("data").size_mib * plan.MIB)
    options = ("-q", "-b", "4096", "-I", "256", "-m", "1", "-L", plan.DATA_LABEL, "-U", plan.DATA_UUID)
    seed = f"hash_seed={plan.DATA_HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard"
    run("mkfs.ext4", *options, "-E", seed, image, env=environment(epoch))


def fresh_esp(work: Path, slot: Path, epoch: int) -> Path:
    """The ESP of a new disk: slot a is there, slot b is not."""
    folder = boot_files(work)
    (folder / "a").mkdir()
    for name in ON_ESP:
        shutil.copyfile(slot / name, folder / "a" / name)
    date(folder, epoch)
    esp(work / "esp.img", folder, epoch)
    return work / "esp.img"


def raw(image: Path, work: Path, slot: Path, epoch: int) -> None:
    """The whole disk."""
    fresh_esp(work, slot, epoch)
    data(work / "data.img", epoch)
    code, core = grub.disk_cores(work)
    (work / "bios.bin").write_bytes(core)
    (work / "mbr.bin").write_bytes(code)
    table(image)
    put(image, work / "mbr.bin", 0)
    for label, part in (
        ("bios", work / "bios.bin"),
        ("esp", work / "esp.img"),
        ("root-a", slot / "root.squashfs"),
        ("verity-a", slot / "root.verity"),
        ("data", work / "data.img"),
    ):
        put(image, part, plan.partition(label).start_bytes)


def table(image: Path) -> None:
    """An empty disk with its partitions."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(plan.DISK_MIB * plan.MIB)
    lines = ["label: gpt", f"label-id: {plan.DISK_GUID}", "unit: sectors", "first-lba: 2048"]
    for part in plan.PARTITIONS:
        size = part.size_mib * plan.MIB // plan.SECTOR_BYTES
        place = f"start={part.start_sector}, size={size}"
        lines.append(f'{place}, type={part.type_guid}, uuid={part.guid}, name="{part.label}"')
    run(
        "sfdisk",
        "--quiet",
        "--no-reread",
        "--no-tell-kernel",
        image,
        stdin=("\n".join(lines) + "\n").encode(),
    )


def put(image: Path, part: Path, offset_bytes: int) -> None:
    """Copy one file into another; chunks of zeroes are left out, the place holds none."""
    with image.open("r+b") as target, part.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            if chunk.count(0) != len(chunk):
                target.seek(offset_bytes)
                target.write(chunk)
            offset_bytes += len(chunk)


# --- formats -----------------------------------------------------------------------------------------------------


def formats(image: Path, epoch: int) -> list[Path]:
    """qcow2, VMDK and VHD of the raw disk."""
    qcow2, vmdk, fixed = (image.with_suffix(suffix) for suffix in (".qcow2", ".vmdk", ".vhd"))
    run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-c", image, qcow2)
    run(
        "qemu-img", "convert", "-q", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", image, vmdk
    )
    settle_vmdk(vmdk)
    with fixed.open("wb") as file:
        file.truncate(image.stat().st_size)
    put(fixed, image, 0)
    with fixed.open("ab") as file:
        file.write(vhd.footer(image.stat().st_size, epoch, DISK_NAME))
    return [qcow2, vmdk, fixed]


def settle_vmdk(path: Path) -> None:
    """The descriptor has a random content id of eight digits; ours is fixed."""
    with path.open("r+b") as file:
        head = file.read(CHUNK_BYTES)
        at = head.index(b"\nCID=") + len(b"\nCID=")
        end = head.index(b"\n", at)
        file.seek(at)
        file.write(b"6a76706e"[: end - at].rjust(end - at, b"0"))
