# SPDX-License-Identifier: Apache-2.0
"""Reattachment in detail: the ordered checks, idempotence, the episode's clock, addresses and their proof."""

from __future__ import annotations

import itertools

import pytest

from gateway.core import Policy, Reason, Role, State, driver, reattach
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.path import VALIDATED
from gateway.core.reattach import Ruling, Standing, backoff_ns, check, spread_ns
from gateway.core.states import Evidence, Phase, SwitchClass
from tests.state.make import IDENT, MS, T0, S, attached, degraded, effects, fingerprint, named, request, rows

FINE = Standing(10, 0, 3, True, True, True, False)


@pytest.mark.parametrize(
    ("attempt", "epoch", "standing", "ruling", "reason"),
    [
        (10, 99, FINE, Ruling.REPEAT_ACK, Reason.NONE),
        (9, 3, FINE, Ruling.DROP, Reason.NONE),
        (11, 3, FINE._replace(pending_attempt_id=12), Ruling.DROP, Reason.NONE),
        (11, 2, FINE, Ruling.REJECT, Reason.STALE_EPOCH),
        (11, 4, FINE, Ruling.REJECT, Reason.STALE_EPOCH),
        (11, 2, FINE._replace(carrier_allowed=False), Ruling.REJECT, Reason.STALE_EPOCH),
        (11, 3, FINE._replace(carrier_allowed=False), Ruling.REJECT, Reason.POLICY_DENIED),
        (11, 3, FINE._replace(budget_allowed=False, proven=False), Ruling.REJECT, Reason.RATE_LIMITED),
        (11, 3, FINE._replace(rebind_lost=True), Ruling.REJECT, Reason.PATH_VALIDATION_FAILED),
        (11, 3, FINE._replace(proven=False), Ruling.PROVE, Reason.NONE),
        (11, 3, FINE, Ruling.COMMIT, Reason.NONE),
    ],
)
def test_the_checks_in_their_order(
    attempt: int, epoch: int, standing: Standing, ruling: Ruling, reason: Reason
) -> None:
    assert check(attempt, epoch, standing) == (ruling, reason)


def test_a_lost_ack_gets_the_same_ack_and_a_late_copy_gets_nothing() -> None:
    s = attached(Role.GATEWAY)
    first = driver.receive(s, request(2, 1, 7), T0 + 1)
    assert rows(first) == ["T7", "T10", "T13"]
    (ack,) = effects(first, fx.SendReattachAck)
    again = driver.receive(s, request(2, 1, 7), T0 + 2)
    assert effects(again, fx.SendReattachAck) == [ack]
    assert rows(again) == []
    late = driver.receive(s, request(1, 2, 6), T0 + 3)
    assert (late.events, late.effects) == ([], [])


def test_persist_precedes_the_ack() -> None:
    """I22: at any crash point the store holds the binding before anybody is told of it."""
    turn = driver.receive(attached(Role.GATEWAY), request(2, 1, 7), T0 + 1)
    kinds = [type(e) for e in turn.effects]
    assert kinds.index(fx.Persist) < kinds.index(fx.SendReattachAck)


def test_a_refused_request_changes_nothing() -> None:
    s = attached(Role.GATEWAY)
    for bad in (
        request(2, 9, 7),
        request(2, 0, 7),
        inp.ReattachRequest(7, 1, 2, Reason.OPERATOR_SWITCH, False, "x"),
    ):
        before = fingerprint(s)
        if bad.epoch == 1:
            s.budget.spend(SwitchClass.FORCED, T0)
            before = fingerprint(s)
        turn = driver.receive(s, bad, T0 + 1)
        assert fingerprint(s) == before
        assert len(effects(turn, fx.SendReattachReject)) == 1


def test_a_rate_limited_request_names_retry_after() -> None:
    s = attached(Role.GATEWAY)
    s.budget.spend(SwitchClass.FORCED, T0)
    turn = driver.receive(s, request(2, 1, 7, Reason.OPERATOR_SWITCH, forced=False), T0 + 100 * MS)
    (reject,) = effects(turn, fx.SendReattachReject)
    assert reject.reason is Reason.RATE_LIMITED
    assert reject.retry_after_ns == 1_400 * MS


