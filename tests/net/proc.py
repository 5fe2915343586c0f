# SPDX-License-Identifier: Apache-2.0
"""One process of the laboratory: its output goes to a file, and waiting for it always has a limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

POLL_S: Final = 0.005
TAIL_CHARS: Final = 4000


class LabError(Exception):
    """Something in the laboratory did not do what was asked; the text holds the output that explains it."""


class Proc:
    """A running command. Standard output and standard error are the files ``NAME.out`` and ``NAME.err``."""

    def __init__(
        self,
        argv: Sequence[str],
        name: str,
        folder: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = tuple(argv)
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("ab") as out, self._err.open("ab") as err:
            # A session of its own: a Ctrl-C in the terminal reaches the owner only, who then stops its
            # children in order.
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id; also the id of its process group."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status, None while it runs, negative for a signal."""
        return self._popen.poll()

    @property
    def stdout(self) -> str:
        """Standard output so far."""
        return self._out.read_text(errors="replace")

    @property
    def stdout_path(self) -> Path:
        """The file of standard output, for who reads only what is new."""
        return self._out

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return self._err.read_text(errors="replace")

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        return self.stdout + self.stderr

    def wait_line(self, pattern: str, timeout_s: float = 10.0) -> re.Match[str]:
        """Wait until a line of the output matches; LabError when the time is over or the process ends
        without it.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        deadline_s = time.monotonic() + timeout_s
        while True:
            ended = not self.running
            if found := wanted.search(self.output):
                return found
            if ended or time.monotonic() > deadline_s:
                raise LabError(
                    self._explain(f"no line matched {pattern!r}" + ("" if ended else f" in {timeout_s} s"))
                )
            time.sleep(POLL_S)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the end; returns the exit status, LabError after ``timeout_s``."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(self._explain(f"still running after {timeout_s} s")) from None

    def signal(self, number: int) -> None:
        """Send a signal to the process itself (not to its group)."""
        with suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def stop(self, timeout_s: float = 5.0) -> int:
        """SIGTERM, then SIGKILL when that does not help within ``timeout_s``; returns the exit status."""
        self.signal(signal.SIGTERM)
        try:
            status = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()
        self._kill_group()
        return status

    def kill(self) -> int:
        """SIGKILL to the process and whatever it started."""
        self._kill_group()
        return self._popen.wait()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _explain(self, problem: str) -> str:
        state = "running" if self.running else f"ended with {self.returncode}"
        return f"{self.name}: {problem} ({state}; {' '.join(self.argv)})\n{self.output[-TAIL_CHARS:]}"
