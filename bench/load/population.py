# SPDX-License-Identifier: Apache-2.0
"""Who the clients are: keys and addresses of client 0, 1, 2 ..., the same in every process that knows the seed.

    outside                                       inside
    uplink 0  172.16.0.0/12 + n ── 192.0.2.1      10.16.0.0/12 + n   the client
    uplink 1  100.64.0.0/10 + n ── 198.51.100.1   10.48.0.0/12 + n   what it talks to, behind the gateway

Every client has a destination of its own: so a packet's destination says whose it is, as its source does on the way
back. The ranges are contiguous: a group of clients is a range of addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from gateway.noise.handshake import Identity

UPLINKS: Final = (IPv4Network("172.16.0.0/12"), IPv4Network("100.64.0.0/10"))
GATEWAYS: Final = (IPv4Address("192.0.2.1"), IPv4Address("198.51.100.1"))
INSIDE: Final = IPv4Network("10.16.0.0/12")
BEYOND: Final = IPv4Network("10.48.0.0/12")
MOST: Final = 1_000_000


def nth(network: IPv4Network, number: int) -> IPv4Address:
    """The address of client `number` there."""
    return network.network_address + number


@dataclass(frozen=True, slots=True)
class Population:
    """`count` clients of one seed. Their keys protect nothing: who knows the seed knows them."""

    seed: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST:
            raise ValueError(f"{self.count} clients: 1 to {MOST:,} fit the ranges")

    def private_key(self, number: int) -> bytes:
        """Of client `number`; the gateway's is of number -1."""
        return blake2s(
            number.to_bytes(8, "little", signed=True), key=self.seed.to_bytes(8, "little")
        ).digest()

    def identity(self, number: int) -> Identity:
        """Its keys; the public one costs a multiplication, some 50 us."""
        return Identity(self.private_key(number))

    @property
    def gateway(self) -> Identity:
        """Of the gateway that serves them."""
        return self.identity(-1)
