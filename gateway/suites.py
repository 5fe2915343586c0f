# SPDX-License-Identifier: Apache-2.0
"""Cipher suites of transport messages, and what is derived from a handshake (protocol.md §2, §3).

Rule: one key never serves two algorithms. A handshake's transport key is used as it is by WireGuard's own type 4 only;
every type 5 suite, control included, has a key derived under its name. Sealing packets is csrc's work, not this file's.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from struct import Struct
from typing import Final, NamedTuple

from gateway import crypto
from gateway.errors import CryptoError

MSG_JUMP: Final = 5
HEADER_BYTES: Final = 16
SESSION_ID_BYTES: Final = 16
# Flags bit0 of the header: the inner TCP/UDP checksum is partial (protocol.md §3).
FLAG_PARTIAL_CHECKSUM: Final = 0x01

_LABEL_KEY: Final = b"jvpn1 "
_LABEL_SESSION: Final = b"jvpn1 session"
_HEADER: Final = Struct("<BBBBIQ")


class Suite(enum.IntEnum):
    """The numbers in the type 5 header, in HELLO and in WELCOME; csrc's jv_suite has the same.

    CONTROL is never offered. CHACHA20_POLY1305 is offered and chosen by its number but travels as type 4, without one.
    """

    CONTROL = 0
    CHACHA20_POLY1305 = 1
    AES_256_GCM = 2
    AEGIS_128L = 3


class Traits(NamedTuple):
    """What a suite is. ``packet_limit`` counts data and control under one keypair together."""

    name: str
    message_type: int
    key_bytes: int  # taken from the front of the 32 derived ones
    nonce_bytes: int
    tag_bytes: int
    packet_limit: int


TRAITS: Final[dict[Suite, Traits]] = {
    Suite.CONTROL: Traits("control", MSG_JUMP, 32, 12, 16, 1 << 60),
    Suite.CHACHA20_POLY1305: Traits("chacha20-poly1305", 4, 32, 12, 16, 1 << 60),
    # 2^26 packets keep the advantage against AES-256-GCM negligible with packets of this size.
    Suite.AES_256_GCM: Traits("aes-256-gcm", MSG_JUMP, 32, 12, 16, 1 << 26),
    Suite.AEGIS_128L: Traits("aegis-128l", MSG_JUMP, 16, 16, 32, 1 << 60),
}
BY_NAME: Final[dict[str, Suite]] = {
    traits.name: suite for suite, traits in TRAITS.items() if suite is not Suite.CONTROL
}
# Fastest first: what an end with everything available prefers.
PREFERENCE: Final = (Suite.AEGIS_128L, Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)


class Header(NamedTuple):
    """The 16 bytes before a type 5 packet; all of them are associated data."""

    suite: int
    path_id: int
    flags: int
    receiver: int
    counter: int


def header(suite: Suite, path_id: int, flags: int, receiver: int, counter: int) -> bytes:
    """`u8 5 | u8 suite | u8 path_id | u8 flags | u32 receiver | u64 counter`; struct.error when one does not fit."""
    return _HEADER.pack(MSG_JUMP, suite, path_id, flags, receiver, counter)


def read_header(datagram: bytes) -> Header | None:
    """The header of a type 5 datagram, or None for anything else or too short. The suite is not judged."""
    if len(datagram) < HEADER_BYTES or datagram[0] != MSG_JUMP:
        return None
    return Header._make(_HEADER.unpack_from(datagram)[1:])


def nonce(suite: Suite, counter: int) -> bytes:
    """The counter as LE64 in the last 8 bytes, zeros before it; OverflowError beyond 64 bits."""
    return counter.to_bytes(8, "little").rjust(TRAITS[suite].nonce_bytes, b"\0")


def traffic_key(noise_key: bytes, suite: Suite) -> bytes:
    """The 32-byte key of one direction: KDF1(noise key, "jvpn1 " || name), or the noise key itself for type 4.

    AEGIS-128L takes the first 16 bytes of it (``Traits.key_bytes``). CryptoError for a noise key that is not 32 bytes.
    """
    if len(noise_key) != crypto.KEY_BYTES:
        raise CryptoError(f"a transport key has {crypto.KEY_BYTES} bytes, not {len(noise_key)}")
    if TRAITS[suite].message_type != MSG_JUMP:
        return noise_key
    return crypto.kdf(noise_key, _LABEL_KEY + TRAITS[suite].name.encode(), 1)[0]


def session_id(handshake_hash: bytes) -> bytes:
    """First 16 bytes of BLAKE2s("jvpn1 session" || final handshake hash): equal at both ends, in BIRTH already."""
    return crypto.blake2s(_LABEL_SESSION, handshake_hash)[:SESSION_ID_BYTES]


def available(features: crypto.SodiumFeatures) -> tuple[Suite, ...]:
    """What this host can offer, in order of preference: AEGIS only where AES instructions make it fast."""
    have = {
        Suite.AEGIS_128L: features.aegis128l and features.aes256gcm,
        Suite.AES_256_GCM: features.aes256gcm,
        Suite.CHACHA20_POLY1305: True,
    }
    return tuple(suite for suite in PREFERENCE if have[suite])


def choose(offered: Sequence[int], permitted: Collection[Suite]) -> Suite | None:
    """The first suite offered that is permitted (policy and host), or None: refuse. Unknown numbers are passed over."""
    numbers = {int(suite) for suite in permitted} - {int(Suite.CONTROL)}
    return next((Suite(number) for number in offered if number in numbers), None)


def max_tag_bytes(permitted: Collection[Suite]) -> int:
    """The largest tag of the permitted suites; what the inner MTU has to leave room for."""
    return max(TRAITS[suite].tag_bytes for suite in (*permitted, Suite.CONTROL))
