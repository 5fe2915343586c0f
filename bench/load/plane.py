# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.load.plane``: what a packet costs the data plane alone as sessions grow, up to a million (plane.c).

No Python is in it: the product's library, sessions with keys, sockets of this host. Every number of sessions runs in a
process of its own, in turn, several times; a figure is the median of its runs. bench/out/load-plane.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, TypedDict

from bench.keeping import replace_file, say
from bench.tunnel.about import about
from tests.net import cprogram
from tests.net.lab import REPO, LabError

OUT: Final = REPO / "bench" / "out" / "load-plane.json"
SOURCE: Final = Path(__file__).parent / "plane.c"
LIBRARIES: Final = REPO / "gateway" / "_lib"
INCLUDE: Final = REPO / "csrc" / "include"
SIZES: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
PACKETS: Final = 400_000
RUNS: Final = 3
# A million sessions are set up in 3 s; a million packets take 10.
TIMEOUT_S: Final = 300.0


class Figures(TypedDict):
    """Of one run: processor time a packet (ns), memory a session, time to set one up (us)."""

    sessions: int
    packets: int
    in_ns: float
    out_ns: float
    bytes: int
    open_us: float


def binary() -> Path:
    """Compiled on first use, against the library that is built."""
    linked = (f"-I{INCLUDE}", f"-L{LIBRARIES}", "-ljv", f"-Wl,-rpath,{LIBRARIES}")
    return cprogram.build("plane", (SOURCE,), headers=sorted(INCLUDE.glob("jv/*.h")), libraries=linked)


def measure(sessions: int, packets: int) -> Figures:
    """One run; LabError when the program fails."""
    argv = [str(binary()), str(sessions), str(packets)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}")
    found: Figures = json.loads(done.stdout)
    return found


def middle(runs: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return Figures(
        sessions=runs[0]["sessions"],
        packets=runs[0]["packets"],
        in_ns=median(one["in_ns"] for one in runs),
        out_ns=median(one["out_ns"] for one in runs),
        bytes=round(median(one["bytes"] for one in runs)),
        open_us=median(one["open_us"] for one in runs),
    )


def table(rows: Sequence[Figures]) -> str:
    """For people; the last column is how many packets pass both ways in the time that they take with the fewest."""
    lines = ["sessions    ns in  ns out  bytes/session  us to set up  rate"]
    least = rows[0]["in_ns"] + rows[0]["out_ns"]
    for row in rows:
        rate = least / (row["in_ns"] + row["out_ns"])
        lines.append(
            f"{row['sessions']:<9,} {row['in_ns']:7.0f} {row['out_ns']:7.0f} {row['bytes']:14,} "
            f"{row['open_us']:13.1f}  {rate:4.2f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """All sizes in turn, then again."""
    parser = argparse.ArgumentParser(prog="python -m bench.load.plane", description="The data plane alone.")
    parser.add_argument(
        "--sessions", default=",".join(map(str, SIZES)), help="numbers of sessions, by commas"
    )
    parser.add_argument("--packets", type=int, default=PACKETS, help="a run and direction")
    parser.add_argument("--runs", type=int, default=RUNS)
    asked = parser.parse_args(argv)
    sizes = sorted(int(text) for text in asked.sessions.split(","))
    found: dict[int, list[Figures]] = {size: [] for size in sizes}
    for number in range(asked.runs):
        for size in sizes:
            found[size].append(measure(size, asked.packets))
            say(f"run {number + 1}/{asked.runs}: {json.dumps(found[size][-1])}")
    rows = [middle(found[size]) for size in sizes]
    document = {"schema": "jvpn.plane/1", **about(), "figures": rows, "runs": list(found.values())}
    replace_file(OUT, document)
    say(f"\n{table(rows)}\n\n{OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
