# SPDX-License-Identifier: Apache-2.0
"""A drain at the handshakes: peers without a session are neither answered nor called, all others go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.pair import Pair, ipv4_packet, make_pair

A_TO_B = ipv4_packet("10.0.0.2", "10.0.0.1", b"ping")
B_TO_A = ipv4_packet("10.0.0.1", "10.0.0.2", b"pong")


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = make_pair()
    yield made
    made.close()


def drain(pair: Pair, on: bool) -> None:
    """At b: whoever holds a key has a session here."""
    keys = pair.b.exchange.has_key
    pair.b.exchange.admits = lambda peer: not on or keys(pair.b.now_ns, peer)


def test_nobody_new_is_answered_and_nothing_of_him_is_kept(pair: Pair) -> None:
    drain(pair, True)
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.b.inner_packets() == [] and pair.b_peer.handshake is None
    assert pair.b.exchange.counters["draining"] == 1
    assert pair.b.exchange.counters["responses_sent"] == 0
    drain(pair, False)
    pair.run(6.0)  # WireGuard asks again after 5 s
    assert pair.b.inner_packets() == [A_TO_B]


def test_nobody_new_is_called(pair: Pair) -> None:
    drain(pair, True)
    pair.b.engine.set_endpoint(pair.b_peer.slot, pair.b.endpoint_of(pair.a), pair.b.now_ns)
    pair.b.inner.send(B_TO_A)
    pair.settle()
    assert pair.b.exchange.counters["draining"] == 1
    assert pair.b.exchange.counters["initiations_sent"] == 0
    assert pair.b.engine.stats(pair.b_peer.slot)["staged"] == 0
    drain(pair, False)
    pair.b.inner.send(B_TO_A)
    pair.settle()
    assert pair.a.inner_packets() == [B_TO_A]


def test_who_is_there_goes_on_through_a_rekey(pair: Pair) -> None:
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]
    drain(pair, True)
    for _ in range(5):
        pair.run(40.0)
        pair.a.inner.send(A_TO_B)
        pair.settle()
        assert pair.b.inner_packets() == [A_TO_B]
    assert pair.b.exchange.counters["completed"] >= 2
    assert pair.b.exchange.counters["draining"] == 0
