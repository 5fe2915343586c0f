# SPDX-License-Identifier: Apache-2.0
"""One ICMP echo as an IP packet, both versions. Pure: bytes in, bytes out."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

Address = IPv4Address | IPv6Address

_TTL: Final = 64
_ICMP, _ICMPV6 = 1, 58
_REQUEST: Final = {4: 8, 6: 128}
_REPLY: Final = {4: 0, 6: 129}


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def request(source: Address, destination: Address, payload: bytes) -> bytes:
    """An echo request with identifier 1 and sequence number 1."""
    return _packet(source, destination, _REQUEST[source.version], payload)


def is_reply(packet: bytes, source: Address, destination: Address, payload: bytes) -> bool:
    """Whether this answers ``request(source, destination, payload)``; padding behind it is passed over."""
    message = _message(destination, source, _REPLY[source.version], payload)
    if source.version == 4:
        ends = destination.packed + source.packed
        return (
            len(packet) >= 20
            and packet[0] == 0x45
            and packet[12:20] == ends
            and packet[20:][: len(message)] == message
        )
    ends = destination.packed + source.packed
    return packet[:1] == b"\x60" and packet[8:40] == ends and packet[40:][: len(message)] == message


def _message(source: Address, destination: Address, kind: int, payload: bytes) -> bytes:
    body = struct.pack("!HH", 1, 1) + payload
    pseudo = b""
    if source.version == 6:
        pseudo = source.packed + destination.packed + struct.pack("!II", 4 + len(body), _ICMPV6)
    sum_ = checksum(pseudo + bytes((kind, 0, 0, 0)) + body)
    return bytes((kind, 0)) + sum_.to_bytes(2, "big") + body


def _packet(source: Address, destination: Address, kind: int, payload: bytes) -> bytes:
    message = _message(source, destination, kind, payload)
    ends = source.packed + destination.packed
    if source.version == 6:
        return struct.pack("!IHBB", 0x60000000, len(message), _ICMPV6, _TTL) + ends + message
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, _TTL, _ICMP, 0) + ends
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + message
