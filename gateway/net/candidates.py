# SPDX-License-Identifier: Apache-2.0
"""Which (device, local address, endpoint) combinations of this machine are worth a path.

Rule: pure. The same snapshot, endpoints and settings give the same candidates in the same order, never more than
``max_candidates``. A candidate's key does not depend on anything that a new listing could number differently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from gateway.core.states import Evidence, Tier
from gateway.net.devices import Priority, Settings
from gateway.net.linkstate import Snapshot
from gateway.net.rtmessages import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_OPTIMISTIC,
    IFA_F_TEMPORARY,
    IFA_F_TENTATIVE,
    SCOPE_GLOBAL,
    Address,
    Ip,
    Link,
    Route,
)
from gateway.net.steps import TABLE_MAIN

Endpoint = tuple[str, int]  # a literal address and a port

_TIERS: Final[dict[Priority, Tier]] = {
    "primary": Tier.PRIMARY,
    "secondary": Tier.SECONDARY,
    "backup": Tier.BACKUP,
    "never": Tier.NEVER,
}


class Candidate(NamedTuple):
    """A path that could be. ``key`` names it in tables and audit lines, the same after every re-scan."""

    device: str
    ifindex: int  # of this listing; a device that is plugged in again has another one
    local_ip: str
    endpoint: Endpoint
    carrier: str
    tier: Tier
    cost: int
    key: str


class _Found(NamedTuple):
    candidate: Candidate
    depth: int  # how many the same device has before it
    route: tuple[bool, int]  # not in the main table, metric


def candidates(
    snapshot: Snapshot,
    endpoints: Sequence[Endpoint],
    settings: Settings,
    *,
    own_device: str = "",
    keep: Collection[str] = (),
) -> tuple[Candidate, ...]:
    """The paths this machine could have now, best first: by tier, cost, the order of ``endpoints``, route metric.

    ``own_device`` is the tunnel's. ``keep`` are keys of paths that exist: while they work, an address that only looks
    better does not replace theirs, and among equals they are not the ones left out. When there are too many, every
    device keeps its first before any gets a second. ValueError when an endpoint is not a literal address.
    """
    remotes = [(ip_address(host), (host, port)) for host, port in dict.fromkeys(endpoints)]
    found = [
        each
        for link in snapshot.links
        if link.up and link.name != own_device and settings.wants(link.name)
        for each in _of_device(snapshot, link, remotes, settings, keep)
    ]
    found.sort(key=lambda f: (f.depth, f.candidate.key not in keep, *_rank(f)))
    return tuple(each.candidate for each in sorted(found[: settings.max_candidates], key=_rank))


def lost_because(snapshot: Snapshot, candidate: Candidate) -> Evidence | None:
    """What the snapshot says against a path, gravest first; None when the path could still carry packets."""
    link = snapshot.link(candidate.device)
    if link is None or not link.up:
        return Evidence.LINK_DOWN
    local = ip_address(candidate.local_ip)
    if not any(a.ip == local and a.ifindex == link.ifindex and usable(a) for a in snapshot.addresses):
        return Evidence.ADDRESS_REMOVED
    if _route_to(snapshot, link, ip_address(candidate.endpoint[0])) is None:
        return Evidence.ROUTE_GONE
    return None


def usable(address: Address) -> bool:
    """Whether a path may start there: reachable from afar, unique on its link, and made to last.

    Temporary addresses (RFC 8981) are replaced daily: each replacement would be a transport lost for nothing.
    """
    if address.scope != SCOPE_GLOBAL or address.ip.is_link_local or address.ip.is_multicast:
        return False
    if address.ip.version == 4:
        return True
    tentative = address.flags & IFA_F_TENTATIVE and not address.flags & IFA_F_OPTIMISTIC
    return not tentative and not address.flags & (IFA_F_DADFAILED | IFA_F_TEMPORARY)


# --- one device ------------------------------------------------------------------------------------------------------


def _of_device(
    snapshot: Snapshot,
    link: Link,
    remotes: Sequence[tuple[Ip, Endpoint]],
    settings: Settings,
    keep: Collection[str],
) -> Iterator[_Found]:
    rule = settings.rule(link.name)
    own = [address for address in snapshot.addresses if address.ifindex == link.ifindex and usable(address)]
    tier, depth = _TIERS[rule.priority], 0
    for remote, endpoint in remotes:
        route = _route_to(snapshot, link, remote)
        if route is None:
            continue
        for address in _sources(link, own, route, endpoint, keep):
            local_ip = str(address.ip)
            key = key_of(link.name, local_ip, endpoint)
            candidate = Candidate(link.name, link.ifindex, local_ip, endpoint, "udp", tier, rule.cost, key)
            yield _Found(candidate, depth, (route.table != TABLE_MAIN, route.metric))
            depth += 1


def _route_to(snapshot: Snapshot, link: Link, remote: Ip) -> Route | None:
    """The route a socket bound to the device takes: the kernel passes over other devices' routes, however specific.

    Tables beside the main one count too: rules may send a bound socket there. The main one is asked first.
    """
    covering = [
        route
        for route in snapshot.routes
        if route.ifindex == link.ifindex and route.prefix.version == remote.version and remote in route.prefix
    ]
    return min(
        covering,
        key=lambda route: (route.table != TABLE_MAIN, -route.prefix.prefixlen, route.metric),
        default=None,
    )


def _sources(
    link: Link, own: Sequence[Address], route: Route, endpoint: Endpoint, keep: Collection[str]
) -> list[Address]:
    """Where to start from: addresses in use while they are usable, else (or beside deprecated ones) the best."""
    same_family = [address for address in own if address.ip.version == route.prefix.version]
    kept = [a for a in same_family if key_of(link.name, str(a.ip), endpoint) in keep]
    if any(not a.flags & IFA_F_DEPRECATED for a in kept):
        return kept
    best = min(same_family, key=lambda a: _source_order(a, route), default=None)
    return kept if best is None or best in kept else [*kept, best]


def _source_order(address: Address, route: Route) -> tuple[bool, bool, bool, int]:
    """What the route asks for, then the next hop's network, then what stays longest, then the lowest."""
    asked = route.source is not None and address.ip == route.source
    near = route.via is not None and _same_network(address, route.via)
    return not asked, not near, bool(address.flags & IFA_F_DEPRECATED), int(address.ip)


def _same_network(address: Address, other: Ip) -> bool:
    shift = address.ip.max_prefixlen - address.prefix_bits
    return address.ip.version == other.version and int(address.ip) >> shift == int(other) >> shift


# --- names and ranks -------------------------------------------------------------------------------------------------


def key_of(device: str, local_ip: str, endpoint: Endpoint) -> str:
    """``eth0 192.0.2.2 > 198.51.100.1:51820``; a path's name wherever a person reads it."""
    host, port = endpoint
    return f"{device} {local_ip} > [{host}]:{port}" if ":" in host else f"{device} {local_ip} > {host}:{port}"


def _rank(found: _Found) -> tuple[int, int, int, bool, int, str]:
    candidate = found.candidate
    return candidate.tier, candidate.cost, found.depth, *found.route, candidate.key
