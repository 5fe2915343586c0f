# SPDX-License-Identifier: Apache-2.0
"""Whether the loop and the data plane make progress, looked at four times a second.

A worker stalls when at every look for two seconds something waited on its descriptors and nothing was read; the data
plane as a whole when its earliest timer is overdue by as much. An idle one has nothing waiting and is well. What the
loop itself misses shows as a late look.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence
from typing import Final

from gateway.constants import NS_PER_S
from gateway.control import clock
from gateway.control.tunnel import Tunnel
from gateway.dataplane.engine import NO_DEADLINE

PERIOD_S: Final = 0.25
STALL_NS: Final = 2 * NS_PER_S
STALL_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Histogram:
    """Counts per upper bound, not cumulative; the last one has no bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.total += value
        for number, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[number] += 1
                return
        self.counts[-1] += 1


class Lane:
    """One worker: since when something waits that it does not read."""

    __slots__ = ("mark", "since_ns")

    def __init__(self) -> None:
        self.mark = -1
        self.since_ns: int | None = None

    def look(self, now_ns: int, waits: bool, mark: int) -> None:
        moved, self.mark = mark != self.mark, mark
        if not waits or moved:
            self.since_ns = None
        elif self.since_ns is None:
            self.since_ns = now_ns

    def stalled(self, now_ns: int) -> bool:
        return self.since_ns is not None and now_ns - self.since_ns >= STALL_NS


class Watch:
    """Looks at one tunnel while it runs."""

    def __init__(self, tunnel: Tunnel, now_ns: Callable[[], int] = clock.now_ns) -> None:
        self._tunnel = tunnel
        self._now_ns = now_ns
        self._lanes: list[Lane] = []
        self._due_s = 0.0
        self._deadline_ns = NO_DEADLINE
        self._timer: asyncio.TimerHandle | None = None
        self.loop_stalls = Histogram(STALL_BUCKETS_S)

    def start(self) -> None:
        """Look from now on. Once is enough, whoever asks."""
        if self._timer is None:
            self._schedule()

    def stop(self) -> None:
        """No more looks."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + PERIOD_S
        self._timer = loop.call_at(self._due_s, self._on_timer)

    def _on_timer(self) -> None:
        self.loop_stalls.add(max(0.0, asyncio.get_running_loop().time() - self._due_s))
        self.look(self._now_ns())
        self._schedule()

    def look(self, now_ns: int) -> None:
        """One look at every worker and at the data plane's clock."""
        lanes = self._tunnel.lanes()
        while len(self._lanes) < len(lanes):
            self._lanes.append(Lane())
        waiting = _readable([fd for fds, _ in lanes for fd in fds])
        for lane, (fds, mark) in zip(self._lanes, lanes, strict=False):
            lane.look(now_ns, not waiting.isdisjoint(fds), mark)
        self._deadline_ns = self._tunnel.engine.next_deadline_ns

    def problems(self) -> list[str]:
        """What does not move, in words. Empty: all well."""
        now_ns = self._now_ns()
        found = [
            f"worker {number} does not read what waits"
            for number, lane in enumerate(self._lanes)
            if lane.stalled(now_ns)
        ]
        if self._deadline_ns != NO_DEADLINE and now_ns - self._deadline_ns >= STALL_NS:
            found.append("the data plane's timer is overdue")
        return found


def _readable(fds: Sequence[int]) -> set[int]:
    """Those with something to read; poll(2) asks and does not wait."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, events in poll.poll(0) if events & select.POLLIN}
