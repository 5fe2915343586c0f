# SPDX-License-Identifier: Apache-2.0
"""`jvpn status --watch` on a terminal of the test's own, in a pipe, and while the daemon comes and goes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import pytest

from gateway.ops.cli.watching import fitted
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import STATUS, serving, status
from tests.unit.ops.sessionhost import host

ENTER: Final = b"\x1b[?1049h\x1b[?25l"
LEAVE: Final = b"\x1b[?25h\x1b[?1049l"
HOME: Final = b"\x1b[H"


class Terminal:
    """A pseudo terminal with a program on it."""

    def __init__(self, places: Path, rows: int, columns: int, *args: str, **environ: str) -> None:
        self.leader, self.follower = pty.openpty()
        self.resize(rows, columns)
        self.process = watch(places, *args, stdout=self.follower, stderr=self.follower, **environ)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, enough: Callable[[bytes], bool]) -> bytes:
        """What comes from now on until there is enough of it."""
        data, deadline_s = b"", time.monotonic() + 20
        while not enough(data):
            assert time.monotonic() < deadline_s, data
            if select.select([self.leader], [], [], 0.5)[0]:
                data += os.read(self.leader, 65_536)
        self.seen += data
        return data

    def frame(self) -> list[str]:
        """The lines of the next screen that is drawn as a whole."""
        data = self.until(lambda data: data.count(HOME) >= 2)
        text = data.split(HOME)[1].decode()
        return [re.sub(r"\x1b\[[KJ]", "", line).rstrip("\r") for line in text.split("\n")]

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.until(lambda data: LEAVE in data)
        os.close(self.follower)
        os.close(self.leader)
        return code


def watch(places: Path, *args: str, stdout: Any, stderr: Any, **more: str) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "JVPN_RUNTIME_DIR": str(places / "run"), "TERM": "xterm"}
    environ.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "gateway.ops.cli", "status", "--watch", "--interval", "0.1", *args]
    return subprocess.Popen(command, env={**environ, **more}, stdout=stdout, stderr=stderr)


def test_one_screen_is_drawn_anew_and_given_back(places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        terminal = Terminal(places, 40, 160)
        terminal.until(lambda data: data.count(HOME) >= 3)
        assert terminal.end() == 0
    assert terminal.seen.startswith(ENTER + HOME)
    assert b"phone" in terminal.seen
    assert terminal.seen.endswith(LEAVE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_give_the_screen_back_too(places: Path, number: int) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        terminal = Terminal(places, 40, 160)
        terminal.frame()
        assert terminal.end(number) == 0


def test_a_daemon_that_restarts_does_not_end_it(places: Path) -> None:
    where = places / "run/jvpn0.sock"
    with serving(where, {"status": status}):
        terminal = Terminal(places, 40, 160)
        assert any("phone" in line for line in terminal.frame())
    terminal.until(lambda data: b"no daemon answers" in data and b"waiting for it" in data)
    with serving(where, {"status": status}):
        terminal.until(lambda data: b"phone" in data)
        assert terminal.process.poll() is None
        assert terminal.end() == 0


def test_what_does_not_fit_is_cut_and_a_new_size_is_drawn(places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        terminal = Terminal(places, 8, 30)
        small = terminal.frame()
        assert len(small) == 8
        assert max(map(len, small)) <= 30
        assert "more lines" in small[-1]
        terminal.resize(50, 200)
        terminal.until(lambda data: b"replayed  3" in data)
        whole = terminal.frame()
        assert any(line.rstrip().endswith("aegis-128l") for line in whole)
        assert terminal.end() == 0


def test_a_resize_does_not_wait_for_the_interval(places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        terminal = Terminal(places, 8, 30, "--interval", "3600")
        terminal.until(lambda data: b"more lines" in data)
        terminal.resize(50, 200)
        terminal.process.send_signal(
            signal.SIGWINCH
        )  # it is not the session's leader: the kernel tells nobody
        terminal.until(lambda data: b"replayed  3" in data)
        assert terminal.end() == 0


def test_sessions_and_the_paths_of_a_single_one(places: Path) -> None:
    with host(places / "state") as made:
        both = made.docs.handlers() | {"status": status}
        with serving(places / "run/jvpn0.sock", both):
            terminal = Terminal(places, 60, 160)
            shown = "\n".join(terminal.frame())
            assert "a1b2c3d4  gw " in shown and "ATTACHED (stock)" in shown
            assert "STANDBY" not in shown
            terminal.end()

        async def one(args: dict[str, Any]) -> dict[str, Any]:
            return await made.docs.all({**args, "limit": 1}) | {"more": False}

        with serving(places / "run/jvpn0.sock", both | {"sessions": one}):
            terminal = Terminal(places, 60, 160)
            shown = "\n".join(terminal.frame())
            assert "a1b2c3d4  gw " in shown and "STANDBY" in shown
            terminal.end()


def test_no_color_still_draws_one_screen(places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        terminal = Terminal(places, 40, 160, NO_COLOR="1")
        terminal.frame()
        assert terminal.end() == 0
    assert re.findall(rb"\x1b\[[0-9;]*m", terminal.seen) == []


def test_without_a_terminal_it_shows_once(jvpn: Jvpn, places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        found = jvpn("status", "--watch")
        assert (found.exit_code, found.stdout) == (0, jvpn("status").stdout)
    assert "\x1b" not in found.stdout


def lines(stream: IO[bytes] | None) -> Iterator[bytes]:
    assert stream is not None
    return iter(stream.readline, b"")


def test_json_is_one_document_per_line_over_a_restart(places: Path) -> None:
    where = places / "run/jvpn0.sock"
    with serving(where, {"status": status}):
        process = watch(places, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        found = [next(lines(process.stdout)) for _ in range(3)]
    assert b"waiting for it" in next(lines(process.stderr))
    with serving(where, {"status": status}):
        while len(found) < 6:
            found.append(next(lines(process.stdout)))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert [json.loads(line) for line in found] == [STATUS] * 6
    assert process.returncode == 0


def test_nobody_to_watch(jvpn: Jvpn, places: Path) -> None:
    assert jvpn("status", "--watch").exit_code == 3


@pytest.mark.parametrize(
    ("rows", "columns", "shown"),
    [
        (5, 80, ["one", "two", "three", "four"]),
        (4, 3, ["one", "two", "thr", "fou"]),
        (3, 80, ["one", "two", "(2 more lines; a taller window shows them)"]),
    ],
)
def test_fitting(rows: int, columns: int, shown: list[str]) -> None:
    assert fitted("one\ntwo\nthree\nfour", rows, columns) == shown
