# SPDX-License-Identifier: Apache-2.0
"""The load generator's documents, tables and pictures: made from what was measured, missed targets named."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bench.load import chart, report
from bench.load.driver import together
from bench.load.gateway import samples
from bench.load.measure import Measured
from bench.load.play import Played, Sample, compared, drift, longest_stall_s, numbers, of_load
from bench.load.scenario import parse
from bench.load.stand import NoRoom, check_room
from bench.load.traffic import Second, merged, percentile_us

ABOUT = {
    "date": "2026-01-02T03:04:05",
    "commit": "c",
    "processors": 2,
    "cpu": "x",
    "kernel": "6",
    "native": True,
}
BUCKETS = [(100, 90), (200, 9), (5000, 1)]
WHOLE = {
    "start_s": 3.0,
    "attach_cpu_ms": 0.9,
    "attach_failed": 0.0,
    "bytes_per_session": 4000.0,
    "idle_cpu_share": 0.4,
    "rate_ratio": 0.6,
    "breaches": 0.0,
}


def second(at_s: float, sent: int = 100, received: int = 100, p99_us: int = 200) -> Second:
    return Second(at_s, sent, received, 0, 100, p99_us, 5000, BUCKETS)


def test_targets_are_met_missed_or_not_measured() -> None:
    part = {name: value for name, value in WHOLE.items() if name != "rate_ratio"}
    measured = {1000: Measured(dict(WHOLE)), 10_000: Measured(part)}
    doc = report.load_document(measured, ABOUT, ["100,000 sessions: no room"], complete=True)
    verdicts = {(t["title"].split(" ")[0], next(iter(t["measured"]))): t["met"] for t in doc["targets"]}
    assert verdicts["1,000", "start_s"] is True
    assert verdicts["1,000", "attach_cpu_ms"] is False
    assert verdicts["1,000", "rate_ratio"] is False  # at least
    assert verdicts["10,000", "rate_ratio"] is None
    text = report.load_tables(json.loads(json.dumps(doc)))
    assert text.count("  MISSED  ") == 3
    assert text.count("  not measured") == 1
    assert "could not be measured: 100,000 sessions: no room" in text


def test_nothing_measured_is_still_a_report() -> None:
    doc = report.load_document({}, ABOUT, [], complete=False)
    assert "nothing was measured" in report.load_tables(doc)
    ET.fromstring(report.growth_svg(doc))


def test_pictures_are_whole() -> None:
    found = Measured(dict(WHOLE), {}, {}, BUCKETS, [second(10.0), second(11.0)])
    picture = ET.fromstring(report.load_svg(1000, found, "head <&>"))
    assert len(picture.findall(".//{*}path")) > 10
    doc = report.load_document({1000: found, 10_000: found}, ABOUT, [], complete=True)
    assert "attach" in ET.tostring(ET.fromstring(report.growth_svg(doc)), "unicode")


SCENARIO = parse(
    'title = "t"\nsessions = 10\nwarmup_s = 2\n[[event]]\nat_s = 0\ndo = "attach"\nname = "storm"\n'
    '[[expect]]\ntitle = "none failed"\nfigure = "storm.failed"\nat_most = 0\n'
    '[[expect]]\ntitle = "kept"\nfigure = "load.kept"\nat_least = 0.9\n'
    '[[expect]]\ntitle = "of nothing"\nfigure = "absent.figure"\nat_most = 1\n'
)


def test_a_scenario_is_judged_by_its_own_promises() -> None:
    figures = {"storm.failed": 1.0, "load.kept": 0.95}
    samples_ = [Sample(10.0, 1.0, 10), Sample(11.0, 1.5, 20), Sample(12.0, 0.1, 20)]
    played = Played(figures, {"storm": {"failed": 1}}, [second(10.0), second(11.0)], samples_, BUCKETS, 11.0)
    doc = report.storm_document({"mine": (SCENARIO, played)}, ABOUT, [], complete=True)
    assert [target["met"] for target in doc["targets"]] == [False, True, None]
    assert [second["at_s"] for second in doc["results"][0]["seconds"]] == [-1.0, 0.0]
    text = report.storm_tables(json.loads(json.dumps(doc)))
    assert "MISSED       mine: none failed" in text and "not measured mine: of nothing" in text
    ET.fromstring(report.storm_svg("mine", SCENARIO, played, "head"))


def test_latency_of_seconds_together() -> None:
    seconds = [second(0.0), replace(second(1.0), received=90)]
    assert merged(seconds) == [(100, 180), (200, 18), (5000, 2)]
    found = of_load(seconds)
    assert found["loss"] == pytest.approx(0.05)
    assert (found["p50_us"], found["p99_us"], found["max_us"]) == (100, 200, 5000)
    slower = {**found, "p99_us": 500.0, "kept": 0.475}
    assert compared(found, slower) == {"load.kept": pytest.approx(0.5), "load.p99_ratio": 2.5}
    assert of_load([])["loss"] == 1.0


def test_percentiles_of_buckets() -> None:
    assert [percentile_us(BUCKETS, share) for share in (0.5, 0.9, 0.91, 0.99, 0.995, 1.0)] == [
        100,
        100,
        200,
        200,
        5000,
        5000,
    ]
    assert percentile_us([], 0.5) == 0


def test_answers_of_a_repeated_event_are_one() -> None:
    first = {"attached": 5, "failed": 1, "seconds": 2.5, "attach_us": {"count": 5, "max": 70}}
    again = {"attached": 6, "failed": 0, "seconds": 1.5, "attach_us": {"count": 6, "max": 90}, "new": 1}
    assert together(first, again) == {
        "attached": 11,
        "failed": 1,
        "seconds": 2.5,
        "attach_us": {"count": 11, "max": 90},
        "new": 1,
    }


def test_drift_is_a_line_through_the_last_three_quarters() -> None:
    def grown(number: int) -> Sample:
        return Sample(float(number), 0.0, 1000 if number < 25 else 1000 + 10 * (number - 25), 7)

    found = drift([grown(number) for number in range(100)])
    assert found["rss_drift_share"] == pytest.approx(740 / 1370)
    assert found["fds_drift"] == pytest.approx(0)
    assert drift([grown(1)]) == {}


def test_numbers_of_an_answer() -> None:
    answer = {"id": 3, "failed": 0, "attach_us": {"p50": 7, "max": 9}, "failures": {}, "why": "x"}
    assert numbers(answer) == {"failed": 0.0, "attach_us.p50": 7.0, "attach_us.max": 9.0}
    # Nobody attached: that is not the shortest time of all.
    assert numbers({"attach_us": {"count": 0, "max": 0}}) == {"attach_us.count": 0.0}


def test_the_longest_stall_is_the_highest_bucket_with_any() -> None:
    name = "jvpn_loop_stall_seconds_bucket"
    text = (
        f'# x\n{name}{{le="0.001"}} 5\n{name}{{le="0.01"}} 9\n{name}{{le="0.1"}} 9\n{name}{{le="+Inf"}} 9\n'
    )
    assert longest_stall_s(samples(text)) == 0.01
    assert longest_stall_s({}) == 0.0


def test_what_does_not_fit_is_refused_before_it_starts() -> None:
    check_room(1000, 8_000_000_000)
    with pytest.raises(NoRoom, match="1,000,000 sessions take about"):
        check_room(1_000_000, 8_000_000_000)


def test_axes() -> None:
    linear = chart.Axis.over([3.0, 97.0], False, 0, 100)
    assert linear.marks() == [0, 20, 40, 60, 80, 100]
    log = chart.Axis.over([0.3, 200.0], True, 0, 400)
    assert log.marks() == [0.1, 1, 10, 100, 1000]
    assert log.at(10.0) == pytest.approx(200)
    points = chart.by_percentile(BUCKETS)
    assert points[-1] == (100.0, 5.0)
    assert [shown for _, shown in chart.nines(points)] == ["0%", "90%", "99%", "99.9%"]
