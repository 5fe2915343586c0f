# SPDX-License-Identifier: Apache-2.0
"""Dampening, refractory time and slow-up: what a path that failed must do before it is trusted again (session.md §5).

Rule: none of this ever delays a forced switch when nothing else is left. Integers only: the penalty halves per
half-life and falls linearly between two halvings, so a replay on any machine gives the same verdict.

A path that never failed has no ``Trouble`` at all, which is what keeps a healthy session small.
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_S
from gateway.core.policy import Policy

FAILURE_MILLI: Final = 1000
# No penalty above four times "suppress": the longest sulk is two more half-lives (RFC 2439 §4.2 caps it the same way).
CAP_FACTOR: Final = 4
REFRACTORY_MIN_NS: Final = 8 * NS_PER_S
REFRACTORY_MAX_NS: Final = 600 * NS_PER_S
# A straight way back is closed this long for a discretionary switch (session.md §5.7).
NO_RETURN_NS: Final = 2 * NS_PER_S
# 3 good probes make a path that died a candidate again, 30 more without a loss a discretionary target.
GOOD_TO_RETURN: Final = 3
GOOD_TO_TRUST: Final = 33
SLOW_UP_INTERVAL_NS: Final = 100_000_000


class Trouble:
    """The record of a path that failed or was left: penalty, refractory time, stability, when it was left."""

    __slots__ = (
        "base",
        "earned_ns",
        "healthy_ns",
        "left_ns",
        "need",
        "penalty",
        "penalty_ns",
        "rest_ns",
        "suppressed",
    )

    def __init__(self) -> None:
        self.penalty = 0  # thousandths, as of penalty_ns
        self.penalty_ns = 0
        self.suppressed = False
        self.earned_ns = 0  # the refractory time of the last failure
        self.rest_ns = 0  # what was left of it when the path last became healthy
        self.healthy_ns = 0  # healthy since then; 0 while it is not
        self.left_ns = 0  # when the binding last left this path
        self.need = 0  # good answers in a row still needed before a discretionary switch may come here
        self.base = 0  # stability points kept through the last breach or failure


def decayed(penalty: int, elapsed_ns: int, half_life_ns: int) -> int:
    """A penalty (thousandths) after ``elapsed_ns``: exact halves at each half-life, a straight line between."""
    halvings, part = divmod(elapsed_ns, half_life_ns)
    if halvings > 40:  # 2^40 thousandths is more than any cap
        return 0
    now = penalty >> halvings
    return now - (now * part) // (2 * half_life_ns)


def penalty_now(trouble: Trouble, policy: Policy, now_ns: int) -> int:
    """The penalty (thousandths) at this time."""
    return decayed(trouble.penalty, now_ns - trouble.penalty_ns, policy.half_life_ns)


def penalise(trouble: Trouble, policy: Policy, now_ns: int) -> None:
    """One failure or one switch-away."""
    cap = CAP_FACTOR * policy.suppress_milli
    trouble.penalty = min(cap, penalty_now(trouble, policy, now_ns) + FAILURE_MILLI)
    trouble.penalty_ns = now_ns
    if trouble.penalty > policy.suppress_milli:
        trouble.suppressed = True


def refresh(trouble: Trouble, policy: Policy, now_ns: int) -> bool:
    """Lift the suppression once the penalty fell below "reuse". Returns whether the path is suppressed now."""
    if trouble.suppressed and penalty_now(trouble, policy, now_ns) < policy.reuse_milli:
        trouble.suppressed = False
    return trouble.suppressed


def reuse_due_ns(trouble: Trouble, policy: Policy) -> int:
    """When a suppressed path may be looked at again: the end of the half-life that brings it below "reuse"."""
    halvings, left = 0, trouble.penalty
    while left >= policy.reuse_milli:
        left >>= 1
        halvings += 1
    return trouble.penalty_ns + halvings * policy.half_life_ns


def resting_ns(trouble: Trouble, now_ns: int) -> int:
    """Refractory time still to drain; it drains only while the path is healthy."""
    drained = now_ns - trouble.healthy_ns if trouble.healthy_ns else 0
    return max(0, trouble.rest_ns - drained)


def failed(trouble: Trouble, policy: Policy, now_ns: int) -> None:
    """The path died: penalty, a new refractory time (8 s, doubling to 600 s), and the slow way up from zero."""
    penalise(trouble, policy, now_ns)
    spent = now_ns - trouble.healthy_ns - trouble.rest_ns if trouble.healthy_ns else 0
    forgiven = spent >= trouble.earned_ns  # it stayed healthy as long again after the last one had drained
    trouble.earned_ns = REFRACTORY_MIN_NS if forgiven else min(REFRACTORY_MAX_NS, 2 * trouble.earned_ns)
    if trouble.earned_ns == 0:
        trouble.earned_ns = REFRACTORY_MIN_NS
    trouble.rest_ns = trouble.earned_ns
    trouble.healthy_ns = 0
    trouble.need = GOOD_TO_TRUST


def answered(trouble: Trouble, streak: int, now_ns: int) -> None:
    """A good answer: the refractory time starts to drain, the way up gets shorter."""
    if not trouble.healthy_ns:
        trouble.healthy_ns = now_ns
    trouble.need = max(0, min(trouble.need, GOOD_TO_TRUST - streak))


def stumbled(trouble: Trouble, now_ns: int) -> None:
    """A loss on the way up: what was still to drain stays, the count of good answers begins again."""
    trouble.rest_ns = resting_ns(trouble, now_ns)
    trouble.healthy_ns = 0
    if trouble.need:
        trouble.need = GOOD_TO_TRUST


def returning(trouble: Trouble, now_ns: int) -> bool:
    """Whether a switch here would go straight back to a path that was left a moment ago."""
    return trouble.left_ns > 0 and now_ns - trouble.left_ns < NO_RETURN_NS
