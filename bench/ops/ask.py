# SPDX-License-Identifier: Apache-2.0
"""Asks a stats endpoint and says how long that took and what it cost the gateway:

    python -m bench.ops.ask times PORT PID PATH COUNT PAUSE_S     one address again and again
    python -m bench.ops.ask pages PORT PID LIMIT                  every page of sessions once
    python -m bench.ops.ask steady PORT PID PATH SECONDS EVERY_S  at a pace, beside something else

Each prints a line of JSON: ``times_ms``, ``cpu_ms`` (the gateway's, all threads, per answer) and ``bytes`` of the
largest answer. One connection for all of them, as Prometheus and browsers have.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Final

from bench.tunnel.load import say

TIMEOUT_S: Final = 20.0
SESSIONS: Final = "/api/v1/sessions"


class Asker:
    """One connection, and the gateway's process."""

    def __init__(self, port: int, pid: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        # clock_getcpuclockid(3): the CPU time of another process, in nanoseconds, is a clock with this number.
        self._clock = (~pid << 3) | 2
        self.begin()

    def begin(self) -> None:
        """What was asked until now does not count."""
        self._cpu_ns = self._bytes = 0
        self._times_ms: list[float] = []

    def ask(self, path: str) -> bytes:
        """One answer, timed from the request until its last byte."""
        cpu_ns, start_s = time.clock_gettime_ns(self._clock), time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        self._times_ms.append(1000 * (time.perf_counter() - start_s))
        self._cpu_ns += time.clock_gettime_ns(self._clock) - cpu_ns
        if answer.status != http.client.OK:
            sys.exit(f"{path}: {answer.status} {body[:200]!r}")
        self._bytes = max(self._bytes, len(body))
        return body

    def result(self) -> dict[str, object]:
        """All of it."""
        count = len(self._times_ms)
        return {"times_ms": self._times_ms, "cpu_ms": self._cpu_ns / 1e6 / count, "bytes": self._bytes}


def times(asker: Asker, path: str, count: int, pause_s: float) -> None:
    """One address, with or without a pause between two requests."""
    asker.ask(path)
    asker.begin()
    for _ in range(count):
        time.sleep(pause_s)
        asker.ask(path)


def pages(asker: Asker, limit: int) -> None:
    """From the first session to the last."""
    asker.ask("/livez")
    asker.begin()
    after, more = "", True
    while more:
        page = json.loads(asker.ask(f"{SESSIONS}?limit={limit}&after={after}"))
        after, more = page["sessions"][-1]["session_id"], page["more"]


def steady(asker: Asker, path: str, seconds: float, every_s: float) -> None:
    """At a pace until the time is over; a slow answer is not caught up with."""
    asker.ask("/livez")
    asker.begin()
    say("ready")
    due_s = time.monotonic()
    end_s = due_s + seconds
    while due_s < end_s:
        time.sleep(max(0.0, due_s - time.monotonic()))
        asker.ask(path)
        due_s = max(due_s + every_s, time.monotonic())


def main(argv: list[str]) -> int:
    """One of the three."""
    mode, port, pid, *rest = argv
    asker = Asker(int(port), int(pid))
    if mode == "times":
        times(asker, rest[0], int(rest[1]), float(rest[2]))
    elif mode == "pages":
        pages(asker, int(rest[0]))
    else:
        steady(asker, rest[0], float(rest[1]), float(rest[2]))
    say(asker.result())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
