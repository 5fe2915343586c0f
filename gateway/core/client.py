# SPDX-License-Identifier: Apache-2.0
"""The client's side: it alone starts attempts. What it wants, whether it may, and how an episode runs (session.md §7).

Rule: ``pursue`` is the only place that starts an episode, after every input and timer, from what the session wants at
that moment. Wants are judged in one order: a lost binding, a disagreement, an operator, a breach, a better path.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.constants import NS_PER_S
from gateway.core import budget as limits
from gateway.core import dampening, reattach
from gateway.core import effects as fx
from gateway.core import events as ev
from gateway.core import inputs as inp
from gateway.core.choose import (
    better_path,
    forced_targets,
    sound_path,
    usable_for_handshake,
)
from gateway.core.liveness import breach_reason
from gateway.core.path import DOWN, PROBING, VALIDATED, Path, pto_ns
from gateway.core.reasons import Reason
from gateway.core.reattach import Ask, Better, Episode, RebindTry
from gateway.core.session import Session, Turn
from gateway.core.states import Evidence, State, SwitchClass
from gateway.core.switching import Commit, commit, path_died
from gateway.core.transitions import Trigger
from gateway.core.upkeep import heard, on_peer_binding

# --- paths and the gateway's word --------------------------------------------------------------------------------


def on_path_added(s: Session, turn: Turn, seen: inp.PathAdded) -> None:
    if s.path(seen.path_id) is not None or len(s.paths) >= s.policy.max_candidates:
        s.alarm(turn, Reason.POLICY_DENIED, "path refused: its id is in use or max_candidates is reached")
        return
    path = Path(seen.path_id, seen.address, seen.carrier, seen.tier, seen.cost, turn.now_ns, PROBING)
    s.paths = (*s.paths, path)
    s.backoff_ns = 0
    turn.effects.append(fx.ProbePath(path.path_id, 0, True))


def on_path_removed(s: Session, turn: Turn, seen: inp.PathRemoved) -> None:
    path = s.path(seen.path_id)
    if path is None:
        return
    path_died(s, turn, path, Evidence.REMOVED)
    s.paths = tuple(p for p in s.paths if p is not path)
    turn.effects.append(fx.DropPath(path.path_id))


def on_welcomed(s: Session, turn: Turn, seen: inp.Welcomed) -> None:
    """The greater of two authenticated claims wins; attempts go on above the last accepted one."""
    s.stock = False  # a late WELCOME upgrades in place
    s.learn_epoch(seen.epoch)
    s.attempt_id = max(s.attempt_id, seen.attempt_id)
    on_peer_binding(s, turn, inp.PeerBinding(seen.epoch, seen.path_id))
    if s.episode is not None:
        _attempt(s, turn, s.episode, s.path(s.episode.path_id))


def on_advice(s: Session, turn: Turn, seen: inp.SwitchAdvice) -> None:
    """SWITCH_ADVICE: an operator at the gateway asks, or the gateway says that nothing is bound."""
    s.heard_ns = turn.now_ns
    if seen.reason is Reason.NOT_BOUND:
        on_peer_binding(s, turn, inp.PeerBinding(s.peer_epoch, 0))
    elif s.episode is None and not (seen.path_id and seen.path_id == s.bound_id):
        s.ask = Ask(seen.path_id, turn.now_ns, Reason.OPERATOR_SWITCH)


def on_operator_switch(s: Session, turn: Turn, seen: inp.OperatorSwitch) -> None:
    if s.episode is not None:
        _deny(s, turn, _operator_want(s, turn.now_ns, seen.path_id), Reason.COOLDOWN_ACTIVE, 0)
    else:
        s.ask = Ask(seen.path_id, turn.now_ns, Reason.OPERATOR_SWITCH)


def on_challenge(s: Session, turn: Turn, seen: inp.ChallengeReceived) -> None:
    """Answer on the socket it came in; to a rebind challenge of the bound path also ask for the binding."""
    s.heard_ns = turn.now_ns
    path = s.path(seen.path_id)
    if path is None or seen.named_id not in (0, seen.path_id):
        return
    if seen.rebind and path.path_id == s.bound_id and s.episode is None:
        _answer_rebind(s, turn, path)
    else:
        turn.effects.append(fx.SendResponse(path.path_id))


def _answer_rebind(s: Session, turn: Turn, path: Path) -> None:
    if s.rebind is None:
        s.attempt_id += 1
        timeout = s.policy.attempt_timeout_ns
        s.rebind = RebindTry(s.attempt_id, path.path_id, pto_ns(path), turn.now_ns, timeout)
    _send_rebind(s, turn, s.rebind, with_response=True)


def _send_rebind(s: Session, turn: Turn, running: RebindTry, with_response: bool) -> None:
    epoch = max(s.epoch, s.peer_epoch)
    turn.effects.append(
        fx.SendReattachRequest(
            running.path_id, running.attempt_id, epoch, Reason.NAT_REBIND, False, with_response
        )
    )


def on_ack(s: Session, turn: Turn, seen: inp.ReattachAck) -> None:
    """T13 (or T7 for a rebind) if it answers the running attempt; any other only raises the epoch."""
    s.heard_ns = turn.now_ns
    if seen.epoch <= s.epoch:
        return  # a copy: a lost ACK is not a replay, neither is a second one
    heard(s, turn, s.path(seen.path_id), 1)
    s.peer_epoch, s.peer_bound = seen.epoch, seen.path_id
    running, rebind = s.episode, s.rebind
    if running is not None and (seen.attempt_id, seen.path_id) == (s.attempt_id, running.path_id):
        what = Commit(seen.attempt_id, seen.path_id, seen.epoch, running.reason, running.switch_class)
        commit(s, turn, what, turn.now_ns - running.start_ns)
    elif rebind is not None and (seen.attempt_id, seen.path_id) == (rebind.attempt_id, rebind.path_id):
        what = Commit(seen.attempt_id, seen.path_id, seen.epoch, Reason.NAT_REBIND, SwitchClass.REBIND)
        commit(s, turn, what, 0)
    else:
        s.learn_epoch(seen.epoch)
        if not s.differs_ns:
            s.differs_ns = turn.now_ns
        if running is not None:
            _request(s, turn, running)


def on_reject(s: Session, turn: Turn, seen: inp.ReattachReject) -> None:
    """STALE_EPOCH is corrected in the same episode; anything else ends it by T14."""
    s.heard_ns = turn.now_ns
    if s.rebind is not None and seen.attempt_id == s.rebind.attempt_id:
        s.learn_epoch(seen.epoch)
        s.rebind = None
        return
    running = s.episode
    if running is None or seen.attempt_id != s.attempt_id:
        return
    if seen.reason is Reason.STALE_EPOCH:
        if seen.epoch > s.epoch:
            s.learn_epoch(seen.epoch)
            _request(s, turn, running)
        return
    s.learn_epoch(seen.epoch)
    _fail(s, turn, running, Reason.REATTACH_REJECTED, turn.now_ns + seen.retry_after_ns, seen.reason)


# --- wanting -----------------------------------------------------------------------------------------------------


class Want(NamedTuple):
    """A switch the session wants now. ``path`` None: nothing is eligible; ``pinned``: no other path will do."""

    switch_class: SwitchClass
    reason: Reason
    path: Path | None
    pinned: bool = False


def _want(s: Session, now_ns: int) -> Want | None:
    if not s.bound_id:
        targets = forced_targets(s, now_ns, unbound=True)
        first = targets[0] if targets else None
        return Want(SwitchClass.FORCED, _loss_reason(s), first)
    if mismatch_due_ns(s) and mismatch_due_ns(s) <= now_ns:
        return _mismatch_want(s, now_ns)
    if s.ask is not None:
        return _operator_want(s, now_ns, s.ask.path_id)
    return _quality_want(s, now_ns)


def _loss_reason(s: Session) -> Reason:
    """What the gateway is told of a lost binding: our own host said so of the path, or we found it out."""
    left = s.path(s.left_id)
    return Reason.LINK_DOWN if left is not None and left.has(DOWN) else Reason.PEER_REPORTED_INSTABILITY


def _mismatch_want(s: Session, now_ns: int) -> Want:
    """The bindings disagree. If the gateway lost the path, it knows something we do not hear: take a sound standby.

    Else settle on our own active path if it lives; nothing is replaced, so that is a rebind.
    """
    targets = forced_targets(s, now_ns, unbound=False)
    spare = [p for p in targets if p.has(VALIDATED) and breach_reason(p) is None]
    if not s.peer_bound and spare and limits.judge(s.budget, s.policy, SwitchClass.FORCED, now_ns).allowed:
        return Want(SwitchClass.FORCED, Reason.BINDING_MISMATCH, spare[0])
    return Want(SwitchClass.REBIND, Reason.BINDING_MISMATCH, s.active)


def _operator_want(s: Session, now_ns: int, path_id: int) -> Want:
    """An operator's word overrides trust (refractory time, slow-up, probation), never budget, cooldown or dampening."""
    targets = forced_targets(s, now_ns, unbound=False)
    if path_id:
        targets = [p for p in targets if p.path_id == path_id]
    fit = [p for p in targets if _unfit(p, now_ns) is Reason.NONE]
    return Want(
        SwitchClass.DISCRETIONARY, Reason.OPERATOR_SWITCH, fit[0] if fit else None, pinned=bool(path_id)
    )


