# SPDX-License-Identifier: Apache-2.0
"""Every anti-oscillation control fires: budget, cooldown, reserve, dampening, refractory time, hysteresis, slow-up.

In two well-known systems the anti-flap code exists and is never reached; each test here ends in its verdict.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import Policy, Reason, Role, State, budget, dampening, driver, liveness, scoring
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.budget import Budget, judge
from gateway.core.dampening import Trouble
from gateway.core.path import LOSSY, SILENT, SLOW, SUSPECT, VALIDATED, Path, pto_ns, stability
from gateway.core.states import Evidence, SwitchClass, Tier
from tests.state.make import GOOD, MS, T0, S, attached, effects, named, rows

FORCED, FREE, REBIND = SwitchClass.FORCED, SwitchClass.DISCRETIONARY, SwitchClass.REBIND
MINUTE = 60 * S


# --- the budget --------------------------------------------------------------------------------------------------


def spent(*times: int) -> Budget:
    b = Budget()
    for t in times:
        b.spend(FORCED, t)
    return b


def test_discretionary_switches_cannot_touch_the_reserve() -> None:
    b = spent(*(T0 + n for n in range(5)))
    verdict = judge(b, Policy(), FREE, T0 + 10 * S)
    assert (verdict.allowed, verdict.rule) == (False, Reason.SWITCH_RATE_LIMITED)
    assert verdict.retry_ns == T0 + MINUTE
    assert judge(b, Policy(), FREE, T0 + MINUTE + 1).allowed


def test_cooldown_fires_and_names_its_end() -> None:
    b = spent(T0)
    verdict = judge(b, Policy(), FREE, T0 + S)
    assert (verdict.allowed, verdict.rule, verdict.retry_ns) == (
        False,
        Reason.COOLDOWN_ACTIVE,
        T0 + 1500 * MS,
    )
    assert judge(b, Policy(), FREE, T0 + 1500 * MS).allowed
    assert judge(b, Policy(), FORCED, T0 + 1).allowed


def test_the_reserve_is_spaced() -> None:
    b = spent(*(T0 + n for n in range(5)))
    verdict = judge(b, Policy(), FORCED, T0 + S)
    assert verdict == (False, Reason.SWITCH_RATE_LIMITED, T0 + 4 + 15 * S)
    assert judge(b, Policy(), FORCED, verdict.retry_ns).allowed


def test_zero_switches_still_recovers_by_the_reserve() -> None:
    p = Policy(max_switches_per_min=0)
    assert not judge(Budget(), p, FREE, T0).allowed
    assert judge(Budget(), p, FORCED, T0).allowed
    assert not judge(spent(T0), p, FORCED, T0 + 19 * S).allowed
    assert judge(spent(T0), p, FORCED, T0 + 20 * S).allowed


@given(
    gaps=st.lists(st.integers(0, 20 * S), min_size=1, max_size=60),
    top=st.integers(0, 12),
    reserved=st.integers(1, 5),
    free=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_no_history_makes_a_forced_switch_wait_longer_than_the_gap(
    gaps: list[int], top: int, reserved: int, free: list[bool]
) -> None:
    """The proof of §5.5, tried: whatever was spent before, the wait is bounded, and the cap holds in every minute."""
    p = Policy(max_switches_per_min=top + reserved if top else 0, reserved=reserved)
    b, now, times = Budget(), T0, []
    for gap, discretionary in zip(gaps, free, strict=False):
        now += gap
        kind = FREE if discretionary else FORCED
        verdict = judge(b, p, kind, now)
        if not verdict.allowed and kind is FORCED:
            assert verdict.retry_ns - now <= p.reserve_gap_ns()
            now = verdict.retry_ns
            assert judge(b, p, kind, now).allowed
        elif not verdict.allowed:
            continue
        b.spend(kind, now)
        times.append(now)
        assert sum(t > now - MINUTE for t in times) <= p.switch_cap()


def test_rebinds_have_their_own_limit_and_never_none() -> None:
    b, p = Budget(), Policy()
    for n in range(20):
        assert judge(b, p, REBIND, T0 + n).allowed
        b.spend(REBIND, T0 + n)
    verdict = judge(b, p, REBIND, T0 + 100)
    assert verdict == (False, Reason.SWITCH_RATE_LIMITED, T0 + 19 + 3 * S)
    assert judge(b, p, REBIND, verdict.retry_ns).allowed
    assert judge(b, p, FORCED, T0 + 100).allowed
    assert judge(b, p, FREE, T0 + 100).allowed


def test_the_gateway_grants_one_second_of_grace() -> None:
    b = spent(T0)
    assert judge(b, Policy(), FREE, T0 + 500 * MS, budget.GATEWAY_GRACE_NS).allowed
    assert not judge(b, Policy(), FREE, T0 + 499 * MS, budget.GATEWAY_GRACE_NS).allowed


def test_the_budget_is_bounded_for_ever() -> None:
    b = Budget()
    for n in range(10_000):
        b.spend(REBIND, T0 + n * 3 * S)
        b.spend(FORCED, T0 + n * 15 * S)
    assert len(b.rebinds) <= 8 * 21
    assert len(b.switches) <= 8 * 5


# --- dampening ---------------------------------------------------------------------------------------------------


def test_dampening_suppresses_above_three_and_reuses_below_one() -> None:
    """ZeroTier: anti-flap computed and never read; a threshold that truncates to zero."""
    p, t = Policy(), Trouble()
    for n in range(4):
        dampening.failed(t, p, T0 + n * S)
    assert t.suppressed
    assert dampening.penalty_now(t, p, T0 + 3 * S) > 3000
    assert dampening.refresh(t, p, T0 + 33 * S)
    due = dampening.reuse_due_ns(t, p)
    assert not dampening.refresh(t, p, due)
    assert dampening.penalty_now(t, p, due) < 1000


@given(st.integers(0, 12_000), st.integers(0, 400 * S), st.integers(0, 400 * S))
def test_decay_is_monotone_and_halves_exactly(penalty: int, a: int, b: int) -> None:
    half = 30 * S
    early, late = sorted((a, b))
    assert dampening.decayed(penalty, late, half) <= dampening.decayed(penalty, early, half) <= penalty
    assert dampening.decayed(penalty, half, half) == penalty >> 1


def test_refractory_time_doubles_to_its_cap_and_drains_only_while_healthy() -> None:
    p, t, now = Policy(), Trouble(), T0
    dampening.failed(t, p, now)
    assert dampening.resting_ns(t, now) == 8 * S
    assert dampening.resting_ns(t, now + 60 * S) == 8 * S
    dampening.answered(t, 1, now)
    assert dampening.resting_ns(t, now + 5 * S) == 3 * S
    for _ in range(12):
        dampening.failed(t, p, now)
    assert dampening.resting_ns(t, now) == 600 * S
    dampening.answered(t, 1, now)
    dampening.failed(t, p, now + 1300 * S)  # healthy as long again after it had drained: forgiven
    assert dampening.resting_ns(t, now + 1300 * S) == 8 * S


def test_a_path_that_died_needs_thirty_three_good_probes_to_be_trusted() -> None:
    t = Trouble()
    dampening.failed(t, Policy(), T0)
    dampening.answered(t, 32, T0)
    assert t.need == 1
    dampening.stumbled(t, T0)
    assert t.need == 33
    dampening.answered(t, 33, T0)
    assert t.need == 0


def test_a_suppressed_path_is_still_used_when_nothing_else_is_left() -> None:
    s = attached(Role.CLIENT)
    other = s.path(2)
    assert other is not None
    for _ in range(5):
        dampening.failed(other.troubled(), s.policy, T0)
    assert other.troubled().suppressed
    assert rows(driver.receive(s, inp.OperatorSwitch(2), T0 + 1)) == []
    turn = driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0 + 2)
    assert rows(turn) == ["T4", "T10"]


# --- scores and hysteresis ---------------------------------------------------------------------------------------


def path(
    path_id: int, srtt_us: int = 20_000, loss_ppm: int = 0, jitter_us: int = 0, tier: Tier = Tier.PRIMARY
) -> Path:
    p = Path(path_id, f"a{path_id}", "udp", tier, 0, T0, VALIDATED)
    p.srtt_us, p.loss_ppm, p.jitter_us = srtt_us, loss_ppm, jitter_us
    return p


@pytest.mark.parametrize(
    ("one", "points"),
    [
        (path(1), 100_000),
        (path(1, loss_ppm=10_000), 98_000),
        (path(1, jitter_us=10_000), 97_000),
        (path(1, srtt_us=120_000), 90_000),
        (path(1, loss_ppm=500_000, jitter_us=100_000), 0),
    ],
)
def test_the_score_is_the_formula(one: Path, points: int) -> None:
    assert scoring.score_milli(one, 20_000) == points


def test_breach_then_tier_then_score_then_stability_then_id() -> None:
    breached = path(1)
    breached.set(LOSSY)
    backup, slow, twin, first = path(2, tier=Tier.BACKUP), path(3, srtt_us=90_000), path(5), path(4)
    order = scoring.best_first([breached, backup, slow, twin, first], 20_000, T0)
    assert [p.path_id for p in order] == [4, 5, 3, 2, 1]


def test_trap_tailscale_latency_alone_does_not_win() -> None:
    """Tailscale: score on latency alone. A faster path that loses packets is no improvement."""
    active, faster = path(1, srtt_us=60_000), path(2, srtt_us=20_000, loss_ppm=60_000)
    assert not scoring.improves(active, faster, 20_000, Policy())
    assert scoring.improves(active, path(3, srtt_us=20_000), 20_000, Policy())


def test_improvement_needs_the_margin() -> None:
    p = Policy()
    assert not scoring.improves(path(1), path(2, srtt_us=15_000), 15_000, p)  # 5 ms and 25 %: not 10 ms
    assert not scoring.improves(
        path(1, srtt_us=100_000), path(2, srtt_us=85_000), 85_000, p
    )  # 15 ms, not 20 %
    assert scoring.improves(path(1, srtt_us=100_000), path(2, srtt_us=75_000), 75_000, p)
    assert scoring.improves(path(1, loss_ppm=50_000), path(2), 20_000, p)
    assert not scoring.improves(path(1, loss_ppm=50_000), path(2, tier=Tier.BACKUP), 20_000, p)


def test_stability_grows_with_clean_time_and_halves_per_failure() -> None:
    s = attached(Role.CLIENT)
    one = s.path(1)
    assert one is not None
    assert stability(one, T0 + 40 * S) == 40
    assert stability(one, T0 + 500 * S) == 100
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0 + 40 * S)
    assert stability(one, T0 + 40 * S) == 20


def measure(s: object, loss: int, now: int, path_id: int = 1) -> list[str]:
    seen = replace(GOOD, path_id=path_id, loss_ppm=loss, lost=loss // 10_000)
    return rows(driver.receive(s, seen, now))  # type: ignore[arg-type]


def test_one_good_sample_never_switches() -> None:
    s = attached(Role.CLIENT)
    slow = replace(GOOD, srtt_us=80_000)
    driver.receive(s, slow, T0 + 1)
    assert rows(driver.receive(s, replace(GOOD, path_id=2), T0 + 2)) == []
    assert s.better is not None
    driver.receive(s, replace(slow, srtt_us=20_000), T0 + S)  # the margin broke: the window begins again
    assert s.better is None
    driver.receive(s, slow, T0 + 2 * S)
    assert rows(driver.timer_due(s, T0 + 4 * S)) == []
    assert rows(driver.timer_due(s, T0 + 5 * S)) == ["T6", "T10"]


def test_loss_enters_at_five_and_leaves_below_two_percent() -> None:
    s = attached(Role.CLIENT, paths=1)
    assert measure(s, 50_000, T0 + 1) == []
    assert measure(s, 60_000, T0 + 2) == ["T3"]
    measure(s, 30_000, T0 + S)
    assert s.calm_ns == 0
    measure(s, 10_000, T0 + 2 * S)
    assert s.calm_ns == T0 + 2 * S
    for n in range(1, 10):
        measure(s, 10_000, T0 + 2 * S + n * 300 * MS)
    assert rows(driver.timer_due(s, T0 + 5 * S)) == ["T8"]


def test_too_few_packets_or_losses_give_no_verdict() -> None:
    s = attached(Role.CLIENT, paths=1)
    thin = replace(GOOD, packets=63, loss_ppm=900_000, lost=57)
    assert rows(driver.receive(s, thin, T0 + 1)) == []
    few = replace(GOOD, packets=64, loss_ppm=51_000, lost=3)
    assert rows(driver.receive(s, few, T0 + 2)) == []
    assert rows(driver.receive(s, replace(few, lost=4), T0 + 3)) == ["T3"]


def test_trap_preview_a_loss_threshold_its_own_scenario_reaches() -> None:
    """The preview's loss threshold could not be reached by its own scenario; ours is, at 6 % over one window."""
    s = attached(Role.CLIENT, paths=1)
    assert measure(s, 60_000, T0 + 1) == ["T3"]


