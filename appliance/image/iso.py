# SPDX-License-Identifier: Apache-2.0
"""The ISO: one file for a CD, a virtual drive or a stick, for BIOS and UEFI.

It runs live, and brings what an installation writes: /install has the boot code, the ESP of a fresh disk and the slot's
verity tree.
"""

from __future__ import annotations

import lzma
import shutil
from datetime import UTC, datetime
from pathlib import Path

from appliance.image import disk, grub, plan
from appliance.image.shell import environment, run


def make(image: Path, work: Path, slot: Path, epoch: int) -> None:
    """Write the ISO."""
    tree = work / "iso"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("live", "install", "boot/grub"):
        (tree / folder).mkdir(parents=True)
    for name in ("vmlinuz", "initrd", "root.squashfs"):
        shutil.copyfile(slot / name, tree / "live" / name)
    install(tree / "install", work, slot, epoch)
    eltorito, efi = grub.medium_cores(work)
    shutil.copyfile(plan.FILES / "grub/iso.cfg", tree / "boot/grub/grub.cfg")
    shutil.copyfile(eltorito, tree / "boot/grub/eltorito.img")
    efi_image(tree / "boot/grub/efi.img", efi, work, epoch)
    disk.date(tree, epoch)
    xorriso(image, tree, epoch)


def install(folder: Path, work: Path, slot: Path, epoch: int) -> None:
    """What the installer writes as it is."""
    disk.fresh_esp(work, slot, epoch)
    code, core = grub.disk_cores(work)
    (folder / "mbr.bin").write_bytes(code)
    (folder / "bios.bin").write_bytes(core)
    (folder / "esp.img.xz").write_bytes(lzma.compress((work / "esp.img").read_bytes(), preset=6))
    for name in ("root.verity", "slot.cfg"):
        shutil.copyfile(slot / name, folder / name)


def efi_image(image: Path, program: Path, work: Path, epoch: int) -> None:
    """A small FAT with the program for UEFI: firmware reads no ISO 9660."""
    folder = work / "iso-efi"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "EFI/BOOT").mkdir(parents=True)
    shutil.copyfile(program, folder / "EFI/BOOT/BOOTX64.EFI")
    disk.date(folder, epoch)
    with image.open("wb") as file:
        file.truncate(4 * plan.MIB)
    env = environment(epoch)
    run("mkfs.vfat", "--invariant", "-i", plan.ESP_SERIAL, "-n", "JVPN-EFI", image, env=env)
    run("mcopy", "-s", "-m", "-Q", "-i", image, folder / "EFI", "::/", env=env)


def xorriso(image: Path, tree: Path, epoch: int) -> None:
    """Hybrid: El Torito for both firmwares, an MBR that boots the same from a stick, the EFI image as a partition."""
    stamp = datetime.fromtimestamp(epoch, UTC).strftime("%Y%m%d%H%M%S00")
    image.unlink(missing_ok=True)
    run(
        *("xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", plan.ISO_LABEL, "-o", image),
        *(f"--modification-date={stamp}", "--set_all_file_dates", stamp),
        *("--grub2-mbr", grub.LIBRARY / "i386-pc/boot_hybrid.img"),
        *("-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"),
        *("--grub2-boot-info", "-eltorito-alt-boot", "--efi-boot", "boot/grub/efi.img"),
        *("-efi-boot-part", "--efi-boot-image", "--protective-msdos-label"),
        tree,
        env=environment(epoch),
    )