def _unfit(path: Path, now_ns: int) -> Reason:
    """Which control keeps a discretionary switch from this path, whoever asks; NONE if none does."""
    trouble = path.trouble
    if trouble is not None and trouble.suppressed:
        return Reason.PATH_SUPPRESSED
    returning = trouble is not None and dampening.returning(trouble, now_ns)
    return Reason.HYSTERESIS_NOT_MET if returning or path.retire_ns > now_ns else Reason.NONE


def _rule(s: Session, now_ns: int) -> Reason:
    """Why nothing is eligible for what an operator asked."""
    asked = s.ask.path_id if s.ask is not None else 0
    for path in forced_targets(s, now_ns, unbound=False):
        if asked in (0, path.path_id) and _unfit(path, now_ns) is not Reason.NONE:
            return _unfit(path, now_ns)
    return Reason.NO_CANDIDATE_TRANSPORT


def _quality_want(s: Session, now_ns: int) -> Want | None:
    active = s.active
    if active is not None and breach_reason(active) is not None and s.state is not State.ATTACHED:
        path = sound_path(s, now_ns)
        if path is not None:
            return Want(SwitchClass.DISCRETIONARY, Reason.PEER_REPORTED_INSTABILITY, path)
    due = better_due_ns(s)
    if due and due <= now_ns and s.better is not None:
        return Want(SwitchClass.DISCRETIONARY, Reason.PREFERRED_PATH, s.path(s.better.path_id), pinned=True)
    return None


