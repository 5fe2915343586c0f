# SPDX-License-Identifier: Apache-2.0
"""Prometheus' text format and OpenMetrics, written line by line: no registry, no object per series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.control.watch import Histogram


class Text:
    """The exposition under construction. ``open_metrics``: families of counters lose their suffix, EOF ends it."""

    def __init__(self, *, open_metrics: bool = False) -> None:
        self._open_metrics = open_metrics
        self._lines: list[str] = []
        self._blocks: list[bytes] = []  # what came before the lines

    def family(self, name: str, kind: str, tells: str) -> None:
        """Begin a family; its samples follow."""
        if self._open_metrics and kind == "counter":
            name = name.removesuffix("_total")
        self._lines.append(f"# HELP {name} {tells}\n# TYPE {name} {kind}")

    def sample(self, name: str, value: float, **labels: str) -> None:
        inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
        self._lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")

    def lines(self, samples: Iterable[str]) -> None:
        """Samples of the family that has just begun, written already."""
        self._lines.extend(samples)

    def block(self, parts: Iterable[bytes]) -> None:
        """The same as whole lines in UTF-8, each with its end."""
        self._end_lines()
        self._blocks.extend(parts)

    def _end_lines(self) -> None:
        if self._lines:
            self._blocks.append("\n".join((*self._lines, "")).encode())
            self._lines.clear()

    def one(self, name: str, kind: str, tells: str, value: float) -> None:
        """A family of one sample."""
        self.family(name, kind, tells)
        self.sample(name, value)

    def each(self, name: str, kind: str, tells: str, label: str, values: Mapping[str, float]) -> None:
        """A family with one label."""
        self.family(name, kind, tells)
        for text, value in values.items():
            self.sample(name, value, **{label: text})

    def histogram(self, name: str, tells: str, found: Histogram) -> None:
        self.family(name, "histogram", tells)
        below = 0
        for bound, count in zip((*map(str, found.bounds), "+Inf"), found.counts, strict=True):
            below += count
            self.sample(f"{name}_bucket", below, le=bound)
        self.sample(f"{name}_sum", found.total)
        self.sample(f"{name}_count", below)

    def encode(self) -> bytes:
        """The whole text."""
        self._lines += ["# EOF"] if self._open_metrics else []
        self._end_lines()
        return b"".join(self._blocks)


def escaped(text: str) -> str:
    """A label's value between its quotes."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
