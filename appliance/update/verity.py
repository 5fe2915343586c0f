# SPDX-License-Identifier: Apache-2.0
"""The hash tree of dm-verity, computed from the data, so that a whole slot is known to be good before it boots.

The kernel checks a block when it is read: a damaged one that nobody reads at boot would be met later. Format 1 as
veritysetup writes it (kernel documentation, admin-guide/device-mapper/verity.rst): a superblock, then the levels of the
tree from the top down; a hash is that of salt and block, 128 of them fill the next level's block.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, NamedTuple

from gateway.errors import HostError

BLOCK_BYTES: Final = 4096
# signature, version, hash type, UUID, algorithm, data and hash block size, data blocks, length of the salt, salt
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")
_SIGNATURE: Final = b"verity\0\0"


class Superblock(NamedTuple):
    """What the tree was made with."""

    data_blocks: int
    salt: bytes


def read_superblock(data: bytes) -> Superblock:
    """From the first 512 bytes. ``HostError`` for anything but the one format that we use."""
    if len(data) < _SUPERBLOCK.size:
        raise HostError("verity: no superblock")
    signature, version, kind, _, algorithm, data_size, hash_size, blocks, salt_size, salt = (
        _SUPERBLOCK.unpack_from(data)
    )
    expected = (_SIGNATURE, 1, 1, b"sha256", BLOCK_BYTES, BLOCK_BYTES)
    if (
        signature,
        version,
        kind,
        algorithm.rstrip(b"\0"),
        data_size,
        hash_size,
    ) != expected or salt_size > 256:
        raise HostError("verity: not a superblock of format 1 with sha256 and blocks of 4096 bytes")
    return Superblock(blocks, salt[:salt_size])


class Tree:
    """Takes the data as it comes, in any pieces; then tells the tree and its root."""

    def __init__(self, salt: bytes) -> None:
        self._salted = hashlib.sha256(salt)
        self._rest = b""
        self._leaves: list[bytes] = []

    def update(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % BLOCK_BYTES
        view = memoryview(data)
        self._leaves += [self._hash(view[at : at + BLOCK_BYTES]) for at in range(0, whole, BLOCK_BYTES)]
        self._rest = data[whole:]

    def finish(self) -> tuple[str, bytes]:
        """Root hash in hex, and everything behind the superblock's block. ``HostError`` for half a block."""
        if self._rest or not self._leaves:
            raise HostError("verity: the data is not a whole number of blocks")
        hashes, levels = self._leaves, [b""]
        while len(hashes) > 1:
            level = b"".join(hashes)
            level += bytes(-len(level) % BLOCK_BYTES)
            levels.append(level)
            hashes = [self._hash(level[at : at + BLOCK_BYTES]) for at in range(0, len(level), BLOCK_BYTES)]
        return hashes[0].hex(), b"".join(reversed(levels))

    def _hash(self, block: bytes | memoryview) -> bytes:
        digest = self._salted.copy()
        digest.update(block)
        return digest.digest()