def test_an_unproven_path_waits_in_attached_and_shows_recovering_elsewhere() -> None:
    s = attached(Role.GATEWAY, paths=1)
    turn = driver.receive(s, request(3, 1, 7), T0 + 1)
    assert rows(turn) == []
    assert effects(turn, fx.SendChallenge)[0].address == "a3"
    proven = driver.receive(s, inp.ChallengeAnswered("a3", 3, 20 * MS), T0 + 20 * MS)
    assert rows(proven) == ["T7", "T10", "T13"]
    d = degraded(Role.GATEWAY)
    assert rows(driver.receive(d, request(3, 1, 7), T0 + 1)) == ["T11"]
    assert d.state is State.RECOVERING
    assert rows(driver.receive(d, inp.ChallengeAnswered("a3", 3, 20 * MS), T0 + 20 * MS)) == ["T13"]


def test_a_pending_request_times_out_by_t14() -> None:
    d = degraded(Role.GATEWAY)
    driver.receive(d, request(3, 1, 7), T0 + 1)
    turn = driver.timer_due(d, T0 + 1 + 5 * S)
    assert rows(turn) == ["T14"]
    assert named(turn, "STATE_CHANGE")[0].reason is Reason.REATTACH_TIMEOUT
    assert effects(turn, fx.SendReattachReject)[0].reason is Reason.REATTACH_TIMEOUT


def test_a_newer_attempt_replaces_the_pending_one() -> None:
    d = degraded(Role.GATEWAY)
    driver.receive(d, request(3, 1, 7), T0 + 1)
    driver.receive(d, request(4, 1, 8), T0 + 2)
    assert d.pending is not None
    assert d.pending.attempt_id == 8
    assert rows(driver.receive(d, inp.ChallengeAnswered("a3", 3, MS), T0 + 3)) == []
    assert rows(driver.receive(d, inp.ChallengeAnswered("a4", 4, MS), T0 + 4)) == ["T13"]
    assert (d.bound_id, d.attempt_id) == (4, 8)


def test_the_commit_binds_the_validated_address_never_the_source() -> None:
    s = attached(Role.GATEWAY)
    turn = driver.receive(
        s, inp.ReattachRequest(7, 1, 2, Reason.PEER_REPORTED_INSTABILITY, True, "udp:evil"), T0 + 1
    )
    assert effects(turn, fx.SwitchBinding)[0].address == "a2"
    assert effects(turn, fx.SendReattachAck)[0].address == "a2"


