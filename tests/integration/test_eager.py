# SPDX-License-Identifier: Apache-2.0
"""A client without a key asks again soon, and brings a cookie with its next try; a stock pace is WireGuard's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.constants import NS_PER_S
from gateway.control.eager import EARLY_NS, PAUSES_NS, Eager
from gateway.control.exchange import LATE_NS
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


def test_early_tries_then_wireguards_pace(pair: Pair) -> None:
    retried: list[float] = []
    begin_ns, early = pair.a.now_ns, 1 + len(PAUSES_NS)
    pair.a.exchange.on_retry = lambda peer: retried.append((pair.a.now_ns - begin_ns) / NS_PER_S)
    pair.a.inner.send(PACKET)
    times = sent_at(pair.a, 16)
    assert times[:early] == pytest.approx([0, 0.5, 1.5, 3.5], abs=0.05)
    assert 5 <= times[early] <= 5.4
    assert 10 <= times[early + 1] <= 10.8
    # Another path, another look at the gateway's name: not more often than before.
    assert retried == times[early:]


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


def test_what_has_waited_too_long_is_passed_over(pair: Pair) -> None:
    """The client has begun anew by then: the answer would be for nobody, and whoever waits behind it late as well."""
    pair.a.inner.send(PACKET)
    pair.a.crank()
    assert pair.b.engine.pump_udp(pair.b.socket_id, pair.b.now_ns) == 1
    pair.advance((LATE_NS + 1) / NS_PER_S)
    pair.b.crank()
    assert pair.b.exchange.counters["late"] == 1
    assert pair.b.engine.counters()["tx_datagrams"] == 0
    pair.run(3 * EARLY_NS / NS_PER_S)
    assert pair.b.inner_packets() == [PACKET]
    assert pair.b.exchange.counters["late"] == 1


def test_a_rekey_keeps_its_pace(pair: Pair) -> None:
    pair.a.inner.send(PACKET)
    pair.settle()
    pair.run(EARLY_NS / NS_PER_S)
    before = pair.a.exchange.counters["initiations_sent"]
    pair.advance(10)
    pair.a.exchange.rekey(pair.a.now_ns, pair.a_peer, None)
    assert sent_at(pair.a, 4) == []
    assert pair.a.exchange.counters["initiations_sent"] == before + 1
