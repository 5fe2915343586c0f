# SPDX-License-Identifier: Apache-2.0
"""The gateway's side: the authority on the binding. It answers requests and proves addresses (session.md §7).

Rule: it never starts an attempt. A data packet from an unknown address is a hint to challenge, never a switch; the
commit binds the validated address of the named path, never simply the source of the request.
"""

from __future__ import annotations

import dataclasses

from gateway.core import budget as limits
from gateway.core import effects as fx
from gateway.core import events as ev
from gateway.core import inputs as inp
from gateway.core import reattach, stock
from gateway.core.path import DEAD, PROBING, VALIDATED, Path, pto_ns
from gateway.core.reasons import Reason
from gateway.core.reattach import Accepted, Ask, Pending, Ruling, Standing
from gateway.core.rebind import Inquiry, Kind, Outcome, Slot, admit, judge, verdict_due_ns
from gateway.core.session import Session, Turn
from gateway.core.states import Evidence, State, SwitchClass, Tier
from gateway.core.switching import Commit, changed, commit, path_died, validated
from gateway.core.transitions import REQUEST_REASONS, Trigger

# --- who the peer is, what it wants ------------------------------------------------------------------------------


def on_hello(s: Session, turn: Turn, seen: inp.HelloSeen) -> None:
    """A late HELLO turns a stock session into a jump session in place; a resuming one brings its epoch and a path."""
    s.heard_ns = turn.now_ns
    s.learn_epoch(seen.epoch)
    here = s.path_at(seen.address)
    if s.stock:
        s.stock = False
    if here is not None and here.path_id != seen.path_id and s.path(seen.path_id) is None:
        s.rename(here, seen.path_id)
    named = s.path(seen.path_id)
    if named is None:
        _adopt(s, turn, seen.path_id, seen.address, "udp")
    elif named.address == seen.address:
        if not named.has(VALIDATED):
            validated(s, turn, named, "CANDIDATE")
    elif named.path_id != s.bound_id:  # the handshake confirmed this address; it does not move a binding
        named.address = seen.address
        validated(s, turn, named, "CANDIDATE")
        turn.effects.append(fx.ProbePath(named.path_id, 0, s.state is not State.ATTACHED))


def _adopt(s: Session, turn: Turn, path_id: int, address: str, carrier: str) -> None:
    """A path whose address was proven gets its place, if there is one."""
    if len(s.paths) >= s.policy.max_candidates:
        idle = [p for p in s.paths if p.path_id != s.bound_id and not p.has(VALIDATED)]
        if not idle:
            s.alarm(turn, Reason.POLICY_DENIED, "path refused: max_candidates is reached")
            return
        s.paths = tuple(p for p in s.paths if p is not idle[0])
        turn.effects.append(fx.DropPath(idle[0].path_id))
    path = Path(path_id, address, carrier, Tier.PRIMARY, 0, turn.now_ns)
    s.paths = (*s.paths, path)
    validated(s, turn, path, "CANDIDATE")
    turn.effects.append(fx.ProbePath(path_id, 0, s.state is not State.ATTACHED))


def on_path_closed(s: Session, turn: Turn, seen: inp.PathRemoved) -> None:
    path = s.path(seen.path_id)
    if path is None:
        return
    path_died(s, turn, path, Evidence.PEER_CLOSED)
    if path.path_id != s.bound_id:
        s.paths = tuple(p for p in s.paths if p is not path)
        turn.effects.append(fx.DropPath(path.path_id))


def on_operator_switch(s: Session, turn: Turn, seen: inp.OperatorSwitch) -> None:
    """Advise the client for 2.5 s; no transition here, its request brings T7."""
    if s.stock or s.bound_id == seen.path_id != 0:
        rule = Reason.POLICY_DENIED if s.stock else Reason.NO_CANDIDATE_TRANSPORT
        _deny(s, turn, seen.path_id, rule)
        return
    s.ask = Ask(seen.path_id, turn.now_ns + reattach.ADVICE_FOR_NS, Reason.OPERATOR_SWITCH)
    s.advice_ns = turn.now_ns


