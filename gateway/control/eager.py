# SPDX-License-Identifier: Apache-2.0
"""How soon a client without a key asks again: four times in the first two seconds, after that every 5 s as WireGuard.

A gateway under a flood shows Python few of the sources it has never seen (docs/design.md): the first initiation passes
with luck, the second comes from a source that returns and is sent a cookie, the third brings it. At WireGuard's pace
that is ten seconds. Whoever was sent a cookie may ask as often again, once for each cookie.
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_MS

EARLY_NS: Final = 500 * NS_PER_MS
TRIES: Final = 4


class Eager:
    """Early tries of each peer's running attempt, by slot. A client has a handful of gateways."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}

    def begin(self, slot: int) -> None:
        """An attempt begins, or a cookie has come."""
        self._left[slot] = TRIES

    def end(self, slot: int) -> None:
        """It is over, or this peer keeps WireGuard's pace."""
        self._left.pop(slot, None)

    def is_early(self, slot: int) -> bool:
        """Whether what is due now is an early try: the same path again, and nothing is looked up."""
        return slot in self._left

    def next_ns(self, slot: int, now_ns: int, usual_ns: int | None) -> int | None:
        """When to ask after an initiation that leaves now; `usual_ns` is WireGuard's time for it.

        The last early try leaves that time where it would be without the others.
        """
        left = self._left.pop(slot, None)
        if left is None or usual_ns is None:
            return usual_ns
        if not left:
            return max(now_ns + EARLY_NS, usual_ns - TRIES * EARLY_NS)
        self._left[slot] = left - 1
        return min(now_ns + EARLY_NS, usual_ns)
