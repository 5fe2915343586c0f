# SPDX-License-Identifier: Apache-2.0
"""Very many attached jump sessions of one gateway in this process: its tables, its keeper and the core, no network.

Keys are drawn instead of agreed on, and what a client would say comes as the core's inputs: so 20,000 take seconds.
"""

from __future__ import annotations

import os
import secrets
from ipaddress import IPv4Address, ip_network
from typing import Final

from gateway.constants import NS_PER_S
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.gatewaykeeper import GatewayKeeper
from gateway.control.peers import Peer, PeerTable
from gateway.control.sessions import Live, Sink
from gateway.core import inputs as inp
from gateway.core.path import VALIDATED
from gateway.core.policy import Policy
from gateway.core.states import State
from gateway.dataplane import engine as dp
from gateway.noise.handshake import Identity, TransportKeys
from gateway.noise.timers import DEFAULT
from gateway.suites import Suite, traffic_key
from tests.unit.control.test_sessions import Nowhere

T0 = 1_000 * NS_PER_S  # a test may turn it on
FIRST: Final = int(IPv4Address("10.16.0.0"))
OFFERS: Final = (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)


class Standing:
    """One gateway's side."""

    def __init__(self, most: int, sink: Sink | None = None) -> None:
        self.engine = dp.Engine(
            sessions=most,
            prefixes=2 * most,
            window_bits=8192,
            index_seed=os.urandom(32),
            limits=DEFAULT,
            now_ns=T0,
        )
        self.peers = PeerTable(self.engine, Identity(os.urandom(32)))
        self.keeper = GatewayKeeper(self.engine, sink or Nowhere(), Policy(), secrets.token_bytes)
        self.keeper.host_suites = OFFERS
        self.sessions = self.keeper.sessions

    def add_peer(self, number: int) -> Peer:
        """A configured one that never came."""
        network = ip_network(f"{IPv4Address(FIRST + number)}/32")
        config = PeerConfig(f"client-{number}", secrets.token_bytes(32), None, (network,))
        return self.peers.add(config, T0)

    def attach(self, peer: Peer, number: int) -> Live:
        """It has completed a handshake, said HELLO and proven a second path."""
        at = [
            dp.Endpoint.of(f"{net}.{number >> 8 & 255}.{number & 255}", 51820, 0)
            for net in ("172.16", "100.64")
        ]
        self.renew(peer, at[0])
        live = self.sessions.of(peer.slot)
        assert live is not None
        first, second = (live.name(one) for one in at)
        self._feed(live, inp.Confirmed(first))
        self.sessions.open_paths(T0, live)
        self._feed(live, inp.HelloSeen(1, first, 0))
        self.sessions.bind_again(T0, live)
        live.instance = secrets.token_bytes(16)
        self._feed(live, inp.AddressSeen(2, second, "udp", copy=False))
        self._feed(live, inp.ChallengeAnswered(second, 2, 5_000_000))
        for path_id in (1, 2):
            self._feed(live, inp.PathMeasured(path_id, 21_345, 1_234, 987, 0, 500, 0, 40, 40))
        self._feed(live, inp.PeerBinding(live.core.epoch, live.core.bound_id))
        live.nonces = None
        assert live.core.state is State.ATTACHED
        assert [path.has(VALIDATED) for path in live.core.paths] == [True, True]
        return live

    def renew(self, peer: Peer, source: dp.Endpoint, *, ours: bool = False) -> None:
        """A handshake of the peer, answered here; or one of ours, whose keypair is in use at once."""
        stamp = self.engine.new_index(peer.slot)
        peer.started(DEFAULT).greatest_timestamp = bytes(8) + stamp.to_bytes(4, "big")
        index, (there, back, final) = self.engine.new_index(peer.slot), map(secrets.token_bytes, (32, 32, 32))
        keys = TransportKeys(index, index ^ 1, there, back, is_initiator=ours, handshake_hash=final)
        peer.offers = self.keeper.suites(peer)
        data = {
            suite: (traffic_key(there, suite), traffic_key(back, suite))
            for suite in peer.offers
            if suite is not Suite.CHACHA20_POLY1305
        }
        control = (traffic_key(there, Suite.CONTROL), traffic_key(back, Suite.CONTROL))
        self.engine.install(peer.slot, keys, T0, control, False, data)
        (self.keeper.initiated if ours else self.keeper.answered)(T0, peer, keys, source)

    def _feed(self, live: Live, one: inp.Input) -> None:
        self.sessions.feed(T0, live, one)
