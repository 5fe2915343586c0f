# SPDX-License-Identifier: Apache-2.0
"""The few calls a shell needs: create, receive, timer_due, next_deadline, snapshot and restore.

Rule: one input or timer is one turn. A turn first judges what outranks it (session lifetime, recovery window), then
the input, then what follows from it until nothing more does. Time never runs backwards: an earlier ``now_ns`` than the
last one is raised to it by the shell, which has one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.core import client, gateway, stock, upkeep
from gateway.core import effects as fx
from gateway.core import events as ev
from gateway.core import inputs as inp
from gateway.core.path import DOWN, VALIDATED, Path
from gateway.core.policy import Policy, policy_hash, problems
from gateway.core.reasons import Reason
from gateway.core.reattach import Accepted
from gateway.core.session import Bind, Session, Turn
from gateway.core.states import Phase, Role, State, Tier
from gateway.core.transitions import PRIORITY, Trigger
from gateway.errors import Refused

Handler = Callable[[Session, Turn, Any], None]


@dataclass(frozen=True, slots=True)
class First:
    """The path a handshake came or went on."""

    path_id: int
    address: str
    carrier: str = "udp"
    tier: Tier = Tier.PRIMARY
    cost: int = 0


def create(
    role: Role, session_id: bytes, peer: str, policy: Policy, first: First, now_ns: int, stock: bool = False
) -> tuple[Session, Turn]:
    """T0: a session in BIRTH. Raises Refused for an invalid policy: it never gets a new session."""
    wrong = problems(policy)
    if wrong:
        raise Refused("invalid policy: " + "; ".join(f"{p.key}: {p.text}" for p in wrong))
    s, turn = Session(role, session_id, peer, policy, now_ns, stock), Turn(now_ns)
    path = Path(first.path_id, first.address, first.carrier, first.tier, first.cost, now_ns)
    s.paths = (path,)
    s.home = first.address
    turn.events.append(
        ev.SessionCreated(*s.stamp(turn), role, stock, first.path_id, first.address, first.carrier)
    )
    return s, turn


# --- inputs ------------------------------------------------------------------------------------------------------


def _on_confirmed(s: Session, turn: Turn, seen: inp.Confirmed) -> None:
    """T1. At the gateway only from the address the response was sent to."""
    first = s.paths[0]
    proven = s.role is Role.CLIENT or seen.address == first.address
    facts = s.facts(turn.now_ns, proven=proven)
    first.set(VALIDATED)
    if s.step(turn, Trigger.CONFIRM, Reason.HANDSHAKE_OK, facts, Bind(first.path_id, 1)):
        first.heard_ns = s.heard_ns = turn.now_ns
    else:
        first.clear(VALIDATED if s.state is State.BIRTH else 0)
        s.alarm(turn, Reason.INVALID_STATE_TRANSITION, "confirmation refused")


def _end(trigger: Trigger, reason: Reason | None = None) -> Handler:
    """A handler that ends the session by one row; the reason is the input's own unless given."""

    def handle(s: Session, turn: Turn, seen: Any) -> None:
        asked = seen.reason if reason is None else reason
        if not s.step(turn, trigger, asked, s.facts(turn.now_ns, proven=True)):
            s.alarm(turn, Reason.INVALID_STATE_TRANSITION, f"{type(seen).__name__} in {s.state.name}")

    return handle


def _on_violation(s: Session, turn: Turn, seen: inp.SecurityViolation) -> None:
    s.alarm(turn, Reason.SECURITY_VIOLATION, seen.detail)
    s.step(turn, Trigger.KEY_LOST, Reason.SECURITY_VIOLATION, s.facts(turn.now_ns, proven=True))


def _on_ownership(s: Session, turn: Turn, seen: inp.OwnershipLost) -> None:
    turn.events.append(ev.OwnershipEvent(*s.stamp(turn), seen.reason, seen.owner_epoch))
    s.step(turn, Trigger.OWNERSHIP, seen.reason, s.facts(turn.now_ns))


