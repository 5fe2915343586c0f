# SPDX-License-Identifier: Apache-2.0
"""Numbers for people: three digits that matter and a unit. static/units.js says the same in the browser."""

from __future__ import annotations

from typing import Final

MISSING: Final = "–"
_PREFIXES: Final = ("", "k", "M", "G", "T", "P")


def scaled(value: float, unit: str) -> str:
    """Three digits with a decimal prefix: 12.3 MB."""
    power = 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{_three(value, whole=power == 0)} {_PREFIXES[power]}{unit}"


def _three(value: float, *, whole: bool = False) -> str:
    if whole or value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def data(count_bytes: float) -> str:
    """Bytes."""
    return scaled(count_bytes, "B")


def rate(bytes_per_s: float) -> str:
    """Throughput, in bits."""
    return scaled(8 * bytes_per_s, "bit/s")


def duration(seconds: float) -> str:
    """The two largest units that are not zero."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    left = round(seconds)
    days, hours, minutes = left // 86400, left // 3600 % 24, left // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left % 60} s"


def milliseconds(value: float | None) -> str:
    """A round trip; MISSING where nothing was measured."""
    return MISSING if value is None else f"{_three(value)} ms"


def percent(share: float | None) -> str:
    """0.015 is 1.5 %."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def seconds(value_s: float) -> str:
    """A time that is short as a rule: 10 ms, 2.5 s."""
    if value_s >= 99.5:
        return duration(value_s)
    if value_s < 0.0005:
        return "< 1 ms"
    return f"{value_s * 1000:.3g} ms" if value_s < 0.9995 else f"{value_s:.3g} s"
