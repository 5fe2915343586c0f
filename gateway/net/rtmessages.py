# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages of this machine's kernel as rows: links, addresses and unicast routes, and nothing else.

Rule: pure, and no byte is read beyond the length that its header gives. A message that is not whole is Damaged, and the
reader then asks the kernel for everything again: half a message is worse than none.

Layouts: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h; rtnetlink(7). Numbers are in host order,
addresses in network order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NamedTuple

Ip = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV4_ROUTE: Final = 0x40
RTMGRP_IPV6_IFADDR: Final = 0x100
RTMGRP_IPV6_ROUTE: Final = 0x400
GROUPS: Final = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40  # has a carrier and is not dormant

SCOPE_GLOBAL: Final = 0
IFA_F_TEMPORARY: Final = 0x01  # IPv6; for IPv4 the same bit says "secondary"
IFA_F_OPTIMISTIC: Final = 0x04
IFA_F_DADFAILED: Final = 0x08
IFA_F_DEPRECATED: Final = 0x20
IFA_F_TENTATIVE: Final = 0x40

TABLE_LOCAL: Final = 255

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_REPLACE: Final = 0x100  # of a RTM_NEW*
_NLM_F_DUMP: Final = 0x300  # of a RTM_GET*

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ERROR: Final = struct.Struct("=i")  # nlmsgerr without the request
_LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
# rtmsg: family, destination and source length, tos, table, protocol, scope, type, flags
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type
_NEXTHOP: Final = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index
_U32: Final = struct.Struct("=I")

_NLA_TYPE_MASK: Final = 0x3FFF  # above are "nested" and "network order"
_IFLA_IFNAME: Final = 3
_IFLA_LINKINFO: Final = 18
_IFLA_EXT_MASK: Final = 29
_IFLA_INFO_KIND: Final = 1
_EXT_SKIP_STATS: Final = 0x8
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PRIORITY: Final = 6
_RTA_PREFSRC: Final = 7
_RTA_MULTIPATH: Final = 9
_RTA_TABLE: Final = 15
_RTN_UNICAST: Final = 1
_RTM_F_CLONED: Final = 0x200


class Damaged(ValueError):
    """The bytes are not whole rtnetlink messages."""


class Link(NamedTuple):
    """A network device. ``up``: switched on and with a carrier; ``enabled``: switched on."""

    ifindex: int
    name: str
    up: bool
    enabled: bool
    kind: str = ""  # "veth", "tun", "wireguard", ...; "" for hardware


class Address(NamedTuple):
    """An address of a device; ``flags`` are IFA_F_*."""

    ifindex: int
    ip: Ip
    prefix_bits: int
    scope: int
    flags: int


class Route(NamedTuple):
    """A unicast route through one device; a multipath route is one row per device."""

    prefix: Network
    ifindex: int
    table: int
    metric: int
    via: Ip | None = None
    source: Ip | None = None  # the source address the route asks for


Row = Link | Address | Route


class Change(NamedTuple):
    """A row is now as given, or gone. ``replaces``: a route that takes the place of those with its prefix, table and
    metric.
    """

    row: Row
    gone: bool = False
    replaces: bool = False


class Batch(NamedTuple):
    """What one datagram held."""

    changes: tuple[Change, ...]
    done: bool = False  # the listing is complete
    interrupted: bool = False  # something changed while the kernel was listing
    errno: int = 0  # the kernel's refusal of a request