def _on_evicted(s: Session, turn: Turn, _: inp.Evicted) -> None:
    facts = s.facts(turn.now_ns, proven=s.policy.evict_allowed)
    if not s.step(turn, Trigger.EVICT, Reason.RESOURCE_EVICTED, facts):
        s.alarm(turn, Reason.POLICY_DENIED, "eviction is not allowed by policy")


def _on_policy(s: Session, turn: Turn, seen: inp.PolicyChanged) -> None:
    """A valid policy holds from the next decision on; an invalid one is refused and the old one stays."""
    wrong = tuple(f"{p.key}: {p.text}" for p in problems(seen.policy))
    if not wrong:
        s.policy = seen.policy
    turn.events.append(ev.PolicyEvent(*s.stamp(turn), not wrong, policy_hash(seen.policy), wrong))


def _on_operator_ping(s: Session, turn: Turn, seen: inp.OperatorPing) -> None:
    """Only where the other end has shown that packets reach it; a path of the client's own may be asked before."""
    path = s.path(seen.path_id or s.bound_id)
    if path is None or s.stock or path.has(DOWN):
        return
    if s.role is Role.CLIENT or path.has(VALIDATED):
        turn.effects.append(fx.SendPing(path.path_id))


def _on_restarted(s: Session, turn: Turn, _: inp.Restarted) -> None:
    s.step(turn, Trigger.RESTARTED, Reason.OWNER_RESTARTED, s.facts(turn.now_ns))


_BOTH: Final[Mapping[type[inp.Input], Handler]] = {
    inp.StockSilent: stock.on_silent,
    inp.Confirmed: _on_confirmed,
    inp.BirthFailed: _end(Trigger.BIRTH_FAILED),
    inp.PathLost: upkeep.on_lost,
    inp.LinkUp: upkeep.on_link_up,
    inp.PathHinted: upkeep.on_hinted,
    inp.PathSuspected: upkeep.on_suspected,
    inp.PathMissed: upkeep.on_missed,
    inp.PathAnswered: upkeep.on_answered,
    inp.PathMeasured: upkeep.on_measured,
    inp.PathCarries: upkeep.on_carries,
    inp.PeerBinding: upkeep.on_peer_binding,
    inp.KeyInstalled: upkeep.on_key_installed,
    inp.KeyUsage: upkeep.on_key_usage,
    inp.RekeyRefused: upkeep.on_rekey_refused,
    inp.OperatorPing: _on_operator_ping,
    inp.SuiteRefused: upkeep.on_suite_refused,
    inp.OperatorTerminate: _end(Trigger.TERMINATE, Reason.OPERATOR_TERMINATED),
    inp.PeerTerminated: _end(Trigger.TERMINATE, Reason.PEER_TERMINATED),
    inp.Superseded: _end(Trigger.TERMINATE, Reason.SUPERSEDED),
    inp.SecurityViolation: _on_violation,
    inp.PlainWireguard: stock.on_plain,
    inp.StockHandshake: stock.on_handshake,
    inp.PolicyChanged: _on_policy,
    inp.Restarted: _on_restarted,
}

HANDLERS: Final[Mapping[Role, Mapping[type[inp.Input], Handler]]] = {
    Role.CLIENT: {
        **_BOTH,
        inp.PathAdded: client.on_path_added,
        inp.PathRemoved: client.on_path_removed,
        inp.Welcomed: client.on_welcomed,
        inp.ReattachAck: client.on_ack,
        inp.ReattachReject: client.on_reject,
        inp.SwitchAdvice: client.on_advice,
        inp.ChallengeReceived: client.on_challenge,
        inp.OperatorSwitch: client.on_operator_switch,
    },
    Role.GATEWAY: {
        **_BOTH,
        inp.HelloSeen: gateway.on_hello,
        inp.PathRemoved: gateway.on_path_closed,
        inp.ReattachRequest: gateway.on_request,
        inp.AddressSeen: gateway.on_address_seen,
        inp.ChallengeAnswered: gateway.on_challenge_answered,
        inp.OperatorSwitch: gateway.on_operator_switch,
        inp.OwnershipLost: _on_ownership,
        inp.Evicted: _on_evicted,
        inp.StockAddressSeen: stock.on_address_seen,
    },
}

