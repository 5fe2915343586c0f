# SPDX-License-Identifier: Apache-2.0
"""From single runs to figures and verdicts: medians with their range, and the targets.

Rule: pure. A repetition that something else disturbed counts only where no undisturbed one exists, and then the row
says so. A target stands here once, as data, and is judged from figures of the same document alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, NamedTuple

Run = Mapping[str, Any]
# What a run says about itself; everything else in it is a figure.
ABOUT: Final = ("run", "disturbed", "foreign_share", "steal_share")
TCP: Final = ("tcp-up", "tcp-down")
PACKETS: Final = ("pps-up", "pps-down")


class Spread(NamedTuple):
    """Median, least and greatest of a figure's repetitions."""

    median: float
    min: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(median(values), min(values), max(values))


def counted(runs: Iterable[Run]) -> list[Run]:
    """One run per repetition: the quietest attempt. With any undisturbed repetition, those alone."""
    best: dict[int, Run] = {}
    for run in runs:
        held = best.get(run["run"])
        if held is None or _unrest(run) < _unrest(held):
            best[run["run"]] = run
    quiet = [run for run in best.values() if not run["disturbed"]]
    return quiet or list(best.values())


def _unrest(run: Run) -> tuple[bool, float]:
    return run["disturbed"], run["foreign_share"] + run["steal_share"]


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """A row: each figure's spread, how many repetitions it is made of and how many of them were undisturbed."""
    chosen = counted(runs)
    names = [name for name in chosen[0] if name not in ABOUT]
    return {
        "repetitions": len(chosen),
        "undisturbed": sum(not run["disturbed"] for run in chosen),
        "figures": {name: spread([run[name] for run in chosen])._asdict() for name in names},
    }


# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """``figure`` of ``peer`` against ``other_figure`` of ``other``: at most or at least so many times it.

    Without ``other`` the limit is the figure itself. Of several measurements each must hold; the worst is shown.
    """

    title: str
    peer: str
    measurements: tuple[str, ...]
    figure: str
    limit: float
    other: str | None = None
    other_figure: str | None = None
    at_least: bool = False
    unit: str = ""
    condition: str | None = None  # a figure that must not be 0, or nothing was measured

    def holds(self, value: float) -> bool:
        """Whether a ratio (or the figure itself) keeps the promise."""
        return value >= self.limit if self.at_least else value <= self.limit


NEBULA: Final = "nebula"
BOTH_CPU: Final = "ends_cpu_s_per_gb"
TARGETS: Final = (
    Target("TCP, aegis-128l: CPU of both ends against nebula's", "ours", TCP, BOTH_CPU, 1 / 6.5, NEBULA),
    Target("TCP, aegis-128l: Gb/s against nebula's", "ours", TCP, "gbit_per_s", 4.5, NEBULA, at_least=True),
    Target(
        "TCP, aes-256-gcm: CPU of both ends against nebula's", "ours-aes-256-gcm", TCP, BOTH_CPU, 0.2, NEBULA
    ),
    Target(
        "TCP, chacha20-poly1305: CPU of both ends against nebula's",
        "ours-chacha20-poly1305",
        TCP,
        BOTH_CPU,
        0.45,
        NEBULA,
    ),
    Target(
        "TCP, wireguard-go as client: our gateway's CPU against wireguard-go's in its place",
        "ours-for-stock",
        TCP,
        "gateway_cpu_s_per_gb",
        1 / 3,
        "wireguard-go",
    ),
    Target(
        "64-byte packets at < 1 % loss against nebula's", "ours", PACKETS, "kpps", 1.5, NEBULA, at_least=True
    ),
    Target("idle ping p50 against nebula's", "ours", ("ping",), "p50_us", 1.0, NEBULA),
    Target(
        "ping p99 during 200 handshakes/s, native worker, against idle",
        "ours-native",
        ("storm",),
        "p99_us",
        2.0,
        "ours-native",
        "idle_p99_us",
    ),
    Target(
        "gateway's peak RSS, one session, stats endpoint on",
        "ours",
        ("rss",),
        "gateway_rss_mb",
        85.0,
        unit="MB",
        condition="stats_endpoint",
    ),
)
Rows = Mapping[tuple[str, str], Mapping[str, Any]]


def judged(target: Target, rows: Rows) -> dict[str, Any]:
    """What was measured and whether that is enough; ``met`` is None where a figure is missing."""
    values = {what: _value(target, rows, what) for what in target.measurements}
    found = [value for value in values.values() if value is not None]
    whole = len(found) == len(values)
    worst = (min if target.at_least else max)(found) if found else None
    met = None if worst is None else target.holds(worst)
    return {
        "title": target.title,
        "limit": target.limit,
        "at_least": target.at_least,
        "unit": target.unit or "×",
        "measured": values,
        "worst": worst,
        # One way that misses is a miss, whatever the other one would have been.
        "met": met if whole or met is False else None,
        "missing": None if whole else _why(target, rows),
    }


def _value(target: Target, rows: Rows, what: str) -> float | None:
    own = _median(rows, target.peer, what, target.figure)
    if own is None or (target.condition and not _median(rows, target.peer, what, target.condition)):
        return None
    if target.other is None:
        return own
    other = _median(rows, target.other, what, target.other_figure or target.figure)
    return own / other if other else None


def _median(rows: Rows, peer: str, what: str, figure: str) -> float | None:
    row = rows.get((peer, what))
    held = row["figures"].get(figure) if row else None
    return held["median"] if held else None


def _why(target: Target, rows: Rows) -> str:
    needed = [(peer, what) for what in target.measurements for peer in (target.peer, target.other) if peer]
    if absent := [f"{peer} {what}" for peer, what in needed if (peer, what) not in rows]:
        return f"not measured: {', '.join(dict.fromkeys(absent))}"
    return f"{(target.condition or 'a figure').replace('_', ' ')}: none here"
