# SPDX-License-Identifier: Apache-2.0
"""WireGuard messages 1..4 on the wire: numbers, sizes, offsets (whitepaper §5.4). Integers are little endian.

Rule: nothing here knows a key. The readers trust that `message_type` has accepted the datagram.

    1 initiation  148   type 0, sender 4, ephemeral 8, static 40, timestamp 88, mac1 116, mac2 132
    2 response     92   type 0, sender 4, receiver 8, ephemeral 12, empty 44, mac1 60, mac2 76
    3 cookie       64   type 0, receiver 4, nonce 8, cookie 32
    4 transport   16+   type 0, receiver 4, counter 8, sealed packet and tag 16
"""

from __future__ import annotations

from typing import Final

MSG_INITIATION: Final = 1
MSG_RESPONSE: Final = 2
MSG_COOKIE_REPLY: Final = 3
MSG_TRANSPORT: Final = 4

INITIATION_BYTES: Final = 148
RESPONSE_BYTES: Final = 92
COOKIE_REPLY_BYTES: Final = 64
TRANSPORT_HEADER_BYTES: Final = 16

MAC_BYTES: Final = 16
MACS_BYTES: Final = 2 * MAC_BYTES
TIMESTAMP_BYTES: Final = 12
COOKIE_BYTES: Final = 16
COOKIE_NONCE_BYTES: Final = 24
NO_MAC: Final = bytes(MAC_BYTES)
# An initiation and a response before mac1 and mac2 are added.
INITIATION_BODY_BYTES: Final = INITIATION_BYTES - MACS_BYTES
RESPONSE_BODY_BYTES: Final = RESPONSE_BYTES - MACS_BYTES

INITIATION_HEAD: Final = bytes((MSG_INITIATION, 0, 0, 0))
RESPONSE_HEAD: Final = bytes((MSG_RESPONSE, 0, 0, 0))
COOKIE_REPLY_HEAD: Final = bytes((MSG_COOKIE_REPLY, 0, 0, 0))
TRANSPORT_HEAD: Final = bytes((MSG_TRANSPORT, 0, 0, 0))

SENDER: Final = slice(4, 8)
_RECEIVER: Final = {MSG_RESPONSE: slice(8, 12), MSG_COOKIE_REPLY: slice(4, 8), MSG_TRANSPORT: slice(4, 8)}
_MAC1: Final = slice(-MACS_BYTES, -MAC_BYTES)
_MAC2: Final = slice(-MAC_BYTES, None)

_SIZE: Final = {
    INITIATION_HEAD: INITIATION_BYTES,
    RESPONSE_HEAD: RESPONSE_BYTES,
    COOKIE_REPLY_HEAD: COOKIE_REPLY_BYTES,
}


def message_type(datagram: bytes) -> int:
    """1, 2 or 3 when type, the three reserved zero bytes and the exact size agree; 0 for anything else."""
    return datagram[0] if _SIZE.get(datagram[:4]) == len(datagram) else 0


def names_handshake(datagram: bytes) -> bool:
    """Whether the first four bytes claim a handshake message, whatever its size."""
    return datagram[:4] in _SIZE


def sender_index(message: bytes) -> int:
    """Index that the sender of an initiation or a response chose for itself."""
    return int.from_bytes(message[SENDER], "little")


def receiver_index(message: bytes) -> int:
    """Our own index, as a response, cookie reply or transport message names it."""
    return int.from_bytes(message[_RECEIVER[message[0]]], "little")


def index_bytes(index: int) -> bytes:
    """The four bytes of an index; ValueError outside 32 bits."""
    if not 0 <= index < 1 << 32:
        raise ValueError(f"index {index} does not fit in 32 bits")
    return index.to_bytes(4, "little")


def mac1(message: bytes) -> bytes:
    """mac1 of a whole initiation or response."""
    return message[_MAC1]


def mac2(message: bytes) -> bytes:
    """mac2 of a whole initiation or response; 16 zero bytes mean "no cookie"."""
    return message[_MAC2]


def before_mac1(message: bytes) -> bytes:
    """What mac1 covers."""
    return message[:-MACS_BYTES]


def before_mac2(message: bytes) -> bytes:
    """What mac2 covers."""
    return message[:-MAC_BYTES]


def transport_header(receiver: int, counter: int) -> bytes:
    """The 16 bytes before a sealed packet."""
    return TRANSPORT_HEAD + index_bytes(receiver) + counter.to_bytes(8, "little")
