# SPDX-License-Identifier: Apache-2.0
"""The figures of all runs: percentiles, promises kept or not, the table and the JSON document.

Rule: a figure is computed from every run that was made; one that could not be made is counted and named, never dropped
silently. An outage still open at the end of a run is "longer than it was watched".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from bench.failover.plan import BY_KEY, EVENTS, FLOOR_NOTE, STOCK_CUTOFF_S, Event, Target

SCHEMA: Final = "jvpn.failover/1"
OURS: Final = "jvpn"
STOCK: Final = "wireguard-go"
METRICS: Final = (
    "detection_ms",
    "left_ms",
    "outage_up_ms",
    "outage_down_ms",
    "lost_up",
    "lost_down",
    "duplicated_up",
    "duplicated_down",
)
STATISTICS: Final = ("p50", "p95", "p99", "max")
HEADER: Final = (
    "event",
    "system",
    "runs",
    "detection p50/p99",
    "off the path p50/max",
    "outage up p50/p95/p99/max",
    "outage down p50/p95/p99/max",
    "lost up/down max",
    "copies max",
    "TCP",
    "session",
    "audit",
)
Run = dict[str, Any]
# Between two packets of a quiet machine lies 1 ms; more than this before a cut means that something else was running.
QUIET_MS: Final = 8.0
# A path that loses more than this at the end of a run is not left.
STILL_BAD: Final = 0.05


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that at least ``share`` of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def statistics(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99 and max; None without values."""
    if not values:
        return None
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(values, share), 3) for name, share in shares.items()}


def summarise(event: Event, runs: Sequence[Run]) -> dict[str, Any]:
    """One row: the figures of one event of one system."""
    made = [run for run in runs if not run.get("error")]
    found: dict[str, Any] = {"runs": len(made), "failed_runs": len(runs) - len(made)}
    for metric in METRICS:
        values = [run[metric] for run in made if run.get(metric) is not None]
        found[metric] = statistics(values)
        found[f"{metric}_missing"] = len(made) - len(values)
    for way in ("up", "down"):
        found[f"open_{way}"] = sum(bool(run.get(f"outage_{way}_open")) for run in made)
    late = [run.get(f"late_loss_{way}", 0.0) for run in made for way in ("up", "down")]
    found["late_loss"] = max(late, default=0.0)
    for truth in ("tcp_alive", "session_unchanged", "audit_ok"):
        told = [run[truth] for run in made if truth in run]
        found[truth] = f"{sum(told)}/{len(told)}" if told else None
    quiet = [run[f"quiet_{way}_ms"] for run in made for way in ("up", "down") if run.get(f"quiet_{way}_ms")]
    found["gap_before_cut_ms"] = statistics(quiet)
    found["targets"] = [judged(target, found) for target in event.targets] if runs_ours(runs) else []
    return found


def runs_ours(runs: Sequence[Run]) -> bool:
    """Whether these runs are of our own system: only that one has promised anything."""
    return bool(runs) and runs[0]["system"] == OURS


def judged(target: Target, found: dict[str, Any]) -> dict[str, Any]:
    """A target with what was measured. A run without the figure, or one that could not be made, misses it."""
    figures = found[target.metric]
    value = None if figures is None else figures[target.statistic]
    whole = not found[f"{target.metric}_missing"] and not found["failed_runs"]
    met = value is not None and whole and value <= target.limit
    return {
        "metric": target.metric,
        "statistic": target.statistic,
        "limit": target.limit,
        "unit": target.unit,
        "measured": value,
        "met": met,
    }


def document(runs: Sequence[Run], about: dict[str, Any], complete: bool) -> dict[str, Any]:
    """``jvpn.failover/1``: the figures, then every run."""
    rows = []
    for event in EVENTS:
        for system in (OURS, STOCK):
            chosen = [run for run in runs if run["event"] == event.key and run["system"] == system]
            if chosen:
                head = {"event": event.key, "title": event.title, "system": system, "profile": event.profile}
                rows.append({**head, **summarise(event, chosen)})
    return {
        "schema": SCHEMA,
        "complete": complete,
        **about,
        "notes": notes(rows, about),
        "figures": rows,
        "runs": list(runs),
    }


