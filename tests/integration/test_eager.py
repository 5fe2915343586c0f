# SPDX-License-Identifier: Apache-2.0
"""A client without a key asks again soon, and brings a cookie with its next try; a stock pace is WireGuard's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.constants import NS_PER_S
from gateway.control.eager import EARLY_NS, TRIES, Eager
from tests.integration.pair import End, Pair, ipv4_packet, make_pair

PACKET = ipv4_packet("10.0.0.2", "10.0.0.1", b"anybody there?")


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = make_pair(gateway_under_load=True)
    made.a.exchange.eager = Eager()
    yield made
    made.close()


def sent_at(end: End, until_s: float) -> list[float]:
    """When initiations leave, in seconds from now, while nobody answers."""
    begin_ns, found, before = end.now_ns, [], end.exchange.counters["initiations_sent"]
    while end.now_ns <= begin_ns + int(until_s * NS_PER_S):
        end.crank()
        if end.exchange.counters["initiations_sent"] > before:
            before = end.exchange.counters["initiations_sent"]
            found.append((end.now_ns - begin_ns) / NS_PER_S)
        end.now_ns += NS_PER_S // 100
    return found


def test_four_early_tries_then_wireguards_pace(pair: Pair) -> None:
    retried: list[float] = []
    begin_ns = pair.a.now_ns
    pair.a.exchange.on_retry = lambda peer: retried.append((pair.a.now_ns - begin_ns) / NS_PER_S)
    pair.a.inner.send(PACKET)
    times = sent_at(pair.a, 16)
    assert times[: TRIES + 1] == pytest.approx([n * EARLY_NS / NS_PER_S for n in range(TRIES + 1)], abs=0.05)
    assert [5 <= at <= 5.4 for at in times[TRIES + 1 : TRIES + 2]] == [True]
    assert [10 <= at <= 10.8 for at in times[TRIES + 2 : TRIES + 3]] == [True]
    # Another path, another look at the gateway's name: not more often than before.
    assert retried == times[TRIES + 1 :]


def test_a_stock_peer_is_asked_at_wireguards_pace() -> None:
    stock = make_pair()
    stock.a.inner.send(PACKET)
    times = sent_at(stock.a, 11)
    assert len(times) == 3
    assert [0 <= times[0] < 0.1, 5 <= times[1] < 5.4, 10 <= times[2] < 10.8] == [True] * 3
    stock.close()


def test_a_cookie_is_brought_at_once(pair: Pair) -> None:
    pair.a.inner.send(PACKET)
    pair.settle()
    assert pair.a.exchange.counters["cookies_received"] == 1
    assert pair.b.inner_packets() == []
    pair.run(EARLY_NS / NS_PER_S)
    assert pair.b.inner_packets() == [PACKET]
    assert pair.a.exchange.counters["completed"] == 1
    assert not pair.a.exchange.eager.is_early(pair.a_peer.slot)  # type: ignore[union-attr]


def test_a_rekey_keeps_its_pace(pair: Pair) -> None:
    pair.a.inner.send(PACKET)
    pair.settle()
    pair.run(EARLY_NS / NS_PER_S)
    before = pair.a.exchange.counters["initiations_sent"]
    pair.advance(10)
    pair.a.exchange.rekey(pair.a.now_ns, pair.a_peer, None)
    assert sent_at(pair.a, 4) == []
    assert pair.a.exchange.counters["initiations_sent"] == before + 1
