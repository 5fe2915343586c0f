# SPDX-License-Identifier: Apache-2.0
"""What happens to paths and to the session's calm at either end: evidence, measurements, timers.

Rule: evidence about one path touches that path only; the session moves only when it is about the bound one. Immediate
local evidence acts at once, the network's unauthenticated word only makes a path suspect (session.md §6).
"""

from __future__ import annotations

from gateway.constants import KEEPALIVE_TIMEOUT_NS, REKEY_TIMEOUT_NS
from gateway.core import dampening, keys, liveness
from gateway.core import effects as fx
from gateway.core import events as ev
from gateway.core import inputs as inp
from gateway.core.choose import forced_targets, has_standby
from gateway.core.path import DEAD, DOWN, LINK_HOLD_NS, SILENT, SUSPECT, VALIDATED, Path, soil
from gateway.core.reasons import Reason
from gateway.core.session import Session, Turn
from gateway.core.states import LOCAL_EVIDENCE, Evidence, Role, State
from gateway.core.switching import changed, failed, path_died, validated
from gateway.core.transitions import Trigger

# --- evidence ----------------------------------------------------------------------------------------------------


def on_lost(s: Session, turn: Turn, seen: inp.PathLost) -> None:
    path = s.path(seen.path_id)
    if path is not None and not path.has(DOWN):
        path_died(s, turn, path, seen.evidence)
    elif path is not None and seen.evidence in LOCAL_EVIDENCE:
        path.up_ns = 0  # it went down again before it was believed


def on_link_up(s: Session, turn: Turn, seen: inp.LinkUp) -> None:
    path = s.path(seen.path_id)
    if path is not None and path.has(DOWN) and not path.up_ns:
        path.up_ns = turn.now_ns


def on_hinted(s: Session, turn: Turn, seen: inp.PathHinted) -> None:
    suspect(s, turn, s.path(seen.path_id))


def on_suspected(s: Session, turn: Turn, seen: inp.PathSuspected) -> None:
    suspect(s, turn, s.path(seen.path_id))


def suspect(s: Session, turn: Turn, path: Path | None) -> None:
    """No transition: probe fast, and duplicate onto the standby if there is one (at most 2 s in any 10 s)."""
    if path is None or path.flags & (DEAD | DOWN | SUSPECT):
        return
    path.set(SUSPECT)
    signal(s, turn, path, Reason.HEARTBEAT_TIMEOUT)
    turn.effects.append(fx.ProbePath(path.path_id, liveness.SUSPECT_INTERVAL_NS, True))
    if path.path_id == s.bound_id:
        _duplicate(s, turn, path)


def _duplicate(s: Session, turn: Turn, path: Path | None) -> None:
    now = turn.now_ns
    free = not s.duplicated_ns or now - s.duplicated_ns >= liveness.DUPLICATE_EVERY_NS
    spare = [p for p in forced_targets(s, now, unbound=False) if p.has(VALIDATED)]
    if free and spare and path is not None:
        s.duplicated_ns = now
        until = now + liveness.DUPLICATE_MAX_NS
        turn.effects.append(fx.DuplicateTraffic(path.path_id, spare[0].path_id, until))


def on_missed(s: Session, turn: Turn, seen: inp.PathMissed) -> None:
    path = s.path(seen.path_id)
    if path is None or path.flags & (DEAD | DOWN):
        return
    if path.trouble is not None:
        dampening.stumbled(path.trouble, turn.now_ns)
    span_ns = min(
        seen.span_ns, turn.now_ns - path.heard_ns
    )  # newer positive evidence counts, whatever frame it was
    spare = has_standby(s, path, turn.now_ns)
    if liveness.is_dead(path, s.policy, seen.misses, span_ns, spare):
        _silent_death(s, turn, path, seen)
    elif path.path_id != s.bound_id or path.has(SILENT):
        return
    elif liveness.is_silent(path, s.policy, seen.misses, span_ns, spare):
        path.set(SILENT)
        breached(s, turn, path)


def _silent_death(s: Session, turn: Turn, path: Path, seen: inp.PathMissed) -> None:
    if path.path_id == s.bound_id:
        path_died(s, turn, path, Evidence.MISSES, seen.misses, seen.span_ns)
    elif path.has(VALIDATED):  # three misses make a standby a candidate again
        failed(s, turn, path)
        path.clear(VALIDATED | SUSPECT | SILENT)
        path.retire_ns = 0
        changed(s, turn, path, "STANDBY", "CANDIDATE")


