# SPDX-License-Identifier: Apache-2.0
"""A fixed VHD is the raw disk and a footer of 512 bytes. Written here: tools put the hour and a random name into it."""

from __future__ import annotations

import struct
import uuid
from typing import Final

# Seconds of 2000-01-01 after 1970, from which the format counts.
EPOCH_2000_S: Final = 946684800
FIXED: Final = 2
NO_DATA_OFFSET: Final = 0xFFFFFFFFFFFFFFFF
CHECKSUM_AT: Final = 64
# For this name readers take the size from its field; for names they do not know from the geometry, which is smaller.
CREATOR: Final = b"qem2"
MIB: Final = 1 << 20


def geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track, by the format's own rule (its appendix)."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track, tracks = 17, sectors // 17
    heads = max((tracks + 1023) // 1024, 4)
    if tracks >= heads * 1024 or heads > 16:
        per_track, heads, tracks = 31, 16, sectors // 31
    if tracks >= heads * 1024:
        per_track, heads, tracks = 63, 16, sectors // 63
    return tracks // heads, heads, per_track


def footer(size_bytes: int, epoch: int, name: uuid.UUID) -> bytes:
    """The footer of a disk of that size, which must be whole MiB: Azure takes no other."""
    if size_bytes % MIB:
        raise ValueError("a VHD has whole MiB")
    cylinders, heads, per_track = geometry(size_bytes // 512)
    body = bytearray(512)
    struct.pack_into(
        ">8sIIQI4sI4sQQHBBII16s",
        body,
        0,
        b"conectix",
        2,
        0x00010000,
        NO_DATA_OFFSET,
        max(epoch - EPOCH_2000_S, 0),
        CREATOR,
        0x00010000,
        b"Wi2k",
        size_bytes,
        size_bytes,
        cylinders,
        heads,
        per_track,
        FIXED,
        0,
        name.bytes,
    )
    struct.pack_into(">I", body, CHECKSUM_AT, ~sum(body) & 0xFFFFFFFF)
    return bytes(body)
