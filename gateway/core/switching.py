# SPDX-License-Identifier: Apache-2.0
"""What both ends do when the binding changes: lose it, or commit a new one in one piece.

Rule: a commit is all or nothing. Everything that could refuse it was judged before; from here each row of the table
holds, the epoch rises once, and the events of the two or three versions leave together (session.md §7 step 10).
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.constants import NS_PER_MS
from gateway.core import budget as limits
from gateway.core import dampening
from gateway.core import effects as fx
from gateway.core import events as ev
from gateway.core.choose import forced_targets, scores
from gateway.core.path import BREACH, DEAD, DOWN, PROBING, SUSPECT, UNCALM, VALIDATED, Path, soil
from gateway.core.reasons import Reason
from gateway.core.session import Bind, Session, Turn
from gateway.core.states import LOCAL_EVIDENCE, Evidence, Role, State, SwitchClass
from gateway.core.transitions import Trigger


class Commit(NamedTuple):
    """A switch both ends agreed on. ``address``: where a rebind moved the path, empty = unchanged."""

    attempt_id: int
    path_id: int
    epoch: int
    reason: Reason
    switch_class: SwitchClass
    address: str = ""


def commit(s: Session, turn: Turn, what: Commit, recovery_ns: int) -> None:
    """Walk COMMIT rows to ATTACHED: T13, or T10/T11 + T13, or T7 + T10 + T13; then account for the switch."""
    left = s.active or s.path(s.left_id)
    before = (s.bound_id or s.left_id, left.address if left else "", scores(s, turn.now_ns))
    details = (("recovery_ms", recovery_ns // NS_PER_MS), ("attempt", what.attempt_id))
    bind = Bind(what.path_id, what.epoch, what.address)
    while s.state is not State.ATTACHED or s.epoch != what.epoch or s.bound_id != what.path_id:
        facts = s.facts(turn.now_ns, proven=True)
        if not s.step(turn, Trigger.COMMIT, what.reason, facts, bind, details):
            raise ValueError(f"no COMMIT row from {s.state.name}")
    s.episode, s.rebind, s.pending, s.ask = None, None, None, None
    _left(s, left, turn)
    _account(s, turn, what, before)


def _left(s: Session, left: Path | None, turn: Turn) -> None:
    """A path that was left alive is penalised for it; one that died was penalised for that."""
    if left is None or left is s.active:
        return
    trouble = left.troubled()
    trouble.left_ns = turn.now_ns
    if not left.flags & (DEAD | DOWN):
        penalise(s, turn, left)


def _account(s: Session, turn: Turn, what: Commit, before: tuple[int, str, tuple[ev.Scored, ...]]) -> None:
    path = s.active
    cooldown = limits.cooldown_left_ns(s.budget, s.policy, turn.now_ns)
    s.budget.spend(what.switch_class, turn.now_ns)
    turn.events.append(
        ev.TransportSwitch(
            *s.stamp(turn),
            before[0],
            what.path_id,
            before[1],
            path.address if path else "",
            what.reason,
            what.switch_class,
            what.attempt_id,
            before[2],
            s.budget.used(turn.now_ns),
            s.policy.switch_cap(),
            cooldown,
        )
    )
    turn.events.append(
        ev.ReattachResult(*s.stamp(turn), what.attempt_id, what.path_id, True, Reason.REATTACH_SUCCESS)
    )


def penalise(s: Session, turn: Turn, path: Path) -> None:
    """One failure's worth of dampening, audited when it suppresses the path."""
    trouble = path.troubled()
    was = trouble.suppressed
    dampening.penalise(trouble, s.policy, turn.now_ns)
    if trouble.suppressed and not was:
        changed(s, turn, path, "STANDBY", "SUPPRESSED")


def changed(s: Session, turn: Turn, path: Path, old: str, new: str) -> None:
    """Audit a change of a path's status that is neither a switch nor a death."""
    turn.events.append(ev.PathChange(*s.stamp(turn), path.path_id, path.address, old, new))


def failed(s: Session, turn: Turn, path: Path) -> None:
    """The path failed: stability halves, penalty, refractory time, the slow way up."""
    soil(path, turn.now_ns, halve=True)
    trouble = path.troubled()
    was = trouble.suppressed
    dampening.failed(trouble, s.policy, turn.now_ns)
    if trouble.suppressed and not was:
        changed(s, turn, path, "STANDBY", "SUPPRESSED")


def path_died(
    s: Session, turn: Turn, path: Path, evidence: Evidence, misses: int = 0, span_ns: int = 0
) -> None:
    """Declare a path dead. If it was bound the binding is lost, by T4, T5, T9, T10 or T15."""
    was_bound = path.path_id == s.bound_id
    if not path.flags & (DEAD | DOWN):
        failed(s, turn, path)
        turn.events.append(
            ev.TransportDead(*s.stamp(turn), path.path_id, path.address, evidence, was_bound, misses, span_ns)
        )
    path.set(DOWN | DEAD if evidence in LOCAL_EVIDENCE else DEAD)
    path.clear(VALIDATED | PROBING | SUSPECT | UNCALM | BREACH)
    path.retire_ns, path.up_ns = 0, 0
    path.loss_ppm, path.slow_over_ns, path.jitter_over_ns = 0, 0, 0  # what comes back is measured afresh
    if was_bound:
        _lose_binding(s, turn, evidence)


def _lose_binding(s: Session, turn: Turn, evidence: Evidence) -> None:
    now = turn.now_ns
    candidates = forced_targets(s, now, unbound=True)
    verdict = limits.judge(s.budget, s.policy, SwitchClass.FORCED, now)
    facts = s.facts(now, candidate=bool(candidates), allowed=verdict.allowed)
    s.step(turn, Trigger.ACTIVE_DEAD, Reason.TRANSPORT_DEAD, facts, details=(("evidence", evidence.value),))
    s.had_candidate = s.had_candidate or bool(candidates)
    if s.episode is not None:
        s.episode.switch_class = SwitchClass.FORCED
        s.episode.target_id = 0
    s.rebind = None


def validated(s: Session, turn: Turn, path: Path, was: str) -> None:
    """The path is proven: a standby again. New hope ends the backoff at once (session.md §4)."""
    path.set(VALIDATED)
    path.clear(PROBING | DEAD)
    s.backoff_ns = 0
    changed(s, turn, path, was, "STANDBY")
    if s.role is Role.CLIENT:  # it heard every answer until here
        slow = path.trouble is not None and path.trouble.need > 0
        interval_ns = dampening.SLOW_UP_INTERVAL_NS if slow else 0
        turn.effects.append(fx.ProbePath(path.path_id, interval_ns, slow or s.state is not State.ATTACHED))
