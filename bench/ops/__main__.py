# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.ops``: the table, and bench/out/ops.json after every sitting.

``RUNS`` and ``SESSIONS`` in the environment choose how often and with how many. ``--table FILE`` prints an earlier run.
The exit status: 0 everything was measured, 1 something could not be, 130 interrupted. Missed targets are printed, not
failed: a loud machine misses them too.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final

from bench.keeping import first_line, replace_file, say, show_or_run
from bench.ops import report
from bench.ops.measure import VARIANTS, Sizes, sit
from bench.tunnel.about import about
from bench.tunnel.figures import Run
from bench.tunnel.quiet import Verdict, judge, snapshot
from bench.tunnel.report import unrest
from tests.net.lab import REPO, LabError

OUT: Final = REPO / "bench" / "out" / "ops.json"
RUNS: Final = 3
ERROR_CHARS: Final = 2000


class Bench:
    """Everything that was measured so far."""

    def __init__(self, runs: int, sizes: Sizes, out: Path) -> None:
        self._wanted, self._sizes, self._out = runs, sizes, out
        self._about: dict[str, Any] = {**about(), "runs_wanted": runs, "sessions": sizes.sessions}
        self._runs: dict[str, list[Run]] = {}
        self.failed: list[str] = []

    def run(self) -> None:
        """Variants in turn, so that a slow minute falls on all of them."""
        seconds = self._wanted * len(VARIANTS) * self._sizes.seconds
        say(f"{self._sizes.sessions} sessions, {self._wanted} times: about {seconds / 60:.1f} minutes")
        for number in range(1, self._wanted + 1):
            for variant in VARIANTS:
                self._sit(number, variant)
                self.save(complete=False)

    def _sit(self, number: int, variant: str) -> None:
        before = snapshot()
        try:
            figures = sit(variant, self._sizes)
        except (LabError, OSError) as error:
            self.failed.append(f"{variant}, run {number}: {str(error)[:ERROR_CHARS]}")
            say(f"run {number}/{self._wanted} {variant}: could not be measured: {first_line(error)}")
            return
        verdict = judge(before, snapshot())
        self._runs.setdefault(variant, []).append({**_kept(number, verdict), **figures})
        say(
            f"run {number}/{self._wanted} {variant}: /metrics {figures['metrics_ms']:.1f} ms, "
            f"page {figures['page_ms']:.1f} ms, adds {figures['scraped_adds_ms']:.1f} and "
            f"{figures['paged_adds_ms']:.1f} ms{unrest(verdict, again=False)}"
        )

    def document(self, complete: bool) -> dict[str, Any]:
        """Everything so far."""
        return report.document(self._runs, self._about, self.failed, complete)

    def save(self, complete: bool) -> None:
        """Into the file."""
        replace_file(self._out, self.document(complete))


def _kept(number: int, verdict: Verdict) -> dict[str, Any]:
    return {
        "run": number,
        "disturbed": verdict.disturbed,
        "foreign_share": round(verdict.foreign_share, 4),
        "steal_share": round(verdict.steal_share, 4),
    }


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.ops", description="What watching costs a gateway.")
    least = Sizes()
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or RUNS))
    parser.add_argument("--sessions", type=int, default=int(os.environ.get("SESSIONS") or least.sessions))
    parser.add_argument("--scrapes", type=int, default=least.scrapes)
    parser.add_argument("--quick", type=int, default=least.quick)
    parser.add_argument("--pings", type=int, default=least.pings)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", type=Path, metavar="FILE", help="print an earlier run, measure nothing")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    given = arguments(argv)
    sizes = Sizes(given.sessions, given.scrapes, given.quick, given.pings)
    return show_or_run(given, lambda: Bench(given.runs, sizes, given.out), report.tables, given.out)


if __name__ == "__main__":
    sys.exit(main())
