# SPDX-License-Identifier: Apache-2.0
"""The audit log on real files and its real thread: whole chains over rotation, crash and dead disk; nobody waits.

Invariants: what is on disk verifies and replays to the same decisions; what is not is named by an AUDIT_GAP.
"""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gateway.control import auditfile, auditread
from gateway.control.auditfile import Journal, journal_files, load_signing_key
from gateway.core import Policy, audit, driver
from gateway.core.states import Role
from tests.state.invariants import verify as verify_trace
from tests.unit.control.journals import KEY, Clock, audit_log, drive, killed_writer, lives, written

CLIENT, GATEWAY = 0, 1


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs without an event are written at once, too."""
    monkeypatch.setattr("gateway.control.auditlog.LAZY_S", 0.001)


def verdict(directory: Path) -> auditread.Verdict:
    (found,) = auditread.verify(journal_files(directory), KEY.public)
    return found


def replayed(directory: Path) -> auditread.Replayed:
    (found,) = auditread.replay(journal_files(directory))
    return found


def events_of(records: Any) -> list[str]:
    """The decisions among records, comparable between a simulation and a journal."""
    return [
        audit.decision(body)
        for body in records
        if "session_id" in body and body["event"] not in auditread.SOURCES
    ]


# --- what is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [CLIENT, GATEWAY])
def test_a_life_is_written_verified_and_replayed(tmp_path: Path, end: int) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[end])
    assert log.close()
    assert events_of(written(tmp_path)) == events_of(lives()[end])
    assert verify_trace(written(tmp_path)) == []
    found = verdict(tmp_path)
    assert (found.fault, found.unsigned, found.torn_bytes) == (None, 0, 0)
    again = replayed(tmp_path)
    assert (again.fault, again.sessions, again.partial) == (None, 1, 0)
    assert again.decisions == len(events_of(lives()[end]))


def test_a_record_has_the_fields_of_the_specification(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[GATEWAY])
    log.close()
    change = next(
        body for body in written(tmp_path) if body["event"] == "STATE_CHANGE" and body["row"] == "T13"
    )
    assert change["schema"] == 1
    assert change["node"] == "gw-1"
    assert change["ts"].startswith("2026-01-02T03:04:")
    assert change["policy"].startswith("sha256:")
    assert change["transport_change"]["from"] and change["transport_change"]["to"]
    first = written(tmp_path)[0]
    assert (first["event"], first["interface"], first["previous"]) == ("JOURNAL", "jvpn0", "none")
    assert [body["event"] for body in written(tmp_path)].count("POLICY") == 1


def test_rotation_keeps_the_chain_and_drops_the_oldest(tmp_path: Path) -> None:
    log = audit_log(tmp_path, max_bytes=12_000, keep=3)
    for number in range(1, 6):
        drive(
            log, lives()[GATEWAY], number=number, between=lambda: until(lambda: not log.counters()["queued"])
        )
    log.close()
    files = journal_files(tmp_path)
    assert len(files) == 3
    assert files[0].first_seq > 0
    found = verdict(tmp_path)
    assert (found.fault, found.files, found.first_seq) == (None, 3, files[0].first_seq)
    for named in files:
        body = json.loads(named.path.read_text().splitlines()[0])
        assert body["seq"] == named.first_seq
    again = replayed(tmp_path)
    assert again.fault is None
    assert again.partial > 0  # the session whose beginning was rotated away


def test_with_all_files_kept_a_rotated_journal_replays_whole(tmp_path: Path) -> None:
    log = audit_log(tmp_path, max_bytes=12_000, keep=1000)
    for number in range(1, 4):
        drive(
            log, lives()[CLIENT], number=number, between=lambda: until(lambda: not log.counters()["queued"])
        )
    log.close()
    again = replayed(tmp_path)
    assert len(journal_files(tmp_path)) > 3
    assert (again.fault, again.partial, again.sessions) == (None, 0, 3)


def test_a_checkpoint_comes_at_least_every_1024_records(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    for number in range(1, 30):
        drive(log, lives()[CLIENT], number=number)
    log.close()
    places = [body["seq"] for body in written(tmp_path) if body["event"] == "CHECKPOINT"]
    assert max(b - a for a, b in pairwise(places)) <= auditfile.CHECKPOINT_RECORDS + 1
    assert verdict(tmp_path).fault is None


def test_redaction_hides_every_address_and_still_replays(tmp_path: Path) -> None:
    log = audit_log(tmp_path, redact=True)
    drive(log, lives()[GATEWAY])
    log.close()
    text = "".join(named.path.read_text() for named in journal_files(tmp_path))
    assert "udp:nat" not in text
    assert "udp:#" in text
    assert (verdict(tmp_path).fault, replayed(tmp_path).fault) == (None, None)
    assert replayed(tmp_path).decisions == len(events_of(lives()[GATEWAY]))


def test_no_secret_is_in_a_journal(tmp_path: Path) -> None:
    key = load_signing_key(tmp_path, os.urandom)
    log = audit_log(tmp_path / "audit")
    drive(log, lives()[CLIENT])
    log.close()
    text = "".join(named.path.read_text() for named in journal_files(tmp_path / "audit"))
    assert KEY.secret.hex() not in text
    assert KEY.secret[:32].hex() not in text
    assert key.secret.hex() not in repr(key)


def test_the_signing_key_is_made_once_and_private(tmp_path: Path) -> None:
    key = load_signing_key(tmp_path, os.urandom)
    assert load_signing_key(tmp_path, os.urandom) == key
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    assert auditfile.keysfile.read_key_file(tmp_path / "audit.pub").key == key.public


# --- tampering ---------------------------------------------------------------------------------------------------


def altered(directory: Path, change: Callable[[list[str]], list[str]]) -> auditread.Verdict:
    path = journal_files(directory)[0].path
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))
    return verdict(directory)


def resealed(lines: list[str], keep: Callable[[dict[str, Any]], bool]) -> list[str]:
    """What somebody without the key can do: choose records and chain them anew."""
    prev, done = audit.GENESIS, []
    for body in filter(keep, map(json.loads, lines)):
        plain = {name: value for name, value in body.items() if name not in ("seq", "prev", "hash")}
        line, prev = audit.seal(plain, len(done), prev)
        done.append(line)
    return done


TAMPERING: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "altered": (lambda rows: [row.replace("ATTACHED", "DEGRADED") for row in rows], "altered"),
    "removed": (lambda rows: rows[:20] + rows[21:], "missing"),
    "inserted": (lambda rows: rows[:20] + rows[10:11] + rows[20:], "missing"),
    "swapped": (lambda rows: [*rows[:20], rows[21], rows[20], *rows[22:]], "missing"),
    "rubbish": (lambda rows: [*rows[:20], "{}", *rows[20:]], "not a record"),
    "chained anew": (lambda rows: resealed(rows, lambda body: body["event"] != "SECURITY_EVENT"), ""),
    "chained anew, less one": (lambda rows: resealed(rows, lambda body: body["seq"] != 20), "checkpoint"),
    "without checkpoints": (
        lambda rows: resealed(rows, lambda body: body["event"] != "CHECKPOINT"),
        "checkpoint",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_named(tmp_path: Path, name: str) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[GATEWAY])
    log.close()
    change, why = TAMPERING[name]
    before = journal_files(tmp_path)[0].path.read_text()
    fault = altered(tmp_path, change).fault
    if journal_files(tmp_path)[0].path.read_text() == before:
        assert fault is None
        return
    assert fault is not None
    assert why in fault.why


def test_another_key_does_not_vouch(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[GATEWAY])
    log.close()
    stranger = load_signing_key(tmp_path, os.urandom).public
    (found,) = auditread.verify(journal_files(tmp_path), stranger)
    assert found.fault is not None
    assert "not signed by this key" in found.fault.why
    (found,) = auditread.verify(journal_files(tmp_path), None)
    assert found.fault is None


def test_a_file_removed_from_the_middle_is_missed(tmp_path: Path) -> None:
    log = audit_log(tmp_path, max_bytes=12_000, keep=1000)
    for number in range(1, 4):
        drive(
            log, lives()[CLIENT], number=number, between=lambda: until(lambda: not log.counters()["queued"])
        )
    log.close()
    journal_files(tmp_path)[1].path.unlink()
    fault = verdict(tmp_path).fault
    assert fault is not None
    assert (fault.path, fault.line) == (journal_files(tmp_path)[1].path, 1)


def test_a_replay_names_the_decision_that_was_not_the_machines(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[CLIENT])
    log.close()
    path = journal_files(tmp_path)[0].path
    rows = path.read_text().splitlines()
    at = next(i for i, row in enumerate(rows) if '"row":"T4"' in row)
    rows[at] = rows[at].replace("TRANSPORT_DEAD", "HEARTBEAT_TIMEOUT")
    path.write_text("".join(row + "\n" for row in resealed(rows, lambda body: True)))
    found = replayed(tmp_path)
    assert found.fault is not None
    assert found.fault.line == at + 1
    assert "HEARTBEAT_TIMEOUT" in found.written
    assert "TRANSPORT_DEAD" in found.replayed


# --- restarts and crashes ----------------------------------------------------------------------------------------


def test_a_clean_restart_goes_on_in_the_same_chain(tmp_path: Path) -> None:
    for number in (1, 2):
        log = audit_log(tmp_path)
        drive(log, lives()[CLIENT], number=number)
        assert log.close()
    opened = [body["previous"] for body in written(tmp_path) if body["event"] == "JOURNAL"]
    assert opened == ["none", "clean"]
    assert (verdict(tmp_path).fault, replayed(tmp_path).fault) == (None, None)


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_torn_tail_is_cut_off_and_named(tmp_path: Path, cut: int) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[CLIENT])
    log.close()
    path = journal_files(tmp_path)[0].path
    os.truncate(path, path.stat().st_size - cut)
    assert verdict(tmp_path).torn_bytes > 0
    log = audit_log(tmp_path)
    drive(log, lives()[CLIENT], number=2)
    log.close()
    gaps = [body for body in written(tmp_path) if body["event"] == "AUDIT_GAP"]
    assert [gap["cause"] for gap in gaps] == ["TORN_TAIL"]
    found = verdict(tmp_path)
    assert (found.fault, found.torn_bytes, found.files) == (None, 0, 1)
    assert (replayed(tmp_path).fault, replayed(tmp_path).sessions) == (None, 2)


def test_a_damaged_end_is_left_as_it_is_and_the_chain_goes_on(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[CLIENT])
    log.close()
    path = journal_files(tmp_path)[0].path
    damaged = path.read_bytes()[:-200] + bytes(100) + b"\n"
    path.write_bytes(damaged)
    log = audit_log(tmp_path)
    log.close()
    assert path.read_bytes() == damaged
    assert len(journal_files(tmp_path)) == 2
    fault = verdict(tmp_path).fault
    assert fault is not None
    assert fault.path == path


def test_a_restored_session_goes_on_above_what_was_audited(tmp_path: Path) -> None:
    """B31: the store knew version 9, the journal was cut at a lower one: the range between is a gap."""
    log = audit_log(tmp_path)
    s = drive(log, lives()[GATEWAY])
    log.close()
    audited = auditread.last_versions(tmp_path, "jvpn0")[s.session_id]
    assert audited == s.version
    stored = driver.snapshot(s, 10**12)
    ahead = driver.Stored(**{**{f: getattr(stored, f) for f in stored.__slots__}, "version": s.version + 2})
    log = audit_log(tmp_path)
    restored, turn = driver.restore(ahead, Policy(), 0, audited, 10**12)
    log.restored(restored, ahead, 0, audited, turn)
    log.close()
    (gap,) = [body for body in written(tmp_path) if body["event"] == "AUDIT_GAP"]
    assert (gap["cause"], gap["first_version"], gap["last_version"]) == ("RESTART", audited + 1, audited + 2)
    assert replayed(tmp_path).fault is None
    assert auditread.last_versions(tmp_path, "jvpn0")[s.session_id] == audited + 3


def test_kill_9_in_the_middle_of_writes_leaves_a_chain(tmp_path: Path) -> None:
    """What is there verifies and replays; what is torn is cut off; three times over."""
    dice = random.Random(5)
    for round_number in range(3):
        with killed_writer(tmp_path, 1000 * round_number):
            size = sum(named.path.stat().st_size for named in journal_files(tmp_path))
            goal = size + dice.randrange(10_000, 300_000)
            until(lambda: sum(n.path.stat().st_size for n in journal_files(tmp_path)) > goal, 60.0)  # noqa: B023
        assert verdict(tmp_path).fault is None
    log = audit_log(tmp_path)
    assert log.close()
    assert (verdict(tmp_path).fault, replayed(tmp_path).fault) == (None, None)
    assert "unclean" in {body.get("previous") for body in written(tmp_path)}


# --- a disk that is dead, slow or full ---------------------------------------------------------------------------


class Disk:
    """Fails or holds the journal's writes while told to; everything else is the real thing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dead = False
        self.partial = False
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()
        self._write, self._sync = os.write, os.fsync
        monkeypatch.setattr(auditfile.os, "write", self.write)
        monkeypatch.setattr(auditfile.os, "fsync", self.sync)

    def write(self, fd: int, data: Any) -> int:
        self.busy.set()
        assert self.free.wait(20)
        if self.dead:
            if self.partial:
                self._write(fd, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(fd, data)

    def sync(self, fd: int) -> None:
        if self.dead:
            raise OSError(errno.EIO, "Input/output error")
        self._sync(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr("gateway.control.auditlog.RETRY_MIN_S", 0.01)
    return Disk(monkeypatch)


@pytest.mark.parametrize("partial", [False, True])
def test_a_full_disk_that_comes_back_costs_nothing(tmp_path: Path, disk: Disk, partial: bool) -> None:
    problems: list[str] = []
    log = audit_log(tmp_path, on_problem=problems.append)
    drive(log, lives()[CLIENT], number=1)
    until(lambda: log.counters()["queued"] == 0)
    disk.dead, disk.partial = True, partial
    drive(log, lives()[CLIENT], number=2)
    until(lambda: log.counters()["failing"] == 1)
    drive(log, lives()[CLIENT], number=3)
    disk.dead = False
    assert until(lambda: log.counters()["failing"] == 0) is None
    assert log.close()
    assert len(problems) == 2
    assert (log.counters()["lost_turns"], log.counters()["gaps"]) == (0, 0)
    again = replayed(tmp_path)
    assert (verdict(tmp_path).fault, again.fault, again.sessions) == (None, None, 3)


def test_a_slow_disk_loses_what_the_queue_cannot_hold_and_says_what(tmp_path: Path, disk: Disk) -> None:
    """B26: the loop never waits; the gap names the versions and what the session still remembers of them."""
    log = audit_log(tmp_path, capacity=50)
    drive(log, lives()[GATEWAY][:3], number=1)
    until(lambda: log.counters()["queued"] == 0)
    disk.free.clear()
    disk.busy.clear()
    drive(log, lives()[GATEWAY][:3], number=2)
    assert disk.busy.wait(10)
    began = time.perf_counter()
    s = drive(log, lives()[GATEWAY], number=3)
    assert time.perf_counter() - began < 5.0
    assert log.counters()["lost_turns"] > 0
    disk.free.set()
    until(lambda: log.counters()["gaps"] > 0 and not log.counters()["queued"])
    drive(log, lives()[GATEWAY], number=4, between=lambda: until(lambda: not log.counters()["queued"]))
    assert log.close()
    (gap,) = [body for body in written(tmp_path) if body["event"] == "AUDIT_GAP"]
    assert gap["session_id"] == s.session_id.hex()
    assert gap["last_version"] == s.version
    assert gap["lost"] == log.counters()["lost_turns"]
    there = [body["state_version"] for body in written(tmp_path) if body["event"] == "STATE_CHANGE"
             and body["session_id"] == gap["session_id"]]  # fmt: skip
    assert gap["first_version"] == max(there, default=0) + 1
    kept = [row["version"] for row in gap["history"]]
    assert kept == [row.version for row in s.history() if row.version >= gap["first_version"]]
    again = replayed(tmp_path)
    assert (verdict(tmp_path).fault, again.fault) == (None, None)
    assert again.partial == 1
    assert verify_trace(written(tmp_path)) == []


def test_a_dead_disk_at_start_and_for_ever_stops_nobody(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    problems: list[str] = []
    log = audit_log(blocked / "audit", on_problem=problems.append, capacity=10)
    heard = []
    log.subscribe(heard.append)
    s = drive(log, lives()[CLIENT])
    assert log.counters()["lost_turns"] > 0
    assert len(heard) == log.last_number > 0
    assert [told.event.state_version for told in log.recent(s.session_id)][-1] == s.version
    until(lambda: len(problems) == 1)
    assert not log.close()


def test_a_removed_file_is_begun_anew_and_missed(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[CLIENT], number=1)
    until(lambda: log.counters()["queued"] == 0)
    journal_files(tmp_path)[0].path.unlink()
    drive(log, lives()[CLIENT], number=2)
    log.close()
    (named,) = journal_files(tmp_path)
    assert named.first_seq > 0
    assert written(tmp_path)[0]["previous"] == "lost"
    fault = verdict(tmp_path).fault
    assert fault is not None and "(previous: lost)" in fault.why


def test_a_failed_sync_is_written_again_once(tmp_path: Path, disk: Disk) -> None:
    journal = Journal(
        tmp_path, "jvpn0", "n", KEY, max_bytes=1 << 20, keep=2, unix_ns=Clock(), now_ns=lambda: 1
    )
    journal.open()
    body = audit.policy_body(Policy(), 1)
    journal.write([(body, 1)], sync=True)
    before = journal.seq
    disk.sync = None  # type: ignore[assignment,method-assign]
    disk.dead, disk.partial = True, True
    with pytest.raises(OSError, match="No space"):
        journal.write([({"event": "X", "schema": 1, "mono_ns": 1}, 1)], sync=True)
    assert journal.seq == before
    disk.dead = False
    journal.write([({"event": "X", "schema": 1, "mono_ns": 1}, 1)], sync=False, final=True)
    journal.close()
    assert [b["event"] for b in written(tmp_path)].count("X") == 1
    assert verdict(tmp_path).fault is None


# --- followers ---------------------------------------------------------------------------------------------------


def test_followers_hear_events_at_once_and_their_faults_stay_theirs(tmp_path: Path) -> None:
    problems: list[str] = []
    log = audit_log(tmp_path, on_problem=problems.append)

    def broken(_: object) -> None:
        raise RuntimeError("a follower's own")

    heard: list[Any] = []
    log.subscribe(broken)
    stop = log.subscribe(heard.append)
    s = drive(log, lives()[CLIENT])
    stop()
    drive(log, lives()[CLIENT], number=2)
    assert [told.number for told in heard] == list(range(1, len(heard) + 1))
    assert [log.body(told)["event"] for told in heard] == [
        json.loads(text)["event"] for text in events_of(lives()[CLIENT])
    ]
    assert {told.session_id for told in heard} == {s.session_id}
    assert len(problems) == log.last_number
    assert next(log.since(heard[-1].number)).number == heard[-1].number + 1
    log.close()


def test_after_the_end_a_turn_is_only_counted(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    log.close()
    drive(log, lives()[CLIENT])
    assert log.counters()["lost_turns"] > 0


def test_roles_and_stock_are_recorded_as_they_were(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    first = driver.First(1, "udp:192.0.2.1:1")
    s, turn = driver.create(Role.GATEWAY, bytes(16), "phone", Policy(), first, 5, stock=True)
    log.created(s, first, turn)
    s.stock = False  # a late HELLO, before the writer came to it
    log.close()
    created = next(body for body in written(tmp_path) if body["event"] == "CREATE")
    assert created["fields"]["stock"] is True
    assert replayed(tmp_path).fault is None


def test_an_event_is_synced_and_inputs_alone_only_written(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stated policy: a group with an event is on the disk before the next one is taken."""
    monkeypatch.setattr("gateway.control.auditlog.SYNC_WITHIN_S", 600.0)
    synced: list[int] = []
    real = disk._sync

    def count(fd: int) -> None:
        real(fd)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            synced.append(fd)

    disk._sync = count
    log = audit_log(tmp_path)
    s, turn = driver.create(Role.CLIENT, bytes(16), "gw", Policy(), driver.First(1, "udp:192.0.2.1:1"), 5)
    until(lambda: bool(synced))  # the opening record
    before = len(synced)
    log.timed(s, driver.timer_due(s, 6))
    until(lambda: log.counters()["records"] > 0 and not log.queued)
    assert len(synced) == before == 1
    log.created(s, driver.First(1, "udp:192.0.2.1:1"), turn)
    until(lambda: len(synced) > before)
    log.close()


def test_a_checkpoint_comes_by_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.control.auditlog.CHECKPOINT_S", 0.05)
    monkeypatch.setattr("gateway.control.auditlog.SYNC_WITHIN_S", 0.01)
    log = audit_log(tmp_path)
    drive(log, lives()[CLIENT])
    until(lambda: bool(journal_files(tmp_path)) and verdict(tmp_path).checkpoints >= 2)
    assert verdict(tmp_path).unsigned == 0
    log.close()
