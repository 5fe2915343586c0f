# SPDX-License-Identifier: Apache-2.0
"""Errors say what to do: every exit code by a command that gives it, wrong names, missing rights, full disks."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.control.auditfile import load_signing_key
from gateway.errors import HostError, TryLater
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import serving, status
from tests.unit.ops.sessionhost import host

NOBODY: Final = 65_534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


def program(line: str, places: Path, **environ: str) -> tuple[int, str, str]:
    """Run a line of bash in which `jvpn` is the command line."""
    argv = ["bash", "-c", f'jvpn() {{ "{sys.executable}" -m gateway.ops.cli "$@"; }}; cd "{places}"; {line}']
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path), **environ}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


# --- exit codes ----------------------------------------------------------------------------------------------------


async def busy(_args: dict[str, Any]) -> dict[str, Any]:
    raise TryLater("jvpn0 is starting")


async def broken(_args: dict[str, Any]) -> dict[str, Any]:
    raise HostError("no device")


CODES: Final = [
    (0, "sessions gw", ""),
    (1, "peer list -i jvpn0", "no device"),
    (2, "sessions a1b2", "fits several sessions"),
    (2, "switch gw x", "not a valid path number, 0 to 255"),
    (2, "statsu", "Did you mean 'status'?"),
    (3, "status --socket nowhere.sock", "no daemon answers on nowhere.sock"),
    (4, "switch gw 9", "has no path 9; `jvpn paths` shows them"),
    (4, "paths nobody", "`jvpn sessions` lists the living ones"),
    (4, "events -s nobody", "`jvpn sessions` lists the living ones"),
    (5, "switch gw 1", "the active one already"),
    (5, "switch phone 0", "POLICY_DENIED; plain WireGuard moves by its own handshakes alone"),
    (75, "status", "jvpn0 is starting"),
]


@pytest.mark.parametrize(("code", "line", "says"), CODES, ids=[f"{code} {line}" for code, line, _ in CODES])
def test_every_exit_code_by_a_command(jvpn: Jvpn, places: Path, code: int, line: str, says: str) -> None:
    with host(places / "state") as made:
        handlers = made.docs.handlers() | {"status": busy, "peer.list": broken}
        with serving(places / "run/jvpn0.sock", handlers):
            found = jvpn(*line.split())
    assert found.exit_code == code
    assert says in found.stderr
    assert not code or found.stderr.startswith("jvpn: ")


def test_interrupted(places: Path) -> None:
    with host(places / "state") as made, serving(places / "run/jvpn0.sock", made.docs.handlers()):
        argv = [sys.executable, "-m", "gateway.ops.cli", "terminate", "gw"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
            assert asking.stderr is not None
            assert asking.stderr.read(3) == b"End"
            deadline_s = time.monotonic() + 20
            while asking.poll() is None and time.monotonic() < deadline_s:
                asking.send_signal(signal.SIGINT)  # input() swallows one that comes while it flushes
                with contextlib.suppress(subprocess.TimeoutExpired):
                    asking.wait(0.5)
            assert asking.returncode == 130


# --- names ---------------------------------------------------------------------------------------------------------


def test_an_interface_that_is_not_there(jvpn: Jvpn, places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        found = jvpn("status", "-i", "wrong")
    assert (found.exit_code, found.stderr) == (
        3,
        "jvpn: no gateway or client of an interface wrong runs here; there is jvpn0\n",
    )
    assert "(no " in jvpn("status", "-i", "wrong").stderr


def test_events_of_a_session_that_ended(jvpn: Jvpn, places: Path) -> None:
    with host(places / "state") as made, serving(places / "run/jvpn0.sock", made.docs.handlers()):
        assert jvpn("terminate", "gw", "-y").exit_code == 0
        assert "TERMINATED" in jvpn("events", "-s", "gw").stdout
        assert "TERMINATED" in jvpn("events", "-s", "a1b2c3d4").stdout


def test_a_question_that_nobody_can_answer(jvpn: Jvpn, places: Path) -> None:
    with host(places / "state") as made, serving(places / "run/jvpn0.sock", made.docs.handlers()):
        found = jvpn("terminate", "gw", stdin="")
        assert not made.gw.core.ended
    assert (found.exit_code, "--yes does it without asking" in found.stderr) == (2, True)


# --- daemons that do not answer --------------------------------------------------------------------------------------


def test_a_daemon_that_was_killed(jvpn: Jvpn, places: Path) -> None:
    (places / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(places / "run/jvpn0.sock"))
    found = jvpn("status")
    assert (found.exit_code, "it was killed; start it again" in found.stderr) == (3, True)


def test_a_daemon_that_stands_still(jvpn: Jvpn, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "run").mkdir()
    monkeypatch.setattr("gateway.control.ctlclient.call.__defaults__", (None, 0.2))
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(places / "run/jvpn0.sock"))
        deaf.listen(4)
        found = jvpn("status")
    assert found.exit_code == 3
    assert f"its process {os.getpid()} is there, but busy or stopped" in found.stderr


# --- rights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_nobody(places: Path) -> Callable[[str], tuple[int, str, str]]:
    """Run a line as somebody who may read the program but none of its directories."""
    for name in ("state", "run"):
        (places / name).mkdir(mode=0o700)
    place = Path("/tmp") / f"jvpn-nobody-{os.getpid()}"

    def run(line: str) -> tuple[int, str, str]:
        become = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --"
        path = f"{places / 'state'}"
        return program(
            f'jvpn() {{ {become} "{sys.executable}" -m gateway.ops.cli "$@"; }}; {line}',
            Path("/usr"),
            HOME=str(place),
            JVPN_STATE_DIR=path,
        )

    return run


@root_only
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("status", 3),
        ("sessions", 3),
        ("peer list", 1),
        ("audit verify", 1),
        ("events", 3),
        ("gateway", 1),
        ("keys gen -o /root/x", 1),
    ],
)
def test_without_rights(as_nobody: Callable[[str], tuple[int, str, str]], line: str, code: int) -> None:
    found, out, err = as_nobody(f"jvpn {line}")
    assert (found, out) == (code, "")
    assert "run this as" in err and err.count("\n") == 1


# --- full disks ----------------------------------------------------------------------------------------------------

FULL: Final = (
    "mkdir t && mount -t tmpfs -o size=64k none t && JVPN_STATE_DIR=$PWD/t && export JVPN_STATE_DIR && "
)


@root_only
@pytest.mark.parametrize("line", ["peer add x", "keys gen -o t/k.key", "gateway"])
def test_no_room(places: Path, line: str) -> None:
    filled = "head -c 1M /dev/zero > t/fill 2>/dev/null; jvpn " + line
    script = places / "script"
    script.write_text(f'jvpn() {{ "{sys.executable}" -m gateway.ops.cli "$@"; }}; {FULL} {filled}; exit $?')
    code, out, err = program(f"unshare -m bash {script}", places)
    assert (code, out) == (1, "")
    assert "No space left on device; make room there and try again" in err
    assert re.search(r"\bt/\S+\.key cannot be written", err)


def test_a_private_key_that_nobody_got(places: Path) -> None:
    code, _, err = program("jvpn peer add x > /dev/full", places)
    assert code == 1
    assert "`jvpn peer remove x`, then add it again" in err
    assert program("jvpn peer remove x && jvpn peer add x > /dev/null", places)[0] == 0
    assert "cannot write: No space left on device" in program("jvpn keys gen > /dev/full", places)[2]


# --- a damaged journal -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", [os.urandom(4000) + b"\n", b"{}\n", b"[]\n"], ids=["noise", "empty", "list"]
)
@pytest.mark.parametrize("line", ["events", "timeline gw", "why gw"])
def test_a_damaged_journal_is_called_so(jvpn: Jvpn, places: Path, damage: bytes, line: str) -> None:
    folder = places / "audit"
    folder.mkdir()
    (folder / "audit-jvpn0-000000000000.jsonl").write_bytes(damage)
    found = jvpn(*line.split(), "--dir", folder)
    assert found.exit_code == (0 if line == "events" else 4)
    assert "the journal is damaged, `jvpn audit verify` says where" in found.stderr
    assert jvpn("audit", "verify", "--chain-only", "--dir", folder).exit_code == 1


def test_no_journal(jvpn: Jvpn) -> None:
    found = jvpn("audit", "verify")
    assert (found.exit_code, "--state-dir names another place" in found.stderr) == (4, True)


def test_a_damaged_signing_key(tmp_path: Path) -> None:
    (tmp_path / "audit.key").touch(0o600)
    (tmp_path / "audit.key").write_text("noise\n")
    with pytest.raises(HostError, match=r"audit\.key: .*; restore it, or move it away"):
        load_signing_key(tmp_path, os.urandom)
