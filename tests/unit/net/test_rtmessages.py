# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages: the layouts of linux/rtnetlink.h, and that whatever arrives is rows or Damaged."""

from __future__ import annotations

import contextlib
import socket
import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net import rtmessages as rt


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 7, 0) + padded


def link(kind: int = rt.RTM_NEWLINK, *, family: int = 0, index: int = 3, flags: int = 0x41) -> bytes:
    info = attribute(1, b"veth\0") + attribute(2, b"")
    return message(
        kind,
        struct.pack("=BxHiII", family, 1, index, flags, 0)
        + attribute(3, b"eth0\0")
        + attribute(18 | 0x8000, info),
    )


def address(ip: str, *, kind: int = rt.RTM_NEWADDR, peer: str = "", flags: int | None = None) -> bytes:
    packed = ip_address(ip).packed
    body = struct.pack("=BBBBI", socket.AF_INET if len(packed) == 4 else socket.AF_INET6, 24, 0x80, 0, 3)
    if peer:
        body += attribute(1, ip_address(peer).packed) + attribute(2, packed)
    else:
        body += attribute(1, packed)
    return message(kind, body + (attribute(8, struct.pack("=I", flags)) if flags is not None else b""))


def route(
    *attributes: bytes, family: int = 2, bits: int = 0, table: int = 254, kind: int = 1, **more: int
) -> bytes:
    header = struct.pack("=BBBBBBBBI", family, bits, 0, 0, table, 3, 0, kind, more.get("cloned", 0))
    return message(more.get("message", rt.RTM_NEWROUTE), header + b"".join(attributes), more.get("flags", 0))


OIF = attribute(4, struct.pack("=I", 3))
VIA = attribute(5, socket.inet_aton("192.0.2.1"))
METRIC = attribute(6, struct.pack("=I", 600))


def rows(data: bytes) -> list[rt.Row]:
    return [change.row for change in rt.parse(data).changes]


@pytest.mark.parametrize(
    ("flags", "up", "enabled"),
    [(0x41, True, True), (0x1, False, True), (0x40, False, False), (0, False, False)],
)
def test_a_link_is_up_with_a_switch_and_a_carrier(flags: int, up: bool, enabled: bool) -> None:
    assert rows(link(flags=flags)) == [rt.Link(3, "eth0", up, enabled, "veth")]


def test_a_port_that_leaves_a_bridge_is_not_a_device_that_vanishes() -> None:
    assert rt.parse(link(rt.RTM_DELLINK)).changes[0].gone
    assert rows(link(rt.RTM_DELLINK, family=socket.AF_BRIDGE)) == []


def test_addresses() -> None:
    assert rows(address("192.0.2.2")) == [rt.Address(3, ip_address("192.0.2.2"), 24, 0, 0x80)]
    # A point-to-point link: ours, not the other end's. The wide flags win over the eight bits of the header.
    assert rows(address("192.0.2.2", peer="198.51.100.1", flags=0x320)) == [
        rt.Address(3, ip_address("192.0.2.2"), 24, 0, 0x320)
    ]
    assert rows(address("2001:db8::2", flags=0x40))[0] == rt.Address(
        3, ip_address("2001:db8::2"), 24, 0, 0x40
    )
    assert rt.parse(address("192.0.2.2", kind=rt.RTM_DELADDR)).changes[0].gone


def test_routes() -> None:
    default = rt.Route(ip_network("0.0.0.0/0"), 3, 254, 600, ip_address("192.0.2.1"))
    assert rows(route(OIF, VIA, METRIC)) == [default]
    to = attribute(1, socket.inet_aton("198.51.100.0"))
    source = attribute(7, socket.inet_aton("192.0.2.2"))
    assert rows(route(to, OIF, source, bits=24)) == [
        rt.Route(ip_network("198.51.100.0/24"), 3, 254, 0, None, ip_address("192.0.2.2"))
    ]
    wide = attribute(15, struct.pack("=I", 51820))
    assert rows(route(OIF, wide, table=252)) == [rt.Route(ip_network("0.0.0.0/0"), 3, 51820, 0)]
    assert rows(route(OIF, family=10)) == [rt.Route(ip_network("::/0"), 3, 254, 0)]
    assert rt.parse(route(OIF, message=rt.RTM_DELROUTE)).changes[0].gone
    assert rt.parse(route(OIF, flags=0x100)).changes[0].replaces


def test_a_multipath_route_is_a_row_per_device() -> None:
    hops = b"".join(struct.pack("=HBBi", 8 + len(VIA), 0, 0, index) + VIA for index in (3, 4))
    found = rows(route(attribute(9, hops), METRIC))
    assert found == [rt.Route(ip_network("0.0.0.0/0"), n, 254, 600, ip_address("192.0.2.1")) for n in (3, 4)]


@pytest.mark.parametrize(
    "data",
    [
        route(OIF, table=255),
        route(OIF, kind=2),
        route(OIF, kind=7),
        route(OIF, cloned=0x200),
        route(OIF, family=28),
    ],
    ids=["local table", "local", "unreachable", "cloned", "mpls"],
)
def test_routes_that_carry_nothing_are_left_out(data: bytes) -> None:
    assert rows(data) == []


def test_the_ends_of_a_listing() -> None:
    done = message(3, bytes(4), flags=2)
    assert rt.parse(link() + done) == rt.Batch(rt.parse(link()).changes, done=True)
    assert rt.parse(message(3, bytes(4), flags=2 | 0x10)).interrupted
    assert rt.parse(message(2, struct.pack("=i", -95) + bytes(16))).errno == 95


def test_requests_are_what_the_kernel_expects() -> None:
    for kind, body in ((rt.RTM_GETLINK, 16 + 8), (rt.RTM_GETADDR, 8), (rt.RTM_GETROUTE, 12)):
        length, number, flags, sequence, _ = struct.unpack_from("=IHHII", rt.request(kind, 9))
        assert (length, number, flags, sequence) == (16 + body, kind, 0x301, 9)
        assert len(rt.request(kind, 9)) == length


SAMPLES = [link(), address("192.0.2.2", flags=1), address("2001:db8::2"), route(OIF, VIA, METRIC)]


@pytest.mark.parametrize("data", SAMPLES)
def test_every_truncation_is_damaged(data: bytes) -> None:
    for length in range(1, len(data)):
        with pytest.raises(rt.Damaged):
            rt.parse(data[:length])


@pytest.mark.parametrize("data", SAMPLES)
def test_a_body_cut_short_inside_a_whole_message(data: bytes) -> None:
    """The envelope's length shrinks with it: what is inside must notice by itself, or have lost whole attributes."""
    for length in range(16, len(data)):
        kind = struct.unpack_from("=IH", data)[1]
        try:
            rt.parse(message(kind, data[16:length]))
        except rt.Damaged:
            continue


@given(st.binary(max_size=200))
def test_garbage_is_rows_or_damaged(data: bytes) -> None:
    with contextlib.suppress(rt.Damaged):
        rt.parse(data)


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_flipped_bytes_are_rows_or_damaged(data: bytes, flips: list[tuple[int, int]]) -> None:
    mutated = bytearray(data)
    for at, value in flips:
        mutated[at % len(mutated)] = value
    with contextlib.suppress(rt.Damaged):
        rt.parse(bytes(mutated))


@given(st.binary(max_size=80), st.sampled_from([16, 17, 20, 21, 24, 25]))
def test_a_garbage_body_is_rows_or_damaged(body: bytes, kind: int) -> None:
    with contextlib.suppress(rt.Damaged):
        rt.parse(message(kind, body))
