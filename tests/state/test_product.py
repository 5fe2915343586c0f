# SPDX-License-Identifier: Apache-2.0
"""The full product of states and inputs on real sessions: an input that finds no row changes nothing."""

from __future__ import annotations

import pytest

from gateway.core import Reason, Role, State, driver
from gateway.core import inputs as inp
from gateway.core.states import Evidence
from gateway.core.transitions import edges
from tests.state.make import ALL_INPUTS, EXAMPLES, MAKERS, T0, S, attached, clone, fingerprint, named, rows

EDGES = {(start, rule.row, rule.to) for start, _, rule in edges()}


def test_there_is_an_example_of_every_input() -> None:
    assert {type(one) for one in EXAMPLES} == ALL_INPUTS


def test_every_input_has_a_handler_at_one_end_at_least() -> None:
    handled = set(driver.HANDLERS[Role.CLIENT]) | set(driver.HANDLERS[Role.GATEWAY])
    assert handled == ALL_INPUTS


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
def test_makers_make_what_they_say(role: Role, state: State) -> None:
    assert MAKERS[state](role).state is state


@pytest.mark.parametrize("one", EXAMPLES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("role", Role)
def test_product(role: Role, state: State, one: inp.Input) -> None:
    s = MAKERS[state](role)
    before, start = fingerprint(s), s.state
    version = s.version
    turn = driver.receive(s, one, T0 + 1)
    for event in named(turn, "STATE_CHANGE"):
        assert (event.previous_state, event.row, event.new_state) in EDGES
        assert event.previous_state is start
        start, version = event.new_state, version + 1
        assert event.state_version == version
    assert s.version == version
    if state is State.TERMINATED or type(one) not in driver.HANDLERS[role]:
        assert fingerprint(s) == before
        alarms = named(turn, "SECURITY_EVENT")
        assert [a.security_class for a in alarms] == [Reason.INVALID_STATE_TRANSITION]
    due = driver.next_deadline(s)
    assert due is not None or s.ended


@pytest.mark.parametrize("role", Role)
def test_an_illegal_input_is_counted_not_repeated(role: Role) -> None:
    s = MAKERS[State.TERMINATED](role)
    turns = [driver.receive(s, inp.OperatorSwitch(2), T0 + n) for n in range(100)]
    assert sum(len(t.events) for t in turns) == 1
    due = driver.next_deadline(s)
    assert due == T0 + S
    late = driver.timer_due(s, due)
    assert named(late, "SECURITY_EVENT")[0].count == 99
    assert driver.timer_due(s, due + S).events == []
    assert driver.next_deadline(s) is None


def test_simultaneous_inputs_the_highest_wins() -> None:
    s = attached(Role.CLIENT)
    many = [inp.PathLost(1, Evidence.MISSES), inp.OperatorTerminate(), inp.ReattachAck(1, 2, 2)]
    turn = driver.receive_all(s, list(many), T0 + 1)
    assert rows(turn) == ["T18"]


def test_lifetime_outranks_an_operator() -> None:
    s = attached(Role.GATEWAY)
    turn = driver.receive(s, inp.OperatorTerminate(), T0 + s.policy.max_lifetime_ns)
    assert rows(turn) == ["T17"]


def test_a_death_outranks_a_breach_in_one_report() -> None:
    s = attached(Role.CLIENT)
    assert rows(driver.receive(s, inp.PathMissed(1, 3, S), T0 + S)) == ["T4", "T10"]


def test_newer_evidence_by_another_frame_is_no_death() -> None:
    s = attached(Role.CLIENT)
    assert rows(driver.receive(s, inp.PathMissed(1, 3, 5 * S), T0 + 1)) == []
    assert s.bound_id == 1


def test_the_same_inputs_give_the_same_session() -> None:
    one, two = attached(Role.CLIENT), clone(attached(Role.CLIENT))
    for n, given in enumerate(EXAMPLES[:22]):
        a, b = driver.receive(one, given, T0 + n), driver.receive(two, given, T0 + n)
        assert a.events == b.events
        assert a.effects == b.effects
