# SPDX-License-Identifier: Apache-2.0
"""The patcher of GRUB's files for BIOS machines, on sectors in GRUB's layout, and on GRUB's own where it is there."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from appliance.image import bios

CORE_SECTOR = 2048
ROOM_BYTES = 1 << 20


def boot_img() -> bytes:
    """A first sector as GRUB has it: a jump, the sector of the core, the check of the drive, the mark at the end."""
    sector = bytearray(b"\xcc" * 512)
    sector[:2] = b"\xeb\x63"
    sector[0x5C:0x64] = struct.pack("<Q", 1)
    sector[0x66:0x68] = b"\xeb\x05"
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def core_img(length: int) -> bytes:
    """A core whose first sector ends with its list of blocks: the sector not yet known, to segment 0x820."""
    head = bytearray(b"\x52" * 512)
    head[500:] = struct.pack("<QHH", 2, (length + 511) // 512 - 1, 0x820)
    return bytes(head) + b"\x4b" * (length - 512)


def test_boot_code_names_the_sector_and_nothing_else_changes() -> None:
    code = bios.boot_code(boot_img(), CORE_SECTOR)
    wanted = bytearray(boot_img()[:440])
    wanted[0x5C:0x64] = bytes.fromhex("0008000000000000")
    wanted[0x66:0x68] = b"\x90\x90"
    assert code == bytes(wanted)


def test_core_finds_its_rest_behind_its_first_sector() -> None:
    made = bios.core(core_img(31_000), CORE_SECTOR, ROOM_BYTES)
    assert len(made) == 61 * 512
    assert struct.unpack_from("<QHH", made, 500) == (CORE_SECTOR + 1, 60, 0x820)
    assert made[:500] == core_img(31_000)[:500]
    assert made[512:31_000] == core_img(31_000)[512:]
    assert not any(made[31_000:])


@pytest.mark.parametrize(
    "image",
    [b"", boot_img()[:-1], b"\x00" + boot_img()[1:], boot_img()[:-2] + b"\x00\x00"],
    ids=["empty", "short", "no jump", "no mark"],
)
def test_what_is_no_boot_sector_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match=r"not GRUB's boot\.img"):
        bios.boot_code(image, CORE_SECTOR)


def test_what_is_no_core_is_refused() -> None:
    strange = bytearray(core_img(2048))
    strange[500:508] = struct.pack("<Q", 7)
    with pytest.raises(ValueError, match="list of blocks"):
        bios.core(bytes(strange), CORE_SECTOR, ROOM_BYTES)


def test_a_core_larger_than_its_partition_is_refused() -> None:
    assert len(bios.core(core_img(4096), CORE_SECTOR, 4096)) == 4096
    with pytest.raises(ValueError, match="4608 bytes"):
        bios.core(core_img(4097), CORE_SECTOR, 4096)


@pytest.mark.skipif(
    not Path("/usr/lib/grub/i386-pc/boot.img").exists(), reason="no GRUB here: `.ci/setup image`"
)
def test_grubs_own_files_look_like_that() -> None:
    folder = Path("/usr/lib/grub/i386-pc")
    image = (folder / "boot.img").read_bytes()
    code = bios.boot_code(image, CORE_SECTOR)
    changed = {at for at in range(440) if code[at] != image[at]}
    assert changed == {0x5C, 0x5D, 0x66, 0x67}
    # diskboot.img becomes the first sector of every core.
    first = (folder / "diskboot.img").read_bytes()
    assert struct.unpack_from("<QHH", first, 500) == (2, 0, 0x820)
