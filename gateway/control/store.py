# SPDX-License-Identifier: Apache-2.0
"""The durable store: what a restarted process must know to go on with its sessions. SQLite in WAL mode, one writer.

Rule 1: saving never waits and never raises: the loop leaves the latest value of each key in a table that the writer
thread empties in groups (20 ms, or 64 changes). Of several snapshots of one session only the last is written.
Rule 2: no key is ever written, only what `core.driver.Stored` holds: durations, not times of a clock that a reboot
resets.

On disk: a change is committed within 20 ms and its commit is fsynced (synchronous = FULL), so kill -9 and a power cut
lose at most the last group. A damaged database, or one of another version, is moved aside and an empty one begun.
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import os
import sqlite3
import threading
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.core.driver import Stored
from gateway.core.states import Role, State

FILE: Final = "sessions.db"
VERSION: Final = 1
GROUP_S: Final = 0.02
GROUP_MAX: Final = 64
# One entry per peer and kind: 131,072 peers with a session and a timestamp each.
PENDING_MAX: Final = 1 << 18
RETRY_S: Final = 1.0

_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Stored))
_VALUES: Final = operator.attrgetter(*_FIELDS)
_TYPES: Final = typing.get_type_hints(Stored)
_COLUMNS: Final = ("peer_key", *_FIELDS, "instance", "saved_unix_ns")
_SCHEMA: Final = (
    f"CREATE TABLE IF NOT EXISTS sessions ({', '.join(_COLUMNS)}, PRIMARY KEY (peer_key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS peers (peer_key, stamp, PRIMARY KEY (peer_key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS spoken (peer_key, unix_ns, PRIMARY KEY (peer_key)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS own (name, stamp, PRIMARY KEY (name)) WITHOUT ROWID",
)
# The names are this file's own; values are always bound.
_SAVE: Final = {
    "sessions": f"INSERT OR REPLACE INTO sessions VALUES ({', '.join('?' * len(_COLUMNS))})",  # noqa: S608
    "peers": "INSERT OR REPLACE INTO peers VALUES (?, ?)",
    "spoken": "INSERT OR REPLACE INTO spoken VALUES (?, ?)",
    "own": "INSERT OR REPLACE INTO own VALUES (?, ?)",
}
_FORGET: Final = {
    "sessions": "DELETE FROM sessions WHERE peer_key = ?",
    "peers": "DELETE FROM peers WHERE peer_key = ?",
    "spoken": "DELETE FROM spoken WHERE peer_key = ?",
}
_OWN: Final = "timestamp"

Key = tuple[str, Any]  # table and primary key
Row = tuple[Any, ...] | None  # None: delete


class SavedSession(NamedTuple):
    """One stored session. ``instance`` names the client process that held it, empty for a stock peer."""

    peer_key: bytes
    record: Stored
    instance: bytes
    saved_unix_ns: int

    def down_ns(self, unix_ns: int) -> int:
        """How long ago it was saved; 0 when the wall clock went back since."""
        return max(0, unix_ns - self.saved_unix_ns)


class Store:
    """Opens or makes the database at once (HostError never: it begins anew); its writer thread runs until `close`."""

    def __init__(self, path: Path, *, on_problem: Callable[[str], None] = lambda text: None) -> None:
        self._path = path
        self._on_problem = on_problem
        self._wake = threading.Condition()  # covers the next three
        self._pending: dict[Key, Row] = {}
        self._writing = False
        self._closing = False
        self._failing = False
        self.dropped = 0  # changes beyond PENDING_MAX
        self.written = 0
        self._db: sqlite3.Connection | None = self._open()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    # --- saving: from the loop --------------------------------------------------------------------------------

    def save_session(self, peer_key: bytes, record: Stored, instance: bytes, unix_ns: int) -> None:
        """The latest snapshot of a peer's session."""
        self._put(("sessions", peer_key), (peer_key, record, instance, unix_ns))

    def forget_session(self, peer_key: bytes) -> None:
        """The session ended, or the peer was removed."""
        self._put(("sessions", peer_key), None)

    def save_stamp(self, peer_key: bytes, stamp: bytes) -> None:
        """The greatest TAI64N timestamp accepted from a peer: an older initiation is a replay (whitepaper §5.1)."""
        self._put(("peers", peer_key), (peer_key, stamp))

    def save_spoken(self, peer_key: bytes, unix_ns: int) -> None:
        """A peer has spoken jump frames: plain WireGuard from it is a downgrade from now on (protocol.md §2)."""
        self._put(("spoken", peer_key), (peer_key, unix_ns))

    def forget_peer(self, peer_key: bytes) -> None:
        """A peer was removed: session, timestamp and what it spoke go."""
        for table in ("sessions", "peers", "spoken"):
            self._put((table, peer_key), None)

    def save_own_stamp(self, stamp: bytes) -> None:
        """The last TAI64N timestamp of our own initiations: they must not go back."""
        self._put(("own", _OWN), (_OWN, stamp))

    def _put(self, key: Key, row: Row) -> None:
        with self._wake:
            if key not in self._pending and len(self._pending) >= PENDING_MAX:
                self.dropped += 1
                return
            self._pending[key] = row
            if len(self._pending) in (1, GROUP_MAX):
                self._wake.notify()

    # --- loading ----------------------------------------------------------------------------------------------

    def load_sessions(self) -> list[SavedSession]:
        """All stored sessions. A row that makes no sense is left out and reported."""
        found = []
        for row in self._select(f"SELECT {', '.join(_COLUMNS)} FROM sessions ORDER BY peer_key"):  # noqa: S608
            try:
                record = _record(row[1:-2])
                found.append(SavedSession(bytes(row[0]), record, bytes(row[-2]), int(row[-1])))
            except (TypeError, ValueError, KeyError) as error:
                self._on_problem(f"{self._path}: a stored session cannot be read: {error!r}")
        return found

    def load_stamps(self) -> dict[bytes, bytes]:
        """Peer public key to the greatest timestamp accepted from it."""
        return {bytes(key): bytes(stamp) for key, stamp in self._select("SELECT peer_key, stamp FROM peers")}

    def load_spoken(self) -> frozenset[bytes]:
        """Public keys of the peers that have spoken jump frames."""
        return frozenset(bytes(key) for (key,) in self._select("SELECT peer_key FROM spoken"))

    def load_own_stamp(self) -> bytes:
        """The last timestamp of our own initiations, empty when none is known."""
        found = list(self._select("SELECT name, stamp FROM own"))
        return bytes(found[0][1]) if found else b""

    def _select(self, query: str) -> list[tuple[Any, ...]]:
        """Read what was saved so far, on a connection of its own."""
        self.flush()
        try:
            with contextlib.closing(self._connect()) as db:
                return db.execute(query).fetchall()
        except sqlite3.Error as error:
            self._on_problem(f"{self._path} cannot be read: {error}")
            return []

    # --- waiting ----------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Changes that are not written yet."""
        return len(self._pending)

    @property
    def failing(self) -> bool:
        """Whether the last write did not work."""
        return self._failing

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything saved so far is committed. Blocks."""
        with self._wake:
            self._wake.notify_all()
            return self._wake.wait_for(lambda: not self._pending and not self._writing, timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Commit what is pending and stop. False when that did not work in time. Blocks: call it in a thread."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._pending

    # --- the writer's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            group, closing = self._take()
            done = self._write(group) if group else True
            with self._wake:
                self._writing = False
                if not done:
                    self._pending = {**group, **self._pending}  # what came meanwhile is newer
                self._wake.notify_all()
                if closing and (not done or not self._pending):
                    break
                if not done:
                    self._wake.wait_for(lambda: self._closing, RETRY_S)
        if self._db is not None:
            self._db.close()

    def _take(self) -> tuple[dict[Key, Row], bool]:
        """The next group: what gathered in 20 ms after its first change, or 64 changes."""
        with self._wake:
            self._wake.wait_for(lambda: self._pending or self._closing)
            until = time.monotonic() + GROUP_S
            self._wake.wait_for(
                lambda: len(self._pending) >= GROUP_MAX or self._closing, max(0.0, until - time.monotonic())
            )
            group, self._pending = self._pending, {}
            self._writing = True
            return group, self._closing

    def _write(self, group: dict[Key, Row]) -> bool:
        """One transaction. False when it must be tried again."""
        try:
            if self._db is None:
                self._db = self._open()
            if self._db is None:
                return False
            with self._db:
                for statement, rows in _statements(group):
                    self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            self._failed(str(error))
            if _is_damage(error) and self._db is not None:
                self._db.close()
                self._db = None  # the next try opens it, finds the damage and begins anew
            return False
        if self._failing:
            self._on_problem(f"{self._path} is written again")
        self._failing = False
        self.written += len(group)
        return True

    def _failed(self, why: str) -> None:
        if not self._failing:
            self._on_problem(f"{self._path} cannot be written, sessions are not kept over a restart: {why}")
        self._failing = True

    # --- the database -----------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection | None:
        """The database, with a damaged one moved aside; None when the directory refuses (tried again later)."""
        for _ in range(2):
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                return self._prepared(self._connect())
            except sqlite3.OperationalError as error:
                if not _is_damage(error):
                    self._failed(str(error))
                    return None
                self._move_aside(str(error))
            except sqlite3.DatabaseError as error:
                self._move_aside(str(error))
            except OSError as error:
                self._failed(error.strerror or str(error))
                return None
        return None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)

    def _prepared(self, db: sqlite3.Connection) -> sqlite3.Connection:
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        columns = tuple(row[1] for row in db.execute("PRAGMA table_info(sessions)"))
        if version not in (0, VERSION) or columns not in ((), _COLUMNS):
            raise sqlite3.DatabaseError("it was made by another version")
        with db:
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def _move_aside(self, why: str) -> None:
        aside = f"{self._path.name}.damaged-{time.time_ns()}"
        self._on_problem(f"{self._path} is not usable ({why}); moved to {aside}, beginning with an empty one")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").replace(self._path.with_name(aside + suffix))


def _is_damage(error: sqlite3.Error) -> bool:
    """Not a disk that is full or a lock that is held, but a file that is no database any more."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _statements(group: dict[Key, Row]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """One executemany per table and kind of change."""
    saves: dict[str, list[tuple[Any, ...]]] = {}
    forgets: dict[str, list[tuple[Any, ...]]] = {}
    for (table, key), row in group.items():
        if row is None:
            forgets.setdefault(table, []).append((key,))
        else:
            saves.setdefault(table, []).append(_flat(*row) if table == "sessions" else row)
    yield from ((_SAVE[table], rows) for table, rows in saves.items())
    yield from ((_FORGET[table], rows) for table, rows in forgets.items())


def _flat(peer_key: bytes, record: Stored, instance: bytes, unix_ns: int) -> tuple[Any, ...]:
    """The columns of a session. 64-bit counters (attempt_id) go into SQLite's signed integers by two's complement."""
    return (peer_key, *(_column(value) for value in _VALUES(record)), instance, unix_ns)


def _column(value: Any) -> Any:
    if isinstance(value, Role):
        return value.name
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return value - (1 << 64) if value >= 1 << 63 else int(value)


def _record(row: tuple[Any, ...]) -> Stored:
    return Stored(**{name: _value(_TYPES[name], value) for name, value in zip(_FIELDS, row, strict=True)})


def _value(kind: Any, value: Any) -> Any:
    if kind is Role:
        return Role[value]
    if kind is State:
        return State(value)
    if kind is int:
        return int(value) & ((1 << 64) - 1)
    return kind(value)
