# SPDX-License-Identifier: Apache-2.0
"""All figures of one number of sessions.

The order matters: memory before traffic (windows and stages grow by it), the idle cost before any session has been
active, then the rate over all sessions and over the first hundred, and latency at half of the first of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.keeping import first_line
from bench.load.gateway import Tables
from bench.load.play import BROKEN, Figures, longest_stall_s
from bench.load.stand import ATTACH_PER_S, Stand, standing
from bench.load.traffic import Load, Second
from tests.net.lab import LabError

FEW: Final = 100
IDLE_S: Final = 20.0
# After the last client: greetings' second paths, the first probes, the store's last batch.
CALM_S: Final = 5.0
# Enough for a figure, few enough to be quick.
REKEYED: Final = 2000
REKEY_PER_S: Final = 500.0
ESTABLISHED_S: Final = 10
ESTABLISHED_SHARE: Final = 0.5
SEED: Final = 1
# What one run takes beside attaching: start of both ends, idle cost, two searches, the established load.
OTHER_S: Final = 100.0
START_PER_SESSION_S: Final = 0.0006
# Counters of the gateway whose pace while idle says what the idle cost is made of.
SOURCES: Final[Mapping[str, str]] = {
    "probes sent": 'jvpn_dataplane_total{counter="tx_probes"}',
    "probes answered": 'jvpn_dataplane_total{counter="rx_probes"}',
    "datagrams in": 'jvpn_datagrams_total{direction="in"}',
    "datagrams out": 'jvpn_datagrams_total{direction="out"}',
    "audit events": "jvpn_audit_events_total",
}
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it; a test is content with little."""

    idle_s: float = IDLE_S
    rekeyed: int = REKEYED
    established_s: int = ESTABLISHED_S
    search: bool = True  # without: a rate is given, for tests
    rate_per_s: float = 500.0

    def seconds(self, sessions: int) -> float:
        """Roughly how long a number of sessions takes."""
        return OTHER_S + sessions * (1 / ATTACH_PER_S + START_PER_SESSION_S)


