# SPDX-License-Identifier: Apache-2.0
"""One function per kind of configuration value: text in, typed value out, ``ValueError`` with the problem.

Shared by the TOML files, wg-quick files, the command line and the control socket, so that all speak alike.
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final, NamedTuple

from gateway.constants import NS_PER_MS, NS_PER_S

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

KEEPALIVE_MAX_S: Final = 65_535  # PersistentKeepalive is 16 bits in every WireGuard configuration interface
FWMARK_MAX: Final = 0xFFFF_FFFF
# The kernel gives a routing table 32 bits; 0 is "unspecified".
TABLE_MAX: Final = 0xFFFF_FFFF
MTU_MIN_BYTES: Final = 576  # RFC 791: what every IPv4 host must take
MTU_MIN_IPV6_BYTES: Final = 1280  # RFC 8200 §5
MTU_MAX_BYTES: Final = 65_000  # leaves room for headers and tag in one UDP datagram

_DURATION: Final = re.compile(r"(\d{1,12})(ms|s|m|h|d)\Z", re.ASCII)
_UNIT_NS: Final = {
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
    "d": 86_400 * NS_PER_S,
}
_PORT: Final = re.compile(r"\d{1,5}\Z", re.ASCII)
_INTERFACE_NAME: Final = re.compile(r"[A-Za-z0-9_=+.-]{1,15}\Z")
_PEER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}\Z")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?\Z")
_SHOWN_CHARACTERS: Final = 60


class Endpoint(NamedTuple):
    """Where to send: ``host`` is an address or a name still to be resolved."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def shown(text: str) -> str:
    """``text`` quoted for a message, cut when long; never for secrets."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")


def duration_ns(text: str) -> int:
    """``300ms``, ``30s``, ``5m``, ``8h``, ``2d`` in nanoseconds; a bare 0 needs no unit."""
    if text == "0":
        return 0
    found = _DURATION.match(text)
    if found is None:
        raise ValueError(
            f"{shown(text)} is not a duration; write a whole number and its unit, such as 300ms, 25s, 8h"
        )
    return int(found[1]) * _UNIT_NS[found[2]]


def keepalive_s(text: str) -> int:
    """A keepalive interval in whole seconds, 0 for none."""
    seconds, rest_ns = divmod(duration_ns(text), NS_PER_S)
    if rest_ns or seconds > KEEPALIVE_MAX_S:
        raise ValueError(f"must be whole seconds from 0s to {KEEPALIVE_MAX_S}s")
    return seconds


def port(text: str, lowest: int = 1) -> int:
    """A UDP port number."""
    if not _PORT.match(text) or not lowest <= int(text) <= 65_535:
        raise ValueError(f"{shown(text)} is not a port; ports go from {lowest} to 65535")
    return int(text)


def host_and_port(text: str) -> tuple[str, str]:
    """Split ``host:port`` or ``[v6]:port``; neither part is checked further."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not host or text.endswith("]"):
        raise ValueError(f"{shown(text)} has no port; write host:port or [IPv6]:port")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port_text
    if ":" in host:
        raise ValueError(f"{shown(text)}: an IPv6 address needs brackets, such as [2001:db8::1]:51820")
    return host, port_text


def endpoint(text: str) -> Endpoint:
    """``host:port`` or ``[v6]:port``; a name stays a name."""
    if "://" in text:
        raise ValueError(carrier_problem(text.partition("://")[0]) or "an endpoint is host:port, not a URL")
    host, port_text = host_and_port(text)
    if ":" in host:
        _ipv6(host)
    elif not _HOST.match(host):
        raise ValueError(f"{shown(host)} is neither an address nor a host name")
    elif host.replace(".", "").isdigit():
        _ipv4(host)
    return Endpoint(host, port(port_text))


def reachable(text: str) -> Endpoint:
    """A literal address where others find this host, and a port."""
    host, port_text = host_and_port(text)
    found = address(host)
    if found.is_unspecified or found.is_loopback or found.is_multicast or found.is_link_local:
        raise ValueError(f"{shown(text)} leads to no other machine")
    return Endpoint(str(found), port(port_text))


