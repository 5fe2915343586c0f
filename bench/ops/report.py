# SPDX-License-Identifier: Apache-2.0
"""The document of `make bench-ops`, ``jvpn.bench-ops/1``, its targets and its table; made from the sittings alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.ops.measure import VARIANTS
from bench.tunnel.figures import Run, Target, judged, summarise
from bench.tunnel.report import Column, aligned, cells, target_line

SCHEMA: Final = "jvpn.bench-ops/1"
OPS: Final = "median"
METRICS_MS: Final = 10.0
PAGE_MS: Final = 20.0
ADDS_MS: Final = 5.0
# Figure, what it is, its limit.
PROMISES: Final = (
    ("metrics_ms", "/metrics", METRICS_MS),
    ("page_ms", "a page of 100 sessions", PAGE_MS),
    ("largest_ms", "a page of 500 sessions", PAGE_MS),
    ("scraped_adds_ms", "what asking for /metrics 10/s adds to p99 of ping", ADDS_MS),
    ("paged_adds_ms", "what asking for a page 10/s adds to p99 of ping", ADDS_MS),
)
TARGETS: Final = tuple(
    Target(f"{variant}: {title}", variant, (OPS,), figure, limit, unit="ms")
    for variant in VARIANTS
    for figure, title, limit in PROMISES
)
TABLES: Final[tuple[tuple[str, tuple[Column, ...]], ...]] = (
    (
        "/metrics, asked once a second and back to back",
        (
            Column("ms", "metrics_ms", "{:.1f}", ranged=True),
            Column("worst", "metrics_max_ms", "{:.1f}"),
            Column("CPU ms", "metrics_cpu_ms", "{:.1f}"),
            Column("back to back ms", "metrics_quick_ms", "{:.1f}", ranged=True),
            Column("CPU ms", "metrics_quick_cpu_ms", "{:.1f}"),
            Column("KB", "metrics_kb", "{:.0f}"),
        ),
    ),
    (
        "/api/v1/sessions, page after page",
        (
            Column("100 sessions ms", "page_ms", "{:.1f}", ranged=True),
            Column("worst", "page_max_ms", "{:.1f}"),
            Column("CPU ms", "page_cpu_ms", "{:.1f}"),
            Column("500 sessions ms", "largest_ms", "{:.1f}", ranged=True),
            Column("worst", "largest_max_ms", "{:.1f}"),
            Column("CPU ms", "largest_cpu_ms", "{:.1f}"),
        ),
    ),
    (
        "ping through the tunnel, p99 in µs",
        (
            Column("nobody asks", "idle_p99_us", "{:.0f}", ranged=True),
            Column("/metrics 10/s", "scraped_p99_us", "{:.0f}", ranged=True),
            Column("pages 10/s", "paged_p99_us", "{:.0f}", ranged=True),
        ),
    ),
)


def document(
    runs: Mapping[str, Sequence[Run]], about: Mapping[str, Any], failed: Sequence[str], complete: bool
) -> dict[str, Any]:
    """Where it ran, the targets, the figures by variant, every sitting."""
    rows = {
        (name, OPS): {"peer": name, "measurement": OPS, **summarise(taken)} for name, taken in runs.items()
    }
    return {
        "schema": SCHEMA,
        "complete": complete,
        **about,
        "targets": [judged(target, rows) for target in TARGETS],
        "failed": list(failed),
        "results": [{**row, "runs": list(runs[name])} for (name, _), row in rows.items()],
    }


def tables(doc: Mapping[str, Any]) -> str:
    """Everything for a terminal."""
    head = (
        f"{doc['date'][:10]}, commit {doc['commit']}, {doc['processors']} × {doc['cpu']}, Linux {doc['kernel']}; "
        f"{doc['sessions']} sessions, median (least–greatest) of {doc['runs_wanted']}"
        f"{'' if doc['complete'] else '; not complete'}"
    )
    lines = [head, ""]
    for title, columns in TABLES:
        rows = [("", *(c.heading for c in columns)), *(cells(r, columns, doc) for r in doc["results"])]
        lines += [title, *aligned(rows), ""]
    lines += ["targets", *(target_line(target) for target in doc["targets"])]
    if any(row["undisturbed"] < doc["runs_wanted"] for row in doc["results"]):
        lines += ["", "note: the machine was not quiet (*: fewer undisturbed sittings than wanted, **: none)"]
    lines += [f"could not be measured: {problem.splitlines()[0]}" for problem in doc["failed"]]
    return "\n".join(lines)