def test_the_client_goes_on_after_silence_and_repeats_before() -> None:
    s = attached(Role.CLIENT, paths=3)
    turn = driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    sent = [(0, e.path_id, e.attempt_id) for e in effects(turn, fx.SendReattachRequest)]
    while (due := driver.next_deadline(s)) is not None and due < T0 + 5 * S and s.state is State.RECOVERING:
        turn = driver.timer_due(s, due)
        sent += [((due - T0) // MS, e.path_id, e.attempt_id) for e in effects(turn, fx.SendReattachRequest)]
    assert sent[:4] == [(0, 2, 1), (200, 2, 1), (600, 3, 2), (800, 3, 2)]
    assert driver.next_deadline(s) == T0 + 5 * S
    assert rows(driver.timer_due(s, T0 + 5 * S)) == ["T14"]


def test_data_may_follow_the_request_only_while_nothing_is_bound() -> None:
    s = attached(Role.CLIENT)
    (lost,) = effects(driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0), fx.SendReattachRequest)
    assert lost.carry_data
    s = attached(Role.CLIENT)
    (chosen,) = effects(driver.receive(s, inp.OperatorSwitch(2), T0), fx.SendReattachRequest)
    assert not chosen.carry_data


@pytest.mark.parametrize(("gateway_bound", "target"), [(0, 2), (2, 1)])
def test_a_disagreement_is_settled_on_what_the_gateway_can_hear(gateway_bound: int, target: int) -> None:
    s = attached(Role.CLIENT)
    driver.receive(s, inp.PeerBinding(1, gateway_bound), T0)
    assert driver.next_deadline(s) == T0 + 200 * MS
    turn = driver.timer_due(s, T0 + 200 * MS)
    assert rows(turn) == ["T6", "T10"]
    assert effects(turn, fx.SendReattachRequest)[0].path_id == target


def test_stale_epoch_is_corrected_in_the_same_episode_and_attempt() -> None:
    s = attached(Role.CLIENT)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    turn = driver.receive(s, inp.ReattachReject(1, Reason.STALE_EPOCH, 5), T0 + 1)
    (again,) = effects(turn, fx.SendReattachRequest)
    assert (again.attempt_id, again.epoch, s.state) == (1, 5, State.RECOVERING)
    lower = driver.receive(s, inp.ReattachReject(1, Reason.STALE_EPOCH, 2), T0 + 2)
    assert effects(lower, fx.SendReattachRequest) == []
    assert s.epoch == 5


def test_an_ack_of_an_older_attempt_only_raises_the_epoch() -> None:
    s = attached(Role.CLIENT, paths=3)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    driver.timer_due(s, T0 + 600 * MS)
    turn = driver.receive(s, inp.ReattachAck(1, 2, 2), T0 + 610 * MS)
    assert rows(turn) == []
    assert (s.epoch, s.state, s.bound_id) == (2, State.RECOVERING, 0)
    assert effects(turn, fx.SendReattachRequest)[0].epoch == 2


def test_backoff_doubles_then_five_seconds_and_a_validated_path_ends_it() -> None:
    p = Policy()
    waits = [backoff_ns(p, IDENT, n, n) for n in range(1, 13)]
    for wait, base in zip(
        waits, [200, 400, 800, 1600, 3000, 3000, 3000, 3000, 3000, 5000, 5000], strict=False
    ):
        assert base * MS <= wait <= base * MS * 5 // 4
    s = attached(Role.CLIENT, paths=2)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    turn = driver.receive(s, inp.ReattachReject(1, Reason.RATE_LIMITED, 1, 8 * S), T0 + 1)
    assert rows(turn) == ["T14"]
    assert s.backoff_ns == T0 + 1 + 8 * S
    turn = driver.receive(s, inp.PathAdded(3, "a3"), T0 + 2)
    assert rows(turn) == ["T11"]
    assert named(turn, "STATE_CHANGE")[0].reason is Reason.RECOVERY_RETRY


def test_storms_are_spread_by_a_hash_not_by_chance() -> None:
    spread = {spread_ns(n.to_bytes(16, "big"), 1, S) // (100 * MS) for n in range(200)}
    assert len(spread) >= 10
    assert spread_ns(IDENT, 3, S) == spread_ns(IDENT, 3, S)


def test_a_deaf_client_starts_handshakes_on_its_paths_in_turn() -> None:
    s = attached(Role.CLIENT, paths=3)
    for path_id in (1, 2, 3):
        driver.receive(s, inp.PathMissed(path_id, 3, S), T0 + S)
    tried = []
    while (due := driver.next_deadline(s)) is not None and due < T0 + 8 * S:
        tried += [(due - T0, e.path_id) for e in effects(driver.timer_due(s, due), fx.StartHandshake)]
    assert {path_id for _, path_id in tried} == {1, 2, 3}
    assert all(b - a >= S for (a, _), (b, _) in itertools.pairwise(tried))
    s = attached(Role.CLIENT, paths=2)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    driver.receive(s, inp.PathLost(2, Evidence.LINK_DOWN), T0)
    turn = driver.timer_due(s, T0 + 2 * S)
    assert effects(turn, fx.StartHandshake) == []  # the host itself cannot send


def test_recovery_phase_says_what_is_waited_for() -> None:
    s = attached(Role.CLIENT)
    assert driver.recovery_phase(s) is None
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    assert driver.recovery_phase(s) is Phase.CONFIRM
    d = degraded(Role.GATEWAY)
    driver.receive(d, request(3, 1, 7), T0 + 1)
    assert driver.recovery_phase(d) is Phase.PROOF


def test_window_end_names_the_first_reason_that_holds() -> None:
    s = attached(Role.CLIENT, paths=1)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    assert named(driver.timer_due(s, T0 + 30 * S), "STATE_CHANGE")[0].reason is Reason.ALL_TRANSPORTS_DEAD
    for episodes, reason in ((3, Reason.RECOVERY_WINDOW_EXPIRED), (10, Reason.POLICY_EXHAUSTED)):
        s = attached(Role.CLIENT)
        driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
        s.episodes = episodes
        assert named(driver.timer_due(s, T0 + 30 * S), "STATE_CHANGE")[0].reason is reason


def test_retries_never_restart_the_window() -> None:
    s = attached(Role.CLIENT)
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    end = s.window_end_ns
    while (due := driver.next_deadline(s)) is not None and not s.ended:
        driver.timer_due(s, due)
        assert s.window_end_ns in (end, 0)
    assert s.ended
    assert s.history()[-1].mono_ns == end


def test_a_client_answers_a_challenge_only_for_its_own_socket() -> None:
    s = attached(Role.CLIENT)
    assert effects(driver.receive(s, inp.ChallengeReceived(1, 2, True), T0), fx.SendResponse) == []
    assert effects(driver.receive(s, inp.ChallengeReceived(1, 0, False), T0), fx.SendResponse) != []
    turn = driver.receive(s, inp.ChallengeReceived(1, 1, True), T0)
    (sent,) = effects(turn, fx.SendReattachRequest)
    assert (sent.with_response, sent.reason) == (True, Reason.NAT_REBIND)
    assert rows(turn) == []
    again = driver.receive(s, inp.ChallengeReceived(1, 1, True), T0 + 1)
    assert effects(again, fx.SendReattachRequest)[0].attempt_id == sent.attempt_id
    assert rows(driver.receive(s, inp.ReattachAck(sent.attempt_id, 2, 1), T0 + 2)) == ["T7", "T10", "T13"]


# --- addresses at the gateway ------------------------------------------------------------------------------------


def test_a_new_address_of_the_bound_path_challenges_both() -> None:
    s = attached(Role.GATEWAY)
    turn = driver.receive(s, inp.AddressSeen(1, "new"), T0 + 1)
    sent = [(e.address, e.rebind) for e in effects(turn, fx.SendChallenge)]
    assert sent == [("new", True), ("a1", False)]
    assert effects(turn, fx.CopyDownstream)[0].address == "new"
    later = driver.timer_due(s, T0 + 1 + 20 * MS)
    assert [e.address for e in effects(later, fx.SendChallenge)] == ["a1"]


@pytest.mark.parametrize("learned", ["from a control message", "from the answer"])
def test_data_names_no_path_so_a_rebind_is_asked_for_when_its_path_is_known(learned: str) -> None:
    """The first challenge cannot be marked; the client asks for the binding only when one is."""
    s = attached(Role.GATEWAY)
    turn = driver.receive(s, inp.AddressSeen(0, "new"), T0)
    assert [(e.address, e.path_id, e.rebind) for e in effects(turn, fx.SendChallenge)] == [("new", 0, False)]
    assert effects(turn, fx.CopyDownstream)[0].address == "new"
    if learned == "from a control message":
        turn = driver.receive(s, inp.AddressSeen(1, "new"), T0 + 10 * MS)
        again = driver.receive(s, inp.ChallengeAnswered("new", 1, 10 * MS), T0 + 10 * MS)
        assert effects(again, fx.SendChallenge) == []
    else:
        turn = driver.receive(s, inp.ChallengeAnswered("new", 1, 10 * MS), T0 + 10 * MS)
    sent = [(e.address, e.rebind) for e in effects(turn, fx.SendChallenge)]
    assert sent == [("new", True), ("a1", False)]
    repeated = driver.timer_due(s, T0 + 210 * MS)  # that challenge, or the request it asks for, was lost
    assert ("new", True) in [(e.address, e.rebind) for e in effects(repeated, fx.SendChallenge)]
    turn = driver.receive(s, request(1, 1, 7, Reason.NAT_REBIND, forced=False), T0 + 220 * MS)
    assert rows(turn) == ["T7", "T10", "T13"]
    assert effects(turn, fx.SwitchBinding)[0].address == "new"


def test_a_new_address_without_a_name_that_is_another_paths_gets_no_copy_of_the_bound_one() -> None:
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.AddressSeen(0, "new"), T0)
    turn = driver.receive(s, inp.AddressSeen(2, "new"), T0 + 10 * MS)
    assert effects(turn, fx.StopCopy)[0].address == "new"


def test_a_standby_that_moved_is_probed_where_it_is_now() -> None:
    """The data plane is told: it answers probes at the proven address only."""
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.AddressSeen(2, "new"), T0)
    driver.receive(s, inp.ChallengeAnswered("new", 2, MS), T0 + 10 * MS)
    turn = driver.timer_due(s, T0 + 200 * MS)
    assert [e.path_id for e in effects(turn, fx.ProbePath)] == [2]
    path = s.path(2)
    assert path is not None and path.address == "new"


