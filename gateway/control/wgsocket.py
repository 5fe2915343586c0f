# SPDX-License-Identifier: Apache-2.0
"""WireGuard's cross-platform configuration protocol as text: what `wg` writes to IFACE.sock, and what it reads there.

A request is ``get=1`` or ``set=1``, lines of key=value, and an empty line; keys are hexadecimal; the answer ends with
``errno=0`` or a negative errno and an empty line. Pure: nothing here touches a socket, a file or a tunnel.

Rule: a request is checked to its end before any of it acts, so one that is refused has changed nothing. Its size is
bounded by what a tunnel can hold.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final

from gateway.constants import NS_PER_S
from gateway.control.configfields import Network
from gateway.errors import JumpError

KEY_BYTES: Final = 32
NO_KEY: Final = bytes(KEY_BYTES)
# The longest line that means anything has some 90 bytes (an IPv6 endpoint with a scope).
LINE_MAX_BYTES: Final = 512
# A tunnel has room for as many (TunnelLimits); a request cannot ask for more.
PEERS_MAX: Final = 1 << 17
PREFIXES_MAX: Final = 1 << 18
PROTOCOL_VERSION: Final = "1"

_HEX_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_ENDPOINT: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)(?P<scope>%[A-Za-z0-9_.-]{1,15})?\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})"
)
_PREFIX: Final = re.compile(r"-?[0-9A-Fa-f:.]+/[0-9]{1,3}")

HostPort = tuple[str, int]


class Fault(JumpError):
    """Why a request is refused; ``number`` is the errno that the answer carries."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.number = number