@dataclass(slots=True)
class Measured:
    """Of one number of sessions."""

    figures: Figures = field(default_factory=dict)
    idle_per_s: Figures = field(default_factory=dict)
    drops: Figures = field(default_factory=dict)
    buckets: list[tuple[int, int]] = field(default_factory=list)
    by_second: list[Second] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Measurement:
    """One sitting."""

    def __init__(self, stand: Stand, plan: Plan, note: Note) -> None:
        self._stand, self._plan, self._note = stand, plan, note
        self._sessions = stand.population.count
        self._attach_probes = 0.0
        self.found = Measured()

    def run(self) -> None:
        """Everything."""
        figures = self.found.figures
        figures["start_s"] = self._stand.start_s
        figures["configured_mb"] = self._stand.configured_bytes / 1e6
        self._attach()
        for part in (self._memory, self._idle, self._rekey, self._rates, self._established):
            self._try(part)
        said = self._stand.gateway.metrics()
        figures["stall_ms"] = 1000 * longest_stall_s(said)
        figures["breaches"] = float(sum(said.get(name, 0) for name in BROKEN))
        drops = {name: count for name, count in said.items() if name.startswith("jvpn_drops_total") and count}
        self.found.drops = {name.split('"')[1]: count for name, count in drops.items()}

    def _try(self, part: Callable[[], None]) -> None:
        """What one part could not measure is no reason to leave out the others."""
        try:
            part()
        except LabError as error:
            self.found.failed.append(f"{part.__name__.strip('_')}: {first_line(error)}")
            self._note(self.found.failed[-1])

    def _attach(self) -> None:
        stand, figures = self._stand, self.found.figures
        before_s, probes = stand.gateway.cpu_s(), probes_of(stand.gateway.metrics())
        answer = stand.attach(0, self._sessions, self._note)
        self._attach_probes = probes_of(stand.gateway.metrics()) - probes
        figures["attach_failed"] = answer["failed"]
        figures["attach_per_s"] = answer["attached"] / answer["seconds"]
        figures["attach_gross_cpu_ms"] = (
            1000 * (stand.gateway.cpu_s() - before_s) / max(1, answer["attached"])
        )
        figures["handshake_p50_ms"] = answer["handshake_us"]["p50"] / 1000
        figures["handshake_p99_ms"] = answer["handshake_us"]["p99"] / 1000
        self._note(
            f"{answer['attached']:,} attached, {figures['attach_per_s']:.0f}/s, "
            f"{figures['attach_gross_cpu_ms']:.2f} ms of the gateway's CPU each, probes included"
        )
        stand.settle(self._sessions - int(answer["failed"]))

    def _memory(self) -> None:
        time.sleep(CALM_S)
        stand, figures = self._stand, self.found.figures
        resident = stand.gateway.rss_bytes()
        figures["attached_mb"] = resident / 1e6
        figures["bytes_per_session"] = (resident - stand.configured_bytes) / self._sessions
        self._note(f"{figures['bytes_per_session']:,.0f} bytes per session")

    def _idle(self) -> None:
        gateway = self._stand.gateway
        said, before_s, start_s = gateway.metrics(), gateway.cpu_s(), time.monotonic()
        time.sleep(self._plan.idle_s)
        spent_s, lasted_s = gateway.cpu_s() - before_s, time.monotonic() - start_s
        now = gateway.metrics()
        self.found.figures["idle_cpu_share"] = spent_s / lasted_s
        self._subtract_probes(spent_s, probes_of(now) - probes_of(said))
        self.found.idle_per_s = {
            name: (now[series] - said.get(series, 0)) / lasted_s
            for name, series in SOURCES.items()
            if series in now
        }
        per_s = ", ".join(f"{name} {value:,.0f}/s" for name, value in self.found.idle_per_s.items())
        self._note(f"idle: {spent_s / lasted_s:.1%} of a core; {per_s}")

    def _subtract_probes(self, idle_cpu_s: float, idle_probes: float) -> None:
        """Who came first was probed while the others came: that is idle cost, not theirs."""
        figures, attached = self.found.figures, self._sessions - self.found.figures["attach_failed"]
        each_s = idle_cpu_s / idle_probes if idle_probes else 0.0
        probing_ms = 1000 * each_s * self._attach_probes / max(1.0, attached)
        # More than all there was: the machine was too busy for such a difference.
        if probing_ms < figures["attach_gross_cpu_ms"]:
            figures["attach_cpu_ms"] = figures["attach_gross_cpu_ms"] - probing_ms

    def _rekey(self) -> None:
        stand, figures = self._stand, self.found.figures
        count = min(self._plan.rekeyed, self._sessions)
        before_s = stand.gateway.cpu_s()
        answer = stand.swarm.do("rekey", 120.0, **{"from": 0, "count": count, "rate_per_s": REKEY_PER_S})
        spent_s = stand.gateway.cpu_s() - before_s
        # What the rest of the sessions costs meanwhile is not the rekeys'.
        idle_s = figures["idle_cpu_share"] * answer["seconds"]
        figures["rekey_failed"] = answer["failed"]
        if answer["rekeyed"] and spent_s > idle_s:
            figures["rekey_cpu_ms"] = 1000 * (spent_s - idle_s) / answer["rekeyed"]
            self._note(
                f"{answer['rekeyed']} rekeys: {figures['rekey_cpu_ms']:.2f} ms of the gateway's CPU each"
            )

    def _rates(self) -> None:
        if not self._plan.search:
            return
        figures = self.found.figures
        for name, flows in (("few", min(FEW, self._sessions)), ("all", self._sessions)):
            best = self._stand.saturation(Load(0, flows, seed=SEED), self._sessions)
            if best is None:
                raise LabError(f"no rate arrives over {flows} sessions")
            figures[f"{name}_kpps"] = best.received_per_s / 1000
            figures[f"{name}_loss"] = best.loss
            self._note(f"{best.received_per_s:,.0f} packets/s over {flows:,} sessions, {best.loss:.2%} lost")
            self._stand.recover(self._sessions)
        figures["rate_ratio"] = figures["all_kpps"] / figures["few_kpps"]

    def _established(self) -> None:
        figures, gateway = self.found.figures, self._stand.gateway
        found = figures.get("all_kpps")
        rate_per_s = self._plan.rate_per_s if found is None else 1000 * ESTABLISHED_SHARE * found
        before_s = gateway.cpu_s()
        result = self._stand.run(Load(rate_per_s, self._sessions, seed=SEED), self._plan.established_s)
        self.found.buckets, self.found.by_second = list(result.buckets), list(result.by_second)
        figures["established_kpps"] = rate_per_s / 1000
        figures["established_loss"] = result.loss
        figures["established_cpu_us"] = 1e6 * (gateway.cpu_s() - before_s) / max(1, result.received)
        for name in ("p50_us", "p99_us", "p999_us", "max_us", "duplicates", "wrong", "late"):
            figures[f"established_{name}"] = result.figures[name]
        self._note(
            f"{rate_per_s:,.0f} packets/s: p50 {result.figures['p50_us']} us, p99 {result.figures['p99_us']} us, "
            f"{result.loss:.3%} lost"
        )


def probes_of(said: Mapping[str, float]) -> float:
    """Probes either way, so far."""
    return sum(said.get(SOURCES[name], 0) for name in ("probes sent", "probes answered"))


def measure(sessions: int, tables: Tables, plan: Plan, note: Note, found: Callable[[Measured], None]) -> None:
    """One number of sessions; ``found`` hears what there is, however it ends."""
    with standing(SEED, sessions, tables, note) as stand:
        measurement = Measurement(stand, plan, note)
        try:
            measurement.run()
        finally:
            found(measurement.found)
