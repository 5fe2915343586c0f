# SPDX-License-Identifier: Apache-2.0
"""The durable store on a real database and its real thread.

Invariants: what was committed is there after kill -9; of many snapshots of a session the last one wins; a damaged
database never stops a start; no key is in the file.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.control import store as storing
from gateway.control.store import SavedSession, Store
from gateway.core.driver import Stored
from gateway.core.states import Role, State

RECORD = Stored(
    role=Role.GATEWAY,
    session_id=bytes(range(16)),
    peer="phone",
    state=State.ATTACHED,
    version=7,
    epoch=3,
    bound_id=2,
    attempt_id=9,
    age_ns=10**12,
    window_left_ns=0,
    stock=False,
    home="udp:192.0.2.7:4000",
    accepted_epoch=3,
    accepted_path_id=2,
)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "state" / "sessions.db")
    store.save_session(key(1), RECORD, b"instance", 123)
    store.save_session(key(2), replace(RECORD, stock=True, state=State.DEGRADED), b"", 124)
    store.save_stamp(key(1), bytes(12))
    store.save_own_stamp(b"\x40" * 12)
    assert store.close()
    again = Store(tmp_path / "state" / "sessions.db")
    assert again.load_sessions() == [
        SavedSession(key(1), RECORD, b"instance", 123),
        SavedSession(key(2), replace(RECORD, stock=True, state=State.DEGRADED), b"", 124),
    ]
    assert again.load_stamps() == {key(1): bytes(12)}
    assert again.load_own_stamp() == b"\x40" * 12
    assert again.close()
    assert (tmp_path / "state" / "sessions.db").stat().st_mode & 0o777 == 0o600


U64 = st.integers(0, 2**64 - 1)


@given(
    st.builds(
        Stored,
        role=st.sampled_from(Role),
        session_id=st.binary(min_size=16, max_size=16),
        peer=st.text(st.characters(codec="utf-8"), max_size=30),
        state=st.sampled_from(State),
        stock=st.booleans(),
        home=st.text(st.characters(codec="utf-8"), max_size=40),
        **dict.fromkeys(("version", "epoch", "bound_id", "attempt_id", "age_ns", "window_left_ns"), U64),
        accepted_epoch=U64,
        accepted_path_id=U64,
    )
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_comes_back_as_it_was(tmp_path: Path, record: Stored) -> None:
    """A peer may claim any 64-bit attempt_id; SQLite's integers are signed."""
    store = Store(tmp_path / "sessions.db")
    store.save_session(key(1), record, b"", 1)
    (found,) = store.load_sessions()
    assert found.record == record
    assert all(type(getattr(found.record, f.name)) is type(getattr(record, f.name)) for f in fields(Stored))
    assert store.close()


def test_the_time_away_is_never_negative() -> None:
    saved = SavedSession(key(1), RECORD, b"", 1000)
    assert (saved.down_ns(1500), saved.down_ns(900)) == (500, 0)


def test_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "sessions.db")
    for number in (1, 2):
        store.save_session(key(number), RECORD, b"", 1)
        store.save_stamp(key(number), bytes(12))
        store.save_spoken(key(number), 1)
    store.flush()
    store.forget_session(key(1))
    assert [one.peer_key for one in store.load_sessions()] == [key(2)]
    assert set(store.load_stamps()) == store.load_spoken() == {key(1), key(2)}
    store.forget_peer(key(2))
    assert store.load_sessions() == []
    assert store.load_spoken() == {key(1)}
    assert set(store.load_stamps()) == {key(1)}
    store.close()


def test_the_latest_snapshot_wins_and_the_others_are_not_written(tmp_path: Path) -> None:
    """While the disk is held by another transaction, the table of pending changes holds one entry per session."""
    store = Store(tmp_path / "sessions.db")
    holder = sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.perf_counter()
    for version in range(1, 5001):
        store.save_session(key(1), replace(RECORD, version=version), b"", version)
    assert time.perf_counter() - began < 2.0  # nobody waited for the lock
    assert len(store._pending) <= 1
    holder.execute("ROLLBACK")
    holder.close()
    (found,) = store.load_sessions()
    assert found.record.version == 5000
    assert store.written < 100
    assert store.close()


