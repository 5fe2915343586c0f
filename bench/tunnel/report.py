# SPDX-License-Identifier: Apache-2.0
"""The document and its tables; `python -m bench.tunnel --table FILE` prints them again.

Rule: everything printed is in the document, and the tables are made from the document alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.tunnel.figures import TARGETS, Run, judged, summarise
from bench.tunnel.quiet import Verdict

SCHEMA: Final = "jvpn.tunnel/2"
BARE: Final = "veth"
# Repetitions on a steady machine differ by less.
STEADY: Final = 1.25
# Figures of a progress line, with their shape.
BRIEF: Final = {
    "gbit_per_s": "{:.2f} Gb/s",
    "kpps": "{:.0f} kpps",
    "ends_cpu_s_per_gb": "{:.2f} CPU-s/GB",
    "idle_p99_us": "idle p99 {:.0f} µs",
    "p50_us": "p50 {:.0f} µs",
    "p99_us": "p99 {:.0f} µs",
    "gateway_rss_mb": "gateway {:.0f} MB",
}


class Column:
    """A heading, a figure and how its median is written; ``ranged``: with least and greatest."""

    def __init__(self, heading: str, figure: str, shape: str, ranged: bool = False) -> None:
        self.heading, self.figure, self._shape, self._ranged = heading, figure, shape, ranged

    def cell(self, figures: Mapping[str, Mapping[str, float]]) -> str:
        """What stands in the table."""
        if (held := figures.get(self.figure)) is None:
            return "-"
        text = self._shape.format(held["median"])
        if not self._ranged or held["min"] == held["max"]:
            return text
        return f"{text} ({self._shape.format(held['min'])}–{self._shape.format(held['max'])})"


RATE: Final = Column("Gb/s", "gbit_per_s", "{:.2f}", ranged=True)
CPU: Final = (
    Column("CPU-s/GB client", "client_cpu_s_per_gb", "{:.2f}"),
    Column("gateway", "gateway_cpu_s_per_gb", "{:.2f}"),
    Column("both", "ends_cpu_s_per_gb", "{:.2f}", ranged=True),
    Column("machine", "machine_cpu_s_per_gb", "{:.2f}"),
)
PER_PACKET: Final = (
    Column("µs/packet client", "client_us_per_packet", "{:.2f}"),
    Column("gateway", "gateway_us_per_packet", "{:.2f}"),
    Column("machine", "machine_us_per_packet", "{:.2f}"),
)
PACKETS: Final = (Column("kpps", "kpps", "{:.0f}", ranged=True), *PER_PACKET)
UDP: Final = (RATE, CPU[0], CPU[1], CPU[2], *PER_PACKET[:2])
PING: Final = (
    Column("p50 µs", "p50_us", "{:.0f}", ranged=True),
    Column("p99 µs", "p99_us", "{:.0f}", ranged=True),
    Column("lost", "lost", "{:.0f}", ranged=True),
)
STORM: Final = (
    Column("idle p50 µs", "idle_p50_us", "{:.0f}"),
    Column("idle p99", "idle_p99_us", "{:.0f}", ranged=True),
    Column("storm p50", "p50_us", "{:.0f}"),
    Column("storm p99", "p99_us", "{:.0f}", ranged=True),
    Column("× idle p99", "p99_ratio", "{:.1f}"),
)
RSS: Final = (
    Column("client MB", "client_rss_mb", "{:.0f}"),
    Column("gateway MB", "gateway_rss_mb", "{:.0f}", ranged=True),
)
TABLES: Final[tuple[tuple[str, str, tuple[Column, ...]], ...]] = (
    ("tcp-up", "one TCP stream to the backend", (RATE, *CPU)),
    ("tcp-down", "one TCP stream from the backend", (RATE, *CPU)),
    ("tcp4-up", "four TCP streams to the backend", (RATE, *CPU)),
    ("tcp4-down", "four TCP streams from the backend", (RATE, *CPU)),
    ("pps-up", "64-byte packets at < 1 % loss, to the backend", PACKETS),
    ("pps-down", "64-byte packets at < 1 % loss, from the backend", PACKETS),
    ("udp-up", "1,200-byte UDP at < 1 % loss, to the backend", UDP),
    ("udp-gso-up", "the same, the sender using UDP_SEGMENT", UDP),
    ("ping", "ping, idle", PING),
    ("ping-loaded", "ping beside one TCP stream to the backend", PING),
    ("storm", "ping while the gateway answers 200 handshakes a second", STORM),
    ("rss", "peak resident memory", RSS),
)


# --- the document -----------------------------------------------------------------------------------------------------


def document(
    runs: Mapping[tuple[str, str], Sequence[Run]],
    about: Mapping[str, Any],
    failed: Sequence[str],
    absent: Mapping[str, str],
    complete: bool,
) -> dict[str, Any]:
    """``jvpn.tunnel/2``: where it ran, the targets, the figures, every single run."""
    rows = {key: {"peer": key[0], "measurement": key[1], **summarise(taken)} for key, taken in runs.items()}
    return {
        "schema": SCHEMA,
        "complete": complete,
        **about,
        "targets": [judged(target, rows) for target in TARGETS],
        "notes": notes(list(rows.values()), about, absent),
        "not_available": dict(absent),
        "failed": list(failed),
        "results": [{**row, "runs": list(runs[key])} for key, row in rows.items()],
    }


def notes(
    rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], absent: Mapping[str, str]
) -> list[str]:
    """What a reader must know before comparing."""
    found = [f"{peer} is not available in this build: {why}" for peer, why in absent.items()]
    wanted = about.get("runs_wanted", 1)
    short = [row for row in rows if row["undisturbed"] < wanted]
    if short:
        found.append(
            f"the machine was not quiet: {len(short)} of {len(rows)} rows have fewer than {wanted} undisturbed "
            "repetitions (*: fewer, **: none)"
        )
    return [*found, *unsteady(rows)]


def unsteady(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much the machine's own speed differed between repetitions, told by the link without a tunnel."""
    found = []
    for row in rows:
        held = row["figures"].get("gbit_per_s")
        if row["peer"] == BARE and held and held["max"] > STEADY * held["min"]:
            text = f"{held['min']:.3g} to {held['max']:.3g} Gb/s"
            found.append(f"the machine's own speed varied: {BARE} {row['measurement']} {text}")
    return found


