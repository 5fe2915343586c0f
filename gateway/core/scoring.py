# SPDX-License-Identifier: Apache-2.0
"""Scores and the order of paths (session.md §5.1–5.3). Integers in thousandths of a point; no randomness anywhere.

Rule: a path in breach ranks below every one that is not, then tiers, score, stability, lowest path id. The order is
total, so two ends, two runs and a replay agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.core.path import BREACH, DEAD, DOWN, VALIDATED, Path, stability
from gateway.core.policy import Policy

FULL_MILLI: Final = 100_000
# A path without a measurement is worth the middle: it neither beats a good one nor loses to a bad one.
UNKNOWN_MILLI: Final = 50_000
CLOSE_MILLI: Final = 2_000
RTT_GAIN_MIN_US: Final = 10_000


def floor_us(paths: Iterable[Path]) -> int:
    """The lowest SRTT among the session's usable paths, 0 while none is measured."""
    known = [p.srtt_us for p in paths if p.srtt_us and not p.flags & (DEAD | DOWN)]
    return min(known) if known else 0


def quality_milli(path: Path) -> int:
    """100 − 2·loss% − 0.3·jitter_ms: the score without its RTT term, not clamped."""
    return FULL_MILLI - path.loss_ppm // 5 - 3 * path.jitter_us // 10


def score_milli(path: Path, floor: int) -> int:
    """0..100 points: quality less 0.1 per ms of SRTT above the session's floor (µs)."""
    if not path.srtt_us:
        return UNKNOWN_MILLI
    points = quality_milli(path) - max(0, path.srtt_us - floor) // 10
    return max(0, min(FULL_MILLI, points))


Rank = tuple[bool, bool, int, int, int, int, int]


def rank(path: Path, floor: int, now_ns: int) -> Rank:
    """Sort key, best first. An unproven path (client, unbound) comes after the proven ones."""
    return (
        not path.flags & VALIDATED,
        bool(path.flags & BREACH),
        path.tier.value,
        path.cost,
        -score_milli(path, floor),
        -stability(path, now_ns),
        path.path_id,
    )


def best_first(paths: Iterable[Path], floor: int, now_ns: int) -> list[Path]:
    """Paths in the order a switch would try them."""
    return sorted(paths, key=lambda path: rank(path, floor, now_ns))


def improves(active: Path, other: Path, floor: int, policy: Policy) -> bool:
    """Whether ``other`` is better by the margin at this moment; it must stay so for the whole stability window."""
    if not (active.srtt_us and other.srtt_us) or other.flags & BREACH or other.tier > active.tier:
        return False
    if other.tier < active.tier and policy.reclaim:
        return True
    gain = score_milli(other, floor) - score_milli(active, floor)
    if gain >= 1000 * policy.improvement_points:
        return True
    close = abs(quality_milli(other) - quality_milli(active)) <= CLOSE_MILLI
    need = max(RTT_GAIN_MIN_US, active.srtt_us // 5)
    return close and active.srtt_us - other.srtt_us >= need
