# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.tunnel``: the tables, and bench/out/tunnel.json after every measurement.

``PEERS`` and ``ONLY`` in the environment choose peers and measurements by name, ``RUNS`` the number of repetitions.
``--table FILE`` prints the tables of an earlier run. Interrupted (Ctrl-C, SIGTERM, or the time is up) it keeps what it
has. The exit status: 0 everything was measured, 1 something could not be, 130 interrupted. Missed targets are printed,
not failed: a loud machine misses them too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench.keeping import show_or_run
from bench.tunnel import report
from bench.tunnel.about import about
from bench.tunnel.measure import MEASUREMENTS
from bench.tunnel.runner import PEERS, Bench, Options
from tests.net.lab import REPO

OUT: Final = REPO / "bench" / "out" / "tunnel.json"
RUNS: Final = 3
REPEATS: Final = 2
BUDGET_MIN: Final = 40.0


def chosen(variable: str, names: Iterable[str]) -> list[str]:
    """The names a variable lists, separated by commas; all without it."""
    known = list(names)
    wanted = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
    if unknown := set(wanted) - set(known):
        sys.exit(f"{variable}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel", description="Tunnels beside each other.")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or RUNS), help="repetitions")
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help="how often a disturbed measurement is taken again"
    )
    parser.add_argument(
        "--minutes", type=float, default=BUDGET_MIN, help="stop after this (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print an earlier run's tables, measure nothing"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    given = arguments(argv)
    peers, only = chosen("PEERS", PEERS), chosen("ONLY", MEASUREMENTS)
    options = Options(peers, only, given.runs, given.repeats, given.minutes, given.out)
    return show_or_run(given, lambda: Bench(options, about()), report.tables, given.out, given.minutes)


if __name__ == "__main__":
    sys.exit(main())