def on_answered(s: Session, turn: Turn, seen: inp.PathAnswered) -> None:
    heard(s, turn, s.path(seen.path_id), seen.streak)


def heard(s: Session, turn: Turn, path: Path | None, streak: int) -> None:
    """Positive evidence of this very path. At the client it also proves the path; the gateway challenges (§7)."""
    if path is None or path.has(DOWN):
        return
    now = turn.now_ns
    if path.has(SUSPECT):
        _unsuspect(s, turn, path)
    s.heard_ns = path.heard_ns = now
    path.clear(SUSPECT | SILENT)
    if path.trouble is not None:
        _good_answer(s, turn, path, path.trouble, streak)
    was = "DEAD" if path.has(DEAD) else "CANDIDATE"
    if s.role is Role.CLIENT and (not path.has(VALIDATED) or path.has(DEAD)):
        validated(s, turn, path, was)
    path.clear(DEAD)


def _unsuspect(s: Session, turn: Turn, path: Path) -> None:
    """It answers again: probe as before, and stop duplicating what it carries."""
    turn.effects.append(fx.ProbePath(path.path_id, 0, s.state is not State.ATTACHED))
    if path.path_id == s.bound_id and turn.now_ns - s.duplicated_ns < liveness.DUPLICATE_MAX_NS:
        turn.effects.append(fx.DuplicateTraffic(path.path_id, 0, turn.now_ns))


def _good_answer(s: Session, turn: Turn, path: Path, trouble: dampening.Trouble, streak: int) -> None:
    """One more on the slow way up; at its end the path is probed like any other."""
    needed = trouble.need
    dampening.answered(trouble, streak, turn.now_ns)
    if needed and not trouble.need:
        turn.effects.append(fx.ProbePath(path.path_id, 0, s.state is not State.ATTACHED))


def on_measured(s: Session, turn: Turn, seen: inp.PathMeasured) -> None:
    path = s.path(seen.path_id)
    if path is None or path.has(DOWN):
        return
    # A measurement is taken at an answer, so it is one; how many in a row only PathAnswered says.
    streak = dampening.GOOD_TO_TRUST - path.trouble.need if path.trouble else 1
    heard(s, turn, path, streak)
    was = liveness.breach_reason(path)
    liveness.fold(path, seen, s.policy, turn.now_ns)
    if liveness.breach_reason(path) not in (None, was):
        breached(s, turn, path)


def on_carries(s: Session, turn: Turn, seen: inp.PathCarries) -> None:
    """The data plane keeps to it; nothing is decided by it, for a path is used with what it carries."""
    path = s.path(seen.path_id)
    if path is not None:
        stamp = s.stamp(turn)
        turn.events.append(ev.PathMtu(*stamp, path.path_id, path.address, seen.inner_bytes, seen.limited))


def breached(s: Session, turn: Turn, path: Path) -> None:
    """The path crossed an enter threshold: T3 if it is the bound one of an ATTACHED session."""
    reason = liveness.breach_reason(path)
    if reason is None or s.stock:  # volatility is not measured for stock peers (protocol.md §2)
        return
    signal(s, turn, path, reason)
    soil(path, turn.now_ns, halve=False)
    if path.path_id == s.bound_id and s.state is State.ATTACHED:
        s.step(turn, Trigger.BREACH, reason, s.facts(turn.now_ns, proven=True))


def signal(s: Session, turn: Turn, path: Path, reason: Reason) -> None:
    turn.events.append(
        ev.VolatilitySignal(*s.stamp(turn), path.path_id, reason, path.srtt_us, path.jitter_us, path.loss_ppm)
    )


def on_peer_binding(s: Session, turn: Turn, seen: inp.PeerBinding) -> None:
    s.heard_ns = turn.now_ns
    s.peer_epoch, s.peer_bound = seen.epoch, seen.path_id
    if s.agreed():
        s.differs_ns = 0
    elif not s.differs_ns:
        s.differs_ns = turn.now_ns
        if s.role is Role.CLIENT and s.bound_id and not s.peer_bound:
            _duplicate(s, turn, s.active)  # it hears nothing from here on that path


