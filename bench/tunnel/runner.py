# SPDX-License-Identifier: Apache-2.0
"""All runs, in turn, and the file they are kept in.

Repetitions are interleaved (every peer once, then every peer again), so that a slow minute falls on all of them. A
measurement during which something else used the processors is taken again, a bounded number of times and only while
the whole keeps to its time; what was disturbed stays in the file, marked.

Rule: the file is whole after every measurement, so an interruption costs the one that runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.keeping import Timeout, first_line, replace_file, say
from bench.tunnel import report
from bench.tunnel.figures import Run
from bench.tunnel.measure import MEASUREMENTS, PORT, Figures, storm
from bench.tunnel.others import OTHER_PEERS
from bench.tunnel.ours import OUR_PEERS, Ours
from bench.tunnel.quiet import Verdict, judge, snapshot
from bench.tunnel.scene import BACKEND, NotAvailable, Peer, Scene
from bench.tunnel.storm import Crowd
from tests.net.lab import Lab, LabError, python_module
from tests.net.traffic import wait_reachable

PEERS: Final[dict[str, type[Peer]]] = {**OUR_PEERS, **OTHER_PEERS}
STORM: Final = "storm"
MEMORY: Final = "rss"
# Namespaces, two processes, a handshake, and the end of it all.
START_S: Final = 3.5
ERROR_CHARS: Final = 2000


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be run, how often, and how long it may take."""

    peers: Sequence[str]
    only: Sequence[str]
    runs: int
    repeats: int
    minutes: float
    out: Path

    def sittings(self) -> Iterator[Sitting]:
        """All of it in order."""
        for number in range(1, self.runs + 1):
            for peer in self.peers:
                kind = PEERS[peer]
                plain = [name for name in self.only if name != STORM and fits(kind, name)]
                if plain:
                    yield Sitting(number, peer, plain)
                if STORM in self.only and fits(kind, STORM):
                    yield Sitting(number, peer, [STORM])


def fits(kind: type[Peer], measurement: str) -> bool:
    """Whether the measurement says anything about this peer: a storm meets ours alone, and no cipher matters to it; the
    bare link has no process.
    """
    if measurement == STORM:
        return issubclass(kind, Ours) and kind.storms
    return measurement != MEMORY or kind is not OUR_PEERS["veth"]


@dataclass(frozen=True, slots=True)
class Sitting:
    """One repetition of one peer from its start to its end."""

    run: int
    peer: str
    measurements: Sequence[str]

    @property
    def seconds(self) -> float:
        """Roughly how long it takes."""
        return START_S + sum(MEASUREMENTS[name].seconds for name in self.measurements)


