# SPDX-License-Identifier: Apache-2.0
"""The undo journal as a file: durable before the change, one owner, honest about what it cannot do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import HostError
from gateway.net.remedy import check_interface_name
from gateway.net.steps import Link, NftTable, ResolvConf, Resolvconf, Resolvectl, Route, Rule, Sysctl
from gateway.net.undo import UndoJournal, UndoReport, journals

EVERY_STEP = (
    Route(prefix="10.0.0.0/8", device="jv0", table=7),
    Rule(family=6, priority=9, table=7, fwmark=7, invert=True),
    Link(name="jv0", index=3),
    Sysctl(key="net/ipv4/ip_forward", before="0", after="1"),
    NftTable(name="jvpn_jv0"),
    ResolvConf(path="/etc/resolv.conf", written=b"new", before=b"old \xff"),
    Resolvectl(interface="jv0"),
    Resolvconf(record="tun.jv0"),
)


def _step(tmp_path: Path, name: str) -> ResolvConf:
    """A change that can be made and undone without any right: a file."""
    (tmp_path / name).write_bytes(b"new")
    return ResolvConf(
        path=str(tmp_path / name), written=b"new", before=b"old", uid=os.geteuid(), gid=os.getegid()
    )


def _edit(journal: UndoJournal, **owner: Any) -> None:
    """Make the file look as if somebody else had left it."""
    data = json.loads(journal.path.read_bytes())
    data["owner"] |= owner
    journal.path.write_text(json.dumps(data))


def _left(tmp_path: Path, **owner: Any) -> UndoJournal:
    """The journal of a process that is no more."""
    dead = UndoJournal(tmp_path, "jv0")
    dead.begin()
    dead.record(_step(tmp_path, "resolv"))
    _edit(dead, **({"start_ticks": 1} | owner))
    return UndoJournal(tmp_path, "jv0")


def test_a_step_is_on_the_disk_when_record_returns(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path / "state", "jv0")
    journal.begin()
    for count, step in enumerate(EVERY_STEP, 1):
        journal.record(step)
        assert len(json.loads(journal.path.read_bytes())["steps"]) == count
    journal.record(EVERY_STEP[0])
    file = json.loads(journal.path.read_bytes())
    assert [step["kind"] for step in file["steps"]] == [
        "route", "rule", "link", "sysctl", "nft_table", "resolv_conf", "resolvectl", "resolvconf"
    ]  # fmt: skip
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert [path.name for path in journal.path.parent.iterdir()] == ["undo-jv0.json"]
    assert journals(tmp_path / "state") == ["jv0"]


def test_undo_goes_backwards_and_gives_the_journal_up(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path, "jv0")
    journal.begin()
    for name in ("one", "two"):
        journal.record(_step(tmp_path, name))
    (tmp_path / "gone").write_bytes(b"somebody's")
    journal.record(ResolvConf(path=str(tmp_path / "gone"), written=b"new", before=b"old"))
    report = journal.undo_all()
    assert [line.rpartition("/")[2] for line in report.undone] == ["two", "one"]
    assert [line.rpartition("/")[2] for line in report.passed] == ["gone"]
    assert (tmp_path / "one").read_bytes() == b"old"
    assert not journal.path.exists()
    assert journal.undo_all() == UndoReport()
    with pytest.raises(HostError, match="was not begun"):
        journal.record(EVERY_STEP[0])


def test_what_fails_stays_in_the_journal(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path, "jv0")
    journal.begin()
    journal.record(_step(tmp_path, "good"))
    journal.record(Sysctl(key="kernel/version", before="no", after=""))
    journal.record(_step(tmp_path, "also"))
    report = journal.undo_all()
    assert len(report.undone) == 2
    assert "kernel.version" in report.failed[0]
    assert [step["kind"] for step in json.loads(journal.path.read_bytes())["steps"]] == ["sysctl"]
    with pytest.raises(HostError, match="belongs to the running process"):
        UndoJournal(tmp_path, "jv0").begin()
    _edit(journal, start_ticks=1)
    with pytest.raises(HostError, match=r"cannot be undone: .*Undo it by hand, then remove"):
        journal.begin()


def test_a_dead_owners_steps_are_undone_by_the_next_start(tmp_path: Path) -> None:
    heir = _left(tmp_path)
    assert len(heir.begin().undone) == 1
    assert (tmp_path / "resolv").read_bytes() == b"old"
    owner = heir.owner()
    assert owner is not None
    assert owner.pid == os.getpid()
    assert owner.alive()


def test_the_same_pid_started_later_is_not_the_owner(tmp_path: Path) -> None:
    owner = _left(tmp_path, pid=os.getpid()).owner()
    assert owner is not None
    assert not owner.alive()


def test_a_living_owner_keeps_its_journal(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from gateway.net.undo import UndoJournal;"
        "UndoJournal(pathlib.Path(sys.argv[1]), 'jv0').begin(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        heir = UndoJournal(tmp_path, "jv0")
        with pytest.raises(HostError, match=f"running process {process.pid}"):
            heir.begin()
        process.kill()
        process.wait()
        heir.begin()


def test_after_a_reboot_only_files_are_undone(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path, "jv0")
    journal.begin()
    journal.record(Sysctl(key="kernel/version", before="no", after=""))
    journal.record(_step(tmp_path, "resolv"))
    _edit(journal, boot_id="another")
    report = UndoJournal(tmp_path, "jv0").recover()
    assert len(report.undone) == 1
    assert report.passed == ("sysctl kernel/version = no",)
    assert not journal.path.exists()


def test_a_namespace_that_is_gone_took_its_kernel_state_with_it(tmp_path: Path) -> None:
    heir = _left(tmp_path, netns_cookie=1 << 60, netns_inode=1)
    assert len(heir.recover().undone) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version":1}',
        b'{"version":1,"interface":"jv0","owner":{},"steps":[]}',
        b"\xff" * 50,
    ],
)
def test_a_damaged_journal_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    journal = UndoJournal(tmp_path, "jv0")
    journal.path.write_bytes(content)
    for attempt in (journal.begin, journal.recover, journal.undo_all, journal.owner):
        with pytest.raises(HostError, match="damaged"):
            attempt()
    assert journal.path.read_bytes() == content


def test_an_unknown_step_or_version_is_refused(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path, "jv0")
    journal.begin()
    good = json.loads(journal.path.read_bytes())
    journal.path.write_text(json.dumps(good | {"steps": [{"kind": "shell", "command": "true"}]}))
    with pytest.raises(HostError, match="damaged"):
        journal.owner()
    journal.path.write_text(json.dumps(good | {"version": 2}))
    with pytest.raises(HostError, match="has version 2"):
        journal.owner()


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"undo-jv0\.json"):
        UndoJournal(tmp_path / "file", "jv0").begin()


@pytest.mark.parametrize("name", ["jv0", "wg-home", "a.b_c", "x" * 15])
def test_interface_names(name: str) -> None:
    assert check_interface_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 16, "../etc", "a b", "a/b", ".", "..", "-x", "jv0\n", "é"])
def test_names_that_would_leave_the_state_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="interface name"):
        UndoJournal(tmp_path, name)
