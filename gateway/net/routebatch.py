# SPDX-License-Identifier: Apache-2.0
"""Routes by the thousand: one netlink datagram carries many (rtnetlink(7)), and the answers are read afterwards.

pyroute2 asks and waits for each route, half a millisecond a piece; a gateway with many sites starts with thousands.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Final

# linux/netlink.h, linux/rtnetlink.h
RTM_NEWROUTE: Final = 24
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_TABLE: Final = 15
RTPROT_STATIC: Final = 4
RT_SCOPE_UNIVERSE: Final = 0
RTN_UNICAST: Final = 1
RT_TABLE_UNSPEC: Final = 0

_NLMSGHDR: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_RTATTR: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
# Every answer repeats its request's header only (NETLINK_CAP_ACK): 64 of them fit any receive buffer.
_BATCH: Final = 64
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
_TIMEOUT_S: Final = 5.0


def add_device_routes(ifindex: int, prefixes: Sequence[str], table: int) -> list[tuple[str, int]]:
    """Add a route through a device for each prefix; returns (prefix, errno) of those the kernel refused.

    A prefix that is routed already is among them with EEXIST. OSError when netlink itself does not work.
    """
    refused: list[tuple[str, int]] = []
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        sock.bind((0, 0))
        for start in range(0, len(prefixes), _BATCH):
            batch = prefixes[start : start + _BATCH]
            sock.send(
                b"".join(_new_route(number, prefix, ifindex, table) for number, prefix in enumerate(batch))
            )
            refused += [(batch[number], error) for number, error in _answers(sock, len(batch)) if error]
    return refused


def _new_route(number: int, prefix: str, ifindex: int, table: int) -> bytes:
    network = ip_network(prefix)
    # The scope that pyroute2 removes routes with.
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    fixed = (
        family,
        network.prefixlen,
        0,
        0,
        RT_TABLE_UNSPEC,
        RTPROT_STATIC,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
        0,
    )
    body = _RTMSG.pack(*fixed) + _attribute(RTA_DST, network.network_address.packed)
    body += _attribute(RTA_OIF, struct.pack("=I", ifindex)) + _attribute(RTA_TABLE, struct.pack("=I", table))
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), RTM_NEWROUTE, flags, number, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    """All values here are multiples of four bytes, so none needs padding."""
    return _RTATTR.pack(_RTATTR.size + len(value), kind) + value


def _answers(sock: socket.socket, count: int) -> Iterator[tuple[int, int]]:
    """(sequence, errno) of `count` acknowledgements; 0 is success."""
    while count > 0:
        data = sock.recv(65536)
        at = 0
        while at + _NLMSGHDR.size <= len(data):
            length, kind, _, number, _ = _NLMSGHDR.unpack_from(data, at)
            if length < _NLMSGHDR.size:
                raise OSError(errno.EBADMSG, "malformed answer of netlink")
            if kind == NLMSG_ERROR:
                yield number, -_ERROR.unpack_from(data, at + _NLMSGHDR.size)[0]
                count -= 1
            at += (length + 3) & ~3