def test_the_old_address_answers_and_the_path_stays() -> None:
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.AddressSeen(1, "new"), T0 + 1)
    driver.receive(s, inp.ChallengeAnswered("new", 1, MS), T0 + 10 * MS)
    driver.receive(s, request(1, 1, 7, Reason.NAT_REBIND, forced=False), T0 + 11 * MS)
    before = s.version
    turn = driver.receive(s, inp.ChallengeAnswered("a1", 1, MS), T0 + 12 * MS)
    assert named(turn, "SECURITY_EVENT")[0].security_class is Reason.PATH_VALIDATION_FAILED
    assert effects(turn, fx.SendReattachReject)[0].reason is Reason.PATH_VALIDATION_FAILED
    assert effects(turn, fx.StopCopy)[0].address == "new"
    assert (s.version, s.inquiry, s.pending) == (before, None, None)
    copied = driver.receive(s, request(1, 1, 8, Reason.NAT_REBIND, forced=False), T0 + 13 * MS)
    assert effects(copied, fx.SendReattachReject)[0].reason is Reason.PATH_VALIDATION_FAILED
    assert s.version == before


def test_the_old_address_silent_for_a_pto_and_the_path_moves_with_the_request() -> None:
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.AddressSeen(1, "new"), T0)
    driver.receive(s, inp.ChallengeAnswered("new", 1, MS), T0 + 10 * MS)
    assert rows(driver.receive(s, request(1, 1, 7, Reason.NAT_REBIND, forced=False), T0 + 11 * MS)) == []
    assert driver.next_deadline(s) <= T0 + 200 * MS  # type: ignore[operator]
    turn = driver.timer_due(s, T0 + 200 * MS)
    assert rows(turn) == ["T7", "T10", "T13"]
    assert effects(turn, fx.SwitchBinding)[0].address == "new"
    change = named(turn, "STATE_CHANGE")[-1]
    assert (change.transport_from, change.transport_to) == ("a1", "new")
    assert named(turn, "TRANSPORT_SWITCH")[0].switch_class is SwitchClass.REBIND
    assert s.budget.used(T0 + S) == 0