def _deny(s: Session, turn: Turn, path_id: int, rule: Reason) -> None:
    turn.events.append(
        ev.TransportSwitchDenied(
            *s.stamp(turn), path_id, Reason.OPERATOR_SWITCH, rule, SwitchClass.DISCRETIONARY, 0
        )
    )


def advise(s: Session, turn: Turn) -> None:
    """SWITCH_ADVICE on every validated path: NOT_BOUND at each interval, an operator's wish every 250 ms."""
    if s.ask is not None and turn.now_ns >= s.ask.until_ns:
        _deny(s, turn, s.ask.path_id, Reason.REATTACH_TIMEOUT)
        s.ask = None
    due = advice_due_ns(s)
    if not due or due > turn.now_ns:
        return
    reason, preference, gap = Reason.NOT_BOUND, 0, s.policy.profile.interval_ns
    if s.ask is not None:
        reason, preference, gap = Reason.OPERATOR_SWITCH, s.ask.path_id, reattach.ADVICE_EVERY_NS
    for path in s.paths:
        if path.has(VALIDATED):
            turn.effects.append(fx.SendAdvice(path.path_id, reason, preference))
    s.advice_ns = turn.now_ns + gap


def advice_due_ns(s: Session) -> int:
    """When the next advice is due, 0 = nothing to advise."""
    if s.ask is not None:
        return min(max(s.advice_ns, 1), s.ask.until_ns)
    lost = not s.bound_id and s.state in (State.VOLATILE, State.DEGRADED) and not s.stock
    return max(s.advice_ns, s.entered_ns, 1) if lost else 0


# --- requests ----------------------------------------------------------------------------------------------------


def on_request(s: Session, turn: Turn, seen: inp.ReattachRequest) -> None:
    """Checks 6 to 10 of §7. Whatever is refused changes nothing."""
    s.heard_ns = turn.now_ns
    if s.stock or s.state is State.BIRTH:
        s.alarm(turn, Reason.INVALID_STATE_TRANSITION, "REATTACH_REQUEST without a jump session")
        return
    seen = _labelled(seen)
    ruling, reason = reattach.check(seen.attempt_id, seen.epoch, _standing(s, turn, seen))
    if ruling is Ruling.REPEAT_ACK:
        _repeat_ack(s, turn)
    elif ruling is Ruling.REJECT:
        _reject(s, turn, seen, reason)
    elif ruling is Ruling.PROVE:
        _prove(s, turn, seen)
    elif ruling is Ruling.COMMIT:
        _accept(s, turn, seen)


def _labelled(seen: inp.ReattachRequest) -> inp.ReattachRequest:
    """A reason that no request has, or that a later version has, still says that the client wants to move."""
    if seen.reason in REQUEST_REASONS:
        return seen
    return dataclasses.replace(seen, reason=Reason.PEER_REPORTED_INSTABILITY)


def switch_class(s: Session, path_id: int, forced: bool) -> SwitchClass:
    """What a request counts as by our own binding: the same path again is a rebind, without one it is forced."""
    if path_id == s.bound_id:
        return SwitchClass.REBIND
    return SwitchClass.FORCED if forced or not s.bound_id else SwitchClass.DISCRETIONARY


def _standing(s: Session, turn: Turn, seen: inp.ReattachRequest | Pending) -> Standing:
    kind = switch_class(s, seen.path_id, seen.forced)
    verdict = limits.judge(s.budget, s.policy, kind, turn.now_ns, limits.GATEWAY_GRACE_NS)
    path = s.path(seen.path_id)
    carrier = path.carrier if path else "udp"
    if isinstance(seen, inp.ReattachRequest) and path is None:
        carrier = seen.carrier
    believed = _believed(s, turn.now_ns, seen.path_id)
    proven = believed is not None or _still_proven(s, path)
    moving = seen.reason is Reason.NAT_REBIND and believed is None
    return Standing(
        last_attempt_id=s.attempt_id,
        pending_attempt_id=s.pending.attempt_id if s.pending else 0,
        epoch=s.epoch,
        carrier_allowed=carrier in s.policy.allowed,
        budget_allowed=verdict.allowed,
        proven=proven,
        rebind_lost=moving and proven,
    )


