# SPDX-License-Identifier: Apache-2.0
"""A session of an earlier run at a gateway that speaks plain WireGuard: bound where its handshake went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.constants import NS_PER_S
from gateway.control.greeting import ASK_AGAIN_NS, STOCK_AFTER_NS
from gateway.control.sessions import Live
from gateway.core import inputs as inp
from gateway.core.driver import Stored
from gateway.core.policy import Policy
from gateway.core.states import Role, State
from gateway.suites import Suite
from tests.unit.control.test_sessions import T0, Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.udp.close()


def resumed(bench: Bench, *, stock: bool) -> Live:
    """Bound to path 1 when its process was killed."""
    bench.feed(inp.OperatorTerminate())
    record = Stored(Role.CLIENT, bytes(16), "gw", State.ATTACHED, 1, 1, 1, 0, NS_PER_S, 0, stock, "one")
    live = bench.keeper.sessions.restore(T0, bench.peer, record, Policy(), NS_PER_S, 0)
    assert live is not None
    assert (live.core.state, live.core.bound_id) == (State.DEGRADED, 0)
    bench.live, bench.peer.offers = live, (Suite.CHACHA20_POLY1305,)
    return live


def handshake(bench: Bench, path_id: int, name: str) -> None:
    """Answered by the gateway on that path, and greeted as every new keypair is."""
    greeting = bench.keeper.greeting
    greeting.renewed(T0, bench.live, path_id, name, bench.at(path_id))
    bench.live.know(name, bench.at(path_id))
    greeting.say_hello(T0, bench.live, 7, path_id, name, bench.at(path_id))


def wait_verdict(bench: Bench) -> None:
    """Every HELLO unanswered; when that was certain."""
    greeting = bench.keeper.greeting
    while (due_ns := greeting.next_deadline_ns) is not None and due_ns <= T0 + STOCK_AFTER_NS:
        greeting.timer_due(due_ns, 1)


def test_a_known_stock_session_needs_nothing_but_the_handshake(bench: Bench) -> None:
    live = resumed(bench, stock=True)
    handshake(bench, 2, "two")
    assert (live.core.state, live.core.bound_id, live.core.epoch) == (State.ATTACHED, 2, 2)
    assert bench.goes_to() == str(bench.at(2))
    assert bench.keeper.greeting.next_deadline_ns is None


@pytest.mark.parametrize("spoken", [False, True], ids=["unknown", "spoken-before"])
def test_another_one_is_bound_by_the_verdict(bench: Bench, spoken: bool) -> None:
    """Nobody answered its HELLO: a stock gateway, or one whose HELLOs somebody drops, which is asked again."""
    live = resumed(bench, stock=False)
    live.peer.spoken = spoken
    handshake(bench, 2, "two")
    assert (live.core.state, live.core.bound_id) == (State.DEGRADED, 0)
    wait_verdict(bench)
    assert (live.core.stock, live.core.state, live.core.bound_id) == (True, State.ATTACHED, 2)
    assert bench.goes_to() == str(bench.at(2))
    again = T0 + STOCK_AFTER_NS + ASK_AGAIN_NS if spoken else None
    assert bench.keeper.greeting.next_deadline_ns == again


def test_who_must_speak_jump_frames_is_never_bound_so(bench: Bench) -> None:
    live = resumed(bench, stock=False)
    live.peer.config = replace(live.peer.config, protocol="jump")
    handshake(bench, 2, "two")
    wait_verdict(bench)
    assert (live.core.stock, live.core.state, live.core.bound_id) == (False, State.DEGRADED, 0)