# What an input may trigger, for the order of simultaneous ones; the rest comes last, in the order given.
_TRIGGERS: Final[Mapping[type[inp.Input], Trigger]] = {
    inp.OperatorTerminate: Trigger.TERMINATE,
    inp.PeerTerminated: Trigger.TERMINATE,
    inp.Superseded: Trigger.TERMINATE,
    inp.SecurityViolation: Trigger.KEY_LOST,
    inp.OwnershipLost: Trigger.OWNERSHIP,
    inp.Evicted: Trigger.EVICT,
    inp.PathLost: Trigger.ACTIVE_DEAD,
    inp.StockSilent: Trigger.ACTIVE_DEAD,
    inp.ReattachRequest: Trigger.COMMIT,
    inp.ReattachAck: Trigger.COMMIT,
    inp.ReattachReject: Trigger.ATTEMPT_FAILED,
    inp.PathMissed: Trigger.BREACH,
    inp.PathMeasured: Trigger.BREACH,
}
_LAST: Final = len(PRIORITY)


def priority(one: inp.Input) -> int:
    """The rank of an input among simultaneous ones, lowest first."""
    trigger = _TRIGGERS.get(type(one))
    return PRIORITY.index(trigger) if trigger in PRIORITY else _LAST


def _outranks_window(one: inp.Input) -> bool:
    return priority(one) < PRIORITY.index(Trigger.WINDOW_EXPIRED)


# --- turns -------------------------------------------------------------------------------------------------------


def receive(s: Session, one: inp.Input, now_ns: int) -> Turn:
    """One input at this time. Returns the events and effects it led to; an illegal one changes nothing."""
    turn = Turn(now_ns)
    if s.ended or _lifetime_over(s, turn) or (not _outranks_window(one) and _window_over(s, turn)):
        _refuse(s, turn, one)
        return turn
    handler = HANDLERS[s.role].get(type(one))
    if handler is None:
        _refuse(s, turn, one)
        return turn
    handler(s, turn, one)
    _follow(s, turn)
    return turn


def recovery_phase(s: Session) -> Phase | None:
    """What a RECOVERING session waits for; None in every other state."""
    if s.state is not State.RECOVERING:
        return None
    if s.role is Role.GATEWAY:
        return Phase.PROOF
    path = s.path(s.episode.path_id) if s.episode is not None else None
    return Phase.CONFIRM if path is not None and path.has(VALIDATED) else Phase.PROBING


def receive_all(s: Session, many: list[inp.Input], now_ns: int) -> Turn:
    """Simultaneous inputs, highest first (session.md §3)."""
    turn = Turn(now_ns)
    for one in sorted(many, key=priority):
        part = receive(s, one, now_ns)
        turn.events += part.events
        turn.effects += part.effects
    return turn


def timer_due(s: Session, now_ns: int) -> Turn:
    """Whatever is due at this time, ends first."""
    turn = Turn(now_ns)
    if s.ended:
        s.settle_flood(turn)
        return turn
    if _lifetime_over(s, turn) or _window_over(s, turn) or _birth_over(s, turn):
        return turn
    upkeep.timers(s, turn)
    _follow(s, turn)
    return turn


def _refuse(s: Session, turn: Turn, one: inp.Input) -> None:
    s.alarm(turn, Reason.INVALID_STATE_TRANSITION, f"{type(one).__name__} in {s.state.name}")


def _lifetime_over(s: Session, turn: Turn) -> bool:
    if turn.now_ns - s.born_ns < s.policy.max_lifetime_ns:
        return False
    return s.step(turn, Trigger.LIFETIME, Reason.SESSION_TTL_EXPIRED, s.facts(turn.now_ns))


