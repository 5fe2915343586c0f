# SPDX-License-Identifier: Apache-2.0
"""The session state machine.

Rule 1: every legal transition is a row of TRANSITIONS (session.md §3, T0..T22); nothing else assigns Session.state.
Rule 2: no sockets, clock or keys here. Triggers arise from inputs that were authenticated first, so a forged datagram
cannot move a session.
Rule 3: an absent pair, or one whose guards all fail, changes nothing and is audited.

A guard reads ``Facts`` only, which the caller computed from the session at the supplied time: the table can be tested,
drawn and proved without a session. docs/state-machine.md is generated from it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.core.reasons import Reason
from gateway.core.states import LIVE, Role, State

BIRTH, ATTACHED, VOLATILE = State.BIRTH, State.ATTACHED, State.VOLATILE
DEGRADED, RECOVERING, TERMINATED = State.DEGRADED, State.RECOVERING, State.TERMINATED


class Trigger(enum.Enum):
    """The input column of the table. The value is the sentence the documentation prints."""

    CONFIRM = "the handshake is confirmed"
    BIRTH_FAILED = "refusal, timer, or a newer initiation of the same peer"
    BREACH = "quality breach"
    ACTIVE_DEAD = "the active path is dead"
    SWITCH_WANTED = "operator or policy asks for a switch, or the two bindings disagree"
    COMMIT = "G: valid REATTACH_REQUEST with a proven path; C: ACK of the running attempt or of a rebind"
    PROVE = "valid REATTACH_REQUEST whose path is still unproven"
    RECOVER = "a forced switch, or a discretionary one that passes the limits"
    CALM = "calm for the stability window"
    PERSISTED = "the VOLATILE timer"
    DENIED = "a wanted switch was denied"
    NO_CANDIDATE = "no candidate is left"
    ATTEMPT_FAILED = "attempt refused or timed out, or no candidate left to try"
    WINDOW_EXPIRED = "the recovery window ends with no binding"
    LIFETIME = "session age over lifetime"
    TERMINATE = "operator command, authenticated TERMINATE, or a new instance of the peer"
    KEY_LOST = "no usable keypair while bound, or an authenticated protocol impossibility"
    OWNERSHIP = "nobody can prove ownership, or an invariant broke"
    EVICT = "a bounded table must shed"
    RESTARTED = "own process restarted, session found in the store"


class Act(enum.Flag):
    """What a transition does to the binding, the window and the keys."""

    NONE = 0
    BIND = enum.auto()  # first binding, epoch 1
    CLEAR = enum.auto()  # no binding from here on
    OPEN_WINDOW = enum.auto()  # unless it is open already: retries never restart it
    SWAP = enum.auto()  # atomic: epoch up, new path bound, old one RETIRING, window closed
    END = enum.auto()  # binding cleared, keys erased, paths forgotten


class Facts(NamedTuple):
    """What guards may know. All are judged at the time of the trigger, for the role that runs the machine."""

    bound: bool = False
    candidate: bool = False
    allowed: bool = False
    disagreement: bool = False
    window_open: bool = False
    backoff_over: bool = True
    retry: bool = False
    proven: bool = False
    had_candidate: bool = False
    exhausted: bool = False
    lifetime_left: bool = True


Guard = Callable[[Facts], bool]


def always(_: Facts) -> bool:
    """-"""
    return True


def proven(f: Facts) -> bool:
    """the evidence of this row is complete"""
    return f.proven


def bound(f: Facts) -> bool:
    """a path is bound"""
    return f.bound


def unbound(f: Facts) -> bool:
    """no path is bound"""
    return not f.bound


def has_candidate(f: Facts) -> bool:
    """a candidate is eligible"""
    return f.candidate


def may_switch(f: Facts) -> bool:
    """candidate eligible and discretionary budget left; no guard for a disagreement"""
    return f.disagreement or (f.candidate and f.allowed)


def may_recover(f: Facts) -> bool:
    """candidate eligible, budget, and active delivering or window open"""
    return f.candidate and f.allowed and (f.bound or f.window_open)


def may_replace_dead(f: Facts) -> bool:
    """candidate eligible and budget (the window opens with this very row)"""
    return f.candidate and f.allowed


def may_retry(f: Facts) -> bool:
    """as T10, and the backoff is over; second attempt of this window"""
    return may_recover(f) and f.backoff_over and f.retry


def may_start(f: Facts) -> bool:
    """as T10, and the backoff is over"""
    return may_recover(f) and f.backoff_over


def proven_again(f: Facts) -> bool:
    """the evidence of this row is complete; second attempt of this window"""
    return f.proven and f.retry


def can_wait_again(f: Facts) -> bool:
    """active delivering or window open; second attempt of this window"""
    return can_wait(f) and f.retry


def can_wait(f: Facts) -> bool:
    """active delivering or window open"""
    return f.bound or f.window_open


def calm(f: Facts) -> bool:
    """binding never lost, authenticated liveness throughout, both ends report the same binding, no switch pending"""
    return f.proven and f.bound


def never_candidate(f: Facts) -> bool:
    """no binding, and there never was a candidate"""
    return not f.bound and not f.had_candidate


def exhausted(f: Facts) -> bool:
    """no binding, and max_attempts was reached"""
    return not f.bound and f.exhausted


def restartable(f: Facts) -> bool:
    """lifetime left"""
    return f.lifetime_left


def restartable_bound(f: Facts) -> bool:
    """lifetime left, and a path was bound"""
    return f.lifetime_left and f.bound


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: taken when ``when`` holds at an end in ``roles``. More than one reason: the trigger names which."""

    row: str
    when: Guard
    to: State
    reasons: tuple[Reason, ...]
    acts: Act = Act.NONE
    roles: str = "CG"

    def reason_for(self, asked: Reason) -> Reason | None:
        """The reason this row gives: the asked one if the row lists it, its only one, or None: not this row."""
        if asked in self.reasons:
            return asked
        return self.reasons[0] if len(self.reasons) == 1 else None


