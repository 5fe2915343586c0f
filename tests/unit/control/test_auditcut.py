# SPDX-License-Identifier: Apache-2.0
"""A journal of which a file was emptied is not called whole, whatever the daemon did before and after."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.control import auditfile
from gateway.control.auditfile import Journal, journal_files
from gateway.control.auditread import Fault
from gateway.core import audit
from gateway.core.policy import Policy
from tests.unit.control.journals import KEY, Clock, audit_log, drive, lives
from tests.unit.control.test_auditlog import verdict


def journal(folder: Path, *, rotated: int) -> list[Path]:
    """The files of a daemon that has stopped, in their order."""
    log = audit_log(folder)
    for number in range(1, rotated + 2):
        drive(log, lives()[0], number=number)
        if number <= rotated:
            log.rotate().result(10)
    assert log.close()
    paths = [named.path for named in journal_files(folder)]
    assert len(paths) == rotated + 1 and verdict(folder).fault is None
    return paths


def fault_of(folder: Path) -> Fault:
    fault = verdict(folder).fault
    assert fault is not None
    return fault


@pytest.mark.parametrize("left", [0, 1, 100], ids=["nothing", "a byte", "half a record"])
@pytest.mark.parametrize("rotated", [0, 2])
def test_a_newest_file_without_a_record(tmp_path: Path, rotated: int, left: int) -> None:
    newest = journal(tmp_path, rotated=rotated)[-1]
    os.truncate(newest, left)
    assert (fault_of(tmp_path).path, "holds no record" in fault_of(tmp_path).why) == (newest, True)


@pytest.mark.parametrize("left", [0, 1, 100], ids=["nothing", "a byte", "half a record"])
@pytest.mark.parametrize("rotated", [0, 2])
def test_a_start_after_it_hides_nothing(tmp_path: Path, rotated: int, left: int) -> None:
    newest = journal(tmp_path, rotated=rotated)[-1]
    os.truncate(newest, left)
    log = audit_log(tmp_path)
    drive(log, lives()[0], number=9)
    log.rotate().result(10)
    assert log.close()
    assert fault_of(tmp_path).path == newest
    assert "(previous: unclean)" in fault_of(tmp_path).why


def test_a_file_between_others(tmp_path: Path) -> None:
    _, middle, _ = journal(tmp_path, rotated=2)
    os.truncate(middle, 0)
    assert fault_of(tmp_path).path == middle


def test_the_oldest_file_may_go_but_not_lose_its_beginning(tmp_path: Path) -> None:
    oldest, second, _ = journal(tmp_path, rotated=2)
    oldest.unlink()
    assert verdict(tmp_path).fault is None
    second.write_bytes(second.read_bytes().split(b"\n", 1)[1])
    assert fault_of(tmp_path) == Fault(second, 1, "the first record of a file is no JOURNAL record")


class Power(Exception):
    """The machine stops here."""


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_power_cut_in_a_rotation_leaves_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The complete file stays the newest one until the next has its first record; the next start goes on in it."""

    def opened() -> Journal:
        made = Journal(
            tmp_path, "jvpn0", "n", KEY, max_bytes=1 << 20, keep=0, unix_ns=Clock(), now_ns=lambda: 1
        )
        made.open()
        made.write([(audit.policy_body(Policy(), 1), 1)], sync=True, sign=True)
        return made

    first = opened()
    with monkeypatch.context() as patch:
        real = getattr(os, call)

        def stop(fd: int, *more: object) -> object:
            if os.readlink(f"/proc/self/fd/{fd}").endswith("/.audit-jvpn0.jsonl"):
                raise Power
            return real(fd, *more)

        patch.setattr(auditfile.os, call, stop)
        with pytest.raises(Power):
            first.rotate()
    assert len(journal_files(tmp_path)) == 1
    assert verdict(tmp_path).fault is None
    opened().rotate()
    assert len(journal_files(tmp_path)) == 2
    assert verdict(tmp_path).fault is None
