# SPDX-License-Identifier: Apache-2.0
"""Token buckets in integers, and the rates of the specification that are not a switch budget.

Rule: ``take`` is the only way to spend; a bucket never holds more than its burst and never goes below zero, whatever
the clock did. A shell keeps one per thing it limits (a peer's takeovers, a path's control frames, address notices).
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_S
from gateway.core.policy import Policy

TAKEOVER_BURST: Final = 3
TAKEOVER_EVERY_NS: Final = 20 * NS_PER_S
NOTICES_PER_S: Final = 10
# A client that was superseded or displaced does not come back by itself before this, doubling to the second.
COMEBACK_MIN_NS: Final = 60 * NS_PER_S
COMEBACK_MAX_NS: Final = 3600 * NS_PER_S


class Bucket:
    """``burst`` tokens, one more every ``every_ns``; ``full_ns`` is when it will be full again."""

    __slots__ = ("burst", "every_ns", "full_ns")

    def __init__(self, burst: int, every_ns: int) -> None:
        self.burst, self.every_ns, self.full_ns = burst, every_ns, 0

    def take(self, now_ns: int) -> bool:
        """Spend one token if there is one."""
        full = max(self.full_ns, now_ns)
        if full - now_ns > (self.burst - 1) * self.every_ns:
            return False
        self.full_ns = full + self.every_ns
        return True

    def retry_after_ns(self, now_ns: int) -> int:
        """How long until ``take`` succeeds, 0 = now."""
        return max(0, self.full_ns - now_ns - (self.burst - 1) * self.every_ns)


def takeovers() -> Bucket:
    """Superseding and displacing: per peer, burst 3, one per 20 s (protocol.md §2), so two devices cannot fight."""
    return Bucket(TAKEOVER_BURST, TAKEOVER_EVERY_NS)


def control_frames(policy: Policy) -> Bucket:
    """Authenticated control frames, per session and path (session.md §4)."""
    return Bucket(policy.control_burst, NS_PER_S // policy.control_rate)


def address_notices() -> Bucket:
    """``AddressSeen`` inputs per session: a forwarder cannot make the core work for every copied packet."""
    return Bucket(NOTICES_PER_S, NS_PER_S // NOTICES_PER_S)


def comeback_ns(times: int) -> int:
    """How long a client stays away after being superseded or displaced for the ``times``-th time in a row."""
    return min(COMEBACK_MAX_NS, COMEBACK_MIN_NS << min(max(times - 1, 0), 16))
