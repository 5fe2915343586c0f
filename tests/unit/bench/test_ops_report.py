# SPDX-License-Identifier: Apache-2.0
"""Targets and table of the benchmark of the stats endpoint, and its asker on a real endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.ops.measure import VARIANTS, spelled
from bench.ops.report import document, tables
from tests.net.lab import REPO
from tests.unit.ops.statshost import Made, on_loop, serving

ABOUT = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789",
    "processors": 2,
    "cpu": "a processor",
    "kernel": "6.1",
    "sessions": 5000,
    "runs_wanted": 3,
}
GOOD = {
    **dict.fromkeys(("metrics_ms", "metrics_max_ms", "metrics_cpu_ms", "metrics_kb"), 4.0),
    **dict.fromkeys(("metrics_quick_ms", "metrics_quick_cpu_ms"), 3.0),
    **dict.fromkeys(("page_ms", "page_max_ms", "page_cpu_ms", "page_kb"), 5.0),
    **dict.fromkeys(("largest_ms", "largest_max_ms", "largest_cpu_ms", "largest_kb"), 9.0),
    **dict.fromkeys(("idle_p99_us", "scraped_p99_us", "paged_p99_us"), 300.0),
    **dict.fromkeys(("scraped_adds_ms", "paged_adds_ms"), 0.5),
}


def sittings(*metrics_ms: float, **changed: float) -> list[dict[str, Any]]:
    about = {"disturbed": False, "foreign_share": 0.0, "steal_share": 0.0}
    return [
        {"run": run, **about, **GOOD, "metrics_ms": ms, **changed} for run, ms in enumerate(metrics_ms, 1)
    ]


def verdicts(doc: dict[str, Any], variant: str) -> list[bool | None]:
    return [one["met"] for one in doc["targets"] if one["title"].startswith(f"{variant}: ")]


def test_a_target_is_judged_by_the_median_of_its_own_variant() -> None:
    runs = {"aggregates": sittings(3.0, 9.0, 99.0), "per-session": sittings(9.0, 11.0, 12.0)}
    doc = document(runs, ABOUT, [], complete=True)
    assert verdicts(doc, "aggregates") == [True] * 5
    assert verdicts(doc, "per-session") == [False, True, True, True, True]
    assert tables(doc).count("  MISSED ") == 1


@pytest.mark.parametrize(
    ("figure", "limit"), [("page_ms", 20), ("largest_ms", 20), ("scraped_adds_ms", 5), ("paged_adds_ms", 5)]
)
def test_each_limit(figure: str, limit: float) -> None:
    for value, missed in ((limit, 0), (limit + 0.1, 1)):
        doc = document({"aggregates": sittings(3.0, **{figure: value})}, ABOUT, [], complete=True)
        assert verdicts(doc, "aggregates").count(False) == missed


def test_what_was_not_measured_is_not_met() -> None:
    doc = document({"aggregates": sittings(3.0)}, ABOUT, ["per-session, run 1: why\nmore"], complete=False)
    assert verdicts(doc, "per-session") == [None] * 5
    text = tables(doc)
    assert "could not be measured: per-session, run 1: why\n" in text + "\n"
    assert "not complete" in text and "note: the machine was not quiet" in text


def test_variants_differ_as_their_names_say() -> None:
    assert not VARIANTS["aggregates"]
    assert VARIANTS["per-session"] == {"stats": {"per_session": True}}


# --- the asker --------------------------------------------------------------------------------------------------------


async def ask(made: Made, *words: object) -> dict[str, Any]:
    """Its result, asked of this process."""
    assert made.server is not None
    port = made.server.addresses[0][1]
    mode, *rest = map(str, words)
    argv = [sys.executable, "-m", "bench.ops.ask", mode, str(port), str(os.getpid()), *rest]
    process = await asyncio.create_subprocess_exec(*argv, cwd=REPO, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(output.splitlines()[-1]))


def test_the_asker_walks_all_pages_and_counts_the_gateways_cpu(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            for number in range(1, 251):
                made.add_session(number)
            pages = await ask(made, "pages", 100)
            assert len(pages["times_ms"]) == 3
            assert 0 < pages["cpu_ms"] < sum(pages["times_ms"])
            found = spelled("page", pages)
            assert found["page_ms"] <= found["page_max_ms"]
            times = await ask(made, "times", "/metrics", 4, 0)
            assert len(times["times_ms"]) == 4 and times["bytes"] > 1000

    on_loop(work)


def test_the_asker_keeps_its_pace(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            asked = await ask(made, "steady", "/livez", 0.5, 0.1)
            assert 1 <= len(asked["times_ms"]) <= 6

    on_loop(work)


def test_an_answer_that_is_none_ends_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            with pytest.raises(AssertionError):
                await ask(made, "times", "/nothing", 1, 0)

    on_loop(work)
