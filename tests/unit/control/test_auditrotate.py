# SPDX-License-Identifier: Apache-2.0
"""Rotation of the journal on request: the chain goes on over the files, also when the process is killed meanwhile."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.control import auditfile
from gateway.control.auditfile import journal_files
from tests.unit.control.journals import audit_log, drive, killed_writer, lives, written
from tests.unit.control.test_auditlog import replayed, until, verdict


def names(folder: Path) -> list[str]:
    return [named.path.name for named in journal_files(folder)]


def test_a_new_file_goes_on_with_the_hash_of_the_last(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[0], number=1)
    complete = log.rotate().result(10)
    drive(log, lives()[0], number=2)
    assert log.rotate().result(10) != complete
    log.close()
    first, second, third = (named.path.read_text().splitlines() for named in journal_files(tmp_path))
    assert complete == journal_files(tmp_path)[0].path
    for before, after in ((first, second), (second, third)):
        last, opening = json.loads(before[-1]), json.loads(after[0])
        assert last["event"] == "CHECKPOINT"
        assert (opening["event"], opening["previous"]) == ("JOURNAL", "rotated")
        assert (opening["prev"], opening["seq"]) == (last["hash"], last["seq"] + 1)
    found = verdict(tmp_path)
    assert (found.fault, found.files, found.unsigned) == (None, 3, 0)
    assert (replayed(tmp_path).fault, replayed(tmp_path).partial) == (None, 0)


def test_a_file_in_between_that_is_changed_or_missing_is_found(tmp_path: Path) -> None:
    log = audit_log(tmp_path)
    for number in range(1, 4):
        drive(log, lives()[0], number=number)
        log.rotate().result(10)
    log.close()
    middle = journal_files(tmp_path)[1].path
    kept = middle.read_bytes()
    middle.write_bytes(kept.replace(b'"peer2"', b'"peer3"', 1))
    assert verdict(tmp_path).fault is not None
    middle.unlink()
    assert verdict(tmp_path).fault is not None
    middle.write_bytes(kept)
    assert verdict(tmp_path).fault is None


def test_nothing_is_removed_unless_a_number_is_set(tmp_path: Path) -> None:
    log = audit_log(tmp_path, max_bytes=12_000, keep=0)
    for number in range(1, 31):
        drive(log, lives()[0], number=number)
        log.rotate().result(10)
    log.close()
    assert len(names(tmp_path)) >= 31
    assert journal_files(tmp_path)[0].first_seq == 0
    assert verdict(tmp_path).fault is None


def test_what_is_removed_is_named_in_the_journal_first(tmp_path: Path) -> None:
    log = audit_log(tmp_path, keep=2)
    ever: list[str] = []
    for number in range(1, 6):
        drive(log, lives()[0], number=number)
        log.rotate().result(10)
        ever += [name for name in names(tmp_path) if name not in ever]
    log.close()
    assert len(names(tmp_path)) == 2
    (last,) = [body for body in written(tmp_path) if body["event"] == "REMOVING"][-1:]
    assert last["files"] == [ever[-3]]
    assert verdict(tmp_path).fault is None


def test_who_asks_hears_that_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = audit_log(tmp_path)
    drive(log, lives()[0])
    until(lambda: not log.counters()["queued"])
    whole, opened = names(tmp_path), os.open

    def refuse(path: Any, flags: int, *more: Any, **also: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, flags, *more, **also)

    monkeypatch.setattr(auditfile.os, "open", refuse)
    with pytest.raises(OSError, match="No space"):
        log.rotate().result(10)
    assert names(tmp_path) == whole
    monkeypatch.undo()
    log.rotate().result(10)
    log.close()
    assert (verdict(tmp_path).fault, replayed(tmp_path).fault) == (None, None)


def test_kill_9_in_the_middle_of_rotations_leaves_a_chain(tmp_path: Path) -> None:
    """The child does nothing but write and rotate; it is killed at another moment each time."""
    dice = random.Random(7)
    for number in range(6):
        with killed_writer(tmp_path, 1000 * number, "rotates"):
            goal = len(names(tmp_path)) + dice.randrange(2, 12)
            until(lambda: len(names(tmp_path)) > goal, 60.0)  # noqa: B023
        assert verdict(tmp_path).fault is None
    log = audit_log(tmp_path)
    assert log.close()
    assert (verdict(tmp_path).fault, replayed(tmp_path).fault) == (None, None)
