# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.load.storm``: scenarios, each on a gateway of its own; bench/out/storm.json, storm-NAME.svg.

``SCENARIOS=paths,my.toml`` in the environment (or as arguments) chooses which, by name or file; ``--scale 0.01`` plays
them with fewer clients. ``--table FILE`` prints an earlier run. The exit status is that of ``python -m bench.load``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.keeping import replace_file, show_or_run
from bench.load import report
from bench.load.gateway import NATIVE, ON_LOOP
from bench.load.play import Played, Player, attach_established, established_rate
from bench.load.scenario import Event, Scenario, ScenarioError, parse, scaled
from bench.load.stand import ATTACH_PER_S, START_PER_PEER_S, standing
from bench.load.turns import Turns
from bench.tunnel.about import about
from tests.net.lab import REPO, LabError

FOLDER: Final = Path(__file__).parent / "scenarios"
OUT: Final = REPO / "bench" / "out"
# The largest comes last: what a small machine cannot do costs no other.
USUAL: Final = ("handshakes", "paths", "restart", "flood", "restart-100k")
BUDGET_MIN: Final = 30.0
SEARCH_S: Final = 40.0
START_S: Final = 10.0


def play(scenario: Scenario, native: bool, note: Callable[[str], None]) -> Played:
    """One scenario from the start of its gateway to its end."""
    tables = {**(NATIVE if native else ON_LOOP), **scenario.gateway}
    with standing(scenario.seed, scenario.sessions, tables, note) as stand:
        attach_established(stand, scenario, note)
        rate_per_s = established_rate(stand, scenario, note)
        played = Player(stand, scenario, rate_per_s, note).play()
        if scenario.audit:
            note("verifying and replaying the audit journal")
            stand.stop()
            played.figures.update(stand.audit())
        return played


def seconds(scenario: Scenario) -> float:
    """Roughly how long it takes."""
    attach_s, start_s = scenario.established / ATTACH_PER_S, START_S + START_PER_PEER_S * scenario.sessions
    search_s = 0.0 if scenario.load.rate_per_s else SEARCH_S
    ends_s = [event.at_s + lasting_s(event) for event in scenario.events]
    return start_s + attach_s + search_s + scenario.warmup_s + max(ends_s, default=0.0) + START_S


def lasting_s(event: Event) -> float:
    """What is paced takes its time."""
    values = event.values
    return values["count"] / values["rate_per_s"] if values.get("count") and values.get("rate_per_s") else 0.0


class Storm:
    """Everything that was played so far."""

    def __init__(self, scenarios: dict[str, Scenario], native: bool, minutes: float, out: Path) -> None:
        self._scenarios, self._native, self._out = scenarios, native, out
        self._turns = Turns({name: seconds(scenario) for name, scenario in scenarios.items()}, minutes)
        self._about: dict[str, Any] = {**about(), "native": native}
        self.played: dict[str, tuple[Scenario, Played]] = {}
        self.failed = self._turns.failed

    def run(self) -> None:
        """One after the other."""
        for name in self._turns.each():
            scenario = self._scenarios[name]
            self._turns.note(name, scenario.title)
            self._one(name, scenario)
            self.save(complete=False)

    def _one(self, name: str, scenario: Scenario) -> None:
        try:
            played = play(scenario, self._native, lambda text: self._turns.note(name, text))
            self.played[name] = scenario, played
        except (LabError, OSError) as error:
            self._turns.fail(name, str(error))

    def document(self, complete: bool) -> dict[str, Any]:
        """Everything so far."""
        return report.storm_document(self.played, self._about, self.failed, complete)

    def save(self, complete: bool) -> None:
        """The document, and a picture for each."""
        doc = self.document(complete)
        replace_file(self._out / "storm.json", doc)
        for name, (scenario, found) in self.played.items():
            picture = report.storm_svg(name, scenario, found, report.heading(doc))
            (self._out / f"storm-{name}.svg").write_text(picture)


def read(names: Sequence[str], scale: float) -> dict[str, Scenario]:
    """By name of the folder's scenarios, or by file."""
    found: dict[str, Scenario] = {}
    for name in names:
        path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
        try:
            found[path.stem] = scaled(parse(path.read_text()), scale)
        except (ScenarioError, OSError) as error:
            sys.exit(f"{path}: {error}")
    return found


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.load.storm", description="What goes wrong at once."
    )
    named = [name.strip() for name in os.environ.get("SCENARIOS", "").split(",") if name.strip()]
    parser.add_argument("scenarios", nargs="*", default=named or list(USUAL), help="names, or files")
    parser.add_argument("--scale", type=float, default=1.0, help="of clients and their pace")
    parser.add_argument(
        "--loop", action="store_true", help="without a native worker: the event loop moves packets"
    )
    parser.add_argument("--minutes", type=float, default=BUDGET_MIN, help="what takes longer is left out")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print an earlier run, measure nothing")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    given = arguments(argv)
    scenarios = read(given.scenarios, given.scale)
    storm = partial(Storm, scenarios, not given.loop, given.minutes, given.out)
    return show_or_run(given, storm, report.storm_tables, given.out / "storm.json")


if __name__ == "__main__":
    sys.exit(main())