def _still_proven(s: Session, path: Path | None) -> bool:
    """Validated, alive, and nobody has been seen under another address of it."""
    if path is None or not path.has(VALIDATED) or path.has(DEAD):
        return False
    return s.inquiry is None or not s.inquiry.of(path.path_id, Kind.NEW)


def _believed(s: Session, now_ns: int, path_id: int) -> Slot | None:
    """The new address that an inquiry about this path has proven, or the previous one that answered again."""
    if s.inquiry is None:
        return None
    for slot in s.inquiry.of(path_id, Kind.REVERT):
        if slot.answered_ns:
            return slot
    return judge(s.inquiry, path_id, pto_ns(s.path(path_id)), now_ns)[1]


def _retry_after_ns(s: Session, turn: Turn, path_id: int, forced: bool) -> int:
    kind = switch_class(s, path_id, forced)
    verdict = limits.judge(s.budget, s.policy, kind, turn.now_ns, limits.GATEWAY_GRACE_NS)
    return max(0, verdict.retry_ns - turn.now_ns) if not verdict.allowed else 0


def _reject(s: Session, turn: Turn, seen: inp.ReattachRequest | Pending, reason: Reason) -> None:
    retry = _retry_after_ns(s, turn, seen.path_id, seen.forced) if reason is Reason.RATE_LIMITED else 0
    turn.effects.append(fx.SendReattachReject(seen.attempt_id, reason, s.epoch, retry, seen.address))
    turn.events.append(ev.ReattachResult(*s.stamp(turn), seen.attempt_id, seen.path_id, False, reason))


def _repeat_ack(s: Session, turn: Turn) -> None:
    if s.accepted is None:
        return
    epoch, path_id = s.accepted
    path = s.path(path_id)
    if path is not None:
        turn.effects.append(fx.SendReattachAck(s.attempt_id, epoch, path_id, path.address))


def _prove(s: Session, turn: Turn, seen: inp.ReattachRequest) -> None:
    """Check 9 is open: challenge the path and wait. VOLATILE and DEGRADED become RECOVERING, ATTACHED stays."""
    now = turn.now_ns
    repeated = s.pending is not None and s.pending.attempt_id == seen.attempt_id
    if not repeated:
        s.pending = Pending(
            seen.attempt_id,
            seen.epoch,
            seen.path_id,
            seen.reason,
            seen.forced,
            seen.address,
            now + s.policy.attempt_timeout_ns,
        )
        kind = switch_class(s, seen.path_id, seen.forced)
        turn.events.append(
            ev.ReattachAttempt(*s.stamp(turn), seen.attempt_id, seen.path_id, seen.reason, kind)
        )
    _challenge_for(s, turn, seen)
    if s.state in (State.VOLATILE, State.DEGRADED):
        details = (("trigger", seen.reason.name), ("recovery_phase", "proof"))
        s.step(turn, Trigger.PROVE, Reason.NONE, s.facts(now), details=details)
        s.episodes += 1


def _challenge_for(s: Session, turn: Turn, seen: inp.ReattachRequest) -> None:
    path = s.path(seen.path_id)
    inquiry = _inquiry(s)
    for slot in inquiry.slots:
        if slot.path_id == seen.path_id:
            slot.again(turn.now_ns)
    if path is None and inquiry.at(seen.address) is None:
        _open_slot(s, turn, Kind.NEW, seen.path_id, seen.address, seen.carrier)
    elif path is not None and not path.has(VALIDATED) and inquiry.at(path.address) is None:
        _open_slot(s, turn, Kind.AGAIN, path.path_id, path.address, path.carrier)


