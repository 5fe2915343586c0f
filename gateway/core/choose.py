# SPDX-License-Identifier: Apache-2.0
"""Which paths a switch may take, in order. One answer for forced switches, a stricter one for discretionary ones.

Rule: cooldown, refractory time, probation and dampening narrow the second list only. A suppressed path is in the first
list exactly when nothing else is.
"""

from __future__ import annotations

from gateway.core import dampening, events, liveness, scoring
from gateway.core.path import DEAD, DOWN, SUSPECT, VALIDATED, Path, stability, status
from gateway.core.session import Session
from gateway.core.states import PathState, Role, Tier

_PROVEN = (PathState.STANDBY, PathState.RETIRING)
_UNPROVEN = (PathState.CANDIDATE, PathState.PROBING)


def forced_targets(s: Session, now_ns: int, unbound: bool) -> list[Path]:
    """Eligible paths for a forced switch, best first. A client without a binding also takes unproven ones."""
    bound_id = 0 if unbound else s.bound_id
    wild = unbound and s.role is Role.CLIENT
    fit, last = [], []
    for path in s.paths:
        state = status(path, bound_id, s.policy, now_ns)
        if state in _PROVEN or (wild and state in _UNPROVEN):
            fit.append(path)
        elif state is PathState.SUPPRESSED and (wild or path.has(VALIDATED)):
            last.append(path)
    return scoring.best_first(fit or last, scoring.floor_us(s.paths), now_ns)


def discretionary_targets(s: Session, now_ns: int) -> list[Path]:
    """Paths that may be chosen although the active one works, best first."""
    fit = [path for path in s.paths if _trusted(s, path, now_ns)]
    return scoring.best_first(fit, scoring.floor_us(s.paths), now_ns)


def _trusted(s: Session, path: Path, now_ns: int) -> bool:
    if status(path, s.bound_id, s.policy, now_ns) is not PathState.STANDBY or path.has(SUSPECT):
        return False
    t = path.trouble
    return t is None or not (t.need or dampening.resting_ns(t, now_ns) or dampening.returning(t, now_ns))


def has_standby(s: Session, path: Path, now_ns: int) -> bool:
    """Whether another path could take over from this one at once."""
    others = (p for p in s.paths if p is not path)
    return any(status(p, s.bound_id, s.policy, now_ns) in _PROVEN for p in others)


def usable_for_handshake(s: Session) -> list[Path]:
    """Every path the host can send on, silent ones too: only a handshake finds a gateway that lost its keys."""
    fit = [
        p for p in s.paths if not p.has(DOWN) and p.tier is not Tier.NEVER and p.carrier in s.policy.allowed
    ]
    return sorted(fit, key=lambda p: p.path_id)


def better_path(s: Session, now_ns: int) -> Path | None:
    """The discretionary target that is better than the active one by the margin right now, if any."""
    active = s.active
    if active is None:
        return None
    floor = scoring.floor_us(s.paths)
    for path in discretionary_targets(s, now_ns):
        if scoring.improves(active, path, floor, s.policy):
            return path
    return None


def sound_path(s: Session, now_ns: int) -> Path | None:
    """The best discretionary target that is not in breach: where a session in breach may go."""
    for path in discretionary_targets(s, now_ns):
        if liveness.breach_reason(path) is None:
            return path
    return None


def scores(s: Session, now_ns: int) -> tuple[events.Scored, ...]:
    """How every path stands now, for the audit record of a switch."""
    floor = scoring.floor_us(s.paths)
    return tuple(_scored(s, path, floor, now_ns) for path in s.paths)


def _scored(s: Session, path: Path, floor: int, now_ns: int) -> events.Scored:
    dead = path.flags & (DEAD | DOWN)
    return events.Scored(
        path.path_id,
        status(path, s.bound_id, s.policy, now_ns).name,
        path.tier.value,
        liveness.breach_reason(path) is not None,
        0 if dead else scoring.score_milli(path, floor),
        stability(path, now_ns),
        dampening.penalty_now(path.trouble, s.policy, now_ns) if path.trouble else 0,
    )
