# SPDX-License-Identifier: Apache-2.0
"""GRUB's programs, by grub-mkimage: for the BIOS of a disk, the BIOS of a medium, and UEFI of both."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from appliance.image import bios, plan
from appliance.image.shell import run

LIBRARY: Final = Path("/usr/lib/grub")
COMMON: Final = (
    *(
        "normal",
        "configfile",
        "echo",
        "test",
        "true",
        "linux",
        "loadenv",
        "search",
        "search_label",
        "search_fs_file",
    ),
    *("serial", "terminal", "minicmd", "reboot", "halt", "sleep", "help", "ls", "cat"),
)
DISK: Final = ("part_gpt", "part_msdos", "fat")
MEDIUM: Final = ("iso9660", "part_gpt", "part_msdos", "fat", "udf")
BIOS: Final = ("biosdisk",)
# Without a video driver Linux is started blind on UEFI.
EFI: Final = ("efi_gop", "efi_uga", "video", "video_fb", "all_video", "gfxterm")


def mkimage(
    kind: str, output: Path, prefix: str, modules: tuple[str, ...], early: Path | None = None
) -> None:
    """One core. ``prefix`` without a device is on the device it was started from."""
    config = ("-c", early) if early else ()
    run("grub-mkimage", "-O", kind, "-o", output, "-p", prefix, *config, *COMMON, *modules)


def disk_cores(work: Path) -> tuple[bytes, bytes]:
    """The boot code of the MBR and what goes into the partition bios, each knowing where the other is."""
    place = plan.partition("bios")
    mkimage("i386-pc", work / "core.img", "(,gpt2)/grub", (*BIOS, *DISK))
    code = bios.boot_code((LIBRARY / "i386-pc/boot.img").read_bytes(), place.start_sector)
    room = place.size_mib * plan.MIB
    return code, bios.core((work / "core.img").read_bytes(), place.start_sector, room)


def disk_efi(output: Path) -> None:
    """BOOTX64.EFI of the ESP."""
    mkimage("x86_64-efi", output, "/grub", (*DISK, *EFI))


def medium_cores(work: Path) -> tuple[Path, Path]:
    """What a medium starts with: by BIOS (El Torito, or a stick it was written to), and by UEFI."""
    early = plan.FILES / "grub/early-iso.cfg"
    core, efi = work / "eltorito.img", work / "iso-BOOTX64.EFI"
    mkimage("i386-pc-eltorito", core, "/boot/grub", (*BIOS, *MEDIUM), early)
    mkimage("x86_64-efi", efi, "/boot/grub", (*MEDIUM, *EFI), early)
    return core, efi