def notes(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> list[str]:
    """What a reader must know before comparing: a loud machine, runs that failed, physics."""
    found = [FLOOR_NOTE]
    loud = [row for row in rows if (row["gap_before_cut_ms"] or {}).get("p99", 0) > QUIET_MS]
    if loud:
        worst = max(row["gap_before_cut_ms"]["p99"] for row in loud)
        found.append(
            f"the machine was not quiet: before the cut the longest gap between packets was {worst:.0f} ms (p99) "
            f"in {len(loud)} of {len(rows)} rows; a tail of that size is not the tunnel's"
        )
    if about.get("load_max", 0) > about.get("cpus", 1):
        found.append(f"load average up to {about['load_max']:.1f} on {about['cpus']} processors")
    failed = sum(row["failed_runs"] for row in rows)
    return [*found, f"{failed} runs could not be made; they count as missed"] if failed else found


# --- the table --------------------------------------------------------------------------------------------------------


def table(doc: dict[str, Any]) -> str:
    """Everything for a terminal."""
    rows = [cells(row) for row in doc["figures"]]
    widths = [max(len(row[column]) for row in (HEADER, *rows)) for column in range(len(HEADER))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (HEADER, *rows)
    ]
    lines += ["", "targets"]
    lines += [line for row in doc["figures"] for line in target_lines(row)]
    return "\n".join([*lines, "", *(f"note: {note}" for note in doc["notes"])])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row as text."""
    lost = [figure(row[f"lost_{way}"], "max", row[f"open_{way}"] > 0) for way in ("up", "down")]
    copies = [figure(row[f"duplicated_{way}"], "max") for way in ("up", "down")]
    return (
        row["title"],
        row["system"],
        str(row["runs"]),
        f"{figure(row['detection_ms'], 'p50')}/{figure(row['detection_ms'], 'p99')}",
        off_the_path(row),
        outage(row, "up"),
        outage(row, "down"),
        "/".join(lost),
        "/".join(copies),
        row["tcp_alive"] or "-",
        row["session_unchanged"] or "-",
        row["audit_ok"] or "-",
    )


def off_the_path(row: dict[str, Any]) -> str:
    """When the session was bound elsewhere; a stock tunnel that still loses at the end has never left."""
    if row["system"] == STOCK:
        return f"> {STOCK_CUTOFF_S:.0f} s" if row["late_loss"] > STILL_BAD else "-"
    return f"{figure(row['left_ms'], 'p50')}/{figure(row['left_ms'], 'max')}"


def figure(figures: dict[str, float] | None, statistic: str, more: bool = False) -> str:
    """One number; ``more``: it is only a lower bound."""
    return "-" if figures is None else f"{'> ' if more else ''}{figures[statistic]:.0f}"


def outage(row: dict[str, Any], way: str) -> str:
    """p50/p95/p99/max in ms, or how long it was watched in vain."""
    figures = row[f"outage_{way}_ms"]
    if figures is None:
        return "-"
    if row[f"open_{way}"] == row["runs"] and row["system"] == STOCK:
        return (
            f"> {STOCK_CUTOFF_S:.0f} s"
            if figures["max"] >= STOCK_CUTOFF_S * 1000
            else f"> {figures['p50'] / 1000:.0f} s"
        )
    text = "/".join(f"{figures[statistic]:.0f}" for statistic in STATISTICS)
    return f"{text} ({row[f'open_{way}']} never)" if row[f"open_{way}"] else text


def target_lines(row: dict[str, Any]) -> list[str]:
    """A line per target: what was promised, what was measured, met or missed."""
    found = []
    for target in row["targets"]:
        unit = target["unit"]
        measured = "nothing measured" if target["measured"] is None else f"{target['measured']:g} {unit}"
        verdict = "met" if target["met"] else "MISSED"
        name = target["metric"].removesuffix("_ms").replace("_", " ")
        title = BY_KEY[row["event"]].title
        found.append(
            f"  {verdict:<7}{title}: {name} {target['statistic']} ≤ {target['limit']:g} {unit}, measured {measured}"
        )
    return found
