# SPDX-License-Identifier: Apache-2.0
"""One scenario from its warm-up to its end, on clients that are attached.

Rule: the traffic runs all the time and knows nothing of the events; what they did to it is read from the seconds in
which packets were due. Figures have the names that scenario files use:

    load.rate_per_s                 the established load, chosen before the first event
    load.before.*, load.during.*    loss, kept, p50_us, p99_us, max_us of the warm-up, and from then on
    load.p99_ratio, load.kept       during over before
    gateway.*                       cpu_share, rss_growth_bytes, stall_s, breaches; rss_drift_share and fds_drift
    audit.*                         verified, replayed (1 or 0), where the scenario asks for it
    sessions.*                      attached, missing, ended, same_ids (1 or 0)
    NAME.*                          what the event's answer says, settled_s of one that settles
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean, linear_regression
from typing import Any, Final

from bench.keeping import first_line
from bench.load.driver import Answer, together
from bench.load.flood import Flood
from bench.load.gateway import PORT, encoded
from bench.load.population import BEYOND, INSIDE, nth
from bench.load.scenario import SWARM, Event, Scenario
from bench.load.scene import OUTSIDE_GATEWAY
from bench.load.stand import POLL_S, SLACK_S, START_PER_PEER_S, START_S, Stand
from bench.load.traffic import Flows, Load, Result, Second, merged, percentile_us
from tests.net.lab import LabError
from tests.net.wg import Keys, WgDevice, WgPeer

SAMPLE_S: Final = 1.0
# The first seconds of a stream are not compared: caches, trains and paths that wake up.
COLD_S: Final = 2
# Fewer make no line.
LINE_SAMPLES: Final = 30
# A rate this low still has a hundred packets above its p99 in ten seconds.
LEAST_PER_S: Final = 1000.0
SWARM_TIMEOUT_S: Final = 60.0
# Makes it begin at once, without a packet of anybody's.
STOCK_KEEPALIVE_S: Final = 25
BROKEN: Final = ("jvpn_silent_reset_total", "jvpn_ambiguous_owner_total", "jvpn_dual_binding_total")
Figures = dict[str, float]
Note = Callable[[str], None]


@dataclass(slots=True)
class Sample:
    """Once a second."""

    at_s: float
    cpu_s: float
    rss_bytes: int
    fds: int = 0


@dataclass(slots=True)
class Played:
    """What came of a scenario."""

    figures: Figures
    answers: Mapping[str, Answer]
    by_second: list[Second]
    samples: list[Sample]
    buckets: list[tuple[int, int]]
    start_s: float  # on CLOCK_MONOTONIC, the end of the warm-up


@dataclass(slots=True)
class _Run:
    results: list[Result] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    pending: dict[int, tuple[str, float]] = field(default_factory=dict)  # order -> event, when it is overdue
    answers: dict[str, Answer] = field(default_factory=dict)
    settled: Figures = field(default_factory=dict)
    disturbed_s: float = 0.0  # the last event that sessions have to recover from
    flood: Flood | None = None


class Player:
    """Plays one scenario once."""

    def __init__(self, stand: Stand, scenario: Scenario, rate_per_s: float, note: Note) -> None:
        self._stand, self._scenario, self._note = stand, scenario, note
        plan = scenario.load
        self._load = Load(
            max(LEAST_PER_S, rate_per_s), scenario.loaded, plan.first, plan.size_bytes, scenario.seed
        )
        self._saturating = rate_per_s / plan.share if plan.share else 0.0
        self._run = _Run()

    def play(self) -> Played:
        """All of it."""
        run, stand = self._run, self._stand
        before = stand.swarm.status()
        self._flows = Flows(stand.scene, self._load)
        zero_s = self._flows.start_s + self._scenario.warmup_s
        self._until(zero_s)
        for event in self._scenario.events:
            self._until(zero_s + event.at_s)
            self._note(f"{event.at_s:g} s: {event.name}")
            self._happen(event)
        self._finish_orders()
        if run.flood is not None:
            run.answers["flood"] = run.flood.stop()
        end_s = time.monotonic()
        run.results.append(self._flows.stop())
        return self._played(zero_s, end_s, before)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _until(self, at_s: float) -> None:
        while (left_s := at_s - time.monotonic()) > 0:
            self._look()
            time.sleep(min(left_s, SAMPLE_S / 4))

    def _look(self) -> None:
        """What is new: answers of the swarm, and once a second what the gateway takes."""
        for number, (name, overdue_s) in list(self._run.pending.items()):
            if (answer := self._stand.swarm.poll(number)) is not None:
                self._answered(name, answer)
                del self._run.pending[number]
            elif time.monotonic() > overdue_s:
                raise LabError(f"{name} did not end in time")
        samples = self._run.samples
        if not samples or time.monotonic() - samples[-1].at_s >= SAMPLE_S:
            # A gateway that was killed takes nothing.
            with suppress(LabError, OSError):
                gateway = self._stand.gateway
                taken = gateway.cpu_s(), gateway.rss_bytes(), gateway.fds()
                samples.append(Sample(time.monotonic(), *taken))

    def _answered(self, name: str, answer: Answer) -> None:
        before = self._run.answers.get(name)
        self._run.answers[name] = answer if before is None else together(before, answer)

    def _finish_orders(self) -> None:
        while self._run.pending:
            self._look()
            time.sleep(POLL_S / 2)

    # --- events -------------------------------------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        stand, values = self._stand, event.values
        if event.do in SWARM:
            self._order(event)
        elif event.do in ("cut", "mend"):
            change = stand.scene.cut if event.do == "cut" else stand.scene.mend
            stand.swarm.do("mark")
            self._run.disturbed_s = time.monotonic()
            change(
                values.get("uplink", 0), values.get("from", 0), values.get("count") or stand.population.count
            )
        elif event.do == "kill":
            stand.swarm.do("mark")
            stand.gateway.kill()
        else:
            own: Mapping[str, Callable[[Event], None]] = {
                "rate": self._rate,
                "start": self._start,
                "flood": self._begin_flood,
                "calm": self._calm,
                "stock": self._stock,
                "settle": self._settle,
            }
            own[event.do](event)

    def _order(self, event: Event) -> None:
        values = dict(event.values)
        count = values.setdefault("count", self._stand.population.count - values.setdefault("from", 0))
        rate_per_s = values.setdefault("rate_per_s", 1000.0)
        # The swarm gives up a client after its own time; this is for a swarm that is stuck.
        lasting_s = values.setdefault("timeout_s", SWARM_TIMEOUT_S) + count / rate_per_s
        overdue_s = time.monotonic() + SLACK_S + lasting_s
        self._run.disturbed_s = time.monotonic()
        self._run.pending[self._stand.swarm.tell(event.do, **values)] = event.name, overdue_s

    def _rate(self, event: Event) -> None:
        wanted = event.values.get("rate_per_s") or event.values.get("share", 0.5) * self._saturating
        following = Flows(self._stand.scene, self._load.at(wanted))
        self._run.results.append(self._flows.stop())
        self._flows = following

    def _start(self, event: Event) -> None:
        self._run.disturbed_s = time.monotonic()
        peers = self._stand.population.count
        took_s = self._stand.gateway.launch(START_S + START_PER_PEER_S * peers)
        self._answered(event.name, {"first_answer_s": took_s})

    def _begin_flood(self, event: Event) -> None:
        stand, values = self._stand, event.values
        rate_per_s, share = values.get("rate_per_s", 50_000.0), values.get("valid_share", 0.5)
        self._run.flood = Flood(stand.scene, stand.population, PORT, rate_per_s, share)

    def _calm(self, event: Event) -> None:
        if self._run.flood is None:
            raise LabError(f"{event.name}: there is no flood")
        self._answered(event.name, self._run.flood.stop())
        self._run.flood = None

    def _stock(self, event: Event) -> None:
        """From its start until it has a handshake, its process and configuration included."""
        device, start_s = stock_client(self._stand), time.monotonic()
        device.start()
        try:
            device.wait_handshake(timeout_s=event.values.get("within_s", 30.0))
        except LabError as error:
            self._note(f"{event.name}: {first_line(error)}")
        self._answered(event.name, {"connected_s": time.monotonic() - start_s})
        device.stop()

    def _settle(self, event: Event) -> None:
        """All are attached at both ends, and ``count`` of them had lost it since the mark."""
        count = event.values.get("count", 0)

        def back(status: Answer) -> bool:
            since = status["since_mark"]
            self._look()
            return bool(since["away"] == 0 and since["reattached_us"]["count"] >= count)

        within_s = event.values.get("within_s", 60.0)
        try:
            status = self._stand.settle(self._scenario.established, within_s, back)
        except LabError as error:
            self._note(f"{event.name}: {first_line(error)}")
            status = self._stand.swarm.status()
        since = status["since_mark"]
        missing = max(0, count - since["reattached_us"]["count"])
        self._answered(event.name, {**since, "missing": missing})
        name, took_s = f"{event.name}.settled_s", time.monotonic() - self._run.disturbed_s
        self._run.settled[name] = max(took_s, self._run.settled.get(name, 0.0))

    # --- figures ------------------------------------------------------------------------------------------------------

    def _played(self, zero_s: float, end_s: float, before: Answer) -> Played:
        run = self._run
        by_second = sorted((s for result in run.results for s in result.by_second), key=lambda s: s.at_s)
        cold_s = run.results[0].start_s + COLD_S
        calm = [second for second in by_second if cold_s <= second.at_s < zero_s - 0.5]
        # The last second of a stream is cut short.
        busy = [second for second in by_second if zero_s - 0.5 <= second.at_s < end_s - 1]
        figures = {
            "load.rate_per_s": self._load.rate_per_s,
            **spelled("load.before", of_load(calm)),
            **spelled("load.during", of_load(busy)),
            **compared(of_load(calm), of_load(busy)),
            **self._of_gateway(zero_s),
            **self._of_sessions(before),
            **run.settled,
        }
        for name, answer in run.answers.items():
            figures |= spelled(name, numbers(answer))
        return Played(figures, run.answers, by_second, run.samples, merged(busy), zero_s)

    def _of_gateway(self, zero_s: float) -> Figures:
        said = self._stand.gateway.metrics()
        samples = self._run.samples
        since = [sample for sample in samples if sample.at_s >= zero_s]
        calm = [sample.rss_bytes for sample in samples if sample.at_s < zero_s] or [0]
        found = {
            "gateway.breaches": float(sum(said.get(name, 0) for name in BROKEN)),
            "gateway.stall_s": longest_stall_s(said),
            "gateway.rss_growth_bytes": max((s.rss_bytes for s in since), default=0) - calm[-1],
        }
        found |= spelled("gateway", drift(since))
        if len(since) > 1 and since[-1].cpu_s >= since[0].cpu_s:
            spent_s, lasted_s = since[-1].cpu_s - since[0].cpu_s, since[-1].at_s - since[0].at_s
            found["gateway.cpu_share"] = spent_s / lasted_s
        return found

    def _of_sessions(self, before: Answer) -> Figures:
        status = self._stand.swarm.status()
        attached = status["states"].get("ATTACHED", 0)
        return {
            "sessions.attached": attached,
            "sessions.missing": max(0, self._scenario.established - attached),
            "sessions.ended": sum(status["terminated"].values()) - sum(before["terminated"].values()),
            "sessions.same_ids": float(status["session_ids_hash"] == before["session_ids_hash"]),
        }


def drift(samples: list[Sample]) -> Figures:
    """How much memory and descriptors grew over the last three quarters, as a straight line through all of it."""
    late = samples[len(samples) // 4 :]
    if len(late) < LINE_SAMPLES:
        return {}
    at_s = [sample.at_s for sample in late]
    lasted_s = at_s[-1] - at_s[0]
    rss, fds = [sample.rss_bytes for sample in late], [sample.fds for sample in late]
    return {
        "rss_drift_share": linear_regression(at_s, rss).slope * lasted_s / fmean(rss),
        "fds_drift": linear_regression(at_s, fds).slope * lasted_s,
    }


def of_load(seconds: list[Second]) -> Figures:
    """Loss and latency of packets that were due in these seconds."""
    sent, received = sum(s.sent for s in seconds), sum(s.received for s in seconds)
    buckets = merged(seconds)
    return {
        "loss": 1 - received / sent if sent else 1.0,
        "kept": received / sent if sent else 0.0,
        "p50_us": percentile_us(buckets, 0.5),
        "p99_us": percentile_us(buckets, 0.99),
        "max_us": max((s.max_us for s in seconds), default=0),
        "seconds": len(seconds),
    }


def compared(before: Figures, during: Figures) -> Figures:
    """What the events did to the load."""
    found = {"load.kept": during["kept"] / before["kept"] if before["kept"] else 0.0}
    if before["p99_us"]:
        found["load.p99_ratio"] = during["p99_us"] / before["p99_us"]
    return found


def spelled(name: str, figures: Mapping[str, float]) -> Figures:
    """Under that name."""
    return {f"{name}.{key}": value for key, value in figures.items()}


def numbers(document: Mapping[str, Any], prefix: str = "") -> Figures:
    """Every number of a document by its dotted name. A histogram of nothing has none: no time is not a short one."""
    found: Figures = {}
    if document.get("count") == 0:
        return {f"{prefix}count": 0.0}
    for key, value in document.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and key != "id":
            found[prefix + key] = float(value)
    return found


def longest_stall_s(said: Mapping[str, float]) -> float:
    """Upper bound of the highest bucket of stalls of the event loop that has any."""
    head = 'jvpn_loop_stall_seconds_bucket{le="'
    bounds = sorted(
        (float(name[len(head) :].rstrip('"}')), count)
        for name, count in said.items()
        if name.startswith(head)
    )
    longest_s, below = 0.0, 0.0
    for bound_s, count in bounds:
        longest_s, below = (bound_s, count) if count > below else (longest_s, below)
    return longest_s


def stock_client(stand: Stand) -> WgDevice:
    """The one peer that is no client of the swarm, outside, not started."""
    number, own = stand.population.count, stand.population.identity(stand.population.count)
    keys = Keys(encoded(own.private), encoded(own.public))
    there = WgPeer(
        encoded(stand.population.gateway.public),
        [f"{nth(BEYOND, number)}/32"],
        f"{OUTSIDE_GATEWAY}:{PORT}",
        None,
        STOCK_KEEPALIVE_S,
    )
    return WgDevice(stand.scene.lab, stand.scene.outside, keys, [f"{nth(INSIDE, number)}/32"], [there])


def attach_established(stand: Stand, scenario: Scenario, note: Note) -> Answer:
    """Those that are there before the clock starts."""
    answer = stand.attach(0, scenario.established, note)
    if answer["failed"]:
        raise LabError(f"{answer['failed']} of {scenario.established} clients did not come in")
    stand.settle(scenario.established)
    return answer


def established_rate(stand: Stand, scenario: Scenario, note: Note) -> float:
    """The load, found before anything happens."""
    plan = scenario.load
    if plan.rate_per_s:
        return plan.rate_per_s
    load = Load(0, scenario.loaded, plan.first, plan.size_bytes, scenario.seed)
    best = stand.saturation(load, scenario.established)
    if best is None:
        raise LabError("no rate arrives")
    note(f"{best.received_per_s:,.0f} packets a second saturate this set-up; load {plan.share:.0%} of it")
    stand.recover(scenario.established)
    return plan.share * best.received_per_s
