# SPDX-License-Identifier: Apache-2.0
"""What a gateway tells its client in WELCOME: the client's own addresses, as it knows them, and further ways to it.

Rule: it was authentic, so it is believed as far as it reaches: endpoints are tried after the configured ones, within
``max_candidates`` and only if the configuration allows it; addresses are shown and compared, never set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any, NamedTuple

from gateway import frames as fr

HostPort = tuple[str, int]


class Told(NamedTuple):
    """The last WELCOME of one gateway, as far as an operator or the transports care."""

    addresses: tuple[str, ...] = ()
    endpoints: tuple[HostPort, ...] = ()
    observed: str = ""

    def document(self) -> dict[str, Any]:
        """The same for the status document."""
        return {
            "inner_addresses": list(self.addresses),
            "endpoints": [_text(*one) for one in self.endpoints],
            "observed": self.observed,
        }


def told_by(welcome: fr.Welcome) -> Told:
    """What one WELCOME says. An address that leads to no other machine is left out."""
    return Told(
        tuple(f"{one.ip}/{one.prefix_bits}" for one in welcome.inner_addresses),
        tuple((str(one.ip), one.port) for one in welcome.endpoints if _reachable(one.ip)),
        _text(str(welcome.observed.ip), welcome.observed.port),
    )


def with_learned(configured: Sequence[HostPort], told: Told, *, allowed: bool) -> list[HostPort]:
    """Where paths may lead: the configured addresses first, then what was learned."""
    return list(dict.fromkeys((*configured, *(told.endpoints if allowed else ()))))


def not_ours(told: Told, own: Iterable[IPv4Address | IPv6Address]) -> list[str]:
    """Addresses of ours that the gateway did not name although it named others of the same family."""
    known = {ip_interface(text).ip for text in told.addresses}
    families = {ip.version for ip in known}
    return [str(ip) for ip in own if ip.version in families and ip not in known]


def _reachable(ip: IPv4Address | IPv6Address) -> bool:
    return not (ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local)


def _text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
