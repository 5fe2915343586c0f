# SPDX-License-Identifier: Apache-2.0
"""What the core tells the world: every event of session.md §8, a sentence each.

Rule: an event is a fact that already happened, complete in itself, free of secrets and payloads. One STATE_CHANGE per
``state_version``, in order, none merged. The envelope (session, peer, node, wall clock, policy) is added by ``audit``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gateway.core.reasons import Reason
from gateway.core.states import Evidence, Role, State, SwitchClass

Detail = int | str | bool
Details = tuple[tuple[str, Detail], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Common to all: monotonic time (ns), and the version and epoch that held after it."""

    name: ClassVar[str] = ""
    mono_ns: int
    state_version: int
    binding_epoch: int


@dataclass(frozen=True, slots=True)
class SessionCreated(Event):
    """A session exists (T0); with it everything a replay needs to build the same one again."""

    name: ClassVar[str] = "SESSION_CREATED"
    role: Role
    stock: bool
    path_id: int
    transport: str
    carrier: str


@dataclass(frozen=True, slots=True)
class StateChange(Event):
    """One transition. ``row`` is its row of the table, ``transport_from/to`` the binding before and after."""

    name: ClassVar[str] = "STATE_CHANGE"
    previous_state: State
    new_state: State
    reason: Reason
    row: str
    transport_from: str
    transport_to: str
    details: Details = ()


@dataclass(frozen=True, slots=True)
class TransportAttached(Event):
    """A path became the binding."""

    name: ClassVar[str] = "TRANSPORT_ATTACHED"
    path_id: int
    transport: str


@dataclass(frozen=True, slots=True)
class Scored:
    """How one candidate stood when a switch was decided; points in thousandths."""

    path_id: int
    status: str
    tier: int
    in_breach: bool
    score_milli: int
    stability: int
    penalty_milli: int


@dataclass(frozen=True, slots=True)
class TransportSwitch(Event):
    """The binding was replaced: from, to, why, every candidate's score, and what the limits said."""

    name: ClassVar[str] = "TRANSPORT_SWITCH"
    path_from: int
    path_to: int
    transport_from: str
    transport_to: str
    reason: Reason
    switch_class: SwitchClass
    attempt_id: int
    scores: tuple[Scored, ...]
    switches_in_window: int
    switch_cap: int
    cooldown_left_ns: int


@dataclass(frozen=True, slots=True)
class TransportSwitchDenied(Event):
    """A wanted switch was not made; ``rule`` is the control that denied it, ``retry_after_ns`` when it may pass."""

    name: ClassVar[str] = "TRANSPORT_SWITCH_DENIED"
    path_to: int
    reason: Reason
    rule: Reason
    switch_class: SwitchClass
    retry_after_ns: int


@dataclass(frozen=True, slots=True)
class TransportDead(Event):
    """A path was declared dead, with the evidence."""

    name: ClassVar[str] = "TRANSPORT_DEAD"
    path_id: int
    transport: str
    evidence: Evidence
    was_bound: bool
    misses: int
    span_ns: int


@dataclass(frozen=True, slots=True)
class PathChange(Event):
    """A path's status changed without being bound or lost (validated, suppressed, usable again, drained)."""

    name: ClassVar[str] = "PATH_CHANGE"
    path_id: int
    transport: str
    previous_status: str
    new_status: str


@dataclass(frozen=True, slots=True)
class PathMtu(Event):
    """The largest inner packet a path carries changed, as padded probes found; larger ones get Packet Too Big."""

    name: ClassVar[str] = "PATH_MTU"
    path_id: int
    transport: str
    inner_bytes: int
    limited: bool


@dataclass(frozen=True, slots=True)
class VolatilitySignal(Event):
    """A path is suspect or crossed an enter threshold; the measurement that says so."""

    name: ClassVar[str] = "VOLATILITY_SIGNAL"
    path_id: int
    reason: Reason
    srtt_us: int
    jitter_us: int
    loss_ppm: int


@dataclass(frozen=True, slots=True)
class ReattachAttempt(Event):
    """C: a request went out under a fresh attempt_id. G: a valid request waits for its path's proof."""

    name: ClassVar[str] = "REATTACH_ATTEMPT"
    attempt_id: int
    path_id: int
    reason: Reason
    switch_class: SwitchClass


@dataclass(frozen=True, slots=True)
class ReattachResult(Event):
    """How an attempt ended: REATTACH_SUCCESS, or the code of its refusal."""

    name: ClassVar[str] = "REATTACH_RESULT"
    attempt_id: int
    path_id: int
    accepted: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class SecurityEvent(Event):
    """Authenticated but wrong, or a defence that acted; aggregated: ``count`` of this class since the last one."""

    name: ClassVar[str] = "SECURITY_EVENT"
    security_class: Reason
    count: int
    detail: str


@dataclass(frozen=True, slots=True)
class PolicyEvent(Event):
    """A policy was applied or refused; ``problems`` says why."""

    name: ClassVar[str] = "POLICY_EVENT"
    applied: bool
    policy_hash: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyEvent(Event):
    """Something happened to the keys: ``trigger`` is INSTALLED, TIME, PACKETS, BYTES, REFUSED, UNANSWERED or ERASED."""

    name: ClassVar[str] = "KEY_EVENT"
    trigger: str


@dataclass(frozen=True, slots=True)
class OwnershipEvent(Event):
    """The owning gateway changed, or nobody can prove to own the session."""

    name: ClassVar[str] = "OWNERSHIP_EVENT"
    reason: Reason
    owner_epoch: int


@dataclass(frozen=True, slots=True)
class TerminationEvent(Event):
    """The session ended; its totals."""

    name: ClassVar[str] = "TERMINATION_EVENT"
    reason: Reason
    age_ns: int


@dataclass(frozen=True, slots=True)
class AuditGap(Event):
    """A sink lost events; the versions that are missing there."""

    name: ClassVar[str] = "AUDIT_GAP"
    first_version: int
    last_version: int
    lost: int = field(default=0)
