# SPDX-License-Identifier: Apache-2.0
"""Opens the outer UDP sockets; the data plane sends and receives on them.

Rule: like WireGuard, the outer packets of IPv4 go without "don't fragment" (IP_PMTUDISC_DONT), so a narrow
path fragments instead of swallowing; IPv6 keeps the kernel's default (only the sender may fragment there, and
IPV6_PMTUDISC_WANT is what makes it honour a learned path MTU). Errors from ICMP are not queued (IP_RECVERR
off): anybody on the path can forge them.

Several workers share a port: each has a socket of its own there, and the kernel gives all datagrams of one remote
address and port to the same one (SO_REUSEPORT). The first of them is bound alone, so that a port which another
program has, sharing or not, is in use for us as well.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from gateway.errors import HostError
from gateway.net.remedy import refused

# The sockets of one address and port, one per worker.
Sockets = tuple[socket.socket, ...]

# Absent from Python 3.11's socket module (linux/in.h, linux/in6.h, asm-generic/socket.h).
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_PMTUDISC_DONT: Final = 0
IPV6_RECVPKTINFO: Final = 49

# Half a second of 1,420-byte packets at 100 Mb/s, or 6 ms at 10 Gb/s: a stall of the loop drops nothing.
BUFFER_BYTES: Final = 8 << 20
# How often another port is tried when IPv4 and IPv6 shall share one the kernel chose.
SHARED_PORT_TRIES: Final = 16


def open_udp(
    host: str,
    port: int,
    *,
    fwmark: int = 0,
    device: str = "",
    buffer_bytes: int = BUFFER_BYTES,
    joins: bool = False,
) -> socket.socket:
    """A non-blocking socket bound to the literal address ``host`` and ``port`` (0: the kernel chooses).

    It reports the destination of what it receives (IP_PKTINFO) so that answers leave from the same address.
    An IPv6 socket is IPv6 only. ``fwmark`` marks what it sends, ``device`` binds it to one interface. Buffers
    are what was asked for with CAP_NET_ADMIN, else what net.core.rmem_max and wmem_max allow. ``joins``: the port
    is one that `open_shared` has opened for sharing. HostError says what was refused.
    """
    address = _literal(host)
    where = _show(address, port)
    try:
        sock = socket.socket(_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise refused(f"cannot open a UDP socket for {where}", error) from error
    try:
        _options(sock)
        if joins:
            _share(sock)
        _set_buffers(sock, buffer_bytes)
        if fwmark:
            set_mark(sock, fwmark)
        _bind_device(sock, device)
        _bind(sock, address, port, where)
    except BaseException:
        sock.close()
        raise
    return sock


def open_shared(
    host: str,
    port: int,
    *,
    workers: int,
    fwmark: int = 0,
    device: str = "",
    buffer_bytes: int = BUFFER_BYTES,
) -> Sockets:
    """`open_udp`, and as many sockets of that port as there are workers."""
    opened = [open_udp(host, port, fwmark=fwmark, device=device, buffer_bytes=buffer_bytes)]
    try:
        if workers > 1:
            _share(opened[0])
        chosen = opened[0].getsockname()[1]
        while len(opened) < workers:
            opened.append(
                open_udp(host, chosen, fwmark=fwmark, device=device, buffer_bytes=buffer_bytes, joins=True)
            )
    except BaseException:
        close_all(opened)
        raise
    return tuple(opened)


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close them; those that are closed already stay so."""
    for sock in sockets:
        sock.close()


def open_listen(
    addresses: Sequence[str], *, fwmark: int = 0, buffer_bytes: int = BUFFER_BYTES, workers: int = 1
) -> tuple[Sockets, ...]:
    """The sockets of each address of the form ``0.0.0.0:51820`` or ``[::]:51820``, in order.

    All addresses with port 0 get the same port, chosen by the kernel. The wildcard ``[::]`` is left out on a
    machine without IPv6 when another address is listened on. HostError for anything else that does not work.
    """
    wanted = [parse_listen(text) for text in addresses]
    if not wanted:
        raise HostError("no address to listen on")
    for _ in range(SHARED_PORT_TRIES):
        sockets: list[Sockets] = []
        try:
            _open_all(wanted, sockets, fwmark, buffer_bytes, workers)
        except BaseException as error:
            close_all(itertools.chain.from_iterable(sockets))
            if _chosen_port_was_taken(error, wanted, sockets):
                continue
            raise
        return tuple(sockets)
    raise HostError("found no UDP port that is free for all addresses; name one")