def listen(text: str) -> Endpoint:
    """A literal local address and a port; port 0 lets the kernel choose."""
    host, port_text = host_and_port(text)
    try:
        ip_address(host)
    except ValueError:
        raise ValueError(
            f"{shown(host)} is not an address; listen takes literal addresses such as 0.0.0.0 or [::]"
        ) from None
    return Endpoint(host, port(port_text, lowest=0))


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IPv4 address") from None


def _ipv6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IPv6 address") from None


def address(text: str) -> Address:
    """One address without a prefix length or scope."""
    try:
        if "%" not in text:
            return ip_address(text)
    except ValueError:
        pass
    raise ValueError(f"{shown(text)} is not an IP address")


def interface_address(text: str) -> Interface:
    """``10.99.0.1/24``: an address and the length of its network's prefix; without one, a single host."""
    try:
        if "%" not in text:
            return ip_interface(text)
    except ValueError:
        pass
    raise ValueError(f"{shown(text)} is not an address with a prefix length, such as 10.99.0.1/24")


def network(text: str) -> Network:
    """A prefix; a bare address is the prefix of that one host, set host bits are a mistake."""
    try:
        if "%" not in text:
            return ip_network(text)
    except ValueError:
        masked = masked_network(text)
        raise ValueError(f"{shown(text)} has host bits set; did you mean {masked}?") from None
    raise ValueError(f"{shown(text)} is not a network prefix, such as 10.99.0.2/32")


def masked_network(text: str) -> Network:
    """A prefix as WireGuard's own tools read it: host bits are cleared silently."""
    try:
        if "%" not in text:
            return ip_network(text, strict=False)
    except ValueError:
        pass
    raise ValueError(f"{shown(text)} is not a network prefix, such as 10.99.0.2/32")


def interface_name(text: str) -> str:
    """A Linux interface name: up to 15 bytes, no slash, no blank."""
    if not _INTERFACE_NAME.match(text) or text in (".", ".."):
        raise ValueError(f"{shown(text)} is not an interface name: 1 to 15 letters, digits or any of _=+.-")
    return text


def peer_name(text: str) -> str:
    """A peer's name: what an operator types and what logs show, so plain ASCII without blanks."""
    if not _PEER_NAME.match(text):
        raise ValueError(
            f"{shown(text)} is not a peer name: 1 to 63 letters, digits or any of ._@- after the first"
        )
    return text


def search_domain(text: str) -> str:
    """A DNS search domain."""
    if not _HOST.match(text) or text.replace(".", "").isdigit():
        raise ValueError(f"{shown(text)} is neither a DNS server's address nor a search domain")
    return text


def mtu(value: int, has_ipv6: bool) -> int:
    """An inner MTU in bytes."""
    lowest = MTU_MIN_IPV6_BYTES if has_ipv6 else MTU_MIN_BYTES
    if not lowest <= value <= MTU_MAX_BYTES:
        because = " (IPv6 needs 1280)" if has_ipv6 else ""
        raise ValueError(f"{_shown_number(value)} is out of range: {lowest} to {MTU_MAX_BYTES}{because}")
    return value


def bounded(value: int, lowest: int, highest: int) -> int:
    """A whole number within limits."""
    if not lowest <= value <= highest:
        raise ValueError(f"{_shown_number(value)} is out of range: {lowest} to {highest}")
    return value


def _shown_number(value: int) -> str:
    return str(value) if abs(value) < 1 << 64 else "a number of more than 64 bits"


def table(value: str | int) -> str | int:
    """The client's routing table: ``auto``, ``off`` or a number."""
    text = str(value)
    if text in ("auto", "off"):
        return text
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise ValueError(f'{shown(text)} is not a routing table; use "auto", "off" or a number')
    return bounded(int(text), 1, TABLE_MAX)


def carrier_problem(name: str) -> str:
    """'' for the one carrier there is, else why ``name`` cannot be used."""
    if name == "udp":
        return ""
    if name == "tls":
        return 'the "tls" carrier does not exist yet; "udp" is the only one'
    return f'unknown carrier {shown(name)}; "udp" is the only one'
