# SPDX-License-Identifier: Apache-2.0
"""TAI64N timestamps of initiations (whitepaper §5.1, cr.yp.to/libtai/tai64.html).

Rule: a source never repeats a stamp nor goes back, over clock steps and restarts too; the caller
stores `last` and hands it to the next source of the same identity.
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_S
from gateway.wire import TIMESTAMP_BYTES

# TAI64 counts from 2^62. TAI was 10 s ahead of UTC when leap seconds began; WireGuard stops counting there.
_EPOCH_S: Final = (1 << 62) + 10
_MAX_S: Final = (1 << 63) - 1
# The greatest power of two within a 50th of a second: hides the precise clock and still tells apart all
# initiations a peer would answer (kernel WireGuard and wireguard-go round to the same 2^24 ns).
GRAIN_NS: Final = 1 << 24


def tai64n(unix_ns: int) -> bytes:
    """12 bytes, big endian, that sort like the times; unrounded. ValueError outside what TAI64 can say."""
    seconds, nanoseconds = divmod(unix_ns, NS_PER_S)
    if not 0 <= seconds + _EPOCH_S <= _MAX_S:
        raise ValueError("time is outside the range of TAI64N")
    return (seconds + _EPOCH_S).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")


def unix_ns_of(stamp: bytes) -> int:
    """Inverse of `tai64n`; ValueError when the 12 bytes are no TAI64N label."""
    if len(stamp) != TIMESTAMP_BYTES:
        raise ValueError("a TAI64N label has 12 bytes")
    seconds, nanoseconds = int.from_bytes(stamp[:8], "big"), int.from_bytes(stamp[8:], "big")
    if seconds > _MAX_S or nanoseconds >= NS_PER_S:
        raise ValueError("not a TAI64N label")
    return (seconds - _EPOCH_S) * NS_PER_S + nanoseconds


def _rounded(unix_ns: int) -> int:
    """Nanoseconds within the second rounded down to the grain, as the others do it."""
    return unix_ns - unix_ns % NS_PER_S % GRAIN_NS


class TimestampSource:
    """Stamps for our own initiations: one per identity, shared by all its peers or one per peer."""

    __slots__ = ("last",)

    def __init__(self, last: bytes = b"") -> None:
        """`last`: what an earlier source of this identity ended with, b"" for a new identity."""
        if last:
            unix_ns_of(last)
        self.last = last

    def next(self, unix_ns: int) -> bytes:
        """A stamp above every earlier one: the rounded time, or a grain past the last if not above it."""
        stamp = tai64n(_rounded(unix_ns))
        if stamp <= self.last:
            # Also over the end of a second, where the last grain is shorter: the next one starts it.
            stamp = tai64n(_rounded(unix_ns_of(self.last) + GRAIN_NS))
        self.last = stamp
        return stamp