# --- keys --------------------------------------------------------------------------------------------------------


def on_key_installed(s: Session, turn: Turn, _: inp.KeyInstalled) -> None:
    s.heard_ns = turn.now_ns
    s.keys.installed(turn.now_ns)
    turn.events.append(ev.KeyEvent(*s.stamp(turn), "INSTALLED"))


def on_key_usage(s: Session, turn: Turn, seen: inp.KeyUsage) -> None:
    trigger = keys.used_up(s.policy, seen.packets, seen.size_bytes)
    if trigger and not s.keys.rekey_ns:
        start_rekey(s, turn, trigger)


def on_rekey_refused(s: Session, turn: Turn, _: inp.RekeyRefused) -> None:
    s.keys.refused = True
    s.keys.rekey_ns = s.keys.rekey_ns or turn.now_ns
    turn.events.append(ev.KeyEvent(*s.stamp(turn), "REFUSED"))


def on_suite_refused(s: Session, turn: Turn, _: inp.SuiteRefused) -> None:
    s.alarm(turn, Reason.POLICY_DENIED, "suite refused: none that the policy permits was agreed on")


def start_rekey(s: Session, turn: Turn, trigger: str) -> None:
    s.keys.rekey_ns = turn.now_ns
    turn.events.append(ev.KeyEvent(*s.stamp(turn), trigger))
    turn.effects.append(fx.StartRekey(trigger, s.bound_id or (s.episode.path_id if s.episode else 0)))


def rekey_due_ns(s: Session) -> int:
    """When age alone starts a rekey: the client at rekey_after_time, the gateway only if the client did not (§6.2)."""
    due = keys.rekey_due_ns(s.keys, s.policy)
    if not due or s.stock or not s.bound_id:
        return 0
    late = keys.unusable_ns(s.keys, s.policy) - KEEPALIVE_TIMEOUT_NS - REKEY_TIMEOUT_NS
    return due if s.role is Role.CLIENT else max(due, late)


def _key_timers(s: Session, turn: Turn) -> None:
    due = rekey_due_ns(s)
    if due and due <= turn.now_ns:
        start_rekey(s, turn, "TIME")
    lost = keys.lost_due_ns(s.keys, s.policy) if s.bound_id and not s.stock else 0
    if lost and lost <= turn.now_ns:
        turn.events.append(ev.KeyEvent(*s.stamp(turn), "REFUSED" if s.keys.refused else "UNANSWERED"))
        s.step(turn, Trigger.KEY_LOST, Reason.KEY_EXPIRED, s.facts(turn.now_ns, proven=True))


# --- timers ------------------------------------------------------------------------------------------------------


def calm_due_ns(s: Session) -> int:
    """When the calm will have lasted long enough; 0 while a switch is pending or nothing is calm."""
    pending = s.ask is not None or s.pending is not None or s.rebind is not None
    return s.calm_ns + s.policy.stability_window_ns if s.calm_ns and not pending else 0


def persisted_due_ns(s: Session) -> int:
    """The VOLATILE timer; a running calm delays it to its own end, by at most ``stability.window``."""
    if s.state is not State.VOLATILE:
        return 0
    due = s.entered_ns + s.policy.to_degraded_ns
    return min(due + s.policy.stability_window_ns, max(due, calm_due_ns(s)))


def candidate_due_ns(s: Session, path: Path) -> int:
    """When an unproven path is given up, 0 = not a candidate. The gateway also forgets dead ones then.

    A stock session's one path is never given up: its peer's next handshake is the reattachment, whenever it comes.
    """
    idle = path.path_id != s.bound_id and not path.has(VALIDATED)
    if not idle or s.stock or (s.role is Role.CLIENT and path.flags & (DEAD | DOWN)):
        return 0
    return path.heard_ns + s.policy.candidate_life_ns()


def path_deadlines(s: Session, path: Path) -> list[int]:
    trouble = path.trouble
    return [
        path.retire_ns,
        path.up_ns + LINK_HOLD_NS if path.up_ns else 0,
        candidate_due_ns(s, path),
        liveness.persist_due_ns(path, s.policy),
        dampening.reuse_due_ns(trouble, s.policy) if trouble and trouble.suppressed else 0,
    ]