def test_after_a_rebind_the_previous_address_is_challenged_and_wins_if_it_answers() -> None:
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.AddressSeen(1, "evil"), T0)
    driver.receive(s, inp.ChallengeAnswered("evil", 1, MS), T0 + 10 * MS)
    driver.receive(s, request(1, 1, 7, Reason.NAT_REBIND, forced=False), T0 + 11 * MS)
    driver.timer_due(s, T0 + 200 * MS)
    base, asked = T0 + 200 * MS, []
    for second in (1, 2, 4, 8):
        turn = driver.timer_due(s, base + second * S)
        asked += [(second, e.address, e.rebind) for e in effects(turn, fx.SendChallenge)]
    assert asked == [(n, "a1", True) for n in (1, 2, 4, 8)]
    driver.receive(s, inp.ChallengeAnswered("a1", 1, MS), base + 8 * S + 1)
    turn = driver.receive(s, request(1, 2, 8, Reason.NAT_REBIND, forced=False), base + 8 * S + 2)
    assert rows(turn) == ["T7", "T10", "T13"]
    assert s.active is not None
    assert s.active.address == "a1"
    assert s.inquiry is None


def test_two_proven_addresses_the_lower_round_trip_wins_and_it_is_logged() -> None:
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.AddressSeen(1, "slow"), T0)
    driver.receive(s, inp.AddressSeen(1, "fast"), T0 + 1)
    driver.receive(s, inp.ChallengeAnswered("slow", 1, 30 * MS), T0 + 30 * MS)
    driver.receive(s, inp.ChallengeAnswered("fast", 1, 10 * MS), T0 + 31 * MS)
    driver.receive(s, request(1, 1, 7, Reason.NAT_REBIND, forced=False), T0 + 32 * MS)
    turn = driver.timer_due(s, T0 + 200 * MS)
    assert effects(turn, fx.SwitchBinding)[0].address == "fast"
    assert named(turn, "SECURITY_EVENT")[0].security_class is Reason.REBIND_AMBIGUOUS