def _accept(s: Session, turn: Turn, seen: inp.ReattachRequest | Pending) -> None:
    """Step 10 and 11: one commit, then the ACK on the path that was bound."""
    slot = _believed(s, turn.now_ns, seen.path_id)
    path = s.path(seen.path_id)
    if path is None:
        return
    before = path.address
    moved = slot.address if slot is not None and slot.address != before else ""
    kind = switch_class(s, seen.path_id, seen.forced)
    waited = turn.now_ns - s.entered_ns if s.state is State.RECOVERING else 0
    _settle_inquiry(s, turn, path, slot)
    s.attempt_id = seen.attempt_id
    what = Commit(seen.attempt_id, seen.path_id, s.epoch + 1, seen.reason, kind, moved)
    commit(s, turn, what, waited)
    s.accepted = Accepted(s.epoch, seen.path_id)
    turn.effects.append(fx.SendReattachAck(seen.attempt_id, s.epoch, seen.path_id, path.address))
    if moved and slot is not None and slot.kind is Kind.NEW:
        _watch_previous(s, turn, path, before)


def _settle_inquiry(s: Session, turn: Turn, path: Path, slot: Slot | None) -> None:
    """The inquiry about this path is over: stop copying, say if two addresses were proven, forget its slots."""
    if s.inquiry is None:
        return
    mine = [one for one in s.inquiry.slots if one.path_id == path.path_id]
    if slot is not None and sum(1 for one in mine if one.kind is Kind.NEW and one.answered_ns) > 1:
        s.alarm(turn, Reason.REBIND_AMBIGUOUS, "two new addresses of one path were proven")
    _drop(s, turn, mine)


def _watch_previous(s: Session, turn: Turn, path: Path, address: str) -> None:
    """After a rebind the previous address is challenged at 1, 2, 4 and 8 s; if it answers, the path goes back."""
    slot = Slot(Kind.REVERT, path.path_id, address, path.carrier, turn.now_ns)
    slot.next_ns = turn.now_ns + 1_000_000_000
    _inquiry(s).add(slot)


# --- addresses ---------------------------------------------------------------------------------------------------


def _inquiry(s: Session) -> Inquiry:
    if s.inquiry is None:
        s.inquiry = Inquiry()
    return s.inquiry


def _drop(s: Session, turn: Turn, slots: list[Slot]) -> None:
    if s.inquiry is None:
        return
    turn.effects += [fx.StopCopy(slot.address) for slot in slots if slot.kind is Kind.NEW]
    s.inquiry.drop(slots)
    if not s.inquiry.slots:
        s.inquiry = None


def _open_slot(s: Session, turn: Turn, kind: Kind, path_id: int, address: str, carrier: str) -> None:
    """A slot for one address, if the limit allows; the challenge goes out with the timers of this same turn."""
    inquiry = _inquiry(s)
    if kind is Kind.NEW and not admit(inquiry, s.policy, turn.now_ns):
        return
    slot = Slot(kind, path_id, address, carrier, turn.now_ns)
    inquiry.add(slot)
    path = s.path(path_id)
    if path is not None and kind is Kind.AGAIN:
        path.set(PROBING)
    if kind is Kind.NEW and s.bound_id and path_id in (0, s.bound_id):  # data names no path
        turn.effects.append(fx.CopyDownstream(address, slot.ends_ns(s.policy)))


def on_address_seen(s: Session, turn: Turn, seen: inp.AddressSeen) -> None:
    """A hint to challenge, never a switch. A copy that lost the race only gets its address challenged."""
    if s.state is State.BIRTH or s.stock or seen.carrier not in s.policy.allowed:
        return
    here = s.path_at(seen.address)
    if here is not None and here.has(VALIDATED):
        return
    slot = s.inquiry.at(seen.address) if s.inquiry else None
    if slot is not None:
        slot.seen_ns = turn.now_ns
        if slot.kind is Kind.NEW and seen.path_id and not slot.path_id:
            _name(s, turn, slot, seen.path_id)
        elif slot.kind is Kind.REVERT and not slot.answered_ns:
            slot.next_ns = turn.now_ns
        else:
            slot.again(turn.now_ns)
        return
    if here is not None:
        _open_slot(s, turn, Kind.AGAIN, here.path_id, here.address, here.carrier)
        return
    _open_slot(s, turn, Kind.NEW, seen.path_id, seen.address, seen.carrier)
    _challenge_old(s, turn, seen.path_id)


