# SPDX-License-Identifier: Apache-2.0
"""/metrics: what a gateway's sessions, handshakes and traffic add up to.

Rule: a scrape costs the same with one session as with thousands, but for one pass over them. Names of sessions and
peers are labels only where they were asked for (series.py). Directions: ``in`` comes from peers, ``out`` goes to
them; ``outer`` is what travels between the machines, ``inner`` what the tunnel carries.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any, Final, NamedTuple

from gateway.constants import NS_PER_S
from gateway.control.observed import Observed, Phase
from gateway.control.pauses import Pauses
from gateway.control.watch import Watch
from gateway.core.states import LIVE, State
from gateway.noise.peer import Refusal
from gateway.ops.stats import machine
from gateway.ops.stats.series import Series, SessionSeries, WireguardSeries
from gateway.ops.stats.tables import tables
from gateway.ops.stats.tally import Tally
from gateway.ops.stats.text import Text
from gateway.suites import TRAITS, Suite

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# Sessions per turn of the loop: 0.5 µs each.
_BATCH: Final = 1000


class Scrape(NamedTuple):
    """What one answer is made of. ``box`` is the last reading of the machine."""

    seen: Observed
    watch: Watch
    tally: Tally
    box: Mapping[str, Any]


def named_series(*, per_session: bool, wireguard_names: bool) -> tuple[Series, ...]:
    """Those that were asked for; they keep their lines from one scrape to the next."""
    return (*((SessionSeries(),) if per_session else ()), *((WireguardSeries(),) if wireguard_names else ()))


async def exposition(scrape: Scrape, *, open_metrics: bool, more: Sequence[Series] = ()) -> bytes:
    """The answer to one scrape. ``more``: series of single sessions or peers."""
    text = Text(open_metrics=open_metrics)
    await _sessions(text, scrape.seen)
    _decisions(text, scrape.tally)
    _handshakes(text, scrape.seen)
    text.histogram(
        "jvpn_handshake_duration_seconds",
        "From our response to the first message under its keys, or from our initiation to its answer.",
        scrape.tally.handshakes,
    )
    counters = scrape.seen.tunnel.engine.counters()
    _traffic(text, counters)
    machine.dataplane(text, counters)
    machine.workers(text, scrape.seen)
    _records(text, scrape.seen)
    tables(text, scrape.seen)
    _progress(text, scrape)
    machine.build(text, scrape.seen)
    _process(text, scrape.box["process"])
    machine.host(text, scrape.box)
    for series in more:
        await series.write(text, scrape.seen)
    return text.encode()


# --- sessions and paths ------------------------------------------------------------------------------------------


async def _sessions(text: Text, seen: Observed) -> None:
    kinds: Counter[tuple[State, bool, Suite]] = Counter()
    rtts_us: list[int] = []
    losses_ppm: list[int] = []
    lives = list(seen.sessions)
    for start in range(0, len(lives), _BATCH):
        if start:
            await asyncio.sleep(0)
        batch = lives[start : start + _BATCH]
        kinds.update([(live.core.state, live.core.stock, live.suite) for live in batch])
        paths = [live.core.active for live in batch if not live.core.stock]
        measured = [path for path in paths if path is not None and path.srtt_us]
        rtts_us += [path.srtt_us for path in measured]
        losses_ppm += [path.loss_ppm for path in measured]
    _kinds(text, kinds)
    text.one("jvpn_peers", "gauge", "Configured peers.", len(seen.tunnel.peers))
    rtt, loss = _spread(rtts_us, 1e6), _spread(losses_ppm, 1e6)
    text.one("jvpn_paths_measured", "gauge", "Bound paths with a measurement.", len(rtts_us))
    text.each("jvpn_path_rtt_seconds", "gauge", "Round trips over all bound paths.", "stat", rtt)
    text.each("jvpn_path_loss_ratio", "gauge", "Loss over all bound paths.", "stat", loss)


def _kinds(text: Text, kinds: Mapping[tuple[State, bool, Suite], int]) -> None:
    """By state, all of them there, and by protocol and suite. One that ended during the pass is no more."""
    states = dict.fromkeys(LIVE, 0)
    suites: Counter[tuple[bool, Suite]] = Counter()
    for (state, stock, suite), count in kinds.items():
        if state in states:
            states[state] += count
            suites[stock, suite] += count
    by_name: dict[str, float] = {state.name: count for state, count in states.items()}
    text.each("jvpn_sessions", "gauge", "Living sessions by state.", "state", by_name)
    text.family("jvpn_sessions_by_suite", "gauge", "Living sessions by protocol and suite.")
    for (stock, suite), count in suites.items():
        spoken = "wireguard" if stock else "jump"
        text.sample("jvpn_sessions_by_suite", count, protocol=spoken, suite=TRAITS[suite].name)


def _spread(values: list[int], scale: float) -> dict[str, float]:
    """Median, 95th percentile and maximum; nothing without values."""
    if not values:
        return {}
    values.sort()
    last = len(values) - 1
    return {
        "median": values[last // 2] / scale,
        "p95": values[last * 95 // 100] / scale,
        "max": values[last] / scale,
    }


def _decisions(text: Text, tally: Tally) -> None:
    text.family("jvpn_transitions_total", "counter", "Transitions of the session state machine.")
    for (old, new, reason), count in tally.transitions.items():
        text.sample("jvpn_transitions_total", count, **{"from": old, "to": new, "reason": reason})
    text.family("jvpn_switches_total", "counter", "Switches of a binding: done, denied by a limit, failed.")
    for (kind, result, reason), count in tally.switches.items():
        text.sample("jvpn_switches_total", count, kind=kind, result=result, reason=reason)
    security: dict[str, float] = dict(tally.security)
    tells = "Authenticated but wrong, or a defence that acted."
    text.each("jvpn_security_events_total", "counter", tells, "class", security)
    text.histogram(
        "jvpn_recovery_seconds", "From leaving ATTACHED until ATTACHED again, by session.", tally.recovery
    )
    for name, tells, count in (
        (
            "jvpn_dual_binding_total",
            "Bindings changed without a new epoch. Must stay 0.",
            tally.dual_bindings,
        ),
        ("jvpn_silent_reset_total", "Versions that skipped or went back. Must stay 0.", tally.silent_resets),
        ("jvpn_ambiguous_owner_total", "Ends without a provable owner. Must stay 0.", tally.ambiguous_owners),
    ):
        text.one(name, "counter", tells, count)


def _handshakes(text: Text, seen: Observed) -> None:
    """Completed ones, those that led nowhere by reason, and what the gate before them said."""
    name = "jvpn_handshakes_total"
    text.family(name, "counter", "Handshakes of peers by how they ended.")
    exchange = seen.tunnel.exchange.counters
    text.sample(name, exchange["completed"], result="ok", reason="")
    failed = {reason: exchange[reason] for reason in (*_HANDSHAKE_FAULTS, *sorted(exchange))}
    for reason, count in failed.items():
        if reason != "completed" and reason not in _HANDSHAKE_STEPS:
            text.sample(name, count, result="failed", reason=reason)
    steps: dict[str, float] = {step: exchange[step] for step in _HANDSHAKE_STEPS}
    tells = "Steps of handshakes that are no end of one."
    text.each("jvpn_handshake_steps_total", "counter", tells, "step", steps)
    verdicts: dict[str, float] = dict(seen.tunnel.admission.counters)
    text.each("jvpn_admission_total", "counter", "Verdicts before handshakes.", "verdict", verdicts)


# These are there before the first of their kind, so that a rate sees it.
_HANDSHAKE_FAULTS: Final = ("auth_failed", "unknown_peer", "gave_up", "no_endpoint", *map(str, Refusal))
_HANDSHAKE_STEPS: Final = (
    "initiations_sent",
    "responses_sent",
    "retries",
    "crossed",
    "yielded",
    "cookies_received",
)


# --- traffic -----------------------------------------------------------------------------------------------------


def _traffic(text: Text, counters: Mapping[str, int]) -> None:
    get = counters.__getitem__
    packets = {"in": get("tun_tx_packets"), "out": get("tun_rx_packets")}
    datagrams = {"in": get("rx_datagrams"), "out": get("tx_datagrams")}
    calls = {"in": get("rx_calls"), "out": get("tx_calls")}
    text.each("jvpn_packets_total", "counter", "Inner packets.", "direction", packets)
    text.each("jvpn_datagrams_total", "counter", "Outer datagrams.", "direction", datagrams)
    text.each("jvpn_socket_calls_total", "counter", "Calls that moved datagrams.", "direction", calls)
    batch = {way: datagrams[way] / calls[way] if calls[way] else 0.0 for way in calls}
    text.each("jvpn_batch_packets", "gauge", "Datagrams per call since the start.", "direction", batch)
    text.family("jvpn_bytes_total", "counter", "Bytes, inner and outer.")
    for way, layer, counter in (
        ("in", "outer", "rx_bytes"),
        ("out", "outer", "tx_bytes"),
        ("in", "inner", "tun_tx_bytes"),
        ("out", "inner", "tun_rx_bytes"),
    ):
        text.sample("jvpn_bytes_total", get(counter), direction=way, layer=layer)
    drops: dict[str, float] = {
        name.removeprefix("drop_"): count for name, count in counters.items() if name.startswith("drop_")
    }
    text.each("jvpn_drops_total", "counter", "Packets dropped by fault.", "reason", drops)


# --- the process -------------------------------------------------------------------------------------------------


def _records(text: Text, seen: Observed) -> None:
    audit = seen.records.audit.counters()
    text.one("jvpn_audit_events_total", "counter", "Events of all sessions.", audit["events"])
    text.one("jvpn_audit_gap_total", "counter", "Gaps in the audit journal.", audit["gaps"])
    text.one("jvpn_audit_lost_total", "counter", "Turns that the journal has not got.", audit["lost_turns"])
    text.one("jvpn_audit_queued", "gauge", "Turns that are not written yet.", audit["queued"])
    text.one("jvpn_audit_failing", "gauge", "1 while the journal cannot be written.", audit["failing"])
    store = seen.records.store
    failing = int(store.failing)
    text.one("jvpn_store_failing", "gauge", "1 while the session store cannot be written.", failing)
    text.one("jvpn_store_lost_total", "counter", "Changes that the store has not got.", store.dropped)


def _progress(text: Text, scrape: Scrape) -> None:
    engine = scrape.seen.tunnel.engine
    text.histogram(
        "jvpn_loop_stall_seconds", "How late the event loop was, looked at 4/s.", scrape.watch.loop_stalls
    )
    text.one(
        "jvpn_stalled", "gauge", "1 while the data plane does not move.", int(bool(scrape.watch.problems()))
    )
    drains = scrape.seen.phase is Phase.DRAINING
    text.one("jvpn_draining", "gauge", "1 while no new sessions are taken.", int(drains))
    _pauses(text, scrape.seen.pauses)
    interval_s = engine.idle_interval_ns / NS_PER_S
    text.one(
        "jvpn_probe_interval_seconds",
        "gauge",
        "What the budget allows an idle path; 0: anything.",
        interval_s,
    )


def _pauses(text: Text, pauses: Pauses) -> None:
    found = pauses.collections
    tells = "The longest that the event loop stood still since the start, looked at 50/s."
    text.one("jvpn_loop_stall_longest_seconds", "gauge", tells, pauses.pulse.longest_s)
    tells = "The longest garbage collection since the start."
    text.one("jvpn_gc_pause_longest_seconds", "gauge", tells, found.longest_s)
    tells = "Time in garbage collections."
    text.one("jvpn_gc_pause_seconds_total", "counter", tells, found.total_s)
    by_generation: dict[str, float] = {str(number): count for number, count in enumerate(found.counts)}
    tells = "Garbage collections; the oldest generation, 2, is never collected by itself."
    text.each("jvpn_gc_collections_total", "counter", tells, "generation", by_generation)


def _process(text: Text, process: Mapping[str, Any]) -> None:
    """The names that every exporter has."""
    cpu_s = process["cpu_user_s"] + process["cpu_system_s"]
    for name, kind, tells, value in (
        ("process_cpu_seconds_total", "counter", "CPU time, user and system.", cpu_s),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", process["rss_bytes"]),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory.", process["virtual_bytes"]),
        ("process_open_fds", "gauge", "Open file descriptors.", process["fds"]),
        ("process_max_fds", "gauge", "How many there may be.", getrlimit(RLIMIT_NOFILE)[0]),
        ("process_threads", "gauge", "Threads.", process["threads"]),
        ("process_start_time_seconds", "gauge", "Start, Unix time.", process["started_unix_s"]),
    ):
        text.one(name, kind, tells, value)
