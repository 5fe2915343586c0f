# SPDX-License-Identifier: Apache-2.0
"""GRUB for BIOS machines without grub-install: its two files are patched to find each other on the disk.

boot.img is the first sector of the disk: it loads one sector more, the first of core.img, which loads the rest by a
list of blocks. grub-install writes these numbers through a loop device and as root; here they are written into copies.
Offsets are GRUB 2's (include/grub/i386/pc/boot.h and kernel.h), the same since 2.00.
"""

from __future__ import annotations

import struct
from typing import Final

SECTOR_BYTES: Final = 512
# The partition table of the MBR begins with the disk's signature here; boot code ends before it.
BOOT_CODE_BYTES: Final = 440
KERNEL_SECTOR_AT: Final = 0x5C
DRIVE_CHECK_AT: Final = 0x66
# Last entry of the list of blocks in core.img's first sector: u64 sector, u16 sectors, u16 segment.
FIRST_BLOCK_AT: Final = SECTOR_BYTES - 12
# What diskboot.S has for a sector until somebody writes the true one.
UNSET_SECTOR: Final = 2
# Where the second sector of core.img goes in memory, as grub-mkimage leaves it.
LOAD_SEGMENT: Final = 0x820
JUMP: Final = b"\xeb"
TWO_NOPS: Final = b"\x90\x90"


def boot_code(boot_img: bytes, core_sector: int) -> bytes:
    """The 440 bytes of boot code that load core.img from ``core_sector``."""
    if len(boot_img) != SECTOR_BYTES or boot_img[:1] != JUMP or boot_img[510:] != b"\x55\xaa":
        raise ValueError("this is not GRUB's boot.img")
    code = bytearray(boot_img)
    struct.pack_into("<Q", code, KERNEL_SECTOR_AT, core_sector)
    # Some BIOSes name a wrong drive; on a hard disk GRUB then takes the first. The jump past that is taken out.
    code[DRIVE_CHECK_AT : DRIVE_CHECK_AT + 2] = TWO_NOPS
    return bytes(code[:BOOT_CODE_BYTES])


def core(core_img: bytes, core_sector: int, room_bytes: int) -> bytes:
    """core.img that finds its own rest from ``core_sector`` on; padded to whole sectors."""
    padded = core_img + bytes(-len(core_img) % SECTOR_BYTES)
    if len(padded) > room_bytes:
        raise ValueError(f"core.img has {len(padded)} bytes, the partition {room_bytes}")
    rest = len(padded) // SECTOR_BYTES - 1
    if struct.unpack_from("<QHH", padded, FIRST_BLOCK_AT) != (UNSET_SECTOR, rest, LOAD_SEGMENT):
        raise ValueError("this is not GRUB's core.img: its list of blocks looks different")
    image = bytearray(padded)
    struct.pack_into("<QHH", image, FIRST_BLOCK_AT, core_sector + 1, rest, LOAD_SEGMENT)
    return bytes(image)
