# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.tunnel``: the table, and bench/out/tunnel.json.

Repetitions are interleaved (every peer once, then every peer again), so that a slow minute falls on all of them; a
figure is the median. ``PEERS`` and ``ONLY`` in the environment choose peers and measurements by name, ``RUNS`` how
often. The exit status: 0 everything was measured, 1 something could not be.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable
from statistics import median
from typing import Any, Final

from bench.tunnel.measure import MEASUREMENTS, PORT, Figures
from bench.tunnel.others import Fastd, Nebula, OpenVpn
from bench.tunnel.scene import BACKEND, OUR_PEERS, Peer, Scene
from tests.net.lab import REPO, Lab, LabError, missing_requirements, python_module
from tests.net.traffic import wait_reachable

SCHEMA: Final = "jvpn.tunnel/1"
PEERS: Final[dict[str, type[Peer]]] = {**OUR_PEERS, "nebula": Nebula, "openvpn": OpenVpn, "fastd": Fastd}
OUT: Final = REPO / "bench" / "out" / "tunnel.json"
RUNS: Final = 3
HEADER: Final = ("peer", "measurement", "Gb/s", "CPU-s/GB client", "gateway", "machine", "ping µs")
COLUMNS: Final = {
    "gbit_per_s": "{:.2f}",
    "client_cpu_s_per_gb": "{:.2f}",
    "gateway_cpu_s_per_gb": "{:.2f}",
    "machine_cpu_s_per_gb": "{:.2f}",
    "ping_median_us": "{:.0f}",
}

Runs = dict[tuple[str, str], list[Figures]]


def chosen(variable: str, names: Iterable[str]) -> list[str]:
    """The names a variable lists, separated by commas; all without it."""
    known = list(names)
    wanted = [name for name in os.environ.get(variable, "").split(",") if name] or known
    if unknown := set(wanted) - set(known):
        sys.exit(f"{variable}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    return wanted


def main() -> int:
    """Run it."""
    if problem := missing_requirements():
        sys.exit(f"bench.tunnel: {problem}")
    peers, only = chosen("PEERS", PEERS), chosen("ONLY", MEASUREMENTS)
    runs: Runs = defaultdict(list)
    failed: list[str] = []
    for number in range(int(os.environ.get("RUNS", RUNS))):
        for name in peers:
            print(f"run {number + 1}: {name}", flush=True)
            try:
                measure(name, only, runs)
            except LabError as error:
                failed.append(f"{name}: {error}")
    medians = {key: median_of(figures) for key, figures in runs.items()}
    write(runs, medians, failed)
    print_table(medians)
    for problem in failed:
        print(problem.splitlines()[0])
    return bool(failed)


def measure(name: str, only: list[str], runs: Runs) -> None:
    """One peer from its start to its end, on machines of its own."""
    with Lab() as lab:
        scene = Scene.build(lab)
        server = scene.backend.spawn(python_module("bench.tunnel.load", "serve", str(PORT)), "backend-serve")
        server.wait_line("ready")
        peer = PEERS[name](scene)
        peer.start()
        wait_reachable(scene.client, BACKEND)
        for measurement in only:
            runs[name, measurement].append(MEASUREMENTS[measurement](scene, peer))
        peer.stop()


def median_of(figures: list[Figures]) -> Figures:
    """Each figure by itself."""
    return {key: median(run[key] for run in figures) for key in figures[0]}


def write(runs: Runs, medians: dict[tuple[str, str], Figures], failed: list[str]) -> None:
    """Medians and every single run."""
    rows: list[dict[str, Any]] = [
        {"peer": peer, "measurement": what, "median": medians[peer, what], "runs": runs[peer, what]}
        for peer, what in runs
    ]
    machine = {"kernel": platform.release(), "processors": os.cpu_count()}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(
        json.dumps({"schema": SCHEMA, "machine": machine, "results": rows, "failed": failed}, indent=1)
    )


def print_table(medians: dict[tuple[str, str], Figures]) -> None:
    """A line per peer and measurement."""
    rows = [HEADER] + [
        (*key, *(shape.format(figures[name]) if name in figures else "" for name, shape in COLUMNS.items()))
        for key, figures in sorted(
            medians.items(), key=lambda item: (item[0][1], list(PEERS).index(item[0][0]))
        )
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
