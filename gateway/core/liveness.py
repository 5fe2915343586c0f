# SPDX-License-Identifier: Apache-2.0
"""Thresholds on measurements: breach and calm with hysteresis, suspicion, misses and death (session.md §4, §6).

Rule: this file judges reports, it measures nothing. A verdict needs its samples: fewer than 64 packets give no loss
verdict, fewer than 3 RTTs no latency verdict, fewer than 16 spacings no jitter verdict; then the last verdict stands.
Liveness counts only evidence of the path itself: no function here sees a second path.
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core.inputs import PathMeasured
from gateway.core.path import BREACH, JITTERY, LOSSY, SILENT, SLOW, SUSPECT, UNCALM, Path, baseline_us
from gateway.core.policy import Policy
from gateway.core.reasons import Reason

LOSS_MIN_PACKETS: Final = 64
LOSS_MIN_LOST: Final = 4
RTT_MIN_SAMPLES: Final = 3
JITTER_MIN_SAMPLES: Final = 16
MISSES_SILENT: Final = 2
# While a path is suspect and a standby waits, a probe every 30 ms: three misses then cost 60–90 ms, not 900.
SUSPECT_INTERVAL_NS: Final = 30 * NS_PER_MS
DUPLICATE_MAX_NS: Final = 2 * NS_PER_S
DUPLICATE_EVERY_NS: Final = 10 * NS_PER_S
BASELINE_HALF_NS: Final = 300 * NS_PER_S
IDLE_MAX_NS: Final = 25 * NS_PER_S
PPM: Final = 1_000_000


def fold(path: Path, seen: PathMeasured, policy: Policy, now_ns: int) -> None:
    """Take one report into the path: its numbers, its baseline and the verdicts that have enough samples."""
    path.srtt_us, path.rttvar_us = seen.srtt_us, seen.rttvar_us
    path.jitter_us = seen.jitter_us
    path.heard_ns = now_ns
    path.clear(UNCALM)
    _fold_baseline(path, now_ns)
    if seen.packets >= LOSS_MIN_PACKETS:
        path.loss_ppm = max(0, min(PPM, seen.loss_ppm))
        _fold_loss(path, seen.lost, policy)
    elif path.has(LOSSY):
        path.set(UNCALM)  # no verdict: the old one stands
    if seen.rtt_samples >= RTT_MIN_SAMPLES:
        _fold_latency(path, policy, now_ns)
    if seen.jitter_samples >= JITTER_MIN_SAMPLES:
        _fold_jitter(path, policy, now_ns)
    persist(path, policy, now_ns)


def _fold_baseline(path: Path, now_ns: int) -> None:
    if not path.base_ns or now_ns - path.base_ns >= BASELINE_HALF_NS:
        path.base_prev_us, path.base_us, path.base_ns = path.base_us, path.srtt_us, now_ns
    elif path.srtt_us < path.base_us:
        path.base_us = path.srtt_us


def _fold_loss(path: Path, lost: int, policy: Policy) -> None:
    if path.loss_ppm > policy.loss_enter_ppm and lost >= LOSS_MIN_LOST:
        path.set(LOSSY)
    elif path.loss_ppm < policy.loss_exit_ppm:
        path.clear(LOSSY)
    if path.loss_ppm >= policy.loss_exit_ppm:
        path.set(UNCALM)


def latency_enter_us(path: Path, policy: Policy) -> int:
    """The larger of the absolute threshold and the factor of the path's own baseline."""
    return max(policy.latency_enter_ns // 1000, policy.latency_factor * baseline_us(path))


def _fold_latency(path: Path, policy: Policy, now_ns: int) -> None:
    enter = latency_enter_us(path, policy)
    leave = enter * policy.exit_ratio_ppm // PPM
    if path.srtt_us <= enter:
        path.slow_over_ns = 0
    elif not path.slow_over_ns:
        path.slow_over_ns = now_ns
    if path.srtt_us < leave:
        path.clear(SLOW)
    else:
        path.set(UNCALM)


def _fold_jitter(path: Path, policy: Policy, now_ns: int) -> None:
    enter = policy.jitter_enter_ns // 1000
    leave = enter * policy.exit_ratio_ppm // PPM
    if path.jitter_us <= enter:
        path.jitter_over_ns = 0
    elif not path.jitter_over_ns:
        path.jitter_over_ns = now_ns
    if path.jitter_us < leave:
        path.clear(JITTERY)
    else:
        path.set(UNCALM)


def persist(path: Path, policy: Policy, now_ns: int) -> None:
    """Latency and jitter are a breach once they stayed above *enter* for ``volatility.persist``."""
    if path.slow_over_ns and now_ns - path.slow_over_ns >= policy.persist_ns:
        path.set(SLOW)
    if path.jitter_over_ns and now_ns - path.jitter_over_ns >= policy.persist_ns:
        path.set(JITTERY)


def persist_due_ns(path: Path, policy: Policy) -> int:
    """When the next latency or jitter verdict falls due, 0 = none pending."""
    due = []
    if path.slow_over_ns and not path.has(SLOW):
        due.append(path.slow_over_ns + policy.persist_ns)
    if path.jitter_over_ns and not path.has(JITTERY):
        due.append(path.jitter_over_ns + policy.persist_ns)
    return min(due) if due else 0


def breach_reason(path: Path) -> Reason | None:
    """Why the path is in breach, the gravest first, or None."""
    if path.has(SILENT):
        return Reason.HEARTBEAT_TIMEOUT
    if path.has(LOSSY):
        return Reason.LOSS_THRESHOLD_EXCEEDED
    if path.has(SLOW):
        return Reason.LATENCY_THRESHOLD_EXCEEDED
    return Reason.JITTER_THRESHOLD_EXCEEDED if path.has(JITTERY) else None


def is_calm(path: Path) -> bool:
    """Below every exit threshold, heard, and nothing pending."""
    return not path.flags & (BREACH | UNCALM | SUSPECT) and not path.slow_over_ns and not path.jitter_over_ns


def is_dead(path: Path, policy: Policy, misses: int, span_ns: int, has_standby: bool) -> bool:
    """Enough misses in a row over at least two intervals; faster while suspect and a standby waits."""
    return misses >= policy.profile.misses and span_ns >= 2 * _interval_ns(path, policy, has_standby)


def is_silent(path: Path, policy: Policy, misses: int, span_ns: int, has_standby: bool) -> bool:
    """Two misses in a row over at least one interval: HEARTBEAT_TIMEOUT."""
    return misses >= MISSES_SILENT and span_ns >= _interval_ns(path, policy, has_standby)


def _interval_ns(path: Path, policy: Policy, has_standby: bool) -> int:
    interval = policy.profile.interval_ns
    return min(interval, SUSPECT_INTERVAL_NS) if path.has(SUSPECT) and has_standby else interval


def idle_interval_ns(policy: Policy, idle_paths: int) -> int:
    """The interval a gateway announces for idle sessions: the profile's, or what the probe budget allows; ≤ 25 s."""
    return max(policy.profile.interval_ns, min(IDLE_MAX_NS, idle_paths * NS_PER_S // policy.probe_budget))


def heard_lately(path: Path, policy: Policy, now_ns: int) -> bool:
    """Positive evidence within the time that would make the path dead."""
    return now_ns - path.heard_ns <= policy.profile.misses * policy.profile.interval_ns + NS_PER_S
