# SPDX-License-Identifier: Apache-2.0
"""Durations by log-linear buckets: every value within 1 % of itself, some kilobytes whatever is recorded."""

from __future__ import annotations

from array import array
from typing import Final

# 128 buckets for each power of two: the widest is 1/64 of its value, and its middle is reported.
_BITS: Final = 7
_HALF: Final = 1 << (_BITS - 1)
# Up to 2^40 us, twelve days.
_ROWS: Final = 40


class Histogram:
    """Microseconds."""

    __slots__ = ("_counts", "count", "highest", "lowest", "total")

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (_ROWS + 1) * _HALF))
        self.count = self.total = self.highest = 0
        self.lowest: int | None = None

    def record_ns(self, duration_ns: int) -> None:
        """One duration; what lies before its beginning counts as none."""
        value = max(0, duration_ns) // 1000
        self._counts[_place(value)] += 1
        self.count += 1
        self.total += value
        self.highest = max(self.highest, value)
        self.lowest = value if self.lowest is None else min(self.lowest, value)

    def at(self, share: float) -> int:
        """The value that this share of all is not above; 0 when there is none."""
        wanted, seen = share * self.count, 0
        for place, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_middle(place), self.highest)
        return 0

    def summary(self) -> dict[str, int]:
        """Count, mean, percentiles and extremes."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
        found = {name: self.at(share) for name, share in shares.items()}
        mean = self.total // self.count if self.count else 0
        return {"count": self.count, "min": self.lowest or 0, "mean": mean, **found, "max": self.highest}


def _place(value: int) -> int:
    shift = max(0, value.bit_length() - _BITS)
    if shift >= _ROWS:
        return (_ROWS + 1) * _HALF - 1
    return shift * _HALF + (value >> shift)


def _middle(place: int) -> int:
    shift = max(0, place // _HALF - 1)
    return ((place - shift * _HALF) << shift) + ((1 << shift) >> 1)
