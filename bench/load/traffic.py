# SPDX-License-Identifier: Apache-2.0
"""One run of the traffic program (flows.c), and what it measured."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.load.scene import Scene
from bench.tunnel.search import Trial
from tests.net.lab import LabError, Proc

# 64 bytes on the wire inside the tunnel, with IPv4 and UDP headers.
SMALL_BYTES: Final = 36
# After the last packet: what is still on its way, and slow machines.
END_S: Final = 15.0
FOREVER_S: Final = 7200


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent: packets a second over flows ``first`` to ``first + flows``."""

    rate_per_s: float
    flows: int
    first: int = 0
    size_bytes: int = SMALL_BYTES
    seed: int = 1

    def at(self, rate_per_s: float) -> Load:
        """The same at another rate."""
        return replace(self, rate_per_s=rate_per_s)

    def words(self, seconds: int) -> list[str]:
        """The program's options."""
        options = {
            "flows": self.flows,
            "first": self.first,
            "rate": max(1, round(self.rate_per_s)),
            "bytes": self.size_bytes,
            "seconds": seconds,
            "random": self.seed,
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True, slots=True)
class Second:
    """Packets that were due within one second, ``at_s`` on CLOCK_MONOTONIC."""

    at_s: float
    sent: int
    received: int
    late: int
    p50_us: int
    p99_us: int
    max_us: int
    buckets: Sequence[tuple[int, int]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """All of a run."""

    start_s: float
    sent: int
    received: int
    seconds: float
    figures: Mapping[str, float]
    buckets: Sequence[tuple[int, int]] = field(repr=False)
    by_second: Sequence[Second] = field(repr=False)

    @property
    def trial(self) -> Trial:
        """For the search of the saturating rate. A late sender is not the limit here: what was due counts as sent."""
        return Trial(self.sent, self.received, self.seconds)

    @property
    def loss(self) -> float:
        """Share that did not come back."""
        return self.trial.loss


class Flows:
    """The program while it runs."""

    def __init__(self, scene: Scene, load: Load, seconds: int = FOREVER_S) -> None:
        self.load, self._seconds = load, seconds
        self._proc: Proc = scene.flows(*load.words(seconds))
        found = self._proc.wait_line(r'^\{"start_ns": (\d+)')
        self.start_s = int(found[1]) / 1e9

    def stop(self) -> Result:
        """Send no more; what it measured."""
        self._proc.signal(signal.SIGTERM)
        return self._result(END_S)

    def wait(self) -> Result:
        """Until the planned end."""
        return self._result(self.start_s + self._seconds - time.monotonic() + END_S)

    def seconds(self) -> list[Second]:
        """Those that have their line by now, three seconds after they began."""
        return [self._second(line) for line in self._lines() if "second" in line]

    def _lines(self) -> list[dict[str, Any]]:
        whole = self._proc.stdout.rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def _second(self, line: Mapping[str, Any]) -> Second:
        numbers = {name: value for name, value in line.items() if name != "second"}
        return Second(self.start_s + line["second"], **numbers)

    def _result(self, timeout_s: float) -> Result:
        if self._proc.wait(timeout_s):
            raise LabError(f"the traffic program: {self._proc.stderr.strip()}")
        last = self._lines()[-1]
        buckets = [(int(us), int(count)) for us, count in last.pop("buckets")]
        counts = {name: last.pop(name) for name in ("sent", "received", "seconds")}
        del last["done"]
        return Result(self.start_s, **counts, figures=last, buckets=buckets, by_second=self.seconds())


def percentile_us(buckets: Sequence[tuple[int, int]], share: float) -> int:
    """The bucket that the share falls into, by its lower end; 0 without any."""
    total = sum(count for _, count in buckets)
    seen = 0
    for us, count in buckets:
        seen += count
        if seen >= share * total:
            return us
    return 0


def merged(parts: Sequence[Second | Result]) -> list[tuple[int, int]]:
    """Buckets of several seconds or runs as of one."""
    counts: dict[int, int] = {}
    for part in parts:
        for us, count in part.buckets:
            counts[us] = counts.get(us, 0) + count
    return sorted(counts.items())
