# SPDX-License-Identifier: Apache-2.0
"""The audit log: everything that went into the sessions and everything they decided, in order, off the loop.

Rule 1: the loop only appends a small tuple to a bounded queue; it never waits, and nothing here raises into it. One
writer thread makes the records, chains them and writes them (``auditfile``).
Rule 2: a turn is written whole or not at all. What could not be written (the queue was full while the disk was slow,
full or gone) becomes one AUDIT_GAP per session with its versions, refilled from what the session remembers itself.

When it is on disk: a group that holds an event is written and fsynced before the next one is taken, 5 ms after its
first event at the latest (an ordinary disk needs less than 15 ms more). Inputs and timers that led to no event wait up
to 250 ms for company, are written then and fsynced within a second. A signed checkpoint follows a minute or 1,024
records later at the latest, and at the end. Every input and every timer is written: even one without an event may have
moved what a later decision rests on. (A record is 0.5 KB, 4 µs on the loop and 20 µs in the thread.)
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from gateway import crypto
from gateway.control import clock
from gateway.control.auditfile import Journal, Record, SigningKey
from gateway.core import audit, driver
from gateway.core import inputs as inp
from gateway.core.audit import Body
from gateway.core.events import AuditGap, Event, StateChange
from gateway.core.policy import Policy
from gateway.core.session import Session, Turn
from gateway.core.states import Role

# 65,536 turns are 20 MB at most and bridge a disk that is away for a minute of heavy switching.
CAPACITY: Final = 65_536
# One write and one fsync carry at most this many turns.
GROUP_MAX: Final = 4096
GATHER_S: Final = 0.005
LAZY_S: Final = 0.25
LAZY_MAX: Final = 1024
SYNC_WITHIN_S: Final = 1.0
CHECKPOINT_S: Final = 60.0
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
TAIL_EVENTS: Final = 4096
# Gaps of more sessions than this are one gap of all.
GAPS_MAX: Final = 4096
_ADDRESS: Final = re.compile(r"\b(?:udp|tls):[^\s,;\"]+")

Callback = Callable[["Told"], None]


class _Who(NamedTuple):
    """What a record says about a session, as it was then: all that ``core.audit`` reads of one."""

    session_id: bytes
    peer: str
    policy: Policy
    role: Role
    stock: bool

    @property
    def session(self) -> Session:
        return cast("Session", self)


class _Restored(NamedTuple):
    record: driver.Stored
    down_ns: int
    audited_version: int


Source = driver.First | inp.Input | _Restored | None  # None: a timer


class _Item(NamedTuple):
    """One turn: what led to it and what it decided."""

    who: _Who
    mono_ns: int
    unix_ns: int
    source: Source
    events: tuple[Event, ...]


class _Act(NamedTuple):
    """A record that belongs to no session."""

    body: Body
    unix_ns: int


class Told(NamedTuple):
    """One event, or what an operator did, as a follower hears of it before it is on disk.

    ``number`` counts both from 1 in this process. ``who`` is None for an action that names no session.
    """

    number: int
    unix_ns: int
    who: _Who | None
    event: Event | _Act

    @property
    def session_id(self) -> bytes:
        return self.who.session_id if self.who is not None else b""

    @property
    def peer(self) -> str:
        return self.who.peer if self.who is not None else ""

    def body(self) -> Body:
        """Its record, without wall clock, node and chain. An action says whose it is as an event does."""
        if isinstance(self.event, _Act) or self.who is None:
            return {**cast("_Act", self.event).body, "session_id": self.session_id.hex(), "peer": self.peer}
        return audit.event_body(self.who.session, self.event)


class _Gap:
    """What of one session was not written. ``session`` remembers its last transitions itself."""

    __slots__ = ("epoch", "first", "last", "lost", "mono_ns", "session", "unix_ns", "version", "who")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.first = self.last = self.lost = 0

    def add(self, item: _Item) -> None:
        self.who, self.mono_ns, self.unix_ns = item.who, item.mono_ns, item.unix_ns
        self.version, self.epoch = self.session.version, self.session.epoch
        self.lost += 1
        for event in item.events:
            if isinstance(event, StateChange):
                self.first = self.first or event.state_version
                self.last = event.state_version

    def body(self) -> Body:
        """AUDIT_GAP: versions first..last (0..0: no transition among what was lost), and those still remembered."""
        event = AuditGap(self.mono_ns, self.version, self.epoch, self.first, self.last, self.lost)
        body = audit.event_body(self.who.session, event)
        body["cause"] = "NOT_WRITTEN"
        body["history"] = [
            {name: audit.plain(value) for name, value in row._asdict().items()}
            for row in self.session.history()
            if self.first <= row.version <= self.last
        ]
        return body


def _bodies(item: _Item) -> list[Body]:
    """The records of one turn, in order."""
    s, now_ns, source = item.who.session, item.mono_ns, item.source
    if source is None:
        bodies = [audit.timer_body(s, now_ns)]
    elif isinstance(source, driver.First):
        bodies = [audit.create_body(s, source, now_ns)]
    elif isinstance(source, _Restored):
        bodies = [*_unaudited(s, source, now_ns), audit.restore_body(s, *source, now_ns)]
    else:
        bodies = [audit.input_body(s, source, now_ns)]
    return bodies + [audit.event_body(s, event) for event in item.events]


def _unaudited(s: Session, found: _Restored, now_ns: int) -> list[Body]:
    """Versions that the store knows and the journal does not: their records died with the process."""
    record, audited = found.record, found.audited_version
    if not audited or record.version <= audited:
        return []
    event = AuditGap(now_ns, record.version, record.epoch, audited + 1, record.version)
    return [{**audit.event_body(s, event), "cause": "RESTART", "history": []}]


def gap_body(cause: str, now_ns: int, **more: Any) -> Body:
    """An AUDIT_GAP that concerns every session."""
    return {"schema": audit.SCHEMA, "mono_ns": now_ns, "event": "AUDIT_GAP", "cause": cause, **more}


class AuditLog:
    """Takes the turns of all sessions (the Sink of ``control.sessions``). Its thread starts at once.

    ``on_problem`` hears, on the writer's thread, when writing begins to fail and when it works again.
    """

    def __init__(
        self,
        directory: Path,
        node: str,
        signing_key: SigningKey,
        *,
        interface: str,
        unix_ns: Callable[[], int] = clock.unix_ns,
        now_ns: Callable[[], int] = clock.now_ns,
        max_bytes: int = 64 << 20,
        keep: int = 0,
        redact: bool = False,
        capacity: int = CAPACITY,
        on_problem: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.node = node
        self.started = unix_ns()  # names this run
        self._redaction_key = signing_key.secret[:32] if redact else b""
        self._unix_ns = unix_ns
        self._now_ns = now_ns
        self._capacity = capacity
        self._on_problem = on_problem
        self._journal = Journal(
            directory,
            interface,
            node,
            signing_key,
            max_bytes=max_bytes,
            keep=keep,
            unix_ns=unix_ns,
            now_ns=now_ns,
        )
        self._lock = threading.Lock()  # covers the next four; held for a few instructions
        self._queue: deque[_Item | _Act] = deque()
        self._gaps: dict[bytes, _Gap] = {}
        self._missed = 0  # turns of sessions beyond GAPS_MAX
        self._in_flight = 0
        self._some = threading.Event()  # the queue is not empty
        self._now = threading.Event()  # and should be written at once
        self._closing = threading.Event()
        self._rotations: deque[Future[Path]] = deque()
        self._failing = ""
        self._lost = self._gap_records = self._events = self._written = 0
        self._number = 0  # of what followers were told last
        self._torn_bytes = 0  # cut off at the start
        self._signed_s = 0.0
        self._tail: deque[Told] = deque(maxlen=TAIL_EVENTS)
        self._followers: list[Callback] = []
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    # --- the sink: called on the loop -------------------------------------------------------------------------

    def created(self, session: Session, first: driver.First, turn: Turn) -> None:
        self._add(session, first, turn)

    def received(self, session: Session, one: inp.Input, turn: Turn) -> None:
        self._add(session, one, turn)

    def timed(self, session: Session, turn: Turn) -> None:
        self._add(session, None, turn)

    def restored(
        self, session: Session, record: driver.Stored, down_ns: int, audited_version: int, turn: Turn
    ) -> None:
        self._add(session, _Restored(record, down_ns, audited_version), turn)

    def acted(self, body: Body) -> None:
        """A record of what an operator did. It stands behind every turn that is here already."""
        act = _Act(body, self._unix_ns())
        with self._lock:
            if self._full():
                self._lost += 1
                self._missed += 1
            else:
                self._queue.append(act)
        self._some.set()
        self._now.set()
        self._tell(act.unix_ns, self._known(str(body.get("target", ""))), act)

    def _known(self, session: str) -> _Who | None:
        """The session of this id, by what followers were told of it."""
        found = (
            told.who for told in reversed(self._tail) if told.session_id and told.session_id.hex() == session
        )
        return next(found, None)

    def _full(self) -> bool:
        """After the first turn that was missed all others are, until the writer has taken the gap: order holds."""
        waiting = len(self._queue) + self._in_flight
        return bool(self._gaps or self._missed or waiting >= self._capacity or self._closing.is_set())

    def _add(self, session: Session, source: Source, turn: Turn) -> None:
        who = _Who(session.session_id, session.peer, session.policy, session.role, session.stock)
        item = _Item(who, turn.now_ns, self._unix_ns(), source, tuple(turn.events))
        with self._lock:
            waiting = len(self._queue) + self._in_flight
            if self._full():
                self._miss(session, item)
            else:
                self._queue.append(item)
        if not self._some.is_set():
            self._some.set()
        if (item.events or waiting >= LAZY_MAX) and not self._now.is_set():
            self._now.set()
        for event in item.events:
            self._events += 1
            self._tell(item.unix_ns, who, event)

    def _miss(self, session: Session, item: _Item) -> None:
        self._lost += 1
        gap = self._gaps.get(item.who.session_id)
        if gap is None and len(self._gaps) < GAPS_MAX:
            gap = self._gaps[item.who.session_id] = _Gap(session)
        if gap is None:
            self._missed += 1
        else:
            gap.add(item)

    def _tell(self, unix_ns: int, who: _Who | None, event: Event | _Act) -> None:
        self._number += 1
        told = Told(self._number, unix_ns, who, event)
        self._tail.append(told)
        for callback in tuple(self._followers):
            try:
                callback(told)
            except Exception as error:  # a follower's fault is not the session's
                self._on_problem(f"a follower of events failed: {error!r}")

    # --- followers --------------------------------------------------------------------------------------------

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call back on the loop for every event and action from now on; the result unsubscribes."""
        self._followers.append(callback)
        return lambda: self._followers.remove(callback) if callback in self._followers else None

    @property
    def last_number(self) -> int:
        """The number of what was told last, 0 before the first."""
        return self._number

    def since(self, number: int) -> Iterator[Told]:
        """The events after this number that are still in memory, oldest first."""
        return (told for told in tuple(self._tail) if told.number > number)

    def recent(self, session_id: bytes) -> list[Told]:
        """The events of one session that are still in memory, oldest first."""
        return [told for told in self._tail if told.session_id == session_id]

    def body(self, told: Told) -> Body:
        """What was told as its record will say it, without its place in the chain."""
        body = self._redacted(told.body())
        return {**body, "ts": audit.wall(told.unix_ns), "node": self.node, "number": told.number}

    @property
    def queued(self) -> int:
        """Turns that are not written yet."""
        return len(self._queue) + self._in_flight

    def hurry(self) -> None:
        """Write what is queued at once, events or not."""
        self._now.set()

    def rotate(self) -> Future[Path]:
        """Begin a new file of the journal behind what is queued; the path of the one that is complete then."""
        wanted: Future[Path] = Future()
        self._rotations.append(wanted)
        self._some.set()
        self._now.set()
        return wanted

    def counters(self) -> dict[str, int]:
        """Totals for /metrics; ``failing`` is 1 while nothing can be written."""
        return {
            "events": self._events,
            "records": self._written,
            "lost_turns": self._lost,
            "gaps": self._gap_records,
            "queued": self.queued,
            "failing": int(bool(self._failing)),
        }

    def close(self, timeout_s: float = 10.0) -> bool:
        """Write and sign what is queued and stop. False when that did not work in time. Blocks: call it in a thread."""
        self._closing.set()
        self._some.set()
        self._now.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._failing and not self._queue

    # --- the writer's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        if not self._persist(self._open):
            return
        while True:
            if not self._some.wait(self._patience_s()):
                self._persist(self._settle)
                continue
            self._now.wait(LAZY_S)
            self._closing.wait(GATHER_S)
            records, urgent = self._take()
            done = self._persist(functools.partial(self._write, records, urgent, not self._signed_for_s()))
            with self._lock:
                self._in_flight = 0
                left = bool(self._queue or self._gaps or self._missed)
            self._turn_over()
            self._written = self._journal.seq
            if self._closing.is_set() and not (done and left):
                self._persist(lambda: self._journal.write((), sync=True, final=True))
                self._journal.close()
                return

    def _turn_over(self) -> None:
        """Rotations that were asked for. One that the disk refuses is not tried again: who asked is told."""
        while self._rotations:
            wanted = self._rotations.popleft()
            if not wanted.set_running_or_notify_cancel():
                continue  # who asked has given up
            try:
                wanted.set_result(self._journal.rotate())
            except OSError as error:
                wanted.set_exception(error)

    def _open(self) -> None:
        self._torn_bytes += self._journal.open().torn_bytes
        gap = gap_body("TORN_TAIL", self._now_ns(), torn_bytes=self._torn_bytes)
        torn = [(gap, self._unix_ns())] if self._torn_bytes else []
        self._journal.write(torn, sync=True, sign=True)
        self._gap_records += len(torn)

    def _write(self, records: list[Record], sync: bool, sign: bool) -> None:
        try:
            self._journal.write(records, sync=sync or sign, sign=sign)
        except (TypeError, ValueError) as error:  # a record that is no JSON must not end the log
            self._on_problem(f"audit records could not be made: {error!r}")
            gap = gap_body("NOT_RECORDABLE", self._now_ns(), lost=len(records))
            self._gap_records += 1
            self._journal.write([(gap, self._unix_ns())], sync=sync)

    def _patience_s(self) -> float | None:
        """How long the writer may sleep: until what it wrote must be synced or signed."""
        if self._journal.dirty:
            return SYNC_WITHIN_S
        return self._signed_for_s() if self._journal.unsigned else None

    def _signed_for_s(self) -> float:
        """How long the last checkpoint is still enough."""
        if not self._journal.unsigned:
            self._signed_s = time.monotonic()
        return max(0.0, self._signed_s + CHECKPOINT_S - time.monotonic())

    def _settle(self) -> None:
        if self._journal.dirty:
            self._journal.sync()
        else:
            self._journal.write((), sync=True, sign=True)

    def _take(self) -> tuple[list[Record], bool]:
        """The records of the next group, then of the gaps that follow it; and whether one is of an event."""
        self._now.clear()
        self._some.clear()
        with self._lock:
            items = [self._queue.popleft() for _ in range(min(GROUP_MAX, len(self._queue)))]
            self._in_flight = len(items)
            gaps, missed = [], 0
            if not self._queue:
                gaps, missed = list(self._gaps.values()), self._missed
                self._gaps, self._missed = {}, 0
            else:
                self._some.set()
                self._now.set()
        records: list[Record] = []
        for item in items:
            records += self._records(item)
        records += self._gap_records_of(gaps, missed)
        return records, bool(gaps or missed) or any(isinstance(item, _Act) or item.events for item in items)

    def _records(self, item: _Item | _Act) -> list[Record]:
        if isinstance(item, _Act):
            return [(self._redacted(item.body), item.unix_ns)]
        self._journal.know(item.who.policy, item.mono_ns)
        return [(self._redacted(body), item.unix_ns) for body in _bodies(item)]

    def _gap_records_of(self, gaps: list[_Gap], missed: int) -> list[Record]:
        records = [(self._redacted(gap.body()), gap.unix_ns) for gap in gaps]
        if missed:
            records.append((gap_body("NOT_WRITTEN", self._now_ns(), lost=missed), self._unix_ns()))
        self._gap_records += len(records)
        return records

    def _persist(self, work: Callable[[], None]) -> bool:
        """Do it, again and again until it works. False when the log was closed before it did."""
        wait_s = RETRY_MIN_S
        while True:
            try:
                work()
            except OSError as error:
                self._failed(str(error))
            else:
                self._recovered()
                return True
            if self._closing.wait(wait_s):
                return False
            wait_s = min(RETRY_MAX_S, 2 * wait_s)

    def _failed(self, why: str) -> None:
        if not self._failing:
            self._on_problem(f"the audit log cannot be written, traffic goes on without it: {why}")
        self._failing = why

    def _recovered(self) -> None:
        if self._failing:
            self._on_problem("the audit log is written again")
        self._failing = ""

    # --- redaction --------------------------------------------------------------------------------------------

    def _redacted(self, body: Body) -> Body:
        """With redaction every address becomes a name of its own, the same wherever it occurs: a replay still holds."""
        return cast("Body", self._hidden(body)) if self._redaction_key else body

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return _ADDRESS.sub(lambda found: self._alias(found[0]), value) if ":" in value else value
        if isinstance(value, dict):
            return {key: self._hidden(one) for key, one in value.items()}
        return [self._hidden(one) for one in value] if isinstance(value, list) else value

    def _alias(self, address: str) -> str:
        carrier = address.partition(":")[0]
        digest = crypto.blake2s_mac(self._redaction_key, address.encode())
        return f"{carrier}:#{digest[:6].hex()}"