def _name(s: Session, turn: Turn, slot: Slot, path_id: int) -> None:
    """Now it is known whose address this may be: the bound path's client is asked for its request."""
    slot.name(path_id, turn.now_ns)
    if path_id != s.bound_id:
        turn.effects.append(fx.StopCopy(slot.address))
    if s.path(path_id) is not None:
        _challenge_old(s, turn, path_id)


def _challenge_old(s: Session, turn: Turn, path_id: int) -> None:
    """The path's last validated address is challenged together with a new one."""
    path = s.path(path_id)
    if path is None or s.inquiry is None or s.inquiry.of(path_id, Kind.OLD):
        return
    _drop(s, turn, s.inquiry.of(path_id, Kind.AGAIN))
    _open_slot(s, turn, Kind.OLD, path_id, path.address, path.carrier)


def on_challenge_answered(s: Session, turn: Turn, seen: inp.ChallengeAnswered) -> None:
    """The right RESPONSE proves the address its challenge went to, once, from wherever it arrives."""
    s.heard_ns = turn.now_ns
    slot = s.inquiry.at(seen.address) if s.inquiry else None
    if slot is None or slot.answered_ns:
        return
    if slot.path_id not in (0, seen.path_id):
        s.alarm(turn, Reason.PATH_VALIDATION_FAILED, "RESPONSE names another path")
        return
    if not slot.path_id:
        _name(s, turn, slot, seen.path_id)
    slot.answered_ns, slot.rtt_ns = turn.now_ns, seen.rtt_ns
    if not slot.late or slot.path_id != s.bound_id:
        slot.next_ns = 0
    if slot.kind is Kind.AGAIN:
        _again(s, turn, slot)
    elif slot.kind is Kind.NEW and s.path(slot.path_id) is None:
        _drop(s, turn, [slot])
        _adopt(s, turn, slot.path_id, slot.address, slot.carrier)
    elif slot.kind is Kind.NEW:
        _challenge_old(s, turn, slot.path_id)
    _resolve(s, turn, slot.path_id)
    _retry_pending(s, turn, slot.path_id)


def _again(s: Session, turn: Turn, slot: Slot) -> None:
    path = s.path(slot.path_id)
    _drop(s, turn, [slot])
    if path is not None:
        path.heard_ns = turn.now_ns
        validated(s, turn, path, "DEAD" if path.has(DEAD) else "CANDIDATE")


def _resolve(s: Session, turn: Turn, path_id: int) -> None:
    """Draw the verdict of an inquiry, if there is one yet. A bound path moves only with its request (T7)."""
    path = s.path(path_id)
    if path is None or s.inquiry is None:
        return
    outcome, slot = judge(s.inquiry, path_id, pto_ns(path), turn.now_ns)
    if outcome is Outcome.STAY:
        _stay(s, turn, path)
    elif outcome is Outcome.MOVE and slot is not None and path_id == s.bound_id:
        slot.believed = True
    elif outcome is Outcome.MOVE and slot is not None:
        _settle_inquiry(s, turn, path, slot)
        path.address = slot.address
        path.heard_ns = turn.now_ns
        validated(s, turn, path, "CANDIDATE")
        turn.effects.append(fx.ProbePath(path.path_id, 0, s.state is not State.ATTACHED))  # there from now on


def _stay(s: Session, turn: Turn, path: Path) -> None:
    """The old address answered: whoever forwards from the new one gets nothing (RFC 9000 §9.3.3)."""
    if s.inquiry is None:
        return
    news = s.inquiry.of(path.path_id, Kind.NEW)
    for slot in news:
        s.alarm(turn, Reason.PATH_VALIDATION_FAILED, f"the old address answered; refused {slot.address}")
    _drop(s, turn, news + s.inquiry.of(path.path_id, Kind.OLD))
    path.heard_ns = turn.now_ns
    if not path.has(VALIDATED):
        validated(s, turn, path, "CANDIDATE")


def _retry_pending(s: Session, turn: Turn, path_id: int) -> None:
    """The path of a waiting request got its verdict: judge the request again from check 7 on."""
    waiting = s.pending
    if waiting is None or waiting.path_id != path_id:
        return
    standing = _standing(s, turn, waiting)
    if not standing.proven:
        return
    ruling, reason = reattach.check(waiting.attempt_id, waiting.epoch, standing)
    if ruling is Ruling.COMMIT:
        _accept(s, turn, waiting)
    else:
        _give_up(s, turn, waiting, reason, Reason.REATTACH_REJECTED)