def test_latency_and_jitter_must_persist() -> None:
    s = attached(Role.CLIENT, paths=1)
    slow = replace(GOOD, srtt_us=400_000)
    driver.receive(s, GOOD, T0)
    assert rows(driver.receive(s, slow, T0 + 1)) == []
    assert rows(driver.timer_due(s, T0 + 1 + 500 * MS)) == ["T3"]
    s = attached(Role.CLIENT, paths=1)
    assert rows(driver.receive(s, replace(GOOD, jitter_us=90_000), T0 + 1)) == []
    driver.receive(s, GOOD, T0 + 2)
    assert rows(driver.timer_due(s, T0 + S)) == []


def test_the_latency_threshold_follows_the_paths_own_baseline() -> None:
    one = path(1, srtt_us=150_000)
    one.base_us = 150_000
    assert liveness.latency_enter_us(one, Policy()) == 450_000


def test_death_needs_the_misses_and_their_span() -> None:
    one, p = path(1), Policy()
    assert not liveness.is_dead(one, p, 2, 10 * S, True)
    assert not liveness.is_dead(one, p, 3, 500 * MS, True)
    assert liveness.is_dead(one, p, 3, 600 * MS, True)
    one.set(SUSPECT)
    assert liveness.is_dead(one, p, 3, 60 * MS, True)
    assert not liveness.is_dead(one, p, 3, 60 * MS, False)