@dataclass(slots=True)
class PeerChange:
    """One peer of a request. None leaves a value as it is; an all-zero preshared key means none."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: HostPort | None = None
    keepalive_s: int | None = None
    replace_allowed_ips: bool = False
    # In the order of the request: True gives the prefix to the peer, False takes it away.
    allowed_ips: list[tuple[bool, Network]] = field(default_factory=list)


@dataclass(slots=True)
class DeviceChange:
    """A whole ``set=1``. An all-zero private key means none; ``listen_port`` 0 lets the kernel choose."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: list[PeerChange] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PeerState:
    """What ``get=1`` says of a peer. ``handshake_unix_ns`` is 0 before the first one."""

    public_key: bytes
    preshared_key: bytes = field(repr=False)
    endpoint: str
    handshake_unix_ns: int
    rx_bytes: int
    tx_bytes: int
    keepalive_s: int
    allowed_ips: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What ``get=1`` says of the interface. What is not set, is 0 or all zeros."""

    private_key: bytes = field(repr=False)
    listen_port: int
    fwmark: int
    peers: Iterable[PeerState]


# --- what `wg` writes -----------------------------------------------------------------------------------------------


class SetReader:
    """Takes the lines after ``set=1`` one by one; `change` is what they ask for. Fault at the first that is wrong."""

    def __init__(self) -> None:
        self.change = DeviceChange()
        self._prefixes = 0

    def line(self, line: str) -> None:
        """One line without its end."""
        key, found, value = line.partition("=")
        if not found:
            raise Fault(errno.EPROTO, "a line without '='")
        if key == "public_key":
            self._begin(_key(value))
        elif self.change.peers:
            self._peer(self.change.peers[-1], key, value)
        else:
            self._device(key, value)

    def _begin(self, public_key: bytes) -> None:
        if len(self.change.peers) >= PEERS_MAX:
            raise Fault(errno.E2BIG, "too many peers in a request")
        self.change.peers.append(PeerChange(public_key))

    def _device(self, key: str, value: str) -> None:
        change = self.change
        if key == "private_key":
            change.private_key = _key(value)
        elif key == "listen_port":
            change.listen_port = _number(value, 0xFFFF)
        elif key == "fwmark":
            change.fwmark = _number(value, 0xFFFFFFFF)
        elif key == "replace_peers":
            change.replace_peers = _true(value)
        else:
            raise Fault(errno.EINVAL, "unknown key of an interface")

    def _peer(self, peer: PeerChange, key: str, value: str) -> None:
        reader = _PEER_KEYS.get(key)
        if reader is None:
            raise Fault(errno.EINVAL, "unknown key of a peer")
        if key == "allowed_ip":
            self._prefixes += 1
            if self._prefixes > PREFIXES_MAX:
                raise Fault(errno.E2BIG, "too many allowed addresses in a request")
        reader(peer, value)


def _preshared_key(peer: PeerChange, value: str) -> None:
    peer.preshared_key = _key(value)


def _endpoint(peer: PeerChange, value: str) -> None:
    found = _ENDPOINT.fullmatch(value)
    try:
        if found is None:
            raise ValueError
        host, port = found["v6"] or found["v4"], int(found["port"])
        version = ip_address(host).version
    except ValueError:
        raise Fault(errno.EINVAL, "endpoint") from None
    if not 0 < port <= 0xFFFF or (version == 6) != bool(found["v6"]):
        raise Fault(errno.EINVAL, "endpoint")
    peer.endpoint = (host + (found["scope"] or ""), port)


def _keepalive(peer: PeerChange, value: str) -> None:
    peer.keepalive_s = _number(value, 0xFFFF)


def _remove(peer: PeerChange, value: str) -> None:
    peer.remove = _true(value)


def _update_only(peer: PeerChange, value: str) -> None:
    peer.update_only = _true(value)


def _replace_allowed_ips(peer: PeerChange, value: str) -> None:
    peer.replace_allowed_ips = _true(value)
    peer.allowed_ips.clear()


def _allowed_ip(peer: PeerChange, value: str) -> None:
    """Bits behind the length are ignored, as the kernel does; a minus takes the prefix away."""
    try:
        if _PREFIX.fullmatch(value) is None:
            raise ValueError
        network = ip_network(value.removeprefix("-"), strict=False)
    except ValueError:
        raise Fault(errno.EINVAL, "allowed_ip") from None
    peer.allowed_ips.append((not value.startswith("-"), network))


def _protocol_version(_peer: PeerChange, value: str) -> None:
    if value != PROTOCOL_VERSION:
        raise Fault(errno.EINVAL, "protocol_version")


_PEER_KEYS: Final[dict[str, Callable[[PeerChange, str], None]]] = {
    "preshared_key": _preshared_key,
    "endpoint": _endpoint,
    "persistent_keepalive_interval": _keepalive,
    "remove": _remove,
    "update_only": _update_only,
    "replace_allowed_ips": _replace_allowed_ips,
    "allowed_ip": _allowed_ip,
    "protocol_version": _protocol_version,
}


def _key(value: str) -> bytes:
    if _HEX_KEY.fullmatch(value) is None:
        raise Fault(errno.EINVAL, "a key is 64 hexadecimal digits")
    return bytes.fromhex(value)


def _number(value: str, most: int) -> int:
    if _DIGITS.fullmatch(value) is None or int(value) > most:
        raise Fault(errno.EINVAL, f"a number from 0 to {most}")
    return int(value)


def _true(value: str) -> bool:
    if value != "true":
        raise Fault(errno.EINVAL, "the only value is true")
    return True


# --- what `wg` reads ------------------------------------------------------------------------------------------------


def answer(number: int) -> bytes:
    """The end of an answer: 0, or an errno, which goes out negative."""
    return f"errno={-abs(number)}\n\n".encode()


def describe(device: DeviceState) -> Iterator[bytes]:
    """The answer to ``get=1`` in pieces, one per peer."""
    head = [
        f"private_key={device.private_key.hex()}" if device.private_key != NO_KEY else "",
        f"listen_port={device.listen_port}" if device.listen_port else "",
        f"fwmark={device.fwmark}" if device.fwmark else "",
    ]
    yield "".join(f"{line}\n" for line in head if line).encode()
    for peer in device.peers:
        yield "".join(f"{line}\n" for line in _peer_lines(peer)).encode()
    yield answer(0)


def handshake_unix_ns(latest_ns: int, now_ns: int, unix_ns: int) -> int:
    """Wall time of a handshake that a clock since boot has stamped; 0 stays 0, for never."""
    return unix_ns - (now_ns - latest_ns) if latest_ns else 0


def shown(at: HostPort | None) -> str:
    """An endpoint as the tools write it, "" for none."""
    if at is None:
        return ""
    return f"[{at[0]}]:{at[1]}" if ":" in at[0] else f"{at[0]}:{at[1]}"


def _peer_lines(peer: PeerState) -> Iterator[str]:
    yield f"public_key={peer.public_key.hex()}"
    yield f"preshared_key={peer.preshared_key.hex()}"
    yield f"protocol_version={PROTOCOL_VERSION}"
    if peer.endpoint:
        yield f"endpoint={peer.endpoint}"
    seconds, nanoseconds = divmod(peer.handshake_unix_ns, NS_PER_S)
    yield f"last_handshake_time_sec={seconds}"
    yield f"last_handshake_time_nsec={nanoseconds}"
    yield f"tx_bytes={peer.tx_bytes}"
    yield f"rx_bytes={peer.rx_bytes}"
    yield f"persistent_keepalive_interval={peer.keepalive_s}"
    for network in peer.allowed_ips:
        yield f"allowed_ip={network}"
