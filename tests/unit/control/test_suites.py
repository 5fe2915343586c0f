# SPDX-License-Identifier: Apache-2.0
"""Which suites an end offers and takes: policy, machine, and what the other end says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from types import SimpleNamespace

import pytest

from gateway import frames as fr
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.gatewaykeeper import GatewayKeeper
from gateway.control.peers import PeerTable
from gateway.control.snapshot import snapshot_of
from gateway.core.policy import EXISTING_SUITES, Policy, from_json, problems, to_json
from gateway.dataplane import engine as dp
from gateway.errors import NotFound, Refused
from gateway.noise.handshake import Identity
from gateway.noise.timers import DEFAULT
from gateway.suites import BY_NAME, PREFERENCE, Suite
from tests.unit.control.test_sessions import T0, Bench, Nowhere
from tests.unit.dataplane.test_engine_paths import Keys

EVERYTHING = tuple(PREFERENCE)
PLAIN = (Suite.CHACHA20_POLY1305,)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.udp.close()


def test_the_policys_names_are_the_suites() -> None:
    assert tuple(BY_NAME[name] for name in EXISTING_SUITES) == PREFERENCE


@pytest.mark.parametrize(
    ("suites", "text"),
    [((), "at least one"), (("aegis-128l", "aegis-128l"), "twice"), (("rot13",), "'rot13' is none of")],
)
def test_nonsense_is_refused(suites: tuple[str, ...], text: str) -> None:
    (problem,) = problems(replace(Policy(), suites=suites))
    assert problem.key == "security.suites"
    assert text in problem.text


def test_the_audit_keeps_them() -> None:
    policy = replace(Policy(), suites=("aes-256-gcm",))
    assert from_json(to_json(policy)) == policy


def test_a_client_offers_what_policy_and_machine_have(bench: Bench) -> None:
    keeper = bench.keeper
    keeper.host_suites = EVERYTHING
    assert keeper.suites(bench.peer) == EVERYTHING
    keeper.host_suites = PLAIN
    assert keeper.suites(bench.peer) == PLAIN
    keeper.host_suites = EVERYTHING
    keeper.greeting.policy = replace(Policy(), suites=("aes-256-gcm", "aegis-128l"))
    assert keeper.suites(bench.peer) == (Suite.AES_256_GCM, Suite.AEGIS_128L)
    bench.live.core.stock = True
    assert keeper.suites(bench.peer) == ()


def welcome_with(bench: Bench, suite: int) -> bool:
    """WELCOME as the gateway would send it, with this choice."""
    core = bench.live.core
    welcome = fr.Welcome(
        session_id=core.session_id,
        binding_epoch=core.epoch,
        bound_path_id=core.bound_id,
        state_version=1,
        last_attempt_id=0,
        suite=suite,
        policy=snapshot_of(core.policy),
        inner_addresses=(),
        endpoints=(),
        observed=fr.Endpoint(ip=ip_network("192.0.2.1/32").network_address, port=9),
    )
    event = SimpleNamespace(local_index=7)
    return bench.keeper.greeting.welcome(T0, bench.live, event, welcome)  # type: ignore[arg-type]


def test_a_client_refuses_what_it_did_not_offer(bench: Bench) -> None:
    bench.peer.offers = (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)
    bench.keeper.greeting.say_hello(T0, bench.live, 7, 1, "a1", bench.at(1))
    for suite in (Suite.AEGIS_128L, 77):
        assert not welcome_with(bench, suite)
        assert bench.live.suite is Suite.CHACHA20_POLY1305
    assert welcome_with(bench, Suite.AES_256_GCM)
    assert bench.live.suite is Suite.AES_256_GCM


def test_a_machine_without_any_permitted_suite_does_not_start(bench: Bench) -> None:
    bench.keeper.host_suites = PLAIN
    with pytest.raises(Refused, match=r"security\.suites permits nothing .*chacha20"):
        bench.keeper.require_suites(replace(Policy(), suites=("aegis-128l",)))
    bench.keeper.require_suites(Policy())


@pytest.mark.parametrize(
    ("protocol", "suites"), [("auto", EVERYTHING), ("jump", EVERYTHING), ("wireguard", ())]
)
def test_a_gateway_has_keys_for_all_but_stock_peers(bench: Bench, protocol: str, suites: object) -> None:
    keeper = GatewayKeeper(bench.engine, Nowhere(), Policy(), os.urandom)
    keeper.host_suites = EVERYTHING
    config = PeerConfig("p", Identity(os.urandom(32)).public, None, (ip_network("10.9.0.0/24"),))
    peer = PeerTable(bench.engine, Identity(os.urandom(32))).add(replace(config, protocol=protocol), T0)  # type: ignore[arg-type]
    assert keeper.suites(peer) == suites


def test_the_data_plane_takes_what_a_keypair_offers() -> None:
    engine = dp.Engine(
        sessions=2, prefixes=2, window_bits=1024, index_seed=os.urandom(32), limits=DEFAULT, now_ns=T0
    )
    slot = engine.add_session()
    index = engine.new_index(slot)
    pair = (bytes(32), bytes(32))
    engine.install(slot, Keys(index, 9, *pair, True), T0, data={Suite.AES_256_GCM: pair})
    engine.expect_suites(slot, index)
    with pytest.raises(NotFound):
        engine.choose_suite(slot, index, Suite.AEGIS_128L)
    with pytest.raises(NotFound):
        engine.choose_suite(slot, index + 1, Suite.AES_256_GCM)
    assert engine.stats(slot)["suite"] == Suite.CHACHA20_POLY1305
    engine.choose_suite(slot, index, Suite.AES_256_GCM)
    assert engine.stats(slot)["suite"] == Suite.AES_256_GCM
    with pytest.raises(ValueError, match="suite 0"):
        engine.choose_suite(slot, index, Suite.CONTROL)
    for wrong in ({1: pair}, {Suite.AES_256_GCM: (bytes(31), bytes(32))}):
        with pytest.raises(ValueError, match="32 bytes"):
            engine.install(slot, Keys(index, 9, *pair, True), T0, data=wrong)