def parse_listen(text: str) -> tuple[str, int]:
    """("0.0.0.0", 51820) of "0.0.0.0:51820". HostError when it is not an address and a port."""
    match = re.fullmatch(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<v4>[^:]+)):(?P<port>\d{1,5})", text)
    if match is None or int(match["port"]) > 0xFFFF:
        raise HostError(f"listen address {text!r}: write it as 0.0.0.0:51820 or [::]:51820")
    address = _literal(match["v6"] or match["v4"])
    if (address.version == 6) != bool(match["v6"]):
        raise HostError(f"listen address {text!r}: IPv6 addresses stand in brackets, IPv4 addresses do not")
    return match["v6"] or match["v4"], int(match["port"])


def granted_buffers(sock: socket.socket) -> tuple[int, int]:
    """(receive, send) buffer bytes the kernel granted; it doubles a request for its own bookkeeping."""
    receive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    return receive, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2


def _open_all(
    wanted: Sequence[tuple[str, int]],
    opened: list[Sockets],
    fwmark: int,
    buffer_bytes: int,
    workers: int,
) -> None:
    chosen = 0
    for host, port in wanted:
        if host == "::" and len(wanted) > 1 and not _has_ipv6():
            continue
        opened.append(
            open_shared(host, port or chosen, workers=workers, fwmark=fwmark, buffer_bytes=buffer_bytes)
        )
        if not port:
            chosen = opened[-1][0].getsockname()[1]


def _chosen_port_was_taken(
    error: BaseException, wanted: Sequence[tuple[str, int]], opened: Sequence[Sockets]
) -> bool:
    cause = error.__cause__
    in_use = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
    return in_use and len(opened) < len(wanted) and wanted[len(opened)][1] == 0


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _literal(host: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(host)
    except ValueError:
        raise HostError(f"{host!r} is not an IP address; names are not looked up here") from None


def _family(address: IPv4Address | IPv6Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _show(address: IPv4Address | IPv6Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _options(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)


def _share(sock: socket.socket) -> None:
    """Let sockets of this user join the port of a bound socket, or let this one join."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        raise refused("cannot share a UDP port among several workers", error) from error


def _set_buffers(sock: socket.socket, buffer_bytes: int) -> None:
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, buffer_bytes)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, buffer_bytes)


def set_mark(sock: socket.socket, fwmark: int) -> None:
    """Mark what a socket sends from now on, 0 = not at all. HostError."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, fwmark)
    except OSError as error:
        raise refused(f"cannot mark the socket's packets with {fwmark:#x}", error) from error


def _bind_device(sock: socket.socket, device: str) -> None:
    if not device:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    except OSError as error:
        raise refused(f"cannot bind the socket to interface {device}", error) from error


def _bind(sock: socket.socket, address: IPv4Address | IPv6Address, port: int, where: str) -> None:
    try:
        sock.bind((str(address), port))
    except OSError as error:
        raise refused(
            f"cannot listen on UDP {where}", error, _bind_remedy(error, address.version, port)
        ) from error


def _bind_remedy(error: OSError, version: int, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{holder_of_port(version, port) or 'another program'} uses it; stop that or choose another port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface has that address"
    if error.errno == errno.EACCES and port < 1024:
        return "ports below 1024 need CAP_NET_BIND_SERVICE; run as root or choose another port"
    return ""


def holder_of_port(version: int, port: int) -> str:
    """ "name (pid N)" of the process with a UDP socket on ``port``, "" when it cannot be seen."""
    inodes = {f"socket:[{inode}]" for inode in _inodes_of_port(version, port)}
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _inodes_of_port(version: int, port: int) -> Iterator[str]:
    """Columns of /proc/net/udp: sl, local address:port, remote, st, queues, timer, retransmits, uid, timeout,
    inode.
    """
    with suppress(OSError):
        for line in (
            Path("/proc/thread-self/net", "udp" if version == 4 else "udp6").read_text().splitlines()[1:]
        ):
            columns = line.split()
            if int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]
