# SPDX-License-Identifier: Apache-2.0
"""A stream encrypted under a passphrase: Argon2id makes the key, XChaCha20-Poly1305 secretstream the rest (libsodium).

    magic "JVPNBAK1\\n" | salt 16 | rounds u32 | memory in KiB u32 | stream header 24 | chunks
    chunk: 65536 bytes (the last one fewer, maybe none) and 17 of tag; the last one is tagged FINAL

The head is authenticated with the first chunk. Lost, repeated, reordered and cut chunks are all noticed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO, Final, NamedTuple

from gateway._sodium import pysodium as sodium
from gateway.errors import AuthError, JumpError, UsageError

MAGIC: Final = b"JVPNBAK1\n"
CHUNK_BYTES: Final = 65536
PASSPHRASE_MIN: Final = 10
_PARAMETERS: Final = struct.Struct("<II")
# What a file may ask of its reader.
_ROUNDS_MAX, _MEMORY_MAX_KIB = 16, 256 * 1024
_SALT_BYTES: Final = 16
_HEADER_BYTES: Final = 24
_TAG_BYTES: Final = 17
_WRONG: Final = "wrong passphrase, or the file was changed or cut"


class Cost(NamedTuple):
    """What trying one passphrase costs."""

    rounds: int
    memory_kib: int


# Three rounds over 64 MiB: a box of 512 MB does it beside the gateway.
COST = Cost(3, 64 * 1024)


def check_passphrase(text: str) -> str:
    """``text`` as the passphrase of a new file; UsageError says why not."""
    if not PASSPHRASE_MIN <= len(text) <= 512:
        raise UsageError(f"a passphrase has {PASSPHRASE_MIN} to 512 characters")
    return text


def _key(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    made: bytes = sodium.crypto_pwhash(
        32,
        passphrase.encode(),
        salt,
        cost.rounds,
        cost.memory_kib * 1024,
        sodium.crypto_pwhash_ALG_ARGON2ID13,
    )
    return made


class Sealer:
    """A file to write into; ``close`` writes the end, without which nothing can be opened."""

    def __init__(self, out: BinaryIO, passphrase: str, random_bytes: Callable[[int], bytes]) -> None:
        salt = random_bytes(_SALT_BYTES)
        key = _key(passphrase, salt, COST)
        self._state: Any
        self._state, header = sodium.crypto_secretstream_xchacha20poly1305_init_push(key)
        self._out, self._waiting = out, bytearray()
        self._head = MAGIC + salt + _PARAMETERS.pack(*COST) + header
        out.write(self._head)

    def write(self, data: bytes) -> int:
        """Encrypt whole chunks."""
        self._waiting += data
        # The last chunk is kept until the end is known.
        while len(self._waiting) > CHUNK_BYTES:
            self._push(
                bytes(self._waiting[:CHUNK_BYTES]), sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
            )
            del self._waiting[:CHUNK_BYTES]
        return len(data)

    def close(self) -> None:
        """The last chunk."""
        self._push(bytes(self._waiting), sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL)
        self._waiting.clear()

    def _push(self, data: bytes, tag: int) -> None:
        self._out.write(sodium.crypto_secretstream_xchacha20poly1305_push(self._state, data, self._head, tag))
        self._head = b""


class Opener:
    """A file to read from. AuthError at the first chunk that is not as it was written; no data of it is returned."""

    def __init__(self, source: BinaryIO, passphrase: str) -> None:
        self._source, self._ready, self._final = source, b"", False
        head = source.read(len(MAGIC) + _SALT_BYTES + _PARAMETERS.size + _HEADER_BYTES)
        if (
            not head.startswith(MAGIC)
            or len(head) != len(MAGIC) + _SALT_BYTES + _PARAMETERS.size + _HEADER_BYTES
        ):
            raise JumpError("not a backup of this product")
        salt = head[len(MAGIC) :][:_SALT_BYTES]
        cost = Cost(*_PARAMETERS.unpack_from(head, len(MAGIC) + _SALT_BYTES))
        if not 1 <= cost.rounds <= _ROUNDS_MAX or not 8 <= cost.memory_kib <= _MEMORY_MAX_KIB:
            raise JumpError("not a backup of this product: it asks for too much memory or time")
        key = _key(passphrase, salt, cost)
        self._state: Any = sodium.crypto_secretstream_xchacha20poly1305_init_pull(head[-_HEADER_BYTES:], key)
        self._head = head

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, all of them with -1; b"" at the end."""
        while not self._final and (size < 0 or len(self._ready) < size):
            self._pull()
        size = len(self._ready) if size < 0 else size
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def _pull(self) -> None:
        chunk = self._source.read(CHUNK_BYTES + _TAG_BYTES)
        try:
            data, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(self._state, chunk, self._head)
        except ValueError:
            raise AuthError(_WRONG) from None
        self._head = b""
        self._final = tag == sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL
        if self._final and self._source.read(1):
            raise AuthError(_WRONG)
        self._ready += data