R = Reason
_LOST = Act.CLEAR | Act.OPEN_WINDOW
REQUEST_REASONS: Final = (
    R.PEER_REPORTED_INSTABILITY,
    R.NAT_REBIND,
    R.OPERATOR_SWITCH,
    R.PREFERRED_PATH,
    R.BINDING_MISMATCH,
    R.STOCK_ROAMING,
    R.LINK_DOWN,
)
_BREACHES: Final = (
    R.LOSS_THRESHOLD_EXCEEDED,
    R.LATENCY_THRESHOLD_EXCEEDED,
    R.JITTER_THRESHOLD_EXCEEDED,
    R.HEARTBEAT_TIMEOUT,
)
_WINDOW_END: Final = (
    Rule("T16", never_candidate, TERMINATED, (R.ALL_TRANSPORTS_DEAD,), Act.END),
    Rule("T16", exhausted, TERMINATED, (R.POLICY_EXHAUSTED,), Act.END),
    Rule("T16", unbound, TERMINATED, (R.RECOVERY_WINDOW_EXPIRED,), Act.END),
)
_T11: Final = (
    Rule("T11", may_retry, RECOVERING, (R.RECOVERY_RETRY,), roles="C"),
    Rule("T11", may_start, RECOVERING, (R.RECOVERY_START,), roles="C"),
)
_RESTART: Final = Rule("T22", restartable, DEGRADED, (R.OWNER_RESTARTED,), _LOST)

Table = Mapping[tuple[State, Trigger], tuple[Rule, ...]]

