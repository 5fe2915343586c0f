# SPDX-License-Identifier: Apache-2.0
"""Signals of a real process: SIGHUP is for the file, unless it is the farewell of the terminal it was started in."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

SCRIPT: Final = """
import sys
from gateway.control import daemon

class Fileless:
    def __init__(self, path):
        self.path = path
    def say(self, word):
        with open(self.path, "a") as file:
            file.write(word + "\\n")
    async def start(self, stopping):
        self.say("started")
    async def stop(self):
        self.say("stopped")
    def problems(self):
        return []
    def summary(self):
        return ""

class WithFile(Fileless):
    def announce_reloads(self, around):
        pass
    def hang_up(self):
        self.say("reload")

kind = WithFile if sys.argv[2] == "file" else Fileless
sys.exit(daemon.run(kind(sys.argv[1]), daemon.logger()))
"""
LONG_S: Final = 20.0


def wait_said(path: Path, *words: str) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not path.exists() or path.read_text().split() != list(words):
        assert time.monotonic() < deadline_s, path.read_text() if path.exists() else "nothing"
        time.sleep(0.01)


def argv(said: Path, kind: str = "file") -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(said), kind]


@pytest.fixture
def said(tmp_path: Path) -> Path:
    return tmp_path / "said"


@pytest.fixture
def plain(said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon of no terminal, as a unit has it."""
    with subprocess.Popen(argv(said), stdout=subprocess.DEVNULL, start_new_session=True) as process:
        wait_said(said, "started")
        yield process
        process.kill()


def test_a_hangup_is_for_the_file(plain: subprocess.Popen[bytes], said: Path) -> None:
    plain.send_signal(signal.SIGHUP)
    wait_said(said, "started", "reload")
    plain.send_signal(signal.SIGTERM)
    assert plain.wait(LONG_S) == 0
    assert said.read_text().split() == ["started", "reload", "stopped"]


def test_without_a_file_a_hangup_ends_it(said: Path) -> None:
    with subprocess.Popen(argv(said, "none"), stdout=subprocess.DEVNULL, start_new_session=True) as process:
        wait_said(said, "started")
        process.send_signal(signal.SIGHUP)
        assert process.wait(LONG_S) == -signal.SIGHUP


def test_a_terminal_that_is_closed_ends_it_in_order(said: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # the terminal's session leader is the daemon itself, as with `ssh host jvpn gateway`
        os.execv(sys.executable, argv(said))
    try:
        wait_said(said, "started")
        os.kill(pid, signal.SIGHUP)  # somebody's, while the terminal is there
        wait_said(said, "started", "reload")
        os.close(terminal)
        wait_said(said, "started", "reload", "stopped")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
