# SPDX-License-Identifier: Apache-2.0
"""WELCOME's addresses and endpoints: what the gateway says, and how far the client believes it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from gateway import frames as fr
from gateway.control.reception import inner_addresses
from gateway.control.snapshot import snapshot_of
from gateway.control.told import Told, not_ours, told_by, with_learned
from gateway.core.policy import Policy


def welcome(*endpoints: str, inner: tuple[str, ...] = ()) -> fr.Welcome:
    """A WELCOME that has been on the wire."""
    sent = fr.Welcome(
        session_id=bytes(16),
        binding_epoch=1,
        bound_path_id=1,
        state_version=1,
        last_attempt_id=0,
        suite=1,
        policy=snapshot_of(Policy()),
        inner_addresses=inner_addresses(map(ip_network, inner)),
        endpoints=tuple(fr.Endpoint(ip=ip_address(one), port=51820) for one in endpoints),
        observed=fr.Endpoint(ip=ip_address("2001:db8::7"), port=4000),
    )
    (came,) = fr.parse(fr.encode((sent,)), fr.Direction.TO_CLIENT)
    assert isinstance(came, fr.Welcome)
    return came


def test_only_host_routes_are_addresses_of_the_peer() -> None:
    many = [f"10.9.0.{host}/32" for host in range(20)]
    told = told_by(welcome(inner=("10.8.0.2/32", "10.1.0.0/16", "fd08::2/128", *many)))
    assert told.addresses[:2] == ("10.8.0.2/32", "fd08::2/128")
    assert len(told.addresses) == fr.INNER_ADDRESSES_MAX


def test_an_address_that_leads_nowhere_else_is_left_out() -> None:
    told = told_by(welcome("192.0.2.1", "127.0.0.1", "169.254.0.1", "fe80::1", "::1", "2001:db8::1"))
    assert told.endpoints == (("192.0.2.1", 51820), ("2001:db8::1", 51820))
    assert told.document() == {
        "inner_addresses": [],
        "endpoints": ["192.0.2.1:51820", "[2001:db8::1]:51820"],
        "observed": "[2001:db8::7]:4000",
    }


def test_configured_endpoints_come_first_and_may_be_all() -> None:
    told = Told(endpoints=(("192.0.2.2", 1), ("192.0.2.1", 1)))
    own = [("192.0.2.1", 1)]
    assert with_learned(own, told, allowed=True) == [("192.0.2.1", 1), ("192.0.2.2", 1)]
    assert with_learned(own, told, allowed=False) == own


def test_addresses_are_compared_within_their_family() -> None:
    own = [ip_address("10.8.0.2"), ip_address("fd08::2")]
    assert not_ours(Told(), own) == []
    assert not_ours(Told(addresses=("10.8.0.2/32",)), own) == []
    assert not_ours(Told(addresses=("10.8.0.3/32",)), own) == ["10.8.0.2"]