def test_calm_is_none_of_it() -> None:
    one = path(1)
    assert liveness.is_calm(one)
    for flag in (SUSPECT, LOSSY, SLOW, SILENT):
        one.flags = VALIDATED | flag
        assert not liveness.is_calm(one)


def test_pto_has_a_floor_and_a_default() -> None:
    assert pto_ns(None) == 200 * MS
    fast = path(1, srtt_us=100)
    assert pto_ns(fast) == 20 * MS
    fast.srtt_us, fast.rttvar_us = 50_000, 5_000
    assert pto_ns(fast) == 70 * MS


# --- in the machine ----------------------------------------------------------------------------------------------


def test_a_discretionary_switch_straight_back_is_suppressed_a_forced_one_is_not() -> None:
    s = attached(Role.CLIENT)
    driver.receive(s, inp.OperatorSwitch(2), T0 + 1)
    driver.receive(s, inp.ReattachAck(1, 2, 2), T0 + 20 * MS)
    assert s.bound_id == 2
    turn = driver.receive(s, inp.OperatorSwitch(1), T0 + 1600 * MS)
    assert [d.rule for d in named(turn, "TRANSPORT_SWITCH_DENIED")] == [Reason.HYSTERESIS_NOT_MET]
    assert rows(driver.receive(s, inp.OperatorSwitch(1), T0 + 2100 * MS)) == ["T6", "T10"]
    s2 = attached(Role.CLIENT)
    driver.receive(s2, inp.OperatorSwitch(2), T0 + 1)
    driver.receive(s2, inp.ReattachAck(1, 2, 2), T0 + 20 * MS)
    assert rows(driver.receive(s2, inp.PathLost(2, Evidence.LINK_DOWN), T0 + 30 * MS)) == ["T4", "T10"]