def request(message: int, sequence: int) -> bytes:
    """A request to list everything of one kind: RTM_GETLINK, RTM_GETADDR or RTM_GETROUTE."""
    body = bytes(_ROUTE.size)
    if message == RTM_GETLINK:
        body = bytes(_LINK.size) + _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _U32.pack(_EXT_SKIP_STATS)
    elif message == RTM_GETADDR:
        body = bytes(_ADDRESS.size)
    return _HEADER.pack(_HEADER.size + len(body), message, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + body


def parse(data: bytes) -> Batch:
    """The rows of one datagram from the kernel. Damaged when it is not whole."""
    changes: list[Change] = []
    done, interrupted, refusal = False, False, 0
    for kind, flags, body in _messages(data):
        interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
        if kind == _NLMSG_DONE:
            done = True
        elif kind == _NLMSG_ERROR:
            refusal = -_unpack(_ERROR, body)[0]
        elif kind in (RTM_NEWLINK, RTM_DELLINK):
            changes += _link(body, kind == RTM_DELLINK)
        elif kind in (RTM_NEWADDR, RTM_DELADDR):
            changes += _address(body, kind == RTM_DELADDR)
        elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
            changes += _routes(body, kind == RTM_DELROUTE, bool(flags & _NLM_F_REPLACE))
    return Batch(tuple(changes), done, interrupted, refusal)


# --- one message of each kind ----------------------------------------------------------------------------------------


def _link(body: bytes, gone: bool) -> Iterator[Change]:
    family, _, index, flags, _ = _unpack(_LINK, body)
    # A bridge tells of its ports under a family of its own; a port that leaves it is not a device that vanishes.
    if family != socket.AF_UNSPEC:
        return
    found = _attributes(body, _LINK.size)
    kind = _text(_attributes(found.get(_IFLA_LINKINFO, b""), 0).get(_IFLA_INFO_KIND, b""))
    enabled = bool(flags & IFF_UP)
    up = enabled and bool(flags & IFF_RUNNING)
    yield Change(Link(index, _text(found.get(_IFLA_IFNAME, b"")), up, enabled, kind), gone)


def _address(body: bytes, gone: bool) -> Iterator[Change]:
    family, prefix_bits, short_flags, scope, index = _unpack(_ADDRESS, body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return
    found = _attributes(body, _ADDRESS.size)
    # On a point-to-point link IFA_ADDRESS is the other end.
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if packed is None:
        raise Damaged("an address without an address")
    flags = _u32(found[_IFA_FLAGS]) if _IFA_FLAGS in found else short_flags
    yield Change(Address(index, _ip(family, packed), prefix_bits, scope, flags), gone)


def _routes(body: bytes, gone: bool, replaces: bool) -> Iterator[Change]:
    family, bits, _, _, short_table, _, _, kind, flags = _unpack(_ROUTE, body)
    if family not in (socket.AF_INET, socket.AF_INET6) or kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
        return
    found = _attributes(body, _ROUTE.size)
    table = _u32(found[_RTA_TABLE]) if _RTA_TABLE in found else short_table
    if table == TABLE_LOCAL:
        return
    prefix = _network(family, found.get(_RTA_DST), bits)
    metric = _u32(found[_RTA_PRIORITY]) if _RTA_PRIORITY in found else 0
    source = _ip(family, found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None
    for index, hop in _hops(found):
        via = _ip(family, hop[_RTA_GATEWAY]) if _RTA_GATEWAY in hop else None
        yield Change(Route(prefix, index, table, metric, via, source), gone, replaces)
        replaces = False  # only the first hop of a route takes another's place


def _hops(found: dict[int, bytes]) -> Iterator[tuple[int, dict[int, bytes]]]:
    if _RTA_OIF in found:
        yield _u32(found[_RTA_OIF]), found
    rest = found.get(_RTA_MULTIPATH, b"")
    while len(rest) >= _NEXTHOP.size:
        length, _, _, index = _NEXTHOP.unpack_from(rest)
        if not _NEXTHOP.size <= length <= len(rest):
            raise Damaged("a next hop of impossible length")
        yield index, _attributes(rest[:length], _NEXTHOP.size)
        rest = rest[_aligned(length) :]


# --- the envelope ----------------------------------------------------------------------------------------------------


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise Damaged("a message shorter than its header")
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise Damaged("a message of impossible length")
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def _attributes(data: bytes, start: int) -> dict[int, bytes]:
    """Type to value; of two with one type the last counts, as in the kernel."""
    found = {}
    at = _aligned(start)
    while len(data) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise Damaged("an attribute of impossible length")
        found[kind & _NLA_TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _unpack(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) < layout.size:
        raise Damaged("a message shorter than its kind allows")
    return layout.unpack_from(body)


def _u32(value: bytes) -> int:
    return _unpack(_U32, value)[0]


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode(errors="replace")


def _ip(family: int, packed: bytes) -> Ip:
    if len(packed) != (4 if family == socket.AF_INET else 16):
        raise Damaged("an address of impossible length")
    return IPv4Address(packed) if family == socket.AF_INET else IPv6Address(packed)


def _network(family: int, packed: bytes | None, bits: int) -> Network:
    """Without a destination it is the default route, whatever length it claims to have."""
    if packed is None:
        return IPv4Network((0, 0)) if family == socket.AF_INET else IPv6Network((0, 0))
    address = _ip(family, packed)
    if bits > address.max_prefixlen:
        raise Damaged("a prefix of impossible length")
    if isinstance(address, IPv4Address):
        return IPv4Network((address, bits), strict=False)
    return IPv6Network((address, bits), strict=False)
