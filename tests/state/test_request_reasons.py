# SPDX-License-Identifier: Apache-2.0
"""Why a client asks for another path, as the gateway's record says it."""

from __future__ import annotations

import pytest

from gateway.core import Reason, Role, State, driver
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.states import LOCAL_EVIDENCE, Evidence
from gateway.core.transitions import REQUEST_REASONS
from tests.state.make import MAKERS, MS, T0, attached, effects, named, request, rows

LOSSES = [one for one in Evidence if one not in (Evidence.STOCK_SILENCE, Evidence.REMOVED)]
ALIVE = [state for state in State if state not in (State.BIRTH, State.TERMINATED)]


@pytest.mark.parametrize("evidence", LOSSES)
def test_a_client_says_when_its_own_host_lost_the_link(evidence: Evidence) -> None:
    s = attached(Role.CLIENT)
    turn = driver.receive(s, inp.PathLost(1, evidence), T0 + MS)
    wanted = Reason.LINK_DOWN if evidence in LOCAL_EVIDENCE else Reason.PEER_REPORTED_INSTABILITY
    (sent,) = effects(turn, fx.SendReattachRequest)
    assert (sent.reason, sent.forced, sent.path_id) == (wanted, True, 2)
    (attempt,) = named(turn, "REATTACH_ATTEMPT")
    assert attempt.reason is wanted


def test_a_later_attempt_says_the_same_until_the_link_is_back() -> None:
    s = attached(Role.CLIENT)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0 + MS)
    reject = inp.ReattachReject(s.attempt_id, Reason.POLICY_DENIED, s.epoch)
    driver.receive(s, reject, T0 + 2 * MS)
    while (at := driver.next_deadline(s)) is not None and s.episode is None:
        turn = driver.timer_due(s, at)
    assert [sent.reason for sent in effects(turn, fx.SendReattachRequest)] == [Reason.LINK_DOWN]


def test_the_gateways_timeline_says_it_too() -> None:
    s = attached(Role.GATEWAY)
    turn = driver.receive(s, request(2, s.epoch, 1, Reason.LINK_DOWN), T0 + MS)
    assert rows(turn) == ["T7", "T10", "T13"]
    assert named(turn, "STATE_CHANGE")[0].reason is Reason.LINK_DOWN
    assert named(turn, "TRANSPORT_SWITCH")[0].reason is Reason.LINK_DOWN


@pytest.mark.parametrize("state", ALIVE)
@pytest.mark.parametrize("reason", Reason)
def test_whatever_reason_a_request_has_it_is_a_request(state: State, reason: Reason) -> None:
    """Also those that mean something else, and the one that stands for numbers of later versions (NONE)."""
    s = MAKERS[state](Role.GATEWAY)
    ours = reason if reason in REQUEST_REASONS else Reason.PEER_REPORTED_INSTABILITY
    turn = driver.receive(s, request(2, s.epoch, 20, reason), T0 + MS)
    assert {one.reason for one in named(turn, "REATTACH_ATTEMPT")} <= {ours}
    assert {one.reason for one in named(turn, "TRANSPORT_SWITCH")} <= {ours}
    if state is State.ATTACHED and reason is not Reason.NAT_REBIND:  # which needs a new address
        assert (s.state, s.bound_id) == (State.ATTACHED, 2)
