# SPDX-License-Identifier: Apache-2.0
"""The two clocks of the daemons. Everything below is told the time; it is read here and nowhere else."""

from __future__ import annotations

import time


def now_ns() -> int:
    """Nanoseconds since boot, suspend included: keys must age while a laptop sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def unix_ns() -> int:
    """Wall time in nanoseconds since 1970, for timestamps that leave the machine."""
    return time.time_ns()
