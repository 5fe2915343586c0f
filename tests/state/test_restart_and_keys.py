# SPDX-License-Identifier: Apache-2.0
"""Restarts (T22, T2) and the key lifecycle (T19): what survives, what ends, and that ends are explicit."""

from __future__ import annotations

import pytest

from gateway.core import Policy, Reason, Role, State, driver
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.states import Evidence
from tests.state.make import MAKERS, T0, S, attached, born, degraded, effects, named, rows, volatile


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", [State.ATTACHED, State.VOLATILE, State.RECOVERING])
def test_t22_brings_it_back_degraded_with_the_version_going_on(role: Role, state: State) -> None:
    s = MAKERS[state](role)
    stored = driver.snapshot(s, T0 + S)
    fresh, turn = driver.restore(stored, s.policy, 2 * S, s.version + 3, T0 + 3 * S)
    assert rows(turn) == ["T22"]
    assert fresh.state is State.DEGRADED
    assert (fresh.version, fresh.epoch, fresh.session_id) == (s.version + 4, s.epoch, s.session_id)
    assert fresh.bound_id == 0
    assert fresh.window_end_ns > T0 + 3 * S


def test_an_open_window_keeps_what_was_left_a_bound_session_gets_a_new_one() -> None:
    lost = degraded(Role.GATEWAY)
    fresh, turn = driver.restore(driver.snapshot(lost, T0 + 10 * S), lost.policy, 5 * S, 0, T0 + 15 * S)
    assert rows(turn) == []
    assert fresh.window_end_ns == T0 + 30 * S
    kept = volatile(Role.GATEWAY)
    fresh, _ = driver.restore(driver.snapshot(kept, T0 + 10 * S), kept.policy, 5 * S, 0, T0 + 15 * S)
    assert fresh.window_end_ns == T0 + 45 * S


def test_a_restart_that_outlives_window_or_lifetime_is_an_explicit_end() -> None:
    lost = degraded(Role.GATEWAY)
    _, turn = driver.restore(driver.snapshot(lost, T0 + 10 * S), lost.policy, 60 * S, 0, T0 + 70 * S)
    assert rows(turn) == ["T16"]
    old = attached(Role.GATEWAY)
    _, turn = driver.restore(driver.snapshot(old, T0 + S), old.policy, 9 * 3600 * S, 0, T0 + 9 * 3600 * S)
    assert rows(turn) == ["T17"]


def test_a_restored_birth_ends_by_t2_and_an_ended_session_stays_ended() -> None:
    s = born(Role.GATEWAY)
    fresh, turn = driver.restore(driver.snapshot(s, T0 + S), s.policy, S, 0, T0 + 2 * S)
    assert rows(turn) == ["T2"]
    again, turn = driver.restore(driver.snapshot(fresh, T0 + 3 * S), s.policy, S, 0, T0 + 4 * S)
    assert (again.state, turn.events) == (State.TERMINATED, [])


def test_the_last_accepted_attempt_survives_so_its_ack_can_be_given_again() -> None:
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.ReattachRequest(7, 1, 2, Reason.PEER_REPORTED_INSTABILITY, True, "a2"), T0)
    fresh, _ = driver.restore(driver.snapshot(s, T0 + S), s.policy, S, 0, T0 + 2 * S)
    assert (fresh.attempt_id, fresh.accepted) == (7, (2, 2))


def test_a_resuming_client_with_a_newer_epoch_wins() -> None:
    s = attached(Role.GATEWAY)
    fresh, _ = driver.restore(driver.snapshot(s, T0 + S), s.policy, S, 0, T0 + 2 * S)
    driver.receive(fresh, inp.HelloSeen(1, "a1", 9), T0 + 3 * S)
    assert fresh.epoch == 9
    turn = driver.receive(
        fresh, inp.ReattachRequest(8, 9, 1, Reason.PEER_REPORTED_INSTABILITY, True, "a1"), T0 + 3 * S
    )
    assert rows(turn) == ["T11", "T13"]
    assert fresh.epoch == 10


def test_a_stale_store_never_takes_the_client_back() -> None:
    c = attached(Role.CLIENT)
    driver.receive(c, inp.Welcomed(6, 1, 40), T0)
    assert (c.epoch, c.attempt_id) == (6, 40)
    driver.receive(c, inp.Welcomed(2, 1, 3), T0 + 1)
    assert (c.epoch, c.attempt_id) == (6, 40)


# --- keys --------------------------------------------------------------------------------------------------------


def test_the_client_rekeys_at_120_s_the_gateway_only_if_it_did_not() -> None:
    c, g = attached(Role.CLIENT), attached(Role.GATEWAY)
    assert [e.trigger for e in effects(driver.timer_due(c, T0 + 120 * S), fx.StartRekey)] == ["TIME"]
    assert effects(driver.timer_due(g, T0 + 120 * S), fx.StartRekey) == []
    assert [e.trigger for e in effects(driver.timer_due(g, T0 + 165 * S), fx.StartRekey)] == ["TIME"]


