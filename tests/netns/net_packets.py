# SPDX-License-Identifier: Apache-2.0
"""Inner packets by hand: IPv4 and IPv6, UDP and TCP SYN, with right checksums."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

MSS_OPTION = 2


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source: str, to: str, port: int, payload: bytes, source_port: int = 4000) -> bytes:
    segment = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload
    return _packet(source, to, socket.IPPROTO_UDP, segment, 6)


def syn(source: str, to: str, port: int, mss: int) -> bytes:
    """A connection request that offers this segment size."""
    options = struct.pack("!BBH", MSS_OPTION, 4, mss)
    segment = struct.pack("!HHIIBBHHH", 4000, port, 1, 0, 6 << 4, 0x02, 65535, 0, 0) + options
    return _packet(source, to, socket.IPPROTO_TCP, segment, 16)


def mss_of(segment: bytes) -> int:
    """The segment size that a SYN (a TCP header without other options) offers."""
    kind, _, mss = struct.unpack_from("!BBH", segment, 20)
    assert kind == MSS_OPTION
    return int(mss)


def _packet(source: str, to: str, protocol: int, segment: bytes, checksum_at: int) -> bytes:
    a, b = ip_address(source), ip_address(to)
    pseudo = (
        a.packed
        + b.packed
        + struct.pack("!II" if a.version == 6 else "!HH", *_tail(a.version, protocol, segment))
    )
    filled = bytearray(segment)
    struct.pack_into("!H", filled, checksum_at, checksum(pseudo + segment))
    if a.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64) + a.packed + b.packed + bytes(filled)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol, 0) + a.packed + b.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + bytes(filled)


def _tail(version: int, protocol: int, segment: bytes) -> tuple[int, int]:
    return (len(segment), protocol) if version == 6 else (protocol, len(segment))
