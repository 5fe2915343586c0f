# SPDX-License-Identifier: Apache-2.0
"""A stream of 1,000 packets a second in each direction through a tunnel, every packet timed, and a slow TCP connection.

Rule: the log of each end says what it sent and what arrived there and when, on CLOCK_BOOTTIME; everything else is
computed from the two logs. An outage is the longest gap between arrivals of one direction; *up* is what the backend
receives, *down* what the client receives.

Log: the magic ``JVSTRM1\\n``, then records of 16 bytes, little endian: u8 kind (0 sent, 1 arrived), 3 bytes of zero,
u32 number, u64 CLOCK_BOOTTIME ns.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from tests.net.lab import LabError, Namespace, Proc, python_module
from tests.net.stream_helper import ARRIVED, MAGIC, RECORD, SENT

HELPER: Final = "tests.net.stream_helper"
RATE_PPS: Final = 1000.0
SIZE_BYTES: Final = 200
PORT: Final = 5010
DRAIN_S: Final = 0.3
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

Direction = Literal["up", "down"]


class Gap(NamedTuple):
    """A silence: how long, when it began, and whether it was still going on at the end of what was looked at."""

    ms: float
    at_ns: int
    open: bool


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction: sending time by number, and every arrival as (time, number) in order of time."""

    sent_ns: Sequence[int]
    arrivals: Sequence[tuple[int, int]]

    def longest_gap(self, since_ns: int, until_ns: int) -> Gap:
        """The longest silence that touches this time; arrivals of copies count as arrivals."""
        longest, last_ns = Gap(0.0, since_ns, False), since_ns
        before = [at for at, _ in self.arrivals if at <= since_ns]
        last_ns = before[-1] if before else since_ns
        for at_ns, _ in self.arrivals:
            if at_ns <= since_ns:
                continue
            if last_ns >= until_ns:
                break
            if at_ns - last_ns > longest.ms * NS_PER_MS:
                longest = Gap((at_ns - last_ns) / NS_PER_MS, last_ns, False)
            last_ns = at_ns
        if until_ns - last_ns > longest.ms * NS_PER_MS:
            longest = Gap((until_ns - last_ns) / NS_PER_MS, last_ns, True)
        return longest

    def lost(self, since_ns: int = 0, until_ns: int | None = None) -> list[int]:
        """Numbers sent in this time that never arrived."""
        seen = {number for _, number in self.arrivals}
        end_ns = until_ns if until_ns is not None else 1 << 63
        return [n for n, at in enumerate(self.sent_ns) if since_ns <= at < end_ns and n not in seen]

    def duplicated(self, since_ns: int = 0) -> int:
        """How many arrivals were not the first of their number."""
        return sum(count - 1 for count in Counter(n for at, n in self.arrivals if at >= since_ns).values())

    def arrived_after(self, at_ns: int) -> int:
        """Arrivals since then."""
        return sum(at >= at_ns for at, _ in self.arrivals)

    def first_arrival_ns(self) -> int:
        """When the first packet came through; 0 when none did."""
        return self.arrivals[0][0] if self.arrivals else 0


@dataclass(frozen=True, slots=True)
class Tcp:
    """The slow connection as the client's end saw it."""

    sent: int
    echoed: int
    last_echo_ns: int
    gap_ns: int
    gap_at_ns: int
    connected_ns: int
    error: str

    def alive_after(self, at_ns: int) -> bool:
        """It never broke, nothing came out of order, and something was echoed after that time."""
        return bool(self.connected_ns) and not self.error and self.last_echo_ns > at_ns


@dataclass(frozen=True, slots=True)
class StreamLog:
    """Everything about one stream."""

    up: Flow
    down: Flow
    tcp: Tcp

    def flow(self, direction: Direction) -> Flow:
        """By name."""
        return self.up if direction == "up" else self.down


class Stream:
    """A running stream between two namespaces. ``client_host`` and ``backend_host`` are inner addresses, the logs
    are written into ``folder``.
    """

    _count = 0

    def __init__(
        self,
        client: Namespace,
        backend: Namespace,
        client_host: str,
        backend_host: str,
        folder: Path,
        *,
        rate_pps: float = RATE_PPS,
        size_bytes: int = SIZE_BYTES,
        port: int = PORT,
    ) -> None:
        Stream._count += 1
        self._ends: list[Proc] = []
        self._logs: list[Path] = []
        for namespace, role, peer in ((backend, "backend", client_host), (client, "client", backend_host)):
            log = folder / f"stream{Stream._count}-{role}.log"
            argv = python_module(HELPER, role, peer, str(port), str(log), str(rate_pps), str(size_bytes))
            self._ends.append(namespace.spawn(argv, f"{namespace.role}-stream"))
            self._logs.append(log)
            # The backend listens before the client connects.
            self._ends[-1].wait_line("^ready")

    def pause(self) -> None:
        """Both ends fall silent, the TCP connection too."""
        self._signal(signal.SIGUSR1)

    def resume(self) -> None:
        """Go on."""
        self._signal(signal.SIGUSR2)

    def stop(self, drain_s: float = DRAIN_S) -> StreamLog:
        """End the stream, give what is on its way ``drain_s`` to arrive, and read the logs."""
        self._signal(signal.SIGINT)
        time.sleep(drain_s)
        # The client first: a backend that ends closes the connection, and that is no failure of it.
        for end in reversed(self._ends):
            end.signal(signal.SIGTERM)
            if end.wait(20.0) != 0:
                raise LabError(f"{end.name} failed\n{end.output}")
        backend, client = (read_log(path) for path in self._logs)
        tcp = Tcp(**json.loads(self._ends[1].stdout.splitlines()[-1])["tcp"])
        for path in self._logs:
            path.unlink()
        return StreamLog(Flow(client.sent_ns, backend.arrivals), Flow(backend.sent_ns, client.arrivals), tcp)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.kill()

    def _signal(self, number: int) -> None:
        for end in self._ends:
            end.signal(number)


def read_log(path: Path) -> Flow:
    """One end's log: what it sent, and what arrived at it (in order of arrival)."""
    data = path.read_bytes()
    if not data.startswith(MAGIC) or (len(data) - len(MAGIC)) % RECORD.size:
        raise LabError(f"{path.name} is not a stream log")
    sent: list[int] = []
    arrivals: list[tuple[int, int]] = []
    for kind, number, at_ns in RECORD.iter_unpack(memoryview(data)[len(MAGIC) :]):
        if kind == SENT:
            sent.append(at_ns)
        elif kind == ARRIVED:
            arrivals.append((at_ns, number))
    return Flow(sent, sorted(arrivals))