def mismatch_due_ns(s: Session) -> int:
    """When a disagreement has lasted a PTO with no attempt running; 0 = agreed."""
    busy = s.episode is not None or s.rebind is not None
    if not s.differs_ns or not s.bound_id or busy or s.agreed():
        return 0
    return s.differs_ns + pto_ns(s.active)


def better_due_ns(s: Session) -> int:
    """When a better path has been better for the whole window, and the probation after the last switch is over."""
    if s.better is None:
        return 0
    window = s.policy.stability_window_ns
    return max(s.better.since_ns + window, s.budget.last_ns + window if s.budget.last_ns else 0)


def watch_better(s: Session, now_ns: int) -> None:
    """Hysteresis: one sample never switches, the margin must hold for one path without a break."""
    path = better_path(s, now_ns) if s.episode is None else None
    if path is None:
        s.better = None
    elif s.better is None or s.better.path_id != path.path_id:
        s.better = Better(path.path_id, now_ns)


# --- pursuing ----------------------------------------------------------------------------------------------------


def pursue(s: Session, turn: Turn) -> None:
    """Start what is wanted and may start now; audit what is wanted and may not.

    A stock gateway answers no request: a lost session waits for its next handshake, which is WireGuard's to begin.
    """
    s.wake_ns = 0
    if s.state is State.RECOVERING and s.episode is None:
        _reopen(s, turn)
    if s.stock and not s.bound_id:
        return
    if s.state not in (State.ATTACHED, State.VOLATILE, State.DEGRADED) or s.episode is not None:
        return
    watch_better(s, turn.now_ns)
    want = _want(s, turn.now_ns)
    if want is None:
        s.denied = None
        return
    verdict = limits.judge(s.budget, s.policy, want.switch_class, turn.now_ns)
    if s.state is State.ATTACHED and not _leave_attached(s, turn, want, verdict):
        return
    _recover(s, turn, want, verdict)
    s.ask = None


