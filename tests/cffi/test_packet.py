# SPDX-License-Identifier: Apache-2.0
"""Inner packets: the parser against one written from RFC 791 and RFC 8200, ICMP answers taken apart again."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cffi.build import load

ffi, lib = load().ffi, load().lib
Address = IPv4Address | IPv6Address
ASKED: dict[int, Address] = {4: ip_address("192.0.2.9"), 6: ip_address("2001:db8::9")}
KINDS = {"too_big": lib.JV_ICMP_TOO_BIG, "no_route": lib.JV_ICMP_NO_ROUTE, "admin": lib.JV_ICMP_ADMIN}
TYPES = {("too_big", 4): (3, 4), ("no_route", 4): (3, 0), ("admin", 4): (3, 13)}
TYPES |= {("too_big", 6): (2, 0), ("no_route", 6): (1, 0), ("admin", 6): (1, 1)}


class Parsed(NamedTuple):
    version: int
    total: int
    header: int
    proto: int
    src: bytes
    dst: bytes
    fragment: bool
    first: bool


def reference(p: bytes) -> Parsed | int:
    if not p:
        return lib.JV_IP_SHORT
    version = p[0] >> 4
    if version not in (4, 6):
        return lib.JV_IP_VERSION
    if len(p) < (20 if version == 4 else 40):
        return lib.JV_IP_SHORT
    if version == 6:
        total = 40 + struct.unpack_from("!H", p, 4)[0]
        return (
            Parsed(6, total, 40, p[6], p[8:24], p[24:40], False, True)
            if total <= len(p)
            else lib.JV_IP_LENGTH
        )
    header, (total, _, flags) = (p[0] & 15) * 4, struct.unpack_from("!HHH", p, 2)
    if not 20 <= header <= total <= len(p):
        return lib.JV_IP_LENGTH
    return Parsed(4, total, header, p[9], p[12:16], p[16:20], flags & 0x3FFF != 0, flags & 0x1FFF == 0)


def parse(p: bytes) -> Parsed | int:
    """Through C, from memory that ends where the packet ends."""
    block, out = ffi.new("uint8_t[]", p or b"\0"), ffi.new("struct jv_ip *")
    rc: int = lib.jv_ip_parse(block, len(p), out)
    if rc:
        return rc
    n = 4 if out.version == 4 else 16
    src, dst = bytes(ffi.buffer(out.src, n)), bytes(ffi.buffer(out.dst, n))
    return Parsed(
        out.version, out.total_bytes, out.header_bytes, out.proto, src, dst, out.fragment, out.first_fragment
    )


def answer(kind: int, p: bytes, mtu: int = 1280) -> bytes:
    out = ffi.new("uint8_t[]", lib.JV_ICMP_BYTES_MAX)
    n = lib.jv_icmp_reply(kind, ffi.new("uint8_t[]", p or b"\0"), len(p), mtu, out)
    return bytes(ffi.buffer(out, n))


def checksum(data: bytes) -> int:
    """RFC 1071, the slow way."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(src: str, dst: str, proto: int, body: bytes, flags: int = 0x4000) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, flags, 64, proto, 0)
    return head + IPv4Address(src).packed + IPv4Address(dst).packed + body


def ipv6(src: str, dst: str, following: int, body: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(body), following, 64)
    return head + IPv6Address(src).packed + IPv6Address(dst).packed + body


def packet(version: int, body: bytes, proto: int = 17) -> bytes:
    if version == 4:
        return ipv4("10.0.0.2", "192.0.2.9", proto, body)
    return ipv6("fd00::2", "2001:db8::9", proto, body)


heads = st.sampled_from([bytes([b]) for b in (0x45, 0x46, 0x4F, 0x44, 0x60, 0x6F, 0x00, 0x50)])
garbage = st.builds(lambda head, rest: head + rest, heads, st.binary(max_size=120))
near_valid = st.builds(
    lambda version, body, cut, at, value: bytearray(packet(version, body))[:cut] + bytes(0 if at else value % 9),
    st.sampled_from([4, 6]), st.binary(max_size=60), st.integers(0, 120), st.integers(0, 1), st.integers(0, 255),
).map(bytes)  # fmt: skip


@given(st.one_of(st.binary(max_size=100), garbage, near_valid))
def test_parser_agrees_with_the_reference(p: bytes) -> None:
    assert parse(p) == reference(p)