def deadlines(s: Session) -> list[int]:
    """Every time (ns) at which a timer of this file may act; zeros mean none."""
    due = [d for path in s.paths for d in path_deadlines(s, path)]
    lost = keys.lost_due_ns(s.keys, s.policy) if s.bound_id and not s.stock else 0
    return [*due, calm_due_ns(s), persisted_due_ns(s), rekey_due_ns(s), lost, s.flood_due_ns()]


def path_timers(s: Session, turn: Turn) -> None:
    now = turn.now_ns
    for path in s.paths:
        if path.retire_ns and path.retire_ns <= now:
            path.retire_ns = 0
            changed(s, turn, path, "RETIRING", "STANDBY")
        if path.up_ns and path.up_ns + LINK_HOLD_NS <= now:
            _link_held(s, turn, path)
        if path.trouble is not None and path.trouble.suppressed:
            _maybe_reuse(s, turn, path)
        if liveness.persist_due_ns(path, s.policy):
            _persisted_breach(s, turn, path)
    _expire_candidates(s, turn)


def _link_held(s: Session, turn: Turn, path: Path) -> None:
    path.up_ns = 0
    path.clear(DOWN | DEAD)
    path.heard_ns = turn.now_ns  # a candidate's time counts from here
    s.backoff_ns = 0
    changed(s, turn, path, "DEAD", "CANDIDATE")
    if s.role is Role.CLIENT:  # every answer is wanted until one proves it; those before were not believed
        turn.effects.append(fx.ProbePath(path.path_id, 0, True))


def _maybe_reuse(s: Session, turn: Turn, path: Path) -> None:
    if path.trouble is not None and not dampening.refresh(path.trouble, s.policy, turn.now_ns):
        changed(s, turn, path, "SUPPRESSED", "STANDBY" if path.has(VALIDATED) else "CANDIDATE")


def _persisted_breach(s: Session, turn: Turn, path: Path) -> None:
    was = liveness.breach_reason(path)
    liveness.persist(path, s.policy, turn.now_ns)
    if liveness.breach_reason(path) not in (None, was):
        breached(s, turn, path)


def _expire_candidates(s: Session, turn: Turn) -> None:
    for path in s.paths:
        due = candidate_due_ns(s, path)
        if not due or due > turn.now_ns:
            continue
        path_died(s, turn, path, Evidence.CANDIDATE_EXPIRED)
        if s.role is Role.GATEWAY:
            s.paths = tuple(p for p in s.paths if p is not path)
            turn.effects.append(fx.DropPath(path.path_id))


def timers(s: Session, turn: Turn) -> None:
    """Everything due here except the ends, which the driver judges first."""
    path_timers(s, turn)
    _key_timers(s, turn)
    s.settle_flood(turn)
    due = calm_due_ns(s)
    if due and due <= turn.now_ns and s.state in (State.VOLATILE, State.DEGRADED):
        _calm(s, turn)
    due = persisted_due_ns(s)
    if due and due <= turn.now_ns:
        s.step(turn, Trigger.PERSISTED, Reason.VOLATILITY_PERSISTED, s.facts(turn.now_ns))


def _calm(s: Session, turn: Turn) -> None:
    active = s.active
    alive = active is not None and liveness.heard_lately(active, s.policy, turn.now_ns)
    if not alive:
        s.calm_ns = 0
    else:
        s.step(turn, Trigger.CALM, Reason.STABILITY_RESTORED, s.facts(turn.now_ns, proven=True))


def settle(s: Session, turn: Turn) -> None:
    """After every input: is it calm, and is a VOLATILE session without a binding out of candidates?"""
    now = turn.now_ns
    if not s.bound_id and s.window_end_ns:
        candidates = forced_targets(s, now, unbound=True)
        s.had_candidate = s.had_candidate or bool(candidates)
        if s.state is State.VOLATILE and not candidates:
            s.step(turn, Trigger.NO_CANDIDATE, Reason.NO_CANDIDATE_TRANSPORT, s.facts(now))
    active = s.active
    settling = s.state in (State.VOLATILE, State.DEGRADED) and active is not None
    if not settling or active is None or not liveness.is_calm(active) or not s.agreed():
        s.calm_ns = 0
    elif not s.calm_ns:
        s.calm_ns = now
