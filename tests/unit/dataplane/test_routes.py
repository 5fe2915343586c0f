# SPDX-License-Identifier: Apache-2.0
"""The route table against a search through all prefixes with the ipaddress module."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.dataplane.routes import RouteTable
from gateway.errors import DataplaneError

Network = IPv4Network | IPv6Network
# Few different bits, so that prefixes nest and share paths.
packed4 = st.lists(st.sampled_from([0, 1, 0x80, 0xFF]), min_size=4, max_size=4).map(bytes)
packed6 = st.lists(st.sampled_from([0, 1, 0x80, 0xFF]), min_size=16, max_size=16).map(bytes)
networks = st.one_of(
    st.tuples(packed4, st.integers(0, 32)),
    st.tuples(packed6, st.integers(0, 128)),
    st.tuples(packed4, st.just(32)),
).map(lambda p: ip_network(p, strict=False))
slots = st.integers(0, 4)


def brute_force(model: dict[Network, int], packed: bytes) -> int | None:
    address = ip_address(packed)
    holding = [n for n in model if n.version == address.version and address in n]
    return model[max(holding, key=lambda n: n.prefixlen)] if holding else None


class RouteMachine(RuleBasedStateMachine):
    """Whatever is inserted, moved and removed, a lookup answers as the brute force does."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RouteTable(30)
        self.model: dict[Network, int] = {}

    @rule(network=networks, slot=slots)
    def insert(self, network: Network, slot: int) -> None:
        if len(self.model) == 30 and network not in self.model:
            with pytest.raises(DataplaneError):
                self.table.insert(str(network), slot)
            return
        assert self.table.insert(str(network), slot) == self.model.get(network)
        self.model[network] = slot

    @rule(network=networks, slot=slots)
    def remove(self, network: Network, slot: int) -> None:
        owned = self.model.get(network) == slot
        assert self.table.remove((network.network_address.packed, network.prefixlen), slot) == owned
        if owned:
            del self.model[network]

    @rule(data=st.data())
    def remove_existing(self, data: st.DataObject) -> None:
        if self.model:
            network = data.draw(st.sampled_from(sorted(self.model, key=str)))
            assert self.table.remove(str(network), self.model.pop(network))

    @rule(slot=slots)
    def remove_all(self, slot: int) -> None:
        gone = [n for n, owner in self.model.items() if owner == slot]
        assert self.table.remove_all(slot) == len(gone)
        for network in gone:
            del self.model[network]

    @rule(packed=st.one_of(packed4, packed6))
    def look_up(self, packed: bytes) -> None:
        assert self.table.lookup(packed) == brute_force(self.model, packed)

    @invariant()
    def same_contents(self) -> None:
        assert len(self.table) == len(self.model)
        found = {ip_network((packed, length)): slot for packed, length, slot in self.table.items()}
        assert found == self.model


TestRouteMachine = RouteMachine.TestCase


@given(st.dictionaries(networks, slots, max_size=30), st.lists(st.one_of(packed4, packed6), max_size=30))
def test_lookup_is_the_longest_match(model: dict[Network, int], addresses: list[bytes]) -> None:
    table = RouteTable(len(model))
    for network, slot in model.items():
        table.insert(str(network), slot)
    for packed in addresses:
        assert table.lookup(packed) == brute_force(model, packed)


def test_text_and_bits_behind_the_length() -> None:
    table = RouteTable(2)
    assert table.insert("10.9.8.7/8", 1) is None
    assert table.insert("10.0.0.0/8", 2) == 1
    assert table.lookup("10.200.0.1") == 2
    assert table.lookup("11.0.0.1") is None
    assert table.lookup("fd00::1") is None


@pytest.mark.parametrize(
    "network", [(b"123", 8), (b"1234", 33), (b"1234", -1), (bytes(16), 129), "10.0.0.0/33", "x"]
)
def test_bad_networks(network: str | tuple[bytes, int]) -> None:
    with pytest.raises(ValueError):
        RouteTable(1).insert(network, 0)


def test_bad_slot() -> None:
    with pytest.raises(DataplaneError):
        RouteTable(1).insert("10.0.0.0/8", 0xFFFFFF)
