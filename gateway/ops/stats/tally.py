# SPDX-License-Identifier: Apache-2.0
"""What the sessions' events add up to since the start, for /metrics: counted as they happen, on the loop.

Three of the counters must stay 0. They are found here from the events alone, as a second opinion: a session bound to
another address without a new epoch (dual binding), one whose version skips or goes back (silent reset), and one that
ended because nobody could prove to own it. What is kept of a session goes with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway.constants import NS_PER_S
from gateway.control.auditlog import AuditLog, Told
from gateway.control.watch import Histogram
from gateway.core import events as ev
from gateway.core.reasons import Reason
from gateway.core.states import State

HANDSHAKE_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
RECOVERY_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


# A refusal by one of these is a limit that holds; by any other a switch that failed.
_LIMITS: Final = frozenset(
    (
        Reason.RATE_LIMITED,
        Reason.SWITCH_RATE_LIMITED,
        Reason.COOLDOWN_ACTIVE,
        Reason.HYSTERESIS_NOT_MET,
        Reason.POLICY_DENIED,
        Reason.PATH_SUPPRESSED,
    )
)


class _Seen:
    """The last word of one session: version, binding, its attempt in progress, and since when it is not ATTACHED."""

    __slots__ = ("attempt", "epoch", "left_ns", "transport", "version")

    def __init__(self) -> None:
        self.version = self.epoch = self.left_ns = 0
        self.transport = ""
        self.attempt = (0, "")  # its id, and the kind of switch that it asks for


class Tally:
    """Counts from `start` to `stop`."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._unsubscribe: Callable[[], None] | None = None
        self._sessions: dict[bytes, _Seen] = {}
        self.transitions: Counter[tuple[str, str, str]] = Counter()  # from, to, reason
        self.switches: Counter[tuple[str, str, str]] = Counter()  # kind, result, reason
        self.security: Counter[str] = Counter()  # by class
        self.recovery = Histogram(RECOVERY_BUCKETS_S)
        self.handshakes = Histogram(HANDSHAKE_BUCKETS_S)
        self.dual_bindings = self.silent_resets = self.ambiguous_owners = 0

    def start(self) -> None:
        """Count from now on."""
        self._unsubscribe = self._audit.subscribe(self.hear)

    def stop(self) -> None:
        """Nothing is counted any more."""
        if self._unsubscribe is not None:
            self._unsubscribe()

    def took(self, took_ns: int) -> None:
        """One handshake has completed."""
        self.handshakes.add(took_ns / NS_PER_S)

    def hear(self, told: Told) -> None:
        """One event."""
        event = told.event
        if isinstance(event, ev.StateChange):
            self._changed(told.session_id, event)
        elif isinstance(event, ev.TransportAttached):
            self._attached(told.session_id, event)
        elif isinstance(event, ev.TransportSwitch):
            self.switches[event.switch_class.value, "done", event.reason.name] += 1
        elif isinstance(event, ev.TransportSwitchDenied):
            self.switches[event.switch_class.value, "denied", event.rule.name] += 1
        elif isinstance(event, ev.ReattachAttempt):
            seen = self._sessions.setdefault(told.session_id, _Seen())
            seen.attempt = (event.attempt_id, event.switch_class.value)
        elif isinstance(event, ev.ReattachResult):
            self._answered(told.session_id, event)
        elif isinstance(event, ev.SecurityEvent):
            self.security[event.security_class.name] += event.count

    def _changed(self, ident: bytes, event: ev.StateChange) -> None:
        old, new, reason = event.previous_state, event.new_state, event.reason
        self.transitions[old.name, new.name, reason.name] += 1
        self.ambiguous_owners += reason is Reason.OWNERSHIP_AMBIGUOUS
        seen = self._sessions.setdefault(ident, _Seen())
        self.silent_resets += seen.version != 0 and event.state_version != seen.version + 1
        seen.version = event.state_version
        if old is State.ATTACHED and new is not State.ATTACHED:
            seen.left_ns = event.mono_ns
        elif new is State.ATTACHED and seen.left_ns:
            self.recovery.add((event.mono_ns - seen.left_ns) / NS_PER_S)
            seen.left_ns = 0
        if new is State.TERMINATED:
            del self._sessions[ident]

    def _answered(self, ident: bytes, event: ev.ReattachResult) -> None:
        """A request that was refused; one that was granted is a switch. Refused at once, its kind is not told."""
        if event.accepted:
            return
        seen = self._sessions.setdefault(ident, _Seen())
        kind = seen.attempt[1] if seen.attempt[0] == event.attempt_id else "unknown"
        result = "denied" if event.reason in _LIMITS else "failed"
        self.switches[kind, result, event.reason.name] += 1

    def _attached(self, ident: bytes, event: ev.TransportAttached) -> None:
        seen = self._sessions.setdefault(ident, _Seen())
        moved = seen.transport not in ("", event.transport)
        self.dual_bindings += moved and event.binding_epoch <= seen.epoch
        seen.transport, seen.epoch = event.transport, event.binding_epoch