def _give_up(s: Session, turn: Turn, waiting: Pending, why: Reason, reason: Reason) -> None:
    """A waiting request failed: refuse it, and leave RECOVERING by T14 if that is where it waits."""
    s.pending = None
    _reject(s, turn, waiting, why)
    if s.state is State.RECOVERING:
        s.step(turn, Trigger.ATTEMPT_FAILED, reason, s.facts(turn.now_ns), details=(("rule", why.name),))


# --- timers ------------------------------------------------------------------------------------------------------


def work(s: Session, turn: Turn) -> None:
    """Challenges due, verdicts due, slots and requests that ran out."""
    if s.inquiry is not None:
        _expire_slots(s, turn)
        _verdicts(s, turn)
        _challenges(s, turn)
    waiting = s.pending
    if waiting is not None and turn.now_ns >= _pending_due_ns(s, waiting):
        _give_up(s, turn, waiting, Reason.REATTACH_TIMEOUT, Reason.REATTACH_TIMEOUT)
    elif s.state is State.RECOVERING and waiting is None:
        facts = s.facts(turn.now_ns)
        s.step(turn, Trigger.ATTEMPT_FAILED, Reason.NO_CANDIDATE_TRANSPORT, facts)
    advise(s, turn)
    stock.call_next(s, turn)


def _pending_due_ns(s: Session, waiting: Pending) -> int:
    """A newer attempt replaces the pending one; RECOVERING as a whole still ends by attempt_timeout."""
    if s.state is State.RECOVERING:
        return min(waiting.deadline_ns, s.entered_ns + s.policy.attempt_timeout_ns)
    return waiting.deadline_ns


def _expire_slots(s: Session, turn: Turn) -> None:
    if s.inquiry is None:
        return
    gone = [slot for slot in s.inquiry.slots if slot.ends_ns(s.policy) <= turn.now_ns]
    for slot in gone:
        path = s.path(slot.path_id)
        if path is not None and slot.kind is Kind.AGAIN and not path.has(VALIDATED):
            path.clear(PROBING)
            changed(s, turn, path, "PROBING", "CANDIDATE")
    _drop(s, turn, gone)


def _verdicts(s: Session, turn: Turn) -> None:
    for path in s.paths:
        due = verdict_due_ns(s.inquiry, path.path_id, pto_ns(path)) if s.inquiry else 0
        if due and due <= turn.now_ns:
            _resolve(s, turn, path.path_id)
            _retry_pending(s, turn, path.path_id)


def _challenges(s: Session, turn: Turn) -> None:
    for slot in s.inquiry.slots if s.inquiry else ():
        if not slot.next_ns or slot.next_ns > turn.now_ns:
            continue
        marked = slot.path_id == s.bound_id != 0 and slot.kind in (Kind.NEW, Kind.REVERT)
        turn.effects.append(fx.SendChallenge(slot.address, slot.path_id, marked))
        slot.sent(turn.now_ns, pto_ns(s.path(slot.path_id)))


def deadlines(s: Session) -> list[int]:
    """Every time (ns) at which the gateway acts by itself; zeros mean none."""
    due = [advice_due_ns(s), stock.next_due_ns(s)]
    if s.pending is not None:
        due.append(_pending_due_ns(s, s.pending))
    if s.inquiry is not None:
        due += [slot.next_ns for slot in s.inquiry.slots]
        due += [slot.ends_ns(s.policy) for slot in s.inquiry.slots]
        due += [_verdict_deadline(s, path) for path in s.paths]
    return due


def _verdict_deadline(s: Session, path: Path) -> int:
    """A bound path whose new address is believed waits for the request: no timer of its own."""
    if s.inquiry is None:
        return 0
    due = verdict_due_ns(s.inquiry, path.path_id, pto_ns(path))
    believed = any(slot.believed for slot in s.inquiry.of(path.path_id, Kind.NEW))
    return 0 if believed else due