def _reopen(s: Session, turn: Turn) -> None:
    """T10 by a death: RECOVERING was entered with the binding lost; the episode starts in the same step."""
    targets = forced_targets(s, turn.now_ns, unbound=True)
    want = Want(SwitchClass.FORCED, _loss_reason(s), targets[0] if targets else None)
    _open_episode(s, turn, want)


def _leave_attached(s: Session, turn: Turn, want: Want, verdict: limits.Verdict) -> bool:
    """T6; if its guard fails the switch is denied without a transition."""
    facts = s.facts(turn.now_ns, candidate=want.path is not None, allowed=verdict.allowed)
    facts = facts._replace(disagreement=want.reason is Reason.BINDING_MISMATCH)
    if s.step(turn, Trigger.SWITCH_WANTED, want.reason, facts):
        return True
    rule = verdict.rule if want.path is not None else _rule(s, turn.now_ns)
    _deny(s, turn, want, rule, verdict.retry_ns)
    s.ask = None
    s.wake_ns = verdict.retry_ns
    return False


def _recover(s: Session, turn: Turn, want: Want, verdict: limits.Verdict) -> None:
    now = turn.now_ns
    facts = s.facts(now, candidate=want.path is not None, allowed=verdict.allowed)
    if s.step(turn, Trigger.RECOVER, Reason.NONE, facts, details=(("trigger", want.reason.name),)):
        _open_episode(s, turn, want)
        return
    if want.path is None:
        if s.bound_id:
            _deny(s, turn, want, _rule(s, now), 0)
        return
    if not verdict.allowed:
        _deny(s, turn, want, verdict.rule, verdict.retry_ns)
        if s.state is State.VOLATILE:
            s.step(turn, Trigger.DENIED, verdict.rule, facts)
    s.wake_ns = max(verdict.retry_ns, s.backoff_ns)


def _deny(s: Session, turn: Turn, want: Want, rule: Reason, retry_ns: int) -> None:
    """Say so once per rule and path, not once per measurement."""
    path_id = want.path.path_id if want.path else 0
    if s.denied == (rule, path_id) and want.reason is not Reason.OPERATOR_SWITCH:
        return
    s.denied = (rule, path_id)
    wait = max(0, retry_ns - turn.now_ns)
    turn.events.append(
        ev.TransportSwitchDenied(*s.stamp(turn), path_id, want.reason, rule, want.switch_class, wait)
    )


# --- an episode --------------------------------------------------------------------------------------------------


def _open_episode(s: Session, turn: Turn, want: Want) -> None:
    target = want.path.path_id if want.path is not None and want.pinned else 0
    timeout = s.policy.attempt_timeout_ns
    running = Episode(want.switch_class, want.reason, target, turn.now_ns, timeout)
    s.episode, s.rebind = running, None
    s.episodes += 1
    _attempt(s, turn, running, want.path)


def _attempt(s: Session, turn: Turn, running: Episode, path: Path | None) -> None:
    """A fresh attempt_id on that path; without a path the episode ends by T14."""
    if path is None:
        _fail(s, turn, running, Reason.NO_CANDIDATE_TRANSPORT, 0, Reason.NO_CANDIDATE_TRANSPORT)
        return
    s.attempt_id += 1
    if running.switch_class is SwitchClass.REBIND and path.path_id != s.bound_id:
        running.switch_class = SwitchClass.FORCED  # the active path did not answer: this one replaces it
    running.aim(path.path_id, pto_ns(path), turn.now_ns)
    turn.events.append(
        ev.ReattachAttempt(*s.stamp(turn), s.attempt_id, path.path_id, running.reason, running.switch_class)
    )
    _request(s, turn, running)


def _request(s: Session, turn: Turn, running: Episode) -> None:
    epoch = max(s.epoch, s.peer_epoch)
    forced = running.switch_class is not SwitchClass.DISCRETIONARY
    turn.effects.append(
        fx.SendReattachRequest(
            running.path_id, s.attempt_id, epoch, running.reason, forced, carry_data=not s.bound_id
        )
    )