@pytest.mark.parametrize(
    ("usage", "trigger"), [((1 << 20, 0), "PACKETS"), ((0, 1 << 30), "BYTES"), ((5, 5), "")]
)
def test_use_triggers_a_rekey_once(usage: tuple[int, int], trigger: str) -> None:
    policy = Policy(rekey_after_packets=1 << 20, rekey_after_bytes=1 << 30)
    s = attached(Role.CLIENT, policy=policy)
    first = driver.receive(s, inp.KeyUsage(*usage), T0 + 1)
    again = driver.receive(s, inp.KeyUsage(*usage), T0 + 2)
    assert [e.trigger for e in effects(first, fx.StartRekey)] == ([trigger] if trigger else [])
    assert effects(again, fx.StartRekey) == []


def test_unanswered_for_90_s_and_unusable_is_key_expired_while_bound() -> None:
    s = attached(Role.CLIENT)
    driver.timer_due(s, T0 + 120 * S)
    assert rows(driver.timer_due(s, T0 + 209 * S)) == []
    turn = driver.timer_due(s, T0 + 210 * S)
    assert rows(turn) == ["T19"]
    assert named(turn, "STATE_CHANGE")[0].reason is Reason.KEY_EXPIRED
    assert len(effects(turn, fx.EraseKeys)) == 1


def test_a_refused_rekey_ends_it_when_the_keys_do() -> None:
    s = attached(Role.CLIENT)
    driver.timer_due(s, T0 + 120 * S)
    driver.receive(s, inp.RekeyRefused(), T0 + 121 * S)
    assert rows(driver.timer_due(s, T0 + 179 * S)) == []
    assert rows(driver.timer_due(s, T0 + 180 * S)) == ["T19"]


def test_keys_that_age_out_while_unbound_never_end_a_session() -> None:
    s = attached(Role.CLIENT, policy=Policy(transport_lost_ttl_ns=900 * S), paths=1)
    driver.timer_due(s, T0 + 120 * S)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0 + 121 * S)
    while (due := driver.next_deadline(s)) is not None and due < T0 + 800 * S:
        assert "T19" not in rows(driver.timer_due(s, due))
    assert s.state is State.DEGRADED


def test_a_new_keypair_starts_the_clock_again_and_changes_nothing_else() -> None:
    s = attached(Role.CLIENT)
    before = (s.version, s.epoch, s.bound_id)
    driver.timer_due(s, T0 + 120 * S)
    driver.receive(s, inp.KeyInstalled(), T0 + 121 * S)
    assert (s.version, s.epoch, s.bound_id) == before
    assert effects(driver.timer_due(s, T0 + 240 * S), fx.StartRekey) == []
    assert effects(driver.timer_due(s, T0 + 241 * S), fx.StartRekey) != []


def test_termination_erases_keys_tells_the_peer_and_forgets() -> None:
    s = attached(Role.GATEWAY)
    turn = driver.receive(s, inp.OperatorTerminate(), T0 + S)
    assert effects(turn, fx.SendTerminate)[0].targets == ((1, "a1"), (2, "a2"))
    kinds = [type(e) for e in turn.effects]
    assert kinds.index(fx.SendTerminate) < kinds.index(fx.EraseKeys)
    assert s.paths == ()
    assert driver.next_deadline(s) is None


@pytest.mark.parametrize(
    ("one", "row", "reason"),
    [
        (inp.SecurityViolation("two suites under one key"), "T19", Reason.SECURITY_VIOLATION),
        (inp.OwnershipLost(Reason.OWNERSHIP_AMBIGUOUS, 3), "T20", Reason.OWNERSHIP_AMBIGUOUS),
        (inp.OwnershipLost(Reason.INVARIANT_VIOLATION), "T20", Reason.INVARIANT_VIOLATION),
        (inp.PeerTerminated(), "T18", Reason.PEER_TERMINATED),
        (inp.Superseded(), "T18", Reason.SUPERSEDED),
    ],
)
def test_every_explicit_end_is_coded(one: inp.Input, row: str, reason: Reason) -> None:
    s = attached(Role.GATEWAY)
    turn = driver.receive(s, one, T0 + S)
    change = named(turn, "STATE_CHANGE")[0]
    assert (change.row, change.reason) == (row, reason)
    assert named(turn, "TERMINATION_EVENT")[0].reason is reason


def test_eviction_only_if_the_policy_allows() -> None:
    s = attached(Role.GATEWAY)
    assert rows(driver.receive(s, inp.Evicted(), T0)) == []
    s = attached(Role.GATEWAY, policy=Policy(evict_allowed=True))
    assert rows(driver.receive(s, inp.Evicted(), T0)) == ["T21"]
