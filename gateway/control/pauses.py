# SPDX-License-Identifier: Apache-2.0
"""What stops a gateway's loop, and that Python's garbage collector hardly does.

Rule 1: what a start has loaded is put out of the collector's sight, and the oldest generation is never collected by
itself: at 100,000 sessions that would be 50 to 230 ms (a full collection looks at every object). Peers, sessions and
paths hold no reference cycles, so they are freed without it.
Rule 2: the two young generations go on. They look at what came in the last few thousand allocations: below 1 ms.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from gateway.constants import NS_PER_S

# Collections of the middle generation until one of the oldest: as many as the interpreter can count.
NEVER: Final = 2**31 - 1
# A stall of more than this is always seen, and understated by at most this.
PULSE_S: Final = 0.02


@contextmanager
def loading() -> Iterator[None]:
    """While very many objects are made that all stay: looking through them again and again finds nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def settle() -> None:
    """The start is over: whatever is here now is not looked at again, nor will what grows old from now on."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)


class Collections:
    """How often each generation was collected between `start` and `stop`, and how long the loop stood still for it."""

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now_ns = now_ns
        self._began_ns = 0
        self._longest_ns = self._total_ns = 0
        self.counts = [0, 0, 0]

    def start(self) -> None:
        """Measure from now on."""
        if self._hear not in gc.callbacks:
            gc.callbacks.append(self._hear)

    def stop(self) -> None:
        """No more."""
        if self._hear in gc.callbacks:
            gc.callbacks.remove(self._hear)

    @property
    def longest_s(self) -> float:
        """The longest pause."""
        return self._longest_ns / NS_PER_S

    @property
    def total_s(self) -> float:
        """All pauses."""
        return self._total_ns / NS_PER_S

    def _hear(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began_ns = self._now_ns()
            return
        took_ns = self._now_ns() - self._began_ns
        self.counts[info["generation"]] += 1
        self._total_ns += took_ns
        self._longest_ns = max(self._longest_ns, took_ns)


class Pulse:
    """The longest that the loop has kept a timer waiting, looked at fifty times a second."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self.longest_s = 0.0

    def start(self) -> None:
        """Look from now on. Once is enough, whoever asks."""
        if self._timer is None:
            self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """No more looks."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = loop.time() + PULSE_S
        self._timer = loop.call_at(self._due_s, self._on_timer, loop)

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self.longest_s = max(self.longest_s, loop.time() - self._due_s)
        self._schedule(loop)


class Pauses:
    """Both, of one process."""

    def __init__(self) -> None:
        self.collections = Collections()
        self.pulse = Pulse()

    def start(self) -> None:
        """Measure from now on."""
        self.collections.start()
        self.pulse.start()

    def stop(self) -> None:
        """No more."""
        self.collections.stop()
        self.pulse.stop()

    def document(self) -> dict[str, Any]:
        """For a status document."""
        found = self.collections
        return {
            "longest_stall_s": self.pulse.longest_s,
            "gc_longest_s": found.longest_s,
            "gc_total_s": found.total_s,
            "gc_collections": list(found.counts),
        }
