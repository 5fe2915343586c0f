# SPDX-License-Identifier: Apache-2.0
"""One measurement of one running peer.

CPU time is read from the processes of the tunnel and, beside it, from the whole machine: the kernel charges work to
whoever happens to run (a write to the TUN device includes what the local TCP stack sends in answer), so the first says
which end is busier and the second what a gigabyte costs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.tunnel.scene import BACKEND, Peer, Scene
from tests.net.lab import LabError, python_module
from tests.net.traffic import ping

PORT: Final = 5001
STREAM_S: Final = 4.0
PINGS: Final = 200
PING_INTERVAL_S: Final = 0.01
GIGABYTE: Final = 1e9
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# /proc/PID/stat behind the name: utime, stime; /proc/stat: idle, iowait.
STAT_TIMES: Final = slice(11, 13)
IDLE_TIMES: Final = slice(3, 5)

Figures = dict[str, float]


def process_s(pids: Sequence[int]) -> float:
    """CPU seconds of processes so far, all their threads."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(sum(map(int, fields[STAT_TIMES])) for fields in stats) / TICKS_PER_S


def machine_s() -> float:
    """CPU seconds of the whole machine so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - sum(fields[IDLE_TIMES])) / TICKS_PER_S


def stream(scene: Scene, peer: Peer, way: str) -> Figures:
    """One TCP connection for a few seconds, towards the backend or from it."""
    client, gateway = peer.processes()
    before = process_s(client), process_s(gateway), machine_s()
    argv = python_module("bench.tunnel.load", "stream", way, BACKEND, str(PORT), str(STREAM_S))
    result = json.loads(scene.client.run(argv).stdout)
    after = process_s(client), process_s(gateway), machine_s()
    if not result["bytes"]:
        raise LabError("nothing arrived")
    spent = [
        (later - earlier) / (result["bytes"] / GIGABYTE) for earlier, later in zip(before, after, strict=True)
    ]
    return {
        "gbit_per_s": result["bytes"] * 8 / result["seconds"] / GIGABYTE,
        "client_cpu_s_per_gb": spent[0],
        "gateway_cpu_s_per_gb": spent[1],
        "machine_cpu_s_per_gb": spent[2],
    }


def idle_ping(scene: Scene, _peer: Peer) -> Figures:
    """Round trips through an idle tunnel."""
    seen = ping(scene.client, BACKEND, PINGS, PING_INTERVAL_S)
    if not seen.received:
        raise LabError("no answer")
    return {"ping_median_us": seen.median_ms * 1000, "ping_lost": float(seen.sent - seen.received)}


MEASUREMENTS: Final[dict[str, Callable[[Scene, Peer], Figures]]] = {
    "tcp-up": lambda scene, peer: stream(scene, peer, "up"),
    "tcp-down": lambda scene, peer: stream(scene, peer, "down"),
    "ping": idle_ping,
}