def test_a_standbys_address_is_replaced_by_validation_alone() -> None:
    s = attached(Role.GATEWAY)
    version = s.version
    turn = driver.receive(s, inp.AddressSeen(2, "new"), T0)
    assert [e.rebind for e in effects(turn, fx.SendChallenge)] == [False, False]
    driver.receive(s, inp.ChallengeAnswered("new", 2, MS), T0 + 10 * MS)
    driver.timer_due(s, T0 + 200 * MS)
    path = s.path(2)
    assert path is not None
    assert (path.address, path.has(VALIDATED), s.version) == ("new", True, version)


def test_slots_are_three_and_the_oldest_silent_one_gives_way() -> None:
    s = attached(Role.GATEWAY)
    for n in range(3):
        driver.receive(s, inp.AddressSeen(0, f"n{n}"), T0 + n)
    assert effects(driver.receive(s, inp.AddressSeen(0, "n3"), T0 + 10), fx.SendChallenge) == []
    driver.receive(s, inp.AddressSeen(0, "n0"), T0 + 299 * MS)
    turn = driver.receive(s, inp.AddressSeen(0, "n4"), T0 + 310 * MS)
    assert "n4" in [e.address for e in effects(turn, fx.SendChallenge)]
    assert s.inquiry is not None
    assert sorted(slot.address for slot in s.inquiry.slots) == ["n0", "n2", "n4"]


def test_three_challenges_a_pto_apart_then_silence() -> None:
    s = attached(Role.GATEWAY)
    sent = []
    driver_turn = driver.receive(s, inp.AddressSeen(0, "quiet"), T0)
    sent += [0 for _ in effects(driver_turn, fx.SendChallenge)]
    while (due := driver.next_deadline(s)) is not None and due <= T0 + 5 * S:
        turn = driver.timer_due(s, due)
        sent += [(due - T0) // MS for e in effects(turn, fx.SendChallenge) if e.address == "quiet"]
    assert sent == [0, 200, 400]
    assert s.inquiry is None


def test_advice_while_unbound_goes_out_at_each_interval_on_validated_paths() -> None:
    s = attached(Role.GATEWAY)
    driver.receive(s, inp.PathLost(1, Evidence.MISSES), T0)
    sent = []
    while (due := driver.next_deadline(s)) is not None and due < T0 + S:
        sent += [(due - T0) // MS for e in effects(driver.timer_due(s, due), fx.SendAdvice)]
    assert len(sent) >= 3
    assert all(b - a == 300 for a, b in itertools.pairwise(sent))


def test_constants_are_those_of_the_specification() -> None:
    assert (reattach.ADVANCE_MIN_NS, reattach.ADVANCE_MAX_NS, reattach.RESEND_MAX_NS) == (
        300 * MS,
        1500 * MS,
        S,
    )