def test_the_table_of_pending_changes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "PENDING_MAX", 10)
    store = Store(tmp_path / "sessions.db")
    holder = sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for number in range(100):
        store.save_session(key(number), RECORD, b"", 1)
    assert store.dropped >= 80
    assert len(store._pending) <= 10
    holder.execute("ROLLBACK")
    holder.close()
    assert store.close()


def test_many_threads_may_save(tmp_path: Path) -> None:
    store = Store(tmp_path / "sessions.db")

    def save(first: int) -> None:
        for number in range(first, first + 200):
            store.save_session(key(number), RECORD, b"", 1)

    threads = [threading.Thread(target=save, args=(200 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.load_sessions()) == 800
    assert store.close()


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "header", "middle", "other version", "other columns"])
def test_a_damaged_database_is_moved_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "sessions.db"
    store = Store(path)
    for number in range(200):
        store.save_session(key(number), RECORD, b"", 1)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if damage == "other version":
            db.execute("PRAGMA user_version = 99")
        if damage == "other columns":
            db.execute("ALTER TABLE sessions ADD COLUMN surprise")
    db.close()
    data = bytearray(path.read_bytes())
    if damage == "text":
        data = bytearray(b"not a database, but long enough to be taken for one by its size" * 100)
    elif damage == "header":
        data[:16] = bytes(16)
    elif damage == "middle":
        data[4096:8192] = b"\xaa" * 4096
    path.write_bytes(data)
    problems: list[str] = []
    store = Store(path, on_problem=problems.append)
    assert store.load_sessions() == []
    assert len(problems) == 1
    assert "moved to" in problems[0]
    assert [aside for aside in tmp_path.iterdir() if ".damaged-" in aside.name]
    store.save_session(key(1), RECORD, b"", 1)
    assert len(store.load_sessions()) == 1
    assert store.close()


def test_a_row_that_makes_no_sense_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    store = Store(path)
    store.save_session(key(1), RECORD, b"", 1)
    store.save_session(key(2), RECORD, b"", 1)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE sessions SET role = 'KING' WHERE peer_key = ?", (key(1),))
    db.close()
    problems: list[str] = []
    store = Store(path, on_problem=problems.append)
    assert [one.peer_key for one in store.load_sessions()] == [key(2)]
    assert len(problems) == 1
    store.close()


def test_a_directory_that_refuses_stops_nobody_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "RETRY_S", 0.01)
    blocked = tmp_path / "state"
    blocked.write_text("in the way")
    problems: list[str] = []
    store = Store(blocked / "sessions.db", on_problem=problems.append)
    store.save_session(key(1), RECORD, b"", 1)
    until(lambda: bool(problems))
    blocked.unlink()
    until(lambda: store.written == 1)
    assert len(store.load_sessions()) == 1
    assert store.close()


def test_close_says_when_not_everything_was_written(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("in the way")
    store = Store(blocked / "sessions.db")
    store.save_session(key(1), RECORD, b"", 1)
    assert not store.close()


# --- crash -------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from gateway.control.store import Store
from tests.unit.control.test_store import RECORD, key
store = Store(Path(sys.argv[1]))
version = 0
while True:
    version += 1
    for number in range(50):
        store.save_session(key(number), replace(RECORD, version=version), b"", version)
    if not store.flush():
        break
    print(version, flush=True)
"""


def test_kill_9_in_the_middle_of_writes(tmp_path: Path) -> None:
    """What the child said was committed is there, and a group is there whole or not at all."""
    path = tmp_path / "sessions.db"
    for _ in range(3):
        command = [sys.executable, "-c", CHILD, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as child:
            assert child.stdout is not None
            said = 0
            while said < 20:
                said = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().split()
        said = int(rest[-1]) if rest else said
        problems: list[str] = []
        store = Store(path, on_problem=problems.append)
        found = [one.record.version for one in store.load_sessions()]
        assert problems == []
        assert len(found) == 50
        assert min(found) >= said
        assert store.close()
