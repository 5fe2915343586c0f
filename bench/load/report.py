# SPDX-License-Identifier: Apache-2.0
"""The documents of `make bench-load` and `make bench-storm`, their targets, tables and pictures; made from what was
measured alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.load import chart
from bench.load.measure import Measured
from bench.load.play import Played
from bench.load.scenario import Scenario
from bench.tunnel.report import aligned, target_line

LOAD_SCHEMA: Final = "jvpn.bench-load/1"
STORM_SCHEMA: Final = "jvpn.bench-storm/1"
BYTES_PER_SESSION: Final = 4096.0


@dataclass(frozen=True, slots=True)
class Promise:
    """A figure of every number of sessions, and its limit; what was promised for 100,000 holds for fewer."""

    figure: str
    title: str
    limit: float
    unit: str
    at_least: bool = False


PROMISES: Final = (
    Promise("start_s", "start until the first handshake is answered", 15.0, "s"),
    Promise("attach_cpu_ms", "gateway's CPU per client: handshake, HELLO, session, store, audit", 0.6, "ms"),
    Promise("attach_failed", "clients that did not come in", 0.0, ""),
    Promise("bytes_per_session", "memory per attached session with two paths", BYTES_PER_SESSION, "bytes"),
    Promise("idle_cpu_share", "idle cost, of one core", 0.5, "cores"),
    Promise("rate_ratio", "packet rate over all sessions against 100", 0.7, "×", at_least=True),
    Promise("breaches", "breaches of invariants", 0.0, ""),
)
COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("start s", "start_s", "{:.1f}"),
    ("RSS configured MB", "configured_mb", "{:.0f}"),
    ("attached MB", "attached_mb", "{:.0f}"),
    ("bytes/session", "bytes_per_session", "{:,.0f}"),
    ("attached/s", "attach_per_s", "{:.0f}"),
    ("CPU ms each", "attach_cpu_ms", "{:.2f}"),
    ("with probes of the others", "attach_gross_cpu_ms", "{:.2f}"),
    ("rekey CPU ms", "rekey_cpu_ms", "{:.2f}"),
    ("idle cores", "idle_cpu_share", "{:.3f}"),
    ("kpps, 100 sessions", "few_kpps", "{:.1f}"),
    ("kpps, all", "all_kpps", "{:.1f}"),
    ("ratio", "rate_ratio", "{:.2f}"),
    ("load kpps", "established_kpps", "{:.1f}"),
    ("p50 µs", "established_p50_us", "{:.0f}"),
    ("p99 µs", "established_p99_us", "{:.0f}"),
    ("stall ms", "stall_ms", "{:.0f}"),
)
# What grows, or should not, with sessions.
GROWTH: Final[tuple[tuple[str, str, Mapping[str, str]], ...]] = (
    ("memory of the gateway", "MB", {"configured": "configured_mb", "attached": "attached_mb"}),
    ("start until the first answer", "s", {"start": "start_s"}),
    ("gateway's CPU per client", "ms", {"attach": "attach_cpu_ms", "rekey": "rekey_cpu_ms"}),
    ("packet rate at < 1 % loss", "kpps", {"all sessions": "all_kpps", "100 sessions": "few_kpps"}),
    ("gateway's CPU per packet", "µs", {"round trip at half of that": "established_cpu_us"}),
    ("idle cost", "cores", {"gateway": "idle_cpu_share"}),
)
# Of histograms the table has median, p99 and greatest.
IN_THE_FILE: Final = (".min", ".mean", ".p90", ".p999")
Document = dict[str, Any]


# --- make bench-load --------------------------------------------------------------------------------------------------


def load_document(
    measured: Mapping[int, Measured], about: Mapping[str, Any], failed: Sequence[str], complete: bool
) -> Document:
    """Where it ran, targets, and the figures by number of sessions."""
    return {
        "schema": LOAD_SCHEMA,
        "complete": complete,
        **about,
        "targets": [
            judged(promise, sessions, found.figures)
            for sessions, found in measured.items()
            for promise in PROMISES
        ],
        "failed": list(failed),
        "results": [
            {
                "sessions": sessions,
                "figures": found.figures,
                "idle_per_s": found.idle_per_s,
                "drops": found.drops,
                "established_buckets_us": found.buckets,
            }
            for sessions, found in measured.items()
        ],
    }


def judged(promise: Promise, sessions: int, figures: Mapping[str, float]) -> Document:
    """One target at one size."""
    value = figures.get(promise.figure)
    met = None if value is None else value >= promise.limit if promise.at_least else value <= promise.limit
    return {
        "title": f"{sessions:,} sessions: {promise.title}",
        "limit": promise.limit,
        "at_least": promise.at_least,
        "unit": promise.unit,
        "measured": {promise.figure: value},
        "met": met,
        "missing": None if value is not None else "not measured",
    }


def heading(doc: Mapping[str, Any]) -> str:
    """Date, machine and commit."""
    worker = "native worker" if doc["native"] else "worker on the event loop"
    return (
        f"{doc['date'][:10]}, commit {doc['commit']}, {doc['processors']} × {doc['cpu']}, Linux {doc['kernel']}; "
        f"{worker}{'' if doc['complete'] else '; not complete'}"
    )


def load_tables(doc: Mapping[str, Any]) -> str:
    """Everything for a terminal: a line per figure, a column per number of sessions."""
    results = doc["results"]
    rows = [("sessions", *(f"{result['sessions']:,}" for result in results))]
    for title, figure, shape in COLUMNS:
        values = [result["figures"].get(figure) for result in results]
        rows.append((title, *("-" if value is None else shape.format(value) for value in values)))
    lines = [heading(doc), "", *(aligned(rows) if results else ["nothing was measured"]), ""]
    for result in results:
        per_s = ", ".join(f"{name} {value:,.0f}/s" for name, value in result["idle_per_s"].items())
        lines += [f"idle with {result['sessions']:,}: {per_s}"] if per_s else []
        drops = ", ".join(f"{name} {count:,.0f}" for name, count in result["drops"].items())
        lines += [f"dropped with {result['sessions']:,}, searches included: {drops}"] if drops else []
    lines += ["", "targets", *(target_line(target) for target in doc["targets"])]
    lines += [f"could not be measured: {problem.splitlines()[0]}" for problem in doc["failed"]]
    return "\n".join(lines)


def latency_picture(name: str, curves: Mapping[str, Sequence[tuple[int, int]]]) -> chart.Picture:
    """Latency by percentile."""
    points = {title: chart.by_percentile(buckets) for title, buckets in curves.items() if buckets}
    marks = chart.nines([point for held in points.values() for point in held])
    return chart.Picture(name, "percentile", "ms", points, log_x=True, log_y=True, x_marks=marks)


def load_svg(sessions: int, found: Measured, head: str) -> str:
    """Of one number of sessions: latency, and rate over time."""
    start_s = found.by_second[0].at_s if found.by_second else 0.0
    rates = {
        "sent": [(s.at_s - start_s, s.sent) for s in found.by_second],
        "received": [(s.at_s - start_s, s.received) for s in found.by_second],
    }
    pictures = [
        latency_picture(
            "round trip through the gateway at half of the saturating rate", {"all": found.buckets}
        ),
        chart.Picture("packets by the second in which they were due", "s", "1/s", rates),
    ]
    return chart.svg(pictures, f"{sessions:,} sessions; {head}")


def growth_svg(doc: Mapping[str, Any]) -> str:
    """How everything grows with sessions."""
    pictures = []
    for title, unit, wanted in GROWTH:
        curves = {
            name: [
                (float(result["sessions"]), result["figures"][figure])
                for result in doc["results"]
                if figure in result["figures"]
            ]
            for name, figure in wanted.items()
        }
        pictures.append(chart.Picture(title, "sessions", unit, curves, log_x=True))
    return chart.svg(pictures, heading(doc))


# --- make bench-storm -------------------------------------------------------------------------------------------------


def storm_document(
    played: Mapping[str, tuple[Scenario, Played]],
    about: Mapping[str, Any],
    failed: Sequence[str],
    complete: bool,
) -> Document:
    """Where it ran, targets, and the figures by scenario."""
    targets = [
        target
        for name, (scenario, found) in played.items()
        for target in expected(name, scenario, found.figures)
    ]
    results = [
        {
            "scenario": name,
            "title": scenario.title,
            "sessions": scenario.sessions,
            "figures": found.figures,
            "answers": found.answers,
            "seconds": [_plain_second(second, found.start_s) for second in found.by_second],
            "samples": [{**asdict(sample), "at_s": sample.at_s - found.start_s} for sample in found.samples],
        }
        for name, (scenario, found) in played.items()
    ]
    return {
        "schema": STORM_SCHEMA,
        "complete": complete,
        **about,
        "targets": targets,
        "failed": list(failed),
        "results": results,
    }


def _plain_second(second: Any, start_s: float) -> Document:
    plain = {name: value for name, value in asdict(second).items() if name != "buckets"}
    return {**plain, "at_s": round(second.at_s - start_s, 3)}


def expected(name: str, scenario: Scenario, figures: Mapping[str, float]) -> list[Document]:
    """What the scenario promises."""
    found = []
    for expect in scenario.expects:
        promise = Promise(expect.figure, expect.title, expect.limit, expect.unit, expect.at_least)
        one = judged(promise, scenario.sessions, figures)
        found.append({**one, "title": f"{name}: {expect.title}"})
    return found


def storm_tables(doc: Mapping[str, Any]) -> str:
    """Everything for a terminal."""
    lines = [heading(doc), ""]
    for result in doc["results"]:
        figures = result["figures"]
        lines += [f"{result['scenario']}: {result['title']} ({result['sessions']:,} sessions)"]
        rows = [
            (f"  {name}", f"{value:,.4g}")
            for name, value in figures.items()
            if not name.endswith(IN_THE_FILE)
        ]
        lines += [*aligned(rows), ""]
    lines += ["targets", *(target_line(target) for target in doc["targets"])]
    lines += [f"could not be measured: {problem.splitlines()[0]}" for problem in doc["failed"]]
    return "\n".join(lines)


def storm_svg(name: str, scenario: Scenario, found: Played, head: str) -> str:
    """Of one scenario: rate, latency and what the gateway takes, over time."""
    zero_s = found.start_s
    loads = {
        "sent": [(s.at_s - zero_s + scenario.warmup_s, s.sent) for s in found.by_second],
        "received": [(s.at_s - zero_s + scenario.warmup_s, s.received) for s in found.by_second],
    }
    latencies = {
        "p50": [(s.at_s - zero_s + scenario.warmup_s, s.p50_us / 1000) for s in found.by_second],
        "p99": [(s.at_s - zero_s + scenario.warmup_s, s.p99_us / 1000) for s in found.by_second],
    }
    pairs = list(zip(found.samples, found.samples[1:], strict=False))
    shares = {
        "gateway": [
            (b.at_s - zero_s + scenario.warmup_s, max(0.0, b.cpu_s - a.cpu_s) / (b.at_s - a.at_s))
            for a, b in pairs
        ]
    }
    memory = {"gateway": [(s.at_s - zero_s + scenario.warmup_s, s.rss_bytes / 1e6) for s in found.samples]}
    when = f"s; the first event {scenario.warmup_s:g} s after the beginning or later"
    pictures = [
        chart.Picture("packets by the second in which they were due", when, "1/s", loads),
        chart.Picture("latency of these packets", when, "ms", latencies, log_y=True),
        chart.Picture("CPU of the gateway, in cores", when, "cores", shares),
        chart.Picture("resident memory of the gateway", when, "MB", memory),
        latency_picture("round trips from the first event on", {"all": found.buckets}),
    ]
    return chart.svg(pictures, f"{name}: {scenario.title}; {head}")
