# SPDX-License-Identifier: Apache-2.0
"""What this machine's network looks like: rows from the kernel go in one by one, immutable snapshots come out.

Rule: bounded, and never surer than the kernel's messages allow. The kernel drops some routes without a word (IPv4
routes of a device that is switched off, or whose last address goes; multipath hops that come back): what certainly went
goes here too, and where that is not certain, ``doubtful`` asks for a new listing.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from gateway.net.rtmessages import Address, Change, Ip, Link, Network, Route

# A laptop has some ten devices and twenty routes, a container host hundreds. Beyond, rows are left out (the kernel
# lists default routes first): full tables take 2 ms of the event loop at each change.
LINKS_MAX: Final = 1024
ADDRESSES_MAX: Final = 2048
ROUTES_MAX: Final = 2048

_AddressKey = tuple[int, Ip, int]
_RouteKey = tuple[Network, int, int, int, Ip | None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Links, addresses and unicast routes at one moment, each in a fixed order."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()

    def link(self, name: str) -> Link | None:
        """The device of that name."""
        return next((link for link in self.links if link.name == name), None)


class Tables:
    """The rows known so far."""

    def __init__(self) -> None:
        self.doubtful = False  # the kernel may have changed more than it said; whoever lists again clears it
        self._links: dict[int, Link] = {}
        self._addresses: dict[_AddressKey, Address] = {}
        self._routes: dict[_RouteKey, Route] = {}
        # What the last snapshot held, per table; None when the table is another one now.
        self._sorted_addresses: tuple[Address, ...] | None = None
        self._sorted_routes: tuple[Route, ...] | None = None

    def apply(self, change: Change) -> bool:
        """Take one row in; whether anything is different now."""
        row = change.row
        if isinstance(row, Link):
            return self._drop_link(row) if change.gone else self._set_link(row)
        if isinstance(row, Address):
            changed = self._drop_address(row) if change.gone else self._set_address(row)
            self._sorted_addresses = None if changed else self._sorted_addresses
            return changed
        changed = self._drop_route(row) if change.gone else self._set_route(row, change.replaces)
        self._sorted_routes = None if changed else self._sorted_routes
        return changed

    def snapshot(self) -> Snapshot:
        """Everything, sorted: equal tables give equal snapshots however they came to be."""
        if self._sorted_addresses is None:
            self._sorted_addresses = tuple(sorted(self._addresses.values(), key=_address_order))
        if self._sorted_routes is None:
            self._sorted_routes = tuple(sorted(self._routes.values(), key=_route_order))
        links = tuple(self._links[index] for index in sorted(self._links))
        return Snapshot(links, self._sorted_addresses, self._sorted_routes)

    # --- links ------------------------------------------------------------------------------------------------

    def _set_link(self, link: Link) -> bool:
        before = self._links.get(link.ifindex)
        if before == link or (before is None and len(self._links) >= LINKS_MAX):
            return False
        self._links[link.ifindex] = link
        if not link.enabled:
            self._drop_routes_of(link.ifindex)
        elif link.up and not (before and before.up):
            self.doubtful = True
        return True

    def _drop_link(self, link: Link) -> bool:
        known = self._links.pop(link.ifindex, None) is not None
        for key in [key for key in self._addresses if key[0] == link.ifindex]:
            del self._addresses[key]
        self._sorted_addresses = None
        self._drop_routes_of(link.ifindex)
        return known

    def _drop_routes_of(self, index: int) -> None:
        for key in [key for key, route in self._routes.items() if route.ifindex == index]:
            del self._routes[key]
        self._sorted_routes = None

    # --- addresses and routes -----------------------------------------------------------------------------------

    def _set_address(self, address: Address) -> bool:
        key = _address_key(address)
        before = self._addresses.get(key)
        if before == address or (before is None and len(self._addresses) >= ADDRESSES_MAX):
            return False
        self._addresses[key] = address
        return True

    def _drop_address(self, address: Address) -> bool:
        if self._addresses.pop(_address_key(address), None) is None:
            return False
        self.doubtful = self.doubtful or isinstance(address.ip, IPv4Address)
        return True

    def _drop_route(self, route: Route) -> bool:
        return self._routes.pop(_route_key(route), None) is not None

    def _set_route(self, route: Route, replaces: bool) -> bool:
        key = _route_key(route)
        rivals = [k for k in self._routes if k[:3] == key[:3] and k != key] if replaces else []
        for rival in rivals:
            del self._routes[rival]
        if self._routes.get(key) == route or len(self._routes) >= ROUTES_MAX:
            return bool(rivals)
        self._routes[key] = route
        return True


def _address_key(address: Address) -> _AddressKey:
    return address.ifindex, address.ip, address.prefix_bits


def _address_order(address: Address) -> tuple[int, int, int, int]:
    return address.ifindex, address.ip.version, int(address.ip), address.prefix_bits


def _route_key(route: Route) -> _RouteKey:
    return route.prefix, route.table, route.metric, route.ifindex, route.via


def _route_order(route: Route) -> tuple[int, int, int, int, int, int, int]:
    network, via = route.prefix, route.via
    first = network.version, int(network.network_address), network.prefixlen
    return *first, route.table, route.metric, route.ifindex, int(via) if via is not None else 0