class Bench:
    """Everything that was measured so far."""

    def __init__(self, options: Options, about: dict[str, Any]) -> None:
        self.options, self._about = options, about
        self.runs: dict[tuple[str, str], list[Run]] = {}
        self.failed: list[str] = []
        self.absent: dict[str, str] = {}
        self._sittings = list(options.sittings())
        self._start_s = time.monotonic()
        self._done_s = 0.0  # of the plan

    @property
    def planned_s(self) -> float:
        """How long all of it takes when nothing is repeated."""
        return sum(sitting.seconds for sitting in self._sittings)

    def run(self) -> None:
        """All sittings; Timeout when the time is over."""
        wanted = self.options
        say(report.plan(wanted.peers, wanted.only, wanted.runs, self.planned_s, wanted.minutes))
        for sitting in self._sittings:
            if self._elapsed_s + sitting.seconds > 60 * self.options.minutes:
                raise Timeout
            before_s = self._done_s
            if sitting.peer not in self.absent:
                self._sit(sitting)
            self._done_s = before_s + sitting.seconds
            self.save(complete=False)

    def _sit(self, sitting: Sitting) -> None:
        try:
            with Lab() as lab:
                scene = Scene.build(lab)
                if sitting.measurements == [STORM]:
                    self._storm(sitting, scene)
                else:
                    self._plain(sitting, scene)
        except NotAvailable as error:
            self.absent[sitting.peer] = str(error)
            self._progress(sitting, "", f"not available in this build: {error}")
        except (LabError, OSError) as error:
            self._fail(sitting, "start", error)

    def _plain(self, sitting: Sitting, scene: Scene) -> None:
        server = scene.backend.spawn(python_module("bench.tunnel.load", "serve", str(PORT)), "backend-serve")
        server.wait_line("ready")
        peer = PEERS[sitting.peer](scene)
        start(peer, scene)
        self._done_s += START_S
        for name in sitting.measurements:
            measure = MEASUREMENTS[name].run
            assert measure is not None
            self._measure(sitting, name, partial(measure, scene, peer))
        peer.stop()

    def _storm(self, sitting: Sitting, scene: Scene) -> None:
        crowd, kind = Crowd.generate(), PEERS[sitting.peer]
        assert issubclass(kind, Ours)
        peer, place = kind(scene, crowd.peers()), scene.add_crowd()
        start(peer, scene)
        self._done_s += START_S
        self._measure(sitting, STORM, partial(storm, scene, place, crowd, peer))
        peer.stop()

    # --- one measurement ----------------------------------------------------------------------------------------------

    def _measure(self, sitting: Sitting, name: str, take: Callable[[], Figures]) -> None:
        for attempt in range(1 + self.options.repeats):
            before = snapshot()
            try:
                figures = take()
            except (LabError, OSError) as error:
                if attempt < self.options.repeats and self._has_time(name):
                    self._progress(sitting, name, f"{first_line(error)}; once more")
                    continue
                self._fail(sitting, name, error)
                return
            verdict = judge(before, snapshot())
            self._keep(sitting, name, figures, verdict)
            again = verdict.disturbed and attempt < self.options.repeats and self._has_time(name)
            self._done_s += 0.0 if again else MEASUREMENTS[name].seconds
            self._progress(sitting, name, report.brief(figures) + report.unrest(verdict, again))
            if not again:
                return

    def _keep(self, sitting: Sitting, name: str, figures: Figures, verdict: Verdict) -> None:
        about = {
            "run": sitting.run,
            "disturbed": verdict.disturbed,
            "foreign_share": round(verdict.foreign_share, 4),
            "steal_share": round(verdict.steal_share, 4),
        }
        self.runs.setdefault((sitting.peer, name), []).append({**about, **figures})
        self.save(complete=False)

    def _fail(self, sitting: Sitting, name: str, error: Exception) -> None:
        self.failed.append(f"{sitting.peer} {name}, run {sitting.run}: {str(error)[:ERROR_CHARS]}")
        self._progress(sitting, name, f"could not be measured: {first_line(error)}")

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._start_s

    @property
    def _left_s(self) -> float:
        """What is left of the plan, at the pace kept so far."""
        pace = max(1.0, self._elapsed_s / self._done_s) if self._done_s > START_S else 1.0
        return max(0.0, self.planned_s - self._done_s) * pace

    def _has_time(self, name: str) -> bool:
        return self._elapsed_s + self._left_s + MEASUREMENTS[name].seconds < 60 * self.options.minutes

    def _progress(self, sitting: Sitting, name: str, text: str) -> None:
        clock = f"[{self._elapsed_s:5.0f} s, about {self._left_s:5.0f} s left]"
        what = f"{sitting.peer} {name}".rstrip()
        say(f"{clock} run {sitting.run}/{self.options.runs} {what}: {text}")

    # --- results ------------------------------------------------------------------------------------------------------

    def document(self, complete: bool) -> dict[str, Any]:
        """Everything so far."""
        about = {**self._about, "seconds": round(self._elapsed_s, 1), "runs_wanted": self.options.runs}
        return report.document(self.runs, about, self.failed, self.absent, complete)

    def save(self, complete: bool) -> None:
        """Into the file."""
        replace_file(self.options.out, self.document(complete))


def start(peer: Peer, scene: Scene) -> None:
    """Returns when it carries traffic and is what its name says."""
    peer.start()
    wait_reachable(scene.client, BACKEND)
    peer.check()
