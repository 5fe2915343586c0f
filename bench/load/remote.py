# SPDX-License-Identifier: Apache-2.0
"""The swarm as whoever drives it sees it: a process of a namespace, told by lines and answering by lines."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.net.lab import REPO, LabError, Namespace, python_module

READY_S: Final = 120.0
STOP_S: Final = 10.0
READ_BYTES: Final = 1 << 16


class RemoteSwarm:
    """A running swarm; a context manager. `on_progress` is shown every line of progress."""

    def __init__(
        self,
        namespace: Namespace,
        sessions: int,
        seed: int,
        *words: str,
        log: Path,
        on_progress: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        argv = python_module("bench.load.swarm", "--sessions", str(sessions), "--seed", str(seed), *words)
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        self._log, self._on_progress = log, on_progress
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                namespace.wrap(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                cwd=REPO,
                start_new_session=True,
            )
        self._unread = b""
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_ready(self, timeout_s: float = READY_S) -> dict[str, Any]:
        """Returns what it says when its keys are made and its sockets open."""
        return self._until(lambda line: "ready" in line, timeout_s)

    def send(self, do: str, **words: Any) -> int:
        """Tell it something; the id that its answer will have. ``from`` is spelled ``first``."""
        self._count += 1
        command = {"id": self._count, "do": do, **words}
        if "first" in command:
            command["from"] = command.pop("first")
        self._pipe.write(json.dumps(command).encode() + b"\n")
        self._pipe.flush()
        return self._count

    def answer(self, ident: int, wait_s: float = READY_S) -> dict[str, Any]:
        """The answer of that id, which is the next to come; LabError if it is a refusal."""
        found = self._until(lambda line: line.get("id") == ident, wait_s)
        if "error" in found:
            raise LabError(f"swarm: {found['error']}")
        return found

    def do(self, do: str, wait_s: float = READY_S, **words: Any) -> dict[str, Any]:
        """Tell it something and wait until it is done."""
        return self.answer(self.send(do, **words), wait_s)

    def stop(self) -> int:
        """In order; the exit status."""
        self.do("stop", STOP_S)
        return self._process.wait(STOP_S)

    def kill(self) -> None:
        """As it is."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def _pipe(self) -> Any:
        return self._process.stdin

    def _until(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
        end_s = time.monotonic() + timeout_s
        while True:
            line = self._line(end_s)
            if wanted(line):
                return line
            if "progress" in line:
                self._on_progress(line["progress"])
            elif "error" in line and "id" not in line:
                raise LabError(f"swarm: {line['error']}")

    def _line(self, end_s: float) -> dict[str, Any]:
        stdout = self._process.stdout
        while b"\n" not in self._unread:
            left_s = end_s - time.monotonic()
            if stdout is None or left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
                raise LabError(f"swarm: no answer in time\n{self._said()}")
            more = os.read(stdout.fileno(), READ_BYTES)
            if not more:
                raise LabError(f"swarm: ended\n{self._said()}")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]