# (state, trigger) -> candidate rows in order, the first whose guard holds is taken. T0 makes the session itself and is
# Session.create; it has no state to come from. An absent pair changes nothing.
_ROWS: Final[dict[tuple[State, Trigger], tuple[Rule, ...]]] = {
    (BIRTH, Trigger.CONFIRM): (Rule("T1", proven, ATTACHED, (R.HANDSHAKE_OK,), Act.BIND),),
    (BIRTH, Trigger.BIRTH_FAILED): (
        Rule("T2", always, TERMINATED, (R.HANDSHAKE_FAIL, R.BIRTH_TIMEOUT), Act.END),
    ),
    (BIRTH, Trigger.RESTARTED): (Rule("T2", always, TERMINATED, (R.HANDSHAKE_FAIL,), Act.END),),
    (ATTACHED, Trigger.BREACH): (Rule("T3", proven, VOLATILE, _BREACHES),),
    (ATTACHED, Trigger.ACTIVE_DEAD): (
        Rule("T4", has_candidate, VOLATILE, (R.TRANSPORT_DEAD,), _LOST),
        Rule("T5", always, DEGRADED, (R.TRANSPORT_DEAD,), _LOST),
    ),
    (ATTACHED, Trigger.SWITCH_WANTED): (
        Rule(
            "T6", may_switch, VOLATILE, (R.OPERATOR_SWITCH, R.PREFERRED_PATH, R.BINDING_MISMATCH), roles="C"
        ),
    ),
    (ATTACHED, Trigger.COMMIT): (Rule("T7", proven, VOLATILE, REQUEST_REASONS),),
    (ATTACHED, Trigger.RESTARTED): (_RESTART,),
    (VOLATILE, Trigger.CALM): (Rule("T8", calm, ATTACHED, (R.STABILITY_RESTORED,)),),
    (VOLATILE, Trigger.PERSISTED): (Rule("T9", always, DEGRADED, (R.VOLATILITY_PERSISTED,)),),
    (VOLATILE, Trigger.DENIED): (
        Rule("T9", always, DEGRADED, (R.SWITCH_RATE_LIMITED, R.COOLDOWN_ACTIVE), roles="C"),
    ),
    (VOLATILE, Trigger.NO_CANDIDATE): (Rule("T9", always, DEGRADED, (R.NO_CANDIDATE_TRANSPORT,)),),
    (VOLATILE, Trigger.ACTIVE_DEAD): (
        Rule("T10", may_replace_dead, RECOVERING, (R.RECOVERY_START,), _LOST, roles="C"),
        Rule("T9", bound, DEGRADED, (R.TRANSPORT_DEAD,), _LOST),
    ),
    (VOLATILE, Trigger.RECOVER): (Rule("T10", may_recover, RECOVERING, (R.RECOVERY_START,), roles="C"),),
    (VOLATILE, Trigger.PROVE): (Rule("T10", can_wait, RECOVERING, (R.RECOVERY_START,), roles="G"),),
    (VOLATILE, Trigger.COMMIT): (Rule("T10", proven, RECOVERING, (R.RECOVERY_START,)),),
    (VOLATILE, Trigger.RESTARTED): (_RESTART,),
    (DEGRADED, Trigger.RECOVER): _T11,
    (DEGRADED, Trigger.PROVE): (
        Rule("T11", can_wait_again, RECOVERING, (R.RECOVERY_RETRY,), roles="G"),
        Rule("T11", can_wait, RECOVERING, (R.RECOVERY_START,), roles="G"),
    ),
    (DEGRADED, Trigger.COMMIT): (
        Rule("T11", proven_again, RECOVERING, (R.RECOVERY_RETRY,)),
        Rule("T11", proven, RECOVERING, (R.RECOVERY_START,)),
    ),
    (DEGRADED, Trigger.CALM): (Rule("T12", calm, ATTACHED, (R.STABILITY_RESTORED,)),),
    (DEGRADED, Trigger.ACTIVE_DEAD): (Rule("T15", bound, DEGRADED, (R.TRANSPORT_DEAD,), _LOST),),
    (DEGRADED, Trigger.RESTARTED): (Rule("T22", restartable_bound, DEGRADED, (R.OWNER_RESTARTED,), _LOST),),
    (RECOVERING, Trigger.COMMIT): (Rule("T13", proven, ATTACHED, (R.REATTACH_SUCCESS,), Act.SWAP),),
    (RECOVERING, Trigger.ATTEMPT_FAILED): (
        Rule("T14", can_wait, DEGRADED, (R.REATTACH_REJECTED, R.REATTACH_TIMEOUT, R.NO_CANDIDATE_TRANSPORT)),
    ),
    (RECOVERING, Trigger.ACTIVE_DEAD): (Rule("T15", bound, RECOVERING, (R.TRANSPORT_DEAD,), _LOST),),
    (RECOVERING, Trigger.RESTARTED): (_RESTART,),
    **{(state, Trigger.WINDOW_EXPIRED): _WINDOW_END for state in (VOLATILE, DEGRADED, RECOVERING)},
}