@given(st.binary(max_size=3000), st.integers(0, 2**32 - 1))
def test_checksum(data: bytes, mtu: int) -> None:
    even = len(data) // 4 * 2
    whole = lib.jv_checksum_fold(lib.jv_checksum_add(0, data, len(data)))
    parts = lib.jv_checksum_add(lib.jv_checksum_add(0, data[:even], even), data[even:], len(data) - even)
    assert struct.unpack("!H", struct.pack("=H", whole))[0] == checksum(data)
    assert lib.jv_checksum_fold(parts) == whole


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", sorted(KINDS))
@given(body=st.binary(max_size=1600), mtu=st.integers(576, 9000))
def test_answers_are_well_formed(version: int, kind: str, body: bytes, mtu: int) -> None:
    asked = packet(version, body)
    reply = answer(KINDS[kind], asked + b"\0" * 3, mtu)
    parsed = parse(reply)
    assert isinstance(parsed, Parsed) and parsed.total == len(reply) and parsed.version == version
    assert parsed.src == ASKED[version].packed
    assert ip_address(parsed.dst) == ip_address({4: "10.0.0.2", 6: "fd00::2"}[version])
    icmp = reply[parsed.header :]
    assert (icmp[0], icmp[1]) == TYPES[kind, version]
    assert struct.unpack_from("!I", icmp, 4)[0] == (mtu if kind == "too_big" else 0)
    room = 548 if version == 4 else 1280 - 48
    assert icmp[8:] == asked[:room]
    if version == 4:
        assert checksum(reply[:20]) == 0 and checksum(icmp) == 0
    else:
        assert checksum(reply[8:40] + struct.pack("!II", len(icmp), 58) + icmp) == 0


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("version", [4, 6])
def test_an_answer_is_not_answered(version: int, kind: str) -> None:
    reply = answer(KINDS[kind], packet(version, b"payload"))
    assert reply
    assert answer(KINDS[kind], reply) == b""


@given(st.one_of(st.binary(max_size=100), garbage))
def test_garbage_is_never_quoted_beyond_its_end(p: bytes) -> None:
    for kind in KINDS.values():
        reply = answer(kind, p)
        assert len(reply) <= lib.JV_ICMP_BYTES_MAX
        if reply:
            assert isinstance(reference(p), Parsed)


@pytest.mark.parametrize(
    ("why", "asked"),
    [
        ("may be fragmented", ipv4("10.0.0.2", "192.0.2.9", 17, b"x" * 30, flags=0)),
        ("later fragment", ipv4("10.0.0.2", "192.0.2.9", 17, b"x" * 30, flags=0x4001)),
        ("multicast", ipv4("10.0.0.2", "224.0.0.5", 17, b"x" * 30)),
        ("broadcast", ipv4("10.0.0.2", "255.255.255.255", 17, b"x" * 30)),
        ("no source", ipv4("0.0.0.0", "192.0.2.9", 17, b"x" * 30)),
        ("loopback source", ipv4("127.0.0.1", "192.0.2.9", 17, b"x" * 30)),
        ("icmp error", ipv4("10.0.0.2", "192.0.2.9", 1, b"\3\1" + bytes(30))),
        ("redirect", ipv4("10.0.0.2", "192.0.2.9", 1, b"\5\0" + bytes(30))),
        ("icmp without a type", ipv4("10.0.0.2", "192.0.2.9", 1, b"")),
        ("multicast 6", ipv6("fd00::2", "ff02::1", 17, b"x" * 30)),
        ("no source 6", ipv6("::", "2001:db8::9", 17, b"x" * 30)),
        ("icmp error 6", ipv6("fd00::2", "2001:db8::9", 58, b"\1\0" + bytes(30))),
        ("redirect 6", ipv6("fd00::2", "2001:db8::9", 58, b"\x89\0" + bytes(30))),
        ("icmp error behind options 6", ipv6("fd00::2", "2001:db8::9", 0, b"\x3a\0" + bytes(6) + b"\1\0" + bytes(30))),
        ("later fragment 6", ipv6("fd00::2", "2001:db8::9", 44, b"\x11\0\0\x08" + bytes(30))),
    ],
)  # fmt: skip
def test_never_answered(why: str, asked: bytes) -> None:
    assert answer(lib.JV_ICMP_TOO_BIG, asked) == b"", why


@pytest.mark.parametrize(("version", "proto", "kind"), [(4, 1, 8), (4, 1, 0), (6, 58, 128), (6, 58, 129)])
def test_ping_is_answered(version: int, proto: int, kind: int) -> None:
    assert answer(lib.JV_ICMP_NO_ROUTE, packet(version, bytes([kind]) + bytes(30), proto)) != b""