def test_an_operators_switch_in_the_cooldown_is_denied_and_says_so() -> None:
    s = attached(Role.CLIENT, paths=3)
    driver.receive(s, inp.OperatorSwitch(2), T0 + 1)
    driver.receive(s, inp.ReattachAck(1, 2, 2), T0 + 20 * MS)
    turn = driver.receive(s, inp.OperatorSwitch(3), T0 + S)
    denied = named(turn, "TRANSPORT_SWITCH_DENIED")
    assert [d.rule for d in denied] == [Reason.COOLDOWN_ACTIVE]
    assert denied[0].retry_after_ns == 520 * MS
    assert s.state is State.ATTACHED


def test_a_rate_limited_death_waits_in_degraded_and_recovers_by_the_reserve() -> None:
    s = attached(Role.CLIENT)
    for n in range(5):
        s.budget.spend(FORCED, T0 + n)
    turn = driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0 + S)
    assert rows(turn) == ["T4", "T9"]
    assert named(turn, "STATE_CHANGE")[-1].reason is Reason.SWITCH_RATE_LIMITED
    due = T0 + 4 + 15 * S
    assert s.wake_ns == due
    assert rows(driver.timer_due(s, due)) == ["T11"]


def test_a_suppressed_path_is_denied_by_name() -> None:
    s = attached(Role.CLIENT)
    for _ in range(5):
        dampening.failed(s.paths[1].troubled(), s.policy, T0)
    turn = driver.receive(s, inp.OperatorSwitch(2), T0 + 1)
    assert [d.rule for d in named(turn, "TRANSPORT_SWITCH_DENIED")] == [Reason.PATH_SUPPRESSED]


