# SPDX-License-Identifier: Apache-2.0
"""What became of the clients' sessions, counted from the events of their cores as they happen: no session is searched.

Rule: a sink. It never blocks, never raises, and decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2s
from typing import Any, Final

from bench.load.histogram import Histogram
from gateway.core import driver
from gateway.core import events as ev
from gateway.core import inputs as inp
from gateway.core.reasons import Reason
from gateway.core.session import Session, Turn
from gateway.core.states import State, SwitchClass

_DIGEST_BYTES: Final = 16


class Tally:
    """Counts by state, totals, and how long those took that lost their path. `moved` hears of every path that a
    session was attached to or challenged on.
    """

    def __init__(self, now_ns: int) -> None:
        self.states: Counter[State] = Counter()
        self.totals: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._ids = 0  # all living session ids, their digests combined by exclusive or: no order
        self._left_ns: dict[bytes, int] = {}  # sessions that are away from ATTACHED, since when
        self.moved: Callable[[bytes, bool], None] = lambda session_id, attached: None
        self.mark(now_ns)

    def mark(self, now_ns: int) -> None:
        """Failures are timed from here on."""
        self.mark_ns = now_ns
        self.since_mark, self.since_noticed = Histogram(), Histogram()
        self.back: Counter[str] = Counter()
        self.ended_since: Counter[str] = Counter()

    # --- what the sessions tell -------------------------------------------------------------------------------

    def created(self, session: Session, first: driver.First, turn: Turn) -> None:
        self.states[State.BIRTH] += 1
        self.totals["created"] += 1
        self._toggle(session.session_id)
        self._read(session, turn)

    def restored(
        self, session: Session, record: driver.Stored, down_ns: int, audited_version: int, turn: Turn
    ) -> None:
        self.states[record.state] += 1
        self.totals["restored"] += 1
        self._toggle(session.session_id)
        self._read(session, turn)
        self._left_ns.pop(session.session_id, None)  # a new process, no path that failed

    def received(self, session: Session, one: inp.Input, turn: Turn) -> None:
        if turn.events:
            self._read(session, turn)
        if type(one) is inp.ChallengeReceived:
            self.totals["challenges"] += 1
            self.moved(session.session_id, False)

    def timed(self, session: Session, turn: Turn) -> None:
        if turn.events:
            self._read(session, turn)

    def forgotten(self, session: Session) -> None:
        """Its process has ended without a word."""
        self.states[session.state] -= 1
        self._left_ns.pop(session.session_id, None)
        self._toggle(session.session_id)

    # --- events -----------------------------------------------------------------------------------------------

    def _read(self, session: Session, turn: Turn) -> None:
        for event in turn.events:
            if isinstance(event, ev.StateChange):
                self._changed(session, event)
            elif isinstance(event, ev.TransportSwitch):
                rebind = event.switch_class is SwitchClass.REBIND
                self.totals["rebinds" if rebind else "switches"] += 1
            elif isinstance(event, ev.TransportDead):
                self.totals["paths_dead"] += 1
            elif isinstance(event, ev.TerminationEvent):
                self._terminated(session, event.reason)

    def _changed(self, session: Session, event: ev.StateChange) -> None:
        before, after = event.previous_state, event.new_state
        self.states[before] -= 1
        self.states[after] += 1
        if after is State.ATTACHED:
            self._attached(session.session_id, event)
        elif before is State.ATTACHED and event.reason is not Reason.NAT_REBIND:
            self._left_ns[session.session_id] = event.mono_ns

    def _attached(self, session_id: bytes, event: ev.StateChange) -> None:
        left_ns = self._left_ns.pop(session_id, None)
        if left_ns is not None:
            self.since_noticed.record_ns(event.mono_ns - left_ns)
            self.since_mark.record_ns(event.mono_ns - self.mark_ns)
            self.back[event.row] += 1
        self.moved(session_id, True)

    def _terminated(self, session: Session, reason: Reason) -> None:
        self.states[State.TERMINATED] -= 1
        self.ended[reason.name] += 1
        self.ended_since[reason.name] += 1
        self._left_ns.pop(session.session_id, None)
        self._toggle(session.session_id)

    def _toggle(self, session_id: bytes) -> None:
        digest = blake2s(session_id, digest_size=_DIGEST_BYTES).digest()
        self._ids ^= int.from_bytes(digest, "little")

    # --- the report -------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """Counts, totals, and the failures since the mark."""
        return {
            "states": {state.name: count for state, count in self.states.items() if count},
            "sessions": sum(self.states.values()),
            "session_ids_hash": f"{self._ids:032x}",
            "totals": dict(self.totals),
            "terminated": dict(self.ended),
            "since_mark": {
                "reattached_us": self.since_mark.summary(),
                "noticed_to_attached_us": self.since_noticed.summary(),
                "by_row": dict(self.back),
                "away": len(self._left_ns),
                "terminated": dict(self.ended_since),
            },
        }
