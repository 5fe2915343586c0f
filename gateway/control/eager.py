# SPDX-License-Identifier: Apache-2.0
"""How soon a client without a key asks again: after 0.5, 1.5 and 3.5 s, after that every 5 s as WireGuard.

A gateway under a flood shows Python few of the sources it has never seen (docs/design.md): the first initiation passes
with luck, the second comes from a source that returns and is sent a cookie, the third brings it. At WireGuard's pace
that is ten seconds. Whoever was sent a cookie begins anew with 0.5 s, once for each cookie. The pauses double, since a
gateway that all ask at once needs them to ask less.
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_MS, NS_PER_S

PAUSES_NS: Final = (500 * NS_PER_MS, NS_PER_S, 2 * NS_PER_S)
EARLY_NS: Final = PAUSES_NS[0]


class Eager:
    """Early tries of each peer's running attempt, by slot. A client has a handful of gateways."""

    def __init__(self) -> None:
        self._tried: dict[int, int] = {}

    def begin(self, slot: int) -> None:
        """An attempt begins, or a cookie has come."""
        self._tried[slot] = 0

    def end(self, slot: int) -> None:
        """It is over."""
        self._tried.pop(slot, None)

    def is_early(self, slot: int) -> bool:
        """Whether what is due now is an early try: the same path again, and nothing is looked up."""
        return slot in self._tried

    def next_ns(self, slot: int, now_ns: int, usual_ns: int | None) -> int | None:
        """When to ask after an initiation that leaves now; `usual_ns` is WireGuard's time for it.

        The last early try leaves that time where it would be without the others.
        """
        tried = self._tried.pop(slot, None)
        if tried is None or usual_ns is None:
            return usual_ns
        if tried == len(PAUSES_NS):
            return max(now_ns + EARLY_NS, usual_ns - sum(PAUSES_NS))
        self._tried[slot] = tried + 1
        return min(now_ns + PAUSES_NS[tried], usual_ns)
