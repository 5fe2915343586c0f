# SPDX-License-Identifier: Apache-2.0
"""The swarm, the process that is all clients (bench/load/swarm.py): started in its place, told what to do by lines of
JSON, asked how it fares.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bench.load.population import Population
from bench.load.scene import QUEUE_PACKETS, Scene
from tests.net.lab import LabError, Proc, python_module

DEVICE: Final = "swarm0"
POLL_S: Final = 0.005
READY_S: Final = 60.0
# Python objects of 100,000 clients, most of it their keys.
READY_PER_CLIENT_S: Final = 0.002
ASK_S: Final = 30.0
TAIL_CHARS: Final = 2000
# Of several answers; percentiles and times are not added.
ADDED: Final = frozenset(
    {"attached", "rekeyed", "restarted", "terminated", "rebound", "failed", "missing", "count"}
)
Answer = dict[str, Any]
Progress = Callable[[Answer], None]


class Swarm:
    """The process, and which of its answers were read."""

    def __init__(self, scene: Scene, population: Population, port: int) -> None:
        fifo = scene.lab.tmp / f"swarm-{time.monotonic_ns()}"
        os.mkfifo(fifo, 0o600)
        # Both directions, so that opening waits for nobody.
        self._input = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
        words = {"sessions": population.count, "seed": population.seed, "gateway-port": port}
        options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        argv = python_module("bench.load.swarm", *options)
        # Its input is the fifo: the shell connects it and becomes the process.
        self._proc: Proc = scene.crowd.spawn(["sh", "-c", 'exec "$@" <"$0"', str(fifo), *argv], "swarm")
        self._scene, self._last_id = scene, 0
        self._read_bytes = 0
        self._answers: dict[int, Answer] = {}
        self.progress: Answer = {}
        self._proc.wait_line('"ready": ?true', READY_S + population.count * READY_PER_CLIENT_S)
        scene.crowd.ip("link", "set", DEVICE, "txqueuelen", str(QUEUE_PACKETS))

    @property
    def pid(self) -> int:
        """Of the process itself: both `ip netns exec` and the shell have become it."""
        return self._proc.pid

    def tell(self, what: str, /, **values: object) -> int:
        """Begin something; the number that its answer will have."""
        self._last_id += 1
        order = {"id": self._last_id, "do": what, **values}
        os.write(self._input, (json.dumps(order) + "\n").encode())
        return self._last_id

    def answer(self, number: int, timeout_s: float, progress: Progress | None = None) -> Answer:
        """Wait for it; LabError when it is an error or does not come."""
        deadline_s = time.monotonic() + timeout_s
        while (found := self.poll(number)) is None:
            if not self._proc.running:
                raise LabError(f"the swarm has ended\n{self._proc.output[-TAIL_CHARS:]}")
            if time.monotonic() > deadline_s:
                raise LabError(f"the swarm did not answer within {timeout_s:.0f} s\n{self._tail()}")
            if progress is not None and self.progress:
                progress(self.progress)
                self.progress = {}
            time.sleep(POLL_S)
        return found

    def poll(self, number: int) -> Answer | None:
        """The answer if it is there."""
        for line in self._new_lines():
            if "progress" in line:
                self.progress = line["progress"]
            elif "id" in line:
                self._answers[line["id"]] = line
        found = self._answers.pop(number, None)
        if found is not None and "error" in found:
            raise LabError(f"the swarm: {found['error']}")
        return found

    def do(
        self, what: str, wait_s: float = ASK_S, progress: Progress | None = None, /, **values: object
    ) -> Answer:
        """Begin it and wait until it is done."""
        return self.answer(self.tell(what, **values), wait_s, progress)

    def status(self) -> Answer:
        """Sessions by state and what has happened so far."""
        return self.do("status")

    def stop(self) -> None:
        """End it in order."""
        number = self.tell("stop")
        os.close(self._input)
        try:
            self._proc.wait(ASK_S)
        except LabError:
            self._proc.kill()
        self._answers.pop(number, None)

    def _new_lines(self) -> list[Answer]:
        with self._proc.stdout_path.open("rb") as file:
            file.seek(self._read_bytes)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._read_bytes += len(whole) + 1
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def _tail(self) -> str:
        return self._proc.stderr[-TAIL_CHARS:]


def together(before: Mapping[str, Any], answer: Mapping[str, Any]) -> Answer:
    """Several answers as one: counts add up, of everything else the greatest stays."""
    found: Answer = {**before, **answer}
    for key in before.keys() & answer.keys():
        old, new = before[key], answer[key]
        if isinstance(old, Mapping):
            found[key] = together(old, new)
        elif isinstance(old, int):
            found[key] = old + new if key in ADDED else max(old, new)
        elif isinstance(old, float):
            found[key] = max(old, new)
    return found
