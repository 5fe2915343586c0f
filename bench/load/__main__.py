# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.load``: the table, bench/out/load.json after every size, and pictures: load-N.svg, load-growth.svg.

``SESSIONS=1000,10000`` in the environment (or ``--sessions``) chooses how many clients, in turn. ``--table FILE``
prints an earlier run. The exit status: 0 everything was measured, 1 something could not be, 130 interrupted. Missed
targets are printed, not failed: a loud machine misses them too. A size that does not fit the machine or the time is
named, and the others are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.keeping import first_line, replace_file, say, to_its_end
from bench.load import report
from bench.load.gateway import NATIVE, ON_LOOP
from bench.load.measure import Measured, Plan, measure
from bench.tunnel.about import about
from tests.net.lab import REPO, LabError, missing_requirements

OUT: Final = REPO / "bench" / "out"
SIZES: Final = "1000,10000,100000"
BUDGET_MIN: Final = 30.0
ERROR_CHARS: Final = 2000


class Bench:
    """Everything that was measured so far."""

    def __init__(self, sizes: list[int], plan: Plan, native: bool, minutes: float, out: Path) -> None:
        self._sizes, self._plan, self._native, self._out = sizes, plan, native, out
        self._minutes, self._start_s = minutes, time.monotonic()
        self._about: dict[str, Any] = {**about(), "native": native}
        self.measured: dict[int, Measured] = {}
        self.failed: list[str] = []

    def run(self) -> None:
        """From the smallest to the largest."""
        planned_s = sum(self._plan.seconds(size) for size in self._sizes)
        sizes = ", ".join(f"{size:,}" for size in self._sizes)
        say(f"{sizes} sessions: about {planned_s / 60:.0f} minutes, at most {self._minutes:g}")
        for size in sorted(self._sizes):
            left_s = 60 * self._minutes - (time.monotonic() - self._start_s)
            if self._plan.seconds(size) > left_s:
                self._fail(size, f"takes about {self._plan.seconds(size):.0f} s, and {left_s:.0f} s are left")
                continue
            self._size(size)
            self.save(complete=False)

    def _size(self, size: int) -> None:
        tables = NATIVE if self._native else ON_LOOP

        def keep(found: Measured) -> None:
            self.measured[size] = found
            self.failed += [f"{size:,} sessions: {problem}" for problem in found.failed]

        try:
            measure(size, tables, self._plan, lambda text: self._note(size, text), keep)
        except (LabError, OSError) as error:
            self._fail(size, str(error)[:ERROR_CHARS])

    def _note(self, size: int, text: str) -> None:
        elapsed_s = time.monotonic() - self._start_s
        left_s = sum(
            self._plan.seconds(one) for one in self._sizes if one >= size and one not in self.measured
        )
        say(f"[{elapsed_s:5.0f} s, about {left_s:5.0f} s for this size and those to come] {size:,}: {text}")

    def _fail(self, size: int, problem: str) -> None:
        self.failed.append(f"{size:,} sessions: {problem}")
        self._note(size, f"could not be measured: {first_line(LabError(problem))}")

    def document(self, complete: bool) -> dict[str, Any]:
        """Everything so far."""
        return report.load_document(self.measured, self._about, self.failed, complete)

    def save(self, complete: bool) -> None:
        """The document, a file and a picture for each size, and how it all grows."""
        doc = self.document(complete)
        replace_file(self._out / "load.json", doc)
        for size, found in self.measured.items():
            one = report.load_document({size: found}, self._about, self.failed, complete)
            replace_file(self._out / f"load-{size}.json", one)
            (self._out / f"load-{size}.svg").write_text(report.load_svg(size, found, report.heading(doc)))
        if self.measured:
            (self._out / "load-growth.svg").write_text(report.growth_svg(doc))


def numbers(text: str) -> list[int]:
    """Sizes separated by commas."""
    return sorted({int(part.replace("_", "")) for part in text.split(",") if part.strip()})


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="One gateway, many clients.")
    sizes = os.environ.get("SESSIONS") or SIZES
    usual = Plan()
    parser.add_argument("--sessions", type=numbers, default=numbers(sizes), help=f"default {sizes}")
    parser.add_argument(
        "--loop", action="store_true", help="without a native worker: the event loop moves packets"
    )
    parser.add_argument(
        "--minutes", type=float, default=BUDGET_MIN, help="sizes that take longer are left out"
    )
    parser.add_argument("--idle", type=float, default=usual.idle_s, metavar="SECONDS")
    parser.add_argument("--rekeyed", type=int, default=usual.rekeyed, metavar="SESSIONS")
    parser.add_argument("--established", type=int, default=usual.established_s, metavar="SECONDS")
    parser.add_argument("--rate", type=float, metavar="PER_S", help="the established load; no search for it")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print an earlier run, measure nothing")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    given = arguments(argv)
    if given.table:
        say(report.load_tables(json.loads(given.table.read_text())))
        return 0
    if problem := missing_requirements():
        sys.exit(f"bench.load: {problem}")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plan = Plan(given.idle, given.rekeyed, given.established, given.rate is None, given.rate or 0.0)
    bench = Bench(given.sessions, plan, not given.loop, given.minutes, given.out)
    status = to_its_end(bench, report.load_tables)
    say(f"\n{given.out / 'load.json'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
