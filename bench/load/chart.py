# SPDX-License-Identifier: Apache-2.0
"""Curves as one SVG file without any script; several pictures stand under each other.

Rule: pure; points in, text out. A logarithmic axis has its marks at powers of ten, a linear one at round numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH_PX: Final = 900
PLOT_PX: Final = 260
LEFT_PX: Final = 80
RIGHT_PX: Final = 190
TOP_PX: Final = 44
BOTTOM_PX: Final = 46
COLOURS: Final = ("#1b6ca8", "#c8553d", "#3d8361", "#8e5ea2", "#b58900", "#555555")
MARKS: Final = 6
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A title, what the axes are, curves by name."""

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, Points]
    log_x: bool = False
    log_y: bool = False
    x_marks: Sequence[tuple[float, str]] = ()  # instead of round numbers


@dataclass(frozen=True, slots=True)
class Axis:
    """Values to pixels."""

    low: float
    high: float
    log: bool
    start_px: float
    length_px: float

    @classmethod
    def over(cls, values: Sequence[float], log: bool, start_px: float, length_px: float) -> Axis:
        """One that holds all of them; a linear one begins at zero."""
        if log:
            usable = [value for value in values if value > 0] or [1.0]
            low, high = 10 ** math.floor(math.log10(min(usable))), 10 ** math.ceil(math.log10(max(usable)))
            return cls(low, high if high > low else 10 * low, True, start_px, length_px)
        high = max([*values, 0.0]) or 1.0
        return cls(0.0, high * 1.05, False, start_px, length_px)

    def at(self, value: float) -> float:
        """Where it lies, in pixels."""
        if self.log:
            span = math.log10(self.high / self.low)
            share = math.log10(max(value, self.low) / self.low) / span
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start_px + share * self.length_px

    def marks(self) -> list[float]:
        """Where numbers stand."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        rough = self.high / MARKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [step * number for number in range(int(self.high / step) + 1)]


def svg(pictures: Sequence[Picture], heading: str) -> str:
    """The whole file."""
    each = TOP_PX + PLOT_PX + BOTTOM_PX
    height = 34 + each * len(pictures)
    style = 'font-family="sans-serif" font-size="12"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height}" {style}>']
    lines += ['<rect width="100%" height="100%" fill="#fffdf5"/>', text(LEFT_PX, 24, heading, size=14)]
    for number, picture in enumerate(pictures):
        lines += drawn(picture, 34 + number * each)
    return "\n".join([*lines, "</svg>", ""])


def drawn(picture: Picture, top: float) -> list[str]:
    """One picture."""
    xs = [x for points in picture.curves.values() for x, _ in points]
    ys = [y for points in picture.curves.values() for _, y in points]
    right, bottom = WIDTH_PX - RIGHT_PX, top + TOP_PX + PLOT_PX
    across = Axis.over(xs, picture.log_x, LEFT_PX, right - LEFT_PX)
    up = Axis.over(ys, picture.log_y, bottom, -PLOT_PX)
    lines = [text(LEFT_PX, top + TOP_PX - 12, picture.title, size=13)]
    lines += [text(right, bottom + 36, picture.x_label, "end"), text(8, top + TOP_PX - 12, picture.y_label)]
    lines += grid(picture, across, up)
    for number, (name, points) in enumerate(picture.curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        lines += curve(points, across, up, colour)
        lines += [text(right + 12, top + TOP_PX + 14 + 18 * number, name, fill=colour)]
    return lines


def grid(picture: Picture, across: Axis, up: Axis) -> list[str]:
    """Lines and numbers at the marks."""
    right, lines = across.start_px + across.length_px, []
    for value in up.marks():
        y = up.at(value)
        lines += [f'<path d="M{across.start_px:.1f} {y:.1f}H{right:.1f}" stroke="#ddd"/>']
        lines += [text(across.start_px - 6, y + 4, number_text(value), "end")]
    for value, shown in picture.x_marks or [(mark, number_text(mark)) for mark in across.marks()]:
        x = across.at(value)
        lines += [f'<path d="M{x:.1f} {up.start_px:.1f}v{up.length_px:.1f}" stroke="#eee"/>']
        lines += [text(x, up.start_px + 18, shown, "middle")]
    return lines


def curve(points: Points, across: Axis, up: Axis, colour: str) -> list[str]:
    """A line with its points; few points are dots as well."""
    places = [(across.at(x), up.at(y)) for x, y in points]
    if not places:
        return []
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    lines = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>']
    if len(places) <= 2 * MARKS:
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    return lines


def text(x: float, y: float, shown: str, anchor: str = "start", size: int = 12, fill: str = "#222") -> str:
    """One text."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}"'
    return f"<text {place}>{escape(shown)}</text>"


def number_text(value: float) -> str:
    """Short: 1,000 and more with k and M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


# --- what is drawn of latencies ---------------------------------------------------------------------------------------

# As HdrHistogram's own plots: each step to the right is a tenth of the packets.
NINES: Final = ((1.0, "0%"), (10.0, "90%"), (100.0, "99%"), (1e3, "99.9%"), (1e4, "99.99%"), (1e5, "99.999%"))


def by_percentile(buckets: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Points for a logarithmic axis of 1 / (1 - share): latency in ms at each bucket's upper end."""
    total, seen, points = sum(count for _, count in buckets), 0, []
    for us, count in buckets:
        points.append((total / (total - seen), us / 1000))
        seen += count
    return points


def nines(points: Points) -> list[tuple[float, str]]:
    """Marks up to where the points end."""
    most = max((x for x, _ in points), default=1.0)
    return [mark for mark in NINES if mark[0] <= 10 * most]