_ENDS: Final = {
    Trigger.LIFETIME: Rule("T17", always, TERMINATED, (R.SESSION_TTL_EXPIRED,), Act.END),
    Trigger.TERMINATE: Rule(
        "T18", always, TERMINATED, (R.OPERATOR_TERMINATED, R.PEER_TERMINATED, R.SUPERSEDED), Act.END
    ),
    Trigger.KEY_LOST: Rule("T19", proven, TERMINATED, (R.KEY_EXPIRED, R.SECURITY_VIOLATION), Act.END),
    Trigger.OWNERSHIP: Rule(
        "T20", always, TERMINATED, (R.OWNERSHIP_AMBIGUOUS, R.INVARIANT_VIOLATION), Act.END, roles="G"
    ),
    Trigger.EVICT: Rule("T21", proven, TERMINATED, (R.RESOURCE_EVICTED,), Act.END, roles="G"),
}

TRANSITIONS: Final[Table] = {
    **_ROWS,
    **{(state, trigger): (rule,) for state in LIVE for trigger, rule in _ENDS.items()},
}

# Simultaneous triggers, highest first (session.md §3). What is not listed comes after what is.
PRIORITY: Final[tuple[Trigger, ...]] = (
    Trigger.LIFETIME,
    Trigger.TERMINATE,
    Trigger.KEY_LOST,
    Trigger.OWNERSHIP,
    Trigger.EVICT,
    Trigger.WINDOW_EXPIRED,
    Trigger.ACTIVE_DEAD,
    Trigger.COMMIT,
    Trigger.ATTEMPT_FAILED,
    Trigger.BREACH,
    Trigger.CALM,
)


def decide(
    state: State, role: Role, trigger: Trigger, asked: Reason, facts: Facts
) -> tuple[Rule, Reason] | None:
    """The row taken and the reason it gives, or None: refused, nothing changes."""
    for rule in TRANSITIONS.get((state, trigger), ()):
        if role.value not in rule.roles or not rule.when(facts):
            continue
        reason = rule.reason_for(asked)
        if reason is not None:
            return rule, reason
    return None


_ATTACHING: Final = frozenset({"T1", "T8", "T12", "T13"})
_SELF: Final = frozenset({"T15", "T22"})


def forbidden(start: State, row: str, to: State) -> str:
    """Why this edge may never be in the table (session.md §3 "Forbidden by construction"), or empty."""
    if start is TERMINATED:
        return "TERMINATED is absorbing"
    if to is BIRTH:
        return "nothing returns to BIRTH"
    if start is BIRTH and to not in (ATTACHED, TERMINATED):
        return "BIRTH becomes ATTACHED or ends"
    if (start, to) in ((ATTACHED, RECOVERING), (RECOVERING, VOLATILE)):
        return "not an edge of the machine"
    if to is ATTACHED and row not in _ATTACHING:
        return "ATTACHED is entered by T1, T8, T12 and T13 only"
    if start is to and row not in _SELF:
        return "only T15 and T22 stay where they are"
    return ""


def edges() -> Iterable[tuple[State, Trigger, Rule]]:
    """Every row of the table with where it starts, in table order."""
    for (state, trigger), rules in TRANSITIONS.items():
        for rule in rules:
            yield state, trigger, rule


def _check() -> None:
    for start, _, rule in edges():
        why = forbidden(start, rule.row, rule.to)
        if why or not rule.reasons:
            raise ValueError(f"{rule.row} from {start.name} to {rule.to.name}: {why or 'no reason'}")


_check()
