# SPDX-License-Identifier: Apache-2.0
"""Medians, disturbed repetitions and targets of the tunnel benchmark."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.tunnel import report
from bench.tunnel.figures import TARGETS, Target, counted, judged, spread, summarise
from bench.tunnel.measure import MEASUREMENTS, ping_figures
from bench.tunnel.runner import PEERS
from tests.net.traffic import Ping


def run(number: int, value: float, foreign: float = 0.0, disturbed: bool = False) -> dict[str, Any]:
    about = {"run": number, "disturbed": disturbed, "foreign_share": foreign, "steal_share": 0.0}
    return {**about, "kpps": value}


def row(**figures: float) -> dict[str, Any]:
    return {"figures": {name: spread([value])._asdict() for name, value in figures.items()}}


def test_median_least_and_greatest() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert spread([1.0, 2.0]) == (1.5, 1.0, 2.0)


def test_an_undisturbed_attempt_replaces_a_disturbed_one_of_its_repetition() -> None:
    runs = [run(1, 10, 0.5, True), run(1, 20), run(2, 30), run(3, 40, 0.2, True)]
    assert [r["kpps"] for r in counted(runs)] == [20, 30]
    found = summarise(runs)
    assert (found["repetitions"], found["undisturbed"]) == (2, 2)
    assert found["figures"] == {"kpps": {"median": 25, "min": 20, "max": 30}}


def test_without_an_undisturbed_one_the_quietest_of_each_repetition_counts() -> None:
    runs = [run(1, 10, 0.5, True), run(1, 20, 0.1, True), run(2, 30, 0.2, True)]
    assert [r["kpps"] for r in counted(runs)] == [20, 30]
    assert summarise(runs)["undisturbed"] == 0


@pytest.mark.parametrize(
    ("at_least", "ours", "met"),
    [(False, 1.99, True), (False, 2.01, False), (True, 2.01, True), (True, 1.99, False)],
)
def test_a_ratio_is_judged_by_its_limit(at_least: bool, ours: float, met: bool) -> None:
    target = Target("t", "ours", ("a",), "x", 0.5, "nebula", at_least=at_least)
    found = judged(target, {("ours", "a"): row(x=ours), ("nebula", "a"): row(x=4.0)})
    assert (found["met"], found["worst"]) == (met, ours / 4)


def test_the_worse_way_decides_and_a_missing_one_cannot_be_met() -> None:
    target = Target("t", "ours", ("up", "down"), "x", 0.5, "nebula")
    rows = {("ours", "up"): row(x=1.0), ("nebula", "up"): row(x=4.0)}
    assert judged(target, rows)["met"] is None
    assert "ours down" in judged(target, rows)["missing"]
    rows |= {("ours", "down"): row(x=3.0), ("nebula", "down"): row(x=4.0)}
    assert judged(target, rows)["met"] is False
    assert judged(target, rows)["worst"] == 0.75
    # One way that misses is a miss already.
    assert judged(target, {key: rows[key] for key in rows if key[1] == "down"})["met"] is False


def test_a_condition_that_does_not_hold_is_not_a_figure() -> None:
    target = Target("t", "ours", ("rss",), "mb", 85.0, condition="stats_endpoint")
    without = judged(target, {("ours", "rss"): row(mb=51.0, stats_endpoint=0.0)})
    assert (without["met"], without["missing"]) == (None, "stats endpoint: none here")
    assert judged(target, {("ours", "rss"): row(mb=51.0, stats_endpoint=1.0)})["met"] is True


def test_every_target_names_peers_and_measurements_that_exist() -> None:
    for target in TARGETS:
        assert {target.peer, target.other} - {None} <= set(PEERS)
        assert set(target.measurements) <= set(MEASUREMENTS)
    assert {name for name, _, _ in report.TABLES} == set(MEASUREMENTS)


def test_the_document_prints_the_same_after_a_round_through_json() -> None:
    figures = {"gbit_per_s": 6.0, "ends_cpu_s_per_gb": 1.2}
    runs = {
        ("ours", "tcp-up"): [{**run(1, 0.0), **figures}],
        ("nebula", "tcp-up"): [{**run(1, 0.0, 0.3, True), "gbit_per_s": 2.0, "ends_cpu_s_per_gb": 8.0}],
    }
    about = {
        "date": "2020-01-01T00:00:00+00:00",
        "commit": "abc",
        "processors": 2,
        "cpu": "CPU",
        "kernel": "6",
        "libsodium": "1",
        "peers": {"nebula": "1.6"},
        "runs_wanted": 1,
    }
    made = report.document(
        runs, about, ["fastd start, run 1: no"], {"ours-native": "workers: unknown key"}, True
    )
    text = report.tables(made)
    assert report.tables(json.loads(json.dumps(made))) == text
    assert "MISSED       TCP, aegis-128l: Gb/s against nebula's: ≥ 4.5 ×; measured tcp-up 3" in text
    assert "not measured TCP, aegis-128l: CPU" in text
    assert "measured tcp-up 0.15" in text
    assert "nebula**" in text and "  ours " in text
    assert "not quiet: 1 of 2 rows" in text
    assert "ours-native is not available in this build" in text
    assert "could not be measured: fastd start" in text


def test_a_machine_whose_own_speed_varies_is_told() -> None:
    runs = [run(n, 0.0) | {"gbit_per_s": rate} for n, rate in ((1, 10.0), (2, 16.0))]
    rows = [{"peer": "veth", "measurement": "tcp-up", **summarise(runs)}]
    assert report.unsteady(rows) == ["the machine's own speed varied: veth tcp-up 10 to 16 Gb/s"]
    assert report.unsteady([{**rows[0], "peer": "ours"}]) == []
    assert report.unsteady([{**rows[0], **summarise(runs[:1])}]) == []


def test_ping_percentiles_count_what_was_lost() -> None:
    seen = Ping(100, 99, tuple(float(n) for n in range(1, 100)))
    assert ping_figures(seen) == {"p50_us": 50_000, "p99_us": 99_000, "lost": 1}
    assert ping_figures(Ping(10, 9, (1.0,) * 9))["p99_us"] == 2_000_000
