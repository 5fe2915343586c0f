# SPDX-License-Identifier: Apache-2.0
"""The address pool: lowest free place first; one place is the same offset in the IPv4 and the IPv6 prefix.

Pure: it remembers nothing over a restart. Its owner feeds it every prefix that peers hold already and writes
down what it assigns. Never handed out: the network address (offset 0, in IPv6 the anycast of routers), the
IPv4 broadcast address and what the gateway itself has.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from gateway.control.configfields import Address, Network
from gateway.errors import Refused


class PoolExhausted(Refused):
    """No free address is left."""


class AddressPool:
    """Hands out host prefixes from at most one IPv4 and one IPv6 prefix."""

    def __init__(self, prefixes: Sequence[Network], reserved: Iterable[Address] = ()) -> None:
        self.prefixes = tuple(sorted(prefixes, key=lambda prefix: prefix.version))
        self._end = min((_usable_end(prefix) for prefix in self.prefixes), default=0)
        self._holders: dict[int, int] = {}  # offset -> how many prefixes of peers stand on it
        self._ranges: dict[
            tuple[int, int], int
        ] = {}  # [first, last] of a prefix wider than one host -> holders
        self._free: list[int] = []  # heap of offsets given back below _next
        self._next = 1
        for address in reserved:
            self.take((ip_network(str(address)),))

    def __len__(self) -> int:
        """How many single places are held, the gateway's own included."""
        return len(self._holders)

    def take(self, networks: Iterable[Network]) -> None:
        """Mark what a peer holds. Prefixes outside of the pool do not concern it."""
        for offset in self._places(networks):
            self._holders[offset] = self._holders.get(offset, 0) + 1
        for span in self._spans(networks):
            self._ranges[span] = self._ranges.get(span, 0) + 1

    def release(self, networks: Iterable[Network]) -> None:
        """Give back what ``take`` or ``assign`` marked."""
        for offset in self._places(networks):
            left = self._holders.get(offset, 0) - 1
            if left > 0:
                self._holders[offset] = left
            elif self._holders.pop(offset, 0) and 0 < offset < self._next:
                heapq.heappush(self._free, offset)
        for span in self._spans(networks):
            self._release_span(span)

    def assign(self) -> tuple[Network, ...]:
        """The host prefixes of the lowest free place, IPv4 first. ``PoolExhausted`` when there is none."""
        if not self.prefixes:
            raise PoolExhausted(
                "there is no address pool; set pool.ipv4 or pool.ipv6, or give the peer allowed_ips"
            )
        offset = self._lowest_free()
        networks = tuple(ip_network(prefix.network_address + offset) for prefix in self.prefixes)
        self.take(networks)
        return networks

    def _lowest_free(self) -> int:
        while self._free:
            offset = heapq.heappop(self._free)
            if self._blocked_until(offset) == offset:
                return offset
        while self._next < self._end:
            offset = self._next
            self._next = self._blocked_until(offset)
            if self._next == offset:
                self._next += 1
                return offset
        raise PoolExhausted(
            f"the address pool {' and '.join(map(str, self.prefixes))} has no free address left; "
            "remove a peer or enlarge the pool"
        )

    def _blocked_until(self, offset: int) -> int:
        """``offset`` itself when it is free, else a place after it worth looking at."""
        if offset in self._holders:
            return offset + 1
        return next((last + 1 for first, last in self._ranges if first <= offset <= last), offset)

    def _release_span(self, span: tuple[int, int]) -> None:
        left = self._ranges.get(span, 0) - 1
        if left > 0:
            self._ranges[span] = left
        elif self._ranges.pop(span, 0):
            self._next = min(self._next, max(span[0], 1))
            self._free = sorted(offset for offset in self._free if offset < self._next)  # sorted is a heap

    def _places(self, networks: Iterable[Network]) -> list[int]:
        return [
            int(network.network_address) - int(prefix.network_address)
            for network in networks
            for prefix in self.prefixes
            if network.version == prefix.version
            and network.prefixlen == network.max_prefixlen
            and network.network_address in prefix
        ]

    def _spans(self, networks: Iterable[Network]) -> list[tuple[int, int]]:
        """Offsets covered by wider prefixes inside the pool; one that covers the whole pool is a route."""
        spans = []
        for network in networks:
            for prefix in self.prefixes:
                if _inside(network, prefix):
                    first = int(network.network_address) - int(prefix.network_address)
                    spans.append((first, first + network.num_addresses - 1))
        return spans


def _inside(network: Network, prefix: Network) -> bool:
    return (
        network.version == prefix.version
        and prefix.prefixlen < network.prefixlen < network.max_prefixlen
        and network.network_address in prefix
    )


def _usable_end(prefix: Network) -> int:
    """First offset that is no longer handed out."""
    return prefix.num_addresses - 1 if prefix.version == 4 else prefix.num_addresses
