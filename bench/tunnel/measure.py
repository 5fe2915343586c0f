# SPDX-License-Identifier: Apache-2.0
"""One measurement of one running peer.

CPU time is read from the processes of the tunnel and, beside it, from the whole machine: the kernel charges work to
whoever happens to run (a write to the TUN device includes what the local TCP stack sends in answer), so the first says
which end is busier and the second what a gigabyte costs.

Rule: a measurement returns figures, each with its unit in its name, or raises LabError; it leaves nothing running.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.tunnel import search
from bench.tunnel.ours import Ours
from bench.tunnel.scene import BACKEND, Peer, Scene
from bench.tunnel.storm import Crowd
from tests.net import cprogram
from tests.net.lab import LabError, Namespace, python_module
from tests.net.traffic import Ping, ping

PORT: Final = 5001
STREAM_S: Final = 3.0
TRIAL_MS: Final = 300
CONFIRM_MS: Final = 1000
TRIAL_TIMEOUT_S: Final = 20.0
PING_INTERVAL_S: Final = 0.005
PING_WAIT_MS: Final = 2000.0
PINGS: Final = 300
# A p99 of so many is their sixth worst; both halves of the storm's comparison have as many.
STORM_PINGS: Final = 600
STORM_S: Final = 3.6
STORM_ANSWERED: Final = 0.95
# The rest of a packet of 64 bytes is IPv4 and UDP headers.
SMALL_BYTES: Final = 64 - 28
LARGE_BYTES: Final = 1200
GSO_SEGMENTS: Final = 32
START_PER_S: Final = 25_000.0
GIGABYTE: Final = 1e9
MEGABYTE: Final = 1e6
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
UDPLOAD: Final = Path(__file__).parent / "udpload.c"
# /proc/PID/stat behind the name: utime, stime; /proc/stat: idle, iowait.
STAT_TIMES: Final = slice(11, 13)
IDLE_TIMES: Final = slice(3, 5)
TCP_LISTEN: Final = "0A"

Figures = dict[str, float]


# --- CPU time ---------------------------------------------------------------------------------------------------------


def process_s(pids: Sequence[int]) -> float:
    """CPU seconds of processes so far, all their threads."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(sum(map(int, fields[STAT_TIMES])) for fields in stats) / TICKS_PER_S


def machine_s() -> float:
    """CPU seconds of the whole machine so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - sum(fields[IDLE_TIMES])) / TICKS_PER_S


class Meter:
    """CPU seconds of both ends and of the machine, from its making on."""

    def __init__(self, peer: Peer) -> None:
        self._ends = peer.processes()
        self._start = self._read()

    def _read(self) -> tuple[float, float, float]:
        client, gateway = self._ends
        return process_s(client), process_s(gateway), machine_s()

    def spent(self, name: str, per: float) -> Figures:
        """``client_NAME``, ``gateway_NAME``, their sum and the machine's, each divided by ``per``."""
        client, gateway, machine = (
            (now - then) / per for now, then in zip(self._read(), self._start, strict=True)
        )
        found = {"client": client, "gateway": gateway, "ends": client + gateway, "machine": machine}
        return {f"{who}_{name}": value for who, value in found.items()}


# --- TCP --------------------------------------------------------------------------------------------------------------


def tcp(scene: Scene, peer: Peer, way: str, streams: int) -> Figures:
    """Bulk TCP for a few seconds, towards the backend or from it."""
    meter = Meter(peer)
    result = json.loads(scene.client.run(tcp_argv(way, STREAM_S, streams)).stdout.splitlines()[-1])
    if not result["bytes"]:
        raise LabError("nothing arrived")
    rate = result["bytes"] * 8 / result["seconds"] / GIGABYTE
    return {"gbit_per_s": rate, **meter.spent("cpu_s_per_gb", result["bytes"] / GIGABYTE)}


def tcp_argv(way: str, seconds: float, streams: int = 1) -> list[str]:
    """The program at the client."""
    return python_module("bench.tunnel.load", "stream", way, BACKEND, str(PORT), str(seconds), str(streams))


# --- UDP --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Datagrams:
    """A kind of UDP stream: bytes of payload, datagrams per call of the sender (UDP_SEGMENT), which way."""

    size_bytes: int
    segments: int
    way: str

    def trial(self, scene: Scene, peer: Peer, rate_per_s: float, duration_ms: int) -> search.Trial:
        """One stream."""
        source, sink, address = scene.client, scene.backend, BACKEND
        if self.way == "down":
            source, sink, address = scene.backend, scene.client, peer.client_address
        numbers = (self.size_bytes, self.segments, max(1, round(rate_per_s)), duration_ms)
        argv = [str(cprogram.build("udpload", (UDPLOAD,))), source.name, sink.name, address]
        return search.Trial(**json.loads(output_of([*argv, *map(str, numbers)])))


