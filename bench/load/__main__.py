# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.load``: the table, bench/out/load.json after every size, and pictures: load-N.svg, load-growth.svg.

``SESSIONS=1000,10000`` in the environment (or ``--sessions``) chooses how many clients, in turn. ``--table FILE``
prints an earlier run. The exit status: 0 everything was measured, 1 something could not be, 130 interrupted. Missed
targets are printed, not failed: a loud machine misses them too. A size that does not fit the machine or the time is
named, and the others are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.keeping import replace_file, show_or_run
from bench.load import report
from bench.load.gateway import NATIVE, ON_LOOP
from bench.load.measure import Measured, Plan, measure
from bench.load.turns import Turns
from bench.tunnel.about import about
from tests.net.lab import REPO, LabError

OUT: Final = REPO / "bench" / "out"
SIZES: Final = "1000,10000,100000"
BUDGET_MIN: Final = 30.0


class Bench:
    """Everything that was measured so far."""

    def __init__(self, sizes: list[int], plan: Plan, native: bool, minutes: float, out: Path) -> None:
        self._sizes = {f"{size:,} sessions": size for size in sorted(sizes)}
        self._plan, self._native, self._out = plan, native, out
        self._turns = Turns({name: plan.seconds(size) for name, size in self._sizes.items()}, minutes)
        self._about: dict[str, Any] = {**about(), "native": native}
        self.measured: dict[int, Measured] = {}
        self.failed = self._turns.failed

    def run(self) -> None:
        """From the smallest to the largest."""
        for name in self._turns.each():
            self._size(name, self._sizes[name])
            self.save(complete=False)

    def _size(self, name: str, size: int) -> None:
        tables = NATIVE if self._native else ON_LOOP

        def keep(found: Measured) -> None:
            self.measured[size] = found
            self.failed += [f"{name}: {problem}" for problem in found.failed]

        try:
            measure(size, tables, self._plan, lambda text: self._turns.note(name, text), keep)
        except (LabError, OSError) as error:
            self._turns.fail(name, str(error))

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
    plan = Plan(given.idle, given.rekeyed, given.established, given.rate is None, given.rate or 0.0)
    bench = partial(Bench, given.sessions, plan, not given.loop, given.minutes, given.out)
    return show_or_run(given, bench, report.load_tables, given.out / "load.json")


if __name__ == "__main__":
    sys.exit(main())