def _fail(s: Session, turn: Turn, running: Episode, reason: Reason, retry_ns: int, why: Reason) -> None:
    """T14: the binding, if any, is unchanged; the next episode waits for the backoff."""
    turn.events.append(ev.ReattachResult(*s.stamp(turn), s.attempt_id, running.path_id, False, why))
    s.episode = None
    s.step(turn, Trigger.ATTEMPT_FAILED, reason, s.facts(turn.now_ns), details=(("rule", why.name),))
    wait = reattach.backoff_ns(s.policy, s.session_id, s.episodes, s.attempt_id)
    s.backoff_ns = max(retry_ns, turn.now_ns + wait)


def choices(s: Session, running: Episode, now_ns: int) -> list[Path]:
    """The paths this episode may try, best first."""
    targets = forced_targets(s, now_ns, unbound=not s.bound_id)
    active = s.active
    if active is not None and running.reason is Reason.BINDING_MISMATCH:
        free = limits.judge(s.budget, s.policy, SwitchClass.FORCED, now_ns).allowed
        targets = [active, *(targets if free else ())]
    if running.target_id:
        targets = [p for p in targets if p.path_id == running.target_id]
    return targets


def _following(paths: list[Path], path_id: int) -> Path | None:
    """The path after the running one, round and round."""
    ids = [p.path_id for p in paths]
    at = ids.index(path_id) + 1 if path_id in ids else 0
    return paths[at % len(paths)] if paths else None


def work(s: Session, turn: Turn) -> None:
    """Timers of a running attempt: give up, go on to the next path, or repeat the request."""
    running, now = s.episode, turn.now_ns
    if s.rebind is not None:
        _work_rebind(s, turn, s.rebind)
    if running is None:
        return
    if now >= running.deadline_ns:
        _fail(s, turn, running, Reason.REATTACH_TIMEOUT, 0, Reason.REATTACH_TIMEOUT)
        return
    paths = choices(s, running, now)
    lost = all(p.path_id != running.path_id for p in paths)
    if lost or (now >= running.advance_ns and len(paths) > 1):
        why = Reason.TRANSPORT_DEAD if lost else Reason.REATTACH_TIMEOUT
        turn.events.append(ev.ReattachResult(*s.stamp(turn), s.attempt_id, running.path_id, False, why))
        _attempt(s, turn, running, _following(paths, running.path_id))
    elif now >= running.resend_ns:
        running.resent(now)
        _request(s, turn, running)
    if now >= running.advance_ns:  # nowhere else to go: keep asking here
        running.advance_ns = now + reattach.ADVANCE_MAX_NS


def _work_rebind(s: Session, turn: Turn, running: RebindTry) -> None:
    if turn.now_ns >= running.until_ns:
        s.rebind = None
    elif turn.now_ns >= running.resend_ns:
        running.resent(turn.now_ns)
        _send_rebind(s, turn, running, with_response=False)


# --- a handshake beside the attempts -----------------------------------------------------------------------------


def deaf_due_ns(s: Session) -> int:
    """When the next initiation is due: after 1 s without an authenticated word, while not safely bound."""
    if s.stock:
        return 0
    if s.episode is not None and s.bound_id:
        since = s.episode.start_ns
    elif not s.bound_id and s.window_end_ns:
        since = s.window_end_ns - s.policy.window_ns(s.stock)
    else:
        return 0
    return max(max(s.heard_ns, since) + reattach.DEAF_NS, s.handshake_ns)


def deaf(s: Session, turn: Turn) -> None:
    """One initiation per max(3·SRTT, 1 s), on the paths in turn."""
    due = deaf_due_ns(s)
    if not due or due > turn.now_ns:
        return
    paths = usable_for_handshake(s)
    gap = NS_PER_S
    if paths:
        path = paths[s.handshake_turn % len(paths)]
        s.handshake_turn += 1
        gap = max(gap, 3 * path.srtt_us * 1000)
        turn.effects.append(fx.StartHandshake(path.path_id))
    s.handshake_ns = turn.now_ns + gap


def deadlines(s: Session) -> list[int]:
    """Every time (ns) at which the client acts by itself; zeros mean none."""
    due = [deaf_due_ns(s), s.wake_ns]
    if not s.wake_ns and s.episode is None:
        due += [mismatch_due_ns(s), better_due_ns(s)]
    if s.episode is not None:
        due += [s.episode.deadline_ns, s.episode.resend_ns, s.episode.advance_ns]
    if s.rebind is not None:
        due += [s.rebind.resend_ns, s.rebind.until_ns]
    return due
