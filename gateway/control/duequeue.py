# SPDX-License-Identifier: Apache-2.0
"""A queue of deadlines whose length follows what is armed, not what ever was.

An entry counts while its item's `deadline_ns` says the same time; arming anew leaves the old entry behind. By that
alone a session that ended would stay in memory until the time it once had. So there are two heaps: new entries go into
one, and each of them takes two off the end of the other and brings over what still counts. When that one is empty they
change places. Nothing is ever gone through as a whole: that would be 70 ms at 200,000 entries.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, Protocol, TypeVar


class Due(Protocol):
    """What can wait for a time."""

    deadline_ns: int | None


T = TypeVar("T", bound=Due)

# One would keep pace with what is armed, the second gains on it.
_SWEPT: Final = 2


class DueQueue(Generic[T]):
    """Items by `deadline_ns`, those of one time in the order in which they were armed."""

    def __init__(self) -> None:
        self._young: list[tuple[int, int, T]] = []
        self._old: list[tuple[int, int, T]] = []
        self._order = 0

    def __len__(self) -> int:
        """Entries, those that count no more included: at most some three for each item that is armed."""
        return len(self._young) + len(self._old)

    def arm(self, item: T, at_ns: int) -> None:
        """Its deadline is this one now."""
        item.deadline_ns = at_ns
        self._order += 1
        heapq.heappush(self._young, (at_ns, self._order, item))
        for _ in range(_SWEPT):
            self._sweep()

    def _sweep(self) -> None:
        if not self._old:
            self._old, self._young = self._young, self._old
        entry = self._old.pop()  # the end of a heap: what is left is one
        if entry[2].deadline_ns == entry[0]:
            heapq.heappush(self._young, entry)

    @property
    def next_ns(self) -> int | None:
        """The earliest deadline, None without any."""
        first = self._first()
        return first[0][0] if first else None

    def pop(self) -> T:
        """The item of the earliest deadline, which it has no more. IndexError without any."""
        item = heapq.heappop(self._first())[2]
        item.deadline_ns = None
        return item

    def _first(self) -> list[tuple[int, int, T]]:
        """The heap whose first entry is due first; an empty one without any."""
        for heap in (self._young, self._old):
            while heap and heap[0][2].deadline_ns != heap[0][0]:
                heapq.heappop(heap)
        if not self._young or (self._old and self._old[0] < self._young[0]):
            return self._old
        return self._young