def output_of(argv: Sequence[str]) -> str:
    """What a helper program prints; it finds its namespaces itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TRIAL_TIMEOUT_S)
    if done.returncode:
        raise LabError(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout


def udp(scene: Scene, peer: Peer, kind: Datagrams) -> Figures:
    """The highest rate that arrives but for 1 %, and what it costs there."""
    found = search.highest_rate(lambda rate: kind.trial(scene, peer, rate, TRIAL_MS), START_PER_S)
    if found is None:
        raise LabError("no rate arrives")
    spent: Figures = {}

    def long_trial(rate: float) -> search.Trial:
        meter = Meter(peer)
        trial = kind.trial(scene, peer, rate, CONFIRM_MS)
        if trial.received:
            spent.update(meter.spent("us_per_packet", trial.received / 1e6))
            spent.update(meter.spent("cpu_s_per_gb", trial.received * kind.size_bytes / GIGABYTE))
        return trial

    best = search.confirmed(long_trial, found)
    if best is None:
        raise LabError(f"{found:.0f} packets a second arrived once and not again")
    rate = best.received_per_s
    return {
        "kpps": rate / 1e3,
        "gbit_per_s": rate * kind.size_bytes * 8 / GIGABYTE,
        "loss": best.loss,
        **spent,
    }


# --- latency ----------------------------------------------------------------------------------------------------------


def round_trips(client: Namespace, count: int, prefix: str = "") -> Figures:
    """ICMP echo through the tunnel."""
    seen = ping(client, BACKEND, count, PING_INTERVAL_S, PING_WAIT_MS / 1000)
    if not seen.received:
        raise LabError("no answer")
    return {f"{prefix}{name}": value for name, value in ping_figures(seen).items()}


def ping_figures(seen: Ping) -> Figures:
    """p50 and p99 in µs, nearest rank; what did not come back took as long as it was waited for."""
    ordered = sorted(seen.rtts_ms) + [PING_WAIT_MS] * (seen.sent - seen.received)
    shares = {"p50_us": 50, "p99_us": 99}
    found = {name: ordered[-(-len(ordered) * share // 100) - 1] * 1000 for name, share in shares.items()}
    return {**found, "lost": float(seen.sent - seen.received)}


def idle_ping(scene: Scene, _peer: Peer) -> Figures:
    """Round trips through an idle tunnel."""
    return round_trips(scene.client, PINGS)


def loaded_ping(scene: Scene, _peer: Peer) -> Figures:
    """Round trips beside one TCP stream."""
    seconds = PINGS * PING_INTERVAL_S * 2
    load = scene.client.spawn(tcp_argv("up", seconds), "client-load")
    try:
        load.wait_line("connected")
        return round_trips(scene.client, PINGS)
    finally:
        load.kill()


def storm(scene: Scene, place: Namespace, crowd: Crowd, peer: Ours) -> Figures:
    """Round trips of an idle tunnel, then again while the gateway answers 200 handshakes a second."""
    idle = round_trips(scene.client, STORM_PINGS, "idle_")
    running = crowd.start(place, scene.lab.tmp, peer.keys.public, STORM_S)
    stormy = round_trips(scene.client, STORM_PINGS)
    running.wait(STORM_S + 10)
    result = json.loads(running.stdout.splitlines()[-1])
    if result["answered"] < STORM_ANSWERED * result["sent"]:
        raise LabError(f"{result['answered']} of {result['sent']} handshakes were answered")
    share = result["answered"] / result["sent"]
    return {**idle, **stormy, "answered": share, "p99_ratio": stormy["p99_us"] / idle["idle_p99_us"]}


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(_scene: Scene, peer: Peer) -> Figures:
    """Peak resident memory of both ends so far, and whether the gateway's stats endpoint listens."""
    client, gateway = peer.processes()
    if not gateway:
        raise LabError("no process of its own")
    return {
        "client_rss_mb": peak_rss_mb(client),
        "gateway_rss_mb": peak_rss_mb(gateway),
        "stats_endpoint": float(has_stats_endpoint(gateway[0])),
    }


def peak_rss_mb(pids: Sequence[int]) -> float:
    """VmHWM of all of them."""
    found = [re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return sum(int(match[1]) for match in found if match) * 1024 / MEGABYTE


def has_stats_endpoint(pid: int) -> bool:
    """Whether anything in the process's network namespace listens on TCP, or on a UNIX socket named for it."""
    with suppress(OSError):
        for family in ("tcp", "tcp6"):
            lines = Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]
            if any(line.split()[3] == TCP_LISTEN for line in lines):
                return True
        return "stats" in Path(f"/proc/{pid}/net/unix").read_text()
    return False


# --- all of them ------------------------------------------------------------------------------------------------------

Measure = Callable[[Scene, Peer], Figures]


def _tcp(way: str, streams: int) -> Measure:
    return lambda scene, peer: tcp(scene, peer, way, streams)


def _udp(size_bytes: int, segments: int, way: str) -> Measure:
    return lambda scene, peer: udp(scene, peer, Datagrams(size_bytes, segments, way))


@dataclass(frozen=True, slots=True)
class Measurement:
    """A name for ``ONLY``, roughly how long it takes, and how it is done (None: in a laboratory of its own)."""

    seconds: float
    run: Measure | None


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "tcp-up": Measurement(3.4, _tcp("up", 1)),
    "tcp-down": Measurement(3.4, _tcp("down", 1)),
    "tcp4-up": Measurement(3.5, _tcp("up", 4)),
    "tcp4-down": Measurement(3.5, _tcp("down", 4)),
    "pps-up": Measurement(4.5, _udp(SMALL_BYTES, 1, "up")),
    "pps-down": Measurement(4.5, _udp(SMALL_BYTES, 1, "down")),
    "udp-up": Measurement(4.5, _udp(LARGE_BYTES, 1, "up")),
    "udp-gso-up": Measurement(4.5, _udp(LARGE_BYTES, GSO_SEGMENTS, "up")),
    "ping": Measurement(1.7, idle_ping),
    "ping-loaded": Measurement(2.0, loaded_ping),
    "rss": Measurement(0.0, memory),
    "storm": Measurement(11.0, None),
}
