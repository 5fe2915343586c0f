# SPDX-License-Identifier: Apache-2.0
"""One thing that many clients do, one after the other at a given rate, and how long each took.

Rule: open loop. Client i is due at the beginning + i / rate, whatever became of those before it, and its time counts
from when it was due: a gateway (or a generator) that stalls does not make its own figures better.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.load.crowd import Crowd
from bench.load.histogram import Histogram
from gateway.constants import NS_PER_S

TIMEOUT_S: Final = 60.0
# What is done, and what it is called once it is.
DONE: Final = {
    "attach": "attached",
    "rekey": "rekeyed",
    "restart": "restarted",
    "terminate": "terminated",
    "rebind": "rebound",
}


class Order:
    """One command in progress."""

    def __init__(self, crowd: Crowd, command: dict[str, Any], seed: int, now_ns: int) -> None:
        self.id, self.kind = command.get("id"), command["do"]
        self._crowd = crowd
        self._numbers = _numbers(command, seed, len(crowd.peers))
        self._gap_ns = NS_PER_S / float(command.get("rate_per_s", 1000.0))
        self._timeout_ns = int(float(command.get("timeout_s", TIMEOUT_S)) * NS_PER_S)
        self._path, self._address = int(command.get("path", 0)), command.get("what", "port") == "address"
        self._start_ns, self._next = now_ns, 0
        self._waiting: dict[int, int] = {}  # client -> when it was due, oldest first
        self._before: dict[int, bytes] = {}  # the session a restarted client had
        self._moving: dict[bytes, tuple[int, bool]] = {}  # session -> its client, whether its binding moves
        self._late, self._handshakes, self._took = Histogram(), Histogram(), Histogram()
        self.failures: Counter[str] = Counter()
        self.done = self.resumed = self._attempts = 0

    # --- time -------------------------------------------------------------------------------------------------

    @property
    def next_ns(self) -> int | None:
        """When the next client is due, None after the last."""
        return self._due_ns(self._next) if self._next < len(self._numbers) else None

    def _due_ns(self, place: int) -> int:
        return self._start_ns + int(place * self._gap_ns)

    @property
    def timeout_ns(self) -> int | None:
        """When the oldest that waits has waited too long."""
        oldest = next(iter(self._waiting.values()), None)
        return None if oldest is None else oldest + self._timeout_ns

    def turn(self, now_ns: int, most: int) -> int:
        """Start up to `most` that are due; how many."""
        before = self._next
        while self._next - before < most and (due_ns := self.next_ns) is not None and due_ns <= now_ns:
            number = self._numbers[self._next]
            self._next += 1
            self._late.record_ns(now_ns - due_ns)
            self._begin(now_ns, number, due_ns)
        return self._next - before

    def expire(self, now_ns: int) -> None:
        """Those that have waited too long have failed."""
        while (at_ns := self.timeout_ns) is not None and at_ns <= now_ns:
            self._drop(next(iter(self._waiting)), "timeout")

    @property
    def finished(self) -> bool:
        """Nobody is due or waited for."""
        return self._next >= len(self._numbers) and not self._waiting

    # --- one client -------------------------------------------------------------------------------------------

    def _begin(self, now_ns: int, number: int, due_ns: int) -> None:
        self._waiting[number] = due_ns
        live = self._crowd.live(number)
        if live is not None:
            self._before[number] = live.core.session_id
        if self.kind == "rebind":
            started = self._rebind(now_ns, number)
        else:
            started = getattr(self._crowd, self.kind)(now_ns, number)
        if not started:
            self._drop(number, "runs already" if self.kind == "attach" else "no session")
        elif self.kind == "terminate":
            self._complete(number, now_ns)

    def _rebind(self, now_ns: int, number: int) -> bool:
        live = self._crowd.live(number)
        path_id = self._path or (live.core.bound_id if live is not None else 0)
        if live is None or live.core.path(path_id) is None:
            return False
        self._moving[live.core.session_id] = (number, path_id == live.core.bound_id)
        return self._crowd.rebind(now_ns, number, path_id, address=self._address)

    def _drop(self, number: int, why: str) -> None:
        del self._waiting[number]
        session_id = self._before.pop(number, b"")
        self._moving.pop(session_id, None)
        self.failures[why] += 1

    def _complete(self, number: int, now_ns: int) -> None:
        self._took.record_ns(now_ns - self._waiting.pop(number))
        self._before.pop(number, None)
        self.done += 1

    # --- what is heard ----------------------------------------------------------------------------------------

    def handshake(self, number: int, now_ns: int) -> None:
        """A handshake of that client has completed."""
        due_ns = self._waiting.get(number)
        if due_ns is not None:
            self._handshakes.record_ns(now_ns - due_ns)

    def welcomed(self, number: int, session_id: bytes, now_ns: int) -> None:
        """The gateway has greeted it: it is attached, or its new keys are in use."""
        if number in self._waiting and self.kind in ("attach", "rekey", "restart"):
            self.resumed += self._before.get(number) == session_id
            self._complete(number, now_ns)

    def moved(self, session_id: bytes, attached: bool, now_ns: int) -> None:
        """A session was attached to a path, or a path of it challenged. The bound one has moved with the first, any
        other with the second.
        """
        number, binding = self._moving.get(session_id, (-1, False))
        if number in self._waiting and binding is attached:
            del self._moving[session_id]
            self._complete(number, now_ns)

    # --- the report -------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """How far it is."""
        failed = sum(self.failures.values())
        words = {"total": len(self._numbers), "started": self._next, "done": self.done, "failed": failed}
        return {"id": self.id, "do": self.kind, **words, "waiting": len(self._waiting)}

    def document(self, now_ns: int) -> dict[str, Any]:
        """The answer."""
        found: dict[str, Any] = {
            "id": self.id,
            DONE[self.kind]: self.done,
            "failed": sum(self.failures.values()),
            "seconds": (now_ns - self._start_ns) / NS_PER_S,
            "handshake_us": self._handshakes.summary(),
            f"{self.kind}_us": self._took.summary(),
            "late_us": self._late.summary(),
        }
        if self.kind in ("rekey", "restart"):
            found["same_session"] = self.resumed
        return found | ({"failures": dict(self.failures)} if self.failures else {})


def _numbers(command: dict[str, Any], seed: int, known: int) -> Sequence[int]:
    """Whom it is about, in order; shuffled by the seed if that is asked for."""
    first, count = int(command.get("from", 0)), int(command["count"])
    if not 0 <= first <= first + count <= known:
        raise ValueError(f"clients {first} to {first + count - 1}: there are {known}")
    numbers = range(first, first + count)
    if command.get("order") != "random":
        return numbers
    return random.Random(f"{seed} {command['do']} {first} {count}").sample(numbers, count)


Reply = Callable[[dict[str, Any]], None]
