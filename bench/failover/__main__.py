# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.failover [--runs N]``: the table, and bench/out/failover.json after every run.

Interrupted (Ctrl-C, SIGTERM, or the time is up) it keeps what it has. The exit status: 0 all runs were made, 1 some
could not be made, a session was lost or a journal is not sound, 130 interrupted. Missed targets are printed, not
failed: a loud machine misses them too. ``RUNS`` in the environment is the same as ``--runs``.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.failover import report, stock
from bench.failover.ours import Block
from bench.failover.plan import EVENTS, STOCK_RUNS, Event, runs_of
from bench.keeping import INTERRUPTED, Timeout, replace_file, say
from tests.net.lab import REPO, Lab, LabError, missing_requirements
from tests.net.topology import DELAY_MS, Topology

OUT: Final = REPO / "bench" / "out" / "failover.json"
# A gateway serves that many runs of each event: its journal stays small, and noise falls on all events alike.
BLOCK_RUNS: Final = 10
BUDGET_MIN: Final = 58.0
ATTEMPTS: Final = 2


class Bench:
    """All runs, and the file they are kept in."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.runs: list[dict[str, Any]] = []
        self.events = [event for event in EVENTS if not options.only or event.key in options.only]
        self.wanted, self.out = options.runs, Path(options.out)
        self._deadline_s = time.monotonic() + 60 * options.minutes
        self._start_s, self._load_max = time.monotonic(), 0.0
        self._total = sum(runs_of(event, self.wanted) for event in self.events)

    # --- ours -----------------------------------------------------------------------------------------------------

    def ours(self) -> None:
        """Every event in turn, block after block."""
        left = {event.key: runs_of(event, self.wanted) for event in self.events}
        while any(left.values()):
            for profile in ("default", "critical"):
                chosen = [event for event in self.events if event.profile == profile and left[event.key]]
                if chosen:
                    with Lab() as lab:  # a relay remembers 256 clients, and a run is a client
                        self._block(lab, Topology.build(lab), chosen, left)

    def _block(self, lab: Lab, topology: Topology, chosen: list[Event], left: dict[str, int]) -> None:
        order = [event for _ in range(BLOCK_RUNS) for event in chosen]
        block = Block(lab, topology, chosen[0].profile, ATTEMPTS * len(order))
        first = len(self.runs)
        try:
            for event in order:
                if left[event.key]:
                    left[event.key] -= 1
                    self._add(event, report.OURS, self._attempt(block, event))
        finally:
            problems = block.close()
            for run in self.runs[first:]:
                run["audit_ok"] = run.get("audit_ok", False) and not problems
                run["gateway_audit_problems"] = problems[:5]

    def _attempt(self, block: Block, event: Event) -> dict[str, Any]:
        """A run that could not be made is made once more; the second failure is a result."""
        error = ""
        for _ in range(ATTEMPTS):
            self._check_time()
            try:
                return {**block.run(event), "first_failure": error}
            except LabError as failure:
                error = str(failure)[:2000]
        return {"error": error}

    # --- stock ----------------------------------------------------------------------------------------------------

    def stock(self) -> None:
        """The same events with wireguard-go."""
        count = STOCK_RUNS if self.wanted is None else max(1, min(STOCK_RUNS, self.wanted))
        chosen = [event for event in self.events if event.stock]
        with Lab() as lab:
            topologies = [
                Topology.build(lab, f"s{number}", shared=True, seed=number + 1) for number in range(count)
            ]
            for event in chosen:
                self._check_time()
                if event.stock_heals:
                    for _ in range(count):
                        self._stock_runs(lab, topologies[:1], event, short=True)
                else:
                    self._stock_runs(lab, topologies, event, short=False)

    def _stock_runs(self, lab: Lab, topologies: list[Topology], event: Event, short: bool) -> None:
        found: list[dict[str, Any]] = []
        stock.run_together(lab, topologies, event, stock.observe_s(event, short), found.append)
        if short and any(run["outage_up_open"] or run["outage_down_open"] for run in found):
            self._stock_runs(lab, topologies, event, short=False)
            return
        for run in found:
            self._add(event, report.STOCK, run)

    # --- results --------------------------------------------------------------------------------------------------

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline_s:
            raise Timeout

    def _add(self, event: Event, system: str, run: dict[str, Any]) -> None:
        load = os.getloadavg()[0]
        self._load_max = max(self._load_max, load)
        number = 1 + sum(r["event"] == event.key and r["system"] == system for r in self.runs)
        self.runs.append({"event": event.key, "system": system, "run": number, "load": round(load, 2), **run})
        self._progress(event, system, number, run)
        self.save(complete=False)

    def _progress(self, event: Event, system: str, number: int, run: dict[str, Any]) -> None:
        elapsed_s = time.monotonic() - self._start_s
        what = run.get("error", "").split("\n")[0][:100] or (
            f"up {run['outage_up_ms']} ms, down {run['outage_down_ms']} ms, "
            f"lost {run['lost_up']}/{run['lost_down']}"
        )
        done = sum(r["system"] == report.OURS for r in self.runs)
        count = f"{done}/{self._total}" if system == report.OURS else "stock"
        say(f"[{elapsed_s:6.0f} s {count:>8}] {system} {event.title} #{number}: {what}")

    def document(self, complete: bool) -> dict[str, Any]:
        """Everything so far."""
        about = {
            "seconds": round(time.monotonic() - self._start_s, 1),
            "delay_ms": DELAY_MS,
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_max": round(self._load_max, 2),
        }
        return report.document(self.runs, about, complete)

    def save(self, complete: bool) -> None:
        """Into the file."""
        replace_file(self.out, self.document(complete))

    def sound(self) -> bool:
        """Whether every run was made, kept its session and left a sound journal."""
        ours = [run for run in self.runs if run["system"] == report.OURS]
        return not any(run.get("error") for run in self.runs) and all(
            run["session_unchanged"] and run["audit_ok"] for run in ours
        )


def options_of(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description="Failover figures.")
    given = os.environ.get("RUNS", "")
    parser.add_argument("--runs", type=int, default=int(given) if given else None, help="runs of each event")
    parser.add_argument("--only", nargs="*", default=[], choices=[event.key for event in EVENTS])
    parser.add_argument("--system", choices=("both", report.OURS, report.STOCK), default="both")
    parser.add_argument(
        "--minutes", type=float, default=BUDGET_MIN, help="stop after this (default %(default)s)"
    )
    parser.add_argument("--out", default=str(OUT))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    options = options_of(argv)
    if (problem := missing_requirements()) is not None:
        say(f"the benchmark cannot run here: {problem}")
        return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bench, complete, status = Bench(options), False, 0
    try:
        if options.system != report.OURS:
            bench.stock()
        if options.system != report.STOCK:
            bench.ours()
        complete = True
    except Timeout:
        say(f"\nstopped after {options.minutes:g} minutes; what was measured is kept")
    except (KeyboardInterrupt, SystemExit):
        say("\ninterrupted; what was measured is kept")
        status = INTERRUPTED
    except LabError as error:
        say(f"\nstopped by an error: {error}")
        status = 1
    bench.save(complete)
    say("\n" + report.table(bench.document(complete)))
    say(f"\n{bench.out}")
    return status or (0 if bench.sound() else 1)


if __name__ == "__main__":
    sys.exit(main())