def test_duplication_stops_when_the_path_answers() -> None:
    s = attached(Role.CLIENT)
    driver.receive(s, inp.PathSuspected(1), T0)
    turn = driver.receive(s, inp.PathAnswered(1), T0 + 50 * MS)
    assert [e.until_ns for e in effects(turn, fx.DuplicateTraffic)] == [T0 + 50 * MS]


def test_a_client_that_is_told_of_no_binding_sends_on_both_paths_at_once() -> None:
    """The gateway hears nothing there: the copy is through a round trip before the request's answer."""
    s = attached(Role.CLIENT)
    turn = driver.receive(s, inp.SwitchAdvice(Reason.NOT_BOUND, 0), T0 + S)
    assert [(e.path_id, e.standby_id) for e in effects(turn, fx.DuplicateTraffic)] == [(1, 2)]
    assert rows(turn) == []
    again = driver.receive(s, inp.SwitchAdvice(Reason.NOT_BOUND, 0), T0 + S + 1)
    assert effects(again, fx.DuplicateTraffic) == []
    elsewhere = driver.receive(attached(Role.CLIENT), inp.PeerBinding(1, 2), T0 + S)
    assert effects(elsewhere, fx.DuplicateTraffic) == []


def test_away_from_attached_every_measurement_is_asked_for() -> None:
    s = attached(Role.CLIENT, paths=1)
    turn = driver.receive(s, replace(GOOD, loss_ppm=200_000, lost=20), T0 + 1)
    assert [(e.path_id, e.report) for e in effects(turn, fx.ProbePath)] == [(1, True)]


def test_duplication_on_suspicion_is_bounded() -> None:
    s = attached(Role.CLIENT)
    starts = []
    for n in range(40):
        now = T0 + n * 500 * MS
        driver.receive(s, inp.PathAnswered(1), now)
        turn = driver.receive(s, inp.PathSuspected(1), now)
        starts += [(now, e.until_ns) for e in effects(turn, fx.DuplicateTraffic) if e.standby_id]
    assert [at - T0 for at, _ in starts] == [0, 10 * S]
    assert all(until - at == 2 * S for at, until in starts)