# --- for a terminal ---------------------------------------------------------------------------------------------------


def plan(peers: Sequence[str], only: Sequence[str], runs: int, seconds: float, minutes: float) -> str:
    """What is about to happen and how long it takes."""
    return (
        f"{len(peers)} peers: {', '.join(peers)}\n{len(only)} measurements: {', '.join(only)}\n"
        f"{runs} repetitions, interleaved: about {seconds / 60:.1f} minutes when the machine is quiet, "
        f"at most about {minutes:g}; Ctrl-C keeps what was measured"
    )


def brief(figures: Mapping[str, float]) -> str:
    """One measurement in a few words."""
    return ", ".join(shape.format(figures[name]) for name, shape in BRIEF.items() if name in figures)


def unrest(verdict: Verdict, again: bool) -> str:
    """What a progress line says about a disturbed measurement."""
    if not verdict.disturbed:
        return ""
    others = (
        f"others used {verdict.foreign_share:.0%} of the processors, {verdict.steal_share:.0%} was stolen"
    )
    return f" (disturbed: {others}{'; once more' if again else ''})"


def tables(doc: Mapping[str, Any]) -> str:
    """Everything: heading, a table per measurement, targets, notes."""
    lines = [heading(doc), ""]
    for measurement, title, columns in TABLES:
        rows = [row for row in doc["results"] if row["measurement"] == measurement]
        if rows:
            lines += [
                title,
                *aligned([("", *(c.heading for c in columns)), *(cells(r, columns, doc) for r in rows)]),
                "",
            ]
    lines += ["targets", *(target_line(target) for target in doc["targets"]), ""]
    lines += [f"note: {note}" for note in doc["notes"]]
    lines += [f"could not be measured: {problem.splitlines()[0]}" for problem in doc["failed"]]
    return "\n".join(lines).rstrip()


def heading(doc: Mapping[str, Any]) -> str:
    """Date, machine and what was installed."""
    peers = ", ".join(f"{name} {version}" for name, version in doc["peers"].items())
    return (
        f"{doc['date'][:10]}, commit {doc['commit']}, {doc['processors']} × {doc['cpu']}, Linux {doc['kernel']}, "
        f"libsodium {doc['libsodium']}; {peers}; median (least–greatest) of {doc['runs_wanted']}"
        f"{'' if doc['complete'] else '; not complete'}"
    )


def cells(row: Mapping[str, Any], columns: Sequence[Column], doc: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of a table."""
    mark = "" if row["undisturbed"] >= doc["runs_wanted"] else "*" if row["undisturbed"] else "**"
    return f"  {row['peer']}{mark}", *(column.cell(row["figures"]) for column in columns)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def target_line(target: Mapping[str, Any]) -> str:
    """What was promised, what was measured, met or missed."""
    verdict = {True: "met", False: "MISSED", None: "not measured"}[target["met"]]
    limit = f"{'≥' if target['at_least'] else '≤'} {number(target['limit'])} {target['unit']}"
    values = [f"{what} {number(value)}" for what, value in target["measured"].items() if value is not None]
    measured = f"; measured {', '.join(values)}" if values else ""
    missing = f" ({target['missing']})" if target["missing"] else ""
    return f"  {verdict:<13}{target['title']}: {limit}{measured}{missing}"


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"