def _window_over(s: Session, turn: Turn) -> bool:
    if s.bound_id or not s.window_end_ns or turn.now_ns < s.window_end_ns:
        return False
    return s.step(turn, Trigger.WINDOW_EXPIRED, Reason.NONE, s.facts(turn.now_ns))


def _birth_over(s: Session, turn: Turn) -> bool:
    if s.state is not State.BIRTH or turn.now_ns < s.born_ns + s.policy.birth_timeout_ns:
        return False
    return s.step(turn, Trigger.BIRTH_FAILED, Reason.BIRTH_TIMEOUT, s.facts(turn.now_ns))


# One cause leads to at most T6 + T10 + T14 before it waits for time or the network.
_MAX_ROUNDS: Final = 4


def _follow(s: Session, turn: Turn) -> None:
    """Everything that follows at once: calm and candidates, then the role's own moves, until nothing changes."""
    for _ in range(_MAX_ROUNDS):
        before = s.version
        if s.ended:
            return
        upkeep.settle(s, turn)
        if s.role is Role.CLIENT:
            client.work(s, turn)
            client.pursue(s, turn)
            client.deaf(s, turn)
        else:
            gateway.work(s, turn)
        if s.version == before:
            return


def next_deadline(s: Session) -> int | None:
    """When ``timer_due`` wants to be called (ns), None when never. May be earlier than needed, never later."""
    due = [s.flood_due_ns()]
    if not s.ended:
        due += [s.born_ns + s.policy.max_lifetime_ns, s.window_end_ns]
        if s.state is State.BIRTH:
            due.append(s.born_ns + s.policy.birth_timeout_ns)
        due += upkeep.deadlines(s)
        due += client.deadlines(s) if s.role is Role.CLIENT else gateway.deadlines(s)
    pending = [at for at in due if at > 0]
    return min(pending) if pending else None


# --- restarts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """What the durable store keeps of a session. Durations, not times: a monotonic clock does not survive a restart."""

    role: Role
    session_id: bytes
    peer: str
    state: State
    version: int
    epoch: int
    bound_id: int
    attempt_id: int
    age_ns: int
    window_left_ns: int
    stock: bool
    home: str
    accepted_epoch: int = 0
    accepted_path_id: int = 0


def snapshot(s: Session, now_ns: int) -> Stored:
    """The record to persist. Holds no key."""
    left = max(0, s.window_end_ns - now_ns) if s.window_end_ns else 0
    return Stored(
        s.role,
        s.session_id,
        s.peer,
        s.state,
        s.version,
        s.epoch,
        s.bound_id,
        s.attempt_id,
        now_ns - s.born_ns,
        left,
        s.stock,
        s.active.address if s.active else s.home,
        s.accepted.epoch if s.accepted else 0,
        s.accepted.path_id if s.accepted else 0,
    )


def restore(
    record: Stored, policy: Policy, down_ns: int, audited_version: int, now_ns: int
) -> tuple[Session, Turn]:
    """T22 (or T2 from BIRTH): the session goes on, unbound, from the highest version found in store or audit.

    ``down_ns``: how long the process was away; it counts for the lifetime and for a window that was open.
    """
    s = Session(record.role, record.session_id, record.peer, policy, now_ns, record.stock)
    s.resume(record.state, max(record.version, audited_version), record.epoch, record.bound_id)
    s.born_ns = now_ns - record.age_ns - down_ns
    s.attempt_id, s.home = record.attempt_id, record.home
    if record.accepted_epoch:
        s.accepted = Accepted(record.accepted_epoch, record.accepted_path_id)
    if not record.bound_id and record.window_left_ns:
        s.window_end_ns = max(1, now_ns + record.window_left_ns - down_ns)
    if s.stock:
        only_id = record.bound_id or stock.IMPLICIT_PATH_ID
        s.paths = (Path(only_id, record.home, "udp", Tier.PRIMARY, 0, now_ns),)
    if s.ended:
        return s, Turn(now_ns)
    return s, receive(s, inp.Restarted(), now_ns)
