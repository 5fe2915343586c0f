# SPDX-License-Identifier: Apache-2.0
"""A gateway with all its clients attached, ready for load: what both benchmarks measure on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.load.driver import Answer, Swarm, together
from bench.load.gateway import PORT, LoadGateway, Tables
from bench.load.population import Population
from bench.load.scene import Scene
from bench.load.traffic import Flows, Load, Result
from bench.tunnel import search
from tests.net.jvpn import CLI
from tests.net.lab import Lab, LabError, python_module

ATTACH_PER_S: Final = 1000.0
# A gateway that keeps no pace is still waited for, and a swarm that is stuck is not.
SLACK_S: Final = 30.0
START_S: Final = 60.0
START_PER_PEER_S: Final = 0.001
POLL_S: Final = 0.5
TOLD_EVERY_S: Final = 5.0
# Clients that come without waiting for each other, and how long each is waited for.
GROUP: Final = 500
GROUP_S: Final = 20.0
SETTLE_S: Final = 60.0
RECOVER_S: Final = 120.0
# An hour's journal of 100,000 clients.
AUDIT_S: Final = 1800.0
# The search begins here and doubles.
SEARCH_PER_S: Final = 2000.0
TRIAL_S: Final = 1
CONFIRM_S: Final = 3
# Generous: what a peer and a session take here in the gateway, the swarm and the configuration's text together.
ROOM_BYTES: Final = 40_000
ROOM_LEAST_BYTES: Final = 400_000_000


class NoRoom(LabError):
    """So many clients do not fit this machine."""


def check_room(sessions: int, available_bytes: int) -> None:
    """NoRoom unless the memory is there."""
    needed_bytes = ROOM_LEAST_BYTES + sessions * ROOM_BYTES
    if needed_bytes > available_bytes:
        raise NoRoom(
            f"{sessions:,} sessions take about {needed_bytes / 1e9:.1f} GB here, and "
            f"{available_bytes / 1e9:.1f} are available"
        )


def available_bytes() -> int:
    """Memory that nobody needs now."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(slots=True)
class Stand:
    """Everything that runs."""

    scene: Scene
    population: Population
    gateway: LoadGateway
    swarm: Swarm
    start_s: float
    configured_bytes: int  # resident before the first client

    stopped: bool = False

    def stop(self) -> None:
        """Both in order, the clients first."""
        if not self.stopped:
            self.stopped = True
            self.swarm.stop()
            self.gateway.stop(timeout_s=START_S)

    def audit(self) -> dict[str, float]:
        """Whether the journal of the stopped gateway is whole, and says what was decided: 1 or 0."""
        found = {}
        for figure, command in (("audit.verified", "verify"), ("audit.replayed", "replay")):
            argv = python_module(CLI, "audit", command, "--state-dir", str(self.gateway.state_dir))
            done = self.gateway.namespace.run(argv, check=False, timeout_s=AUDIT_S)
            found[figure] = float(done.returncode == 0)
        return found

    # --- clients ------------------------------------------------------------------------------------------------------

    def attach(self, first: int, count: int, note: Callable[[str], None]) -> Answer:
        """All of them come in, a group after the other at ``ATTACH_PER_S``: how a gateway bears those who do not wait
        for each other is a scenario of its own. Who did not come in is asked once more. Times are those of the
        slowest group.
        """
        found: Answer = {"attached": 0, "failed": 0, "seconds": 0.0}
        said_s = start_s = time.monotonic()
        for place in range(first, first + count, GROUP):
            size = min(GROUP, first + count - place)
            answer = self._attach_group(place, size)
            found = together(found, answer)
            if time.monotonic() - said_s >= TOLD_EVERY_S:
                said_s = time.monotonic()
                note(f"attach: {place + size - first:,} of {count:,}, {found['failed']} failed")
        return {**found, "seconds": time.monotonic() - start_s}

    def _attach_group(self, first: int, count: int) -> Answer:
        plan = {"from": first, "count": count, "rate_per_s": ATTACH_PER_S, "timeout_s": GROUP_S}
        answer = self.swarm.do("attach", GROUP_S + SLACK_S, **plan)
        if answer["failed"]:
            again = self.swarm.do("attach", GROUP_S + SLACK_S, **plan)
            # Who runs already is refused, and has come in.
            answer["attached"] += again["attached"]
            answer["failed"] = count - answer["attached"]
        return answer

    def attached(self) -> int:
        """Sessions that the clients have attached."""
        return int(self.swarm.status()["states"].get("ATTACHED", 0))

    def attached_here(self) -> int:
        """Sessions that the gateway has attached; 0 while it does not answer."""
        try:
            return int(self.gateway.metrics().get('jvpn_sessions{state="ATTACHED"}', 0))
        except (OSError, LabError):
            return 0

    def settle(
        self, count: int, within_s: float = SETTLE_S, ready: Callable[[Answer], bool] = bool, spared: int = 0
    ) -> Answer:
        """Wait until both ends have so many attached, the gateway all but ``spared`` of them, and ``ready`` agrees;
        the swarm's status then.
        """
        deadline_s = time.monotonic() + within_s
        while True:
            status = self.swarm.status()
            mine, here = status["states"].get("ATTACHED", 0), self.attached_here()
            if mine >= count and ready(status) and here >= count - spared:
                return status
            if time.monotonic() > deadline_s:
                said = f"{mine} of {count} sessions are attached, {here} at the gateway"
                raise LabError(f"{said}, after {within_s:g} s")
            time.sleep(POLL_S)

    def recover(self, count: int) -> None:
        """After a search that was too much: all, but for one in a thousand of the gateway's, which it judges by
        figures of its own.
        """
        self.settle(count, RECOVER_S, spared=count // 1000)

    # --- load ---------------------------------------------------------------------------------------------------------

    def run(self, load: Load, seconds: int) -> Result:
        """One run of the traffic program."""
        return Flows(self.scene, load, seconds).wait()

    def saturation(self, load: Load, count: int) -> search.Trial | None:
        """The highest rate with less than 1 % loss, ``load`` says over which sessions; ``count`` sessions are
        attached. Too much load loses them paths, so what comes next waits until they are back.
        """

        def attempt(rate_per_s: float, seconds: int = TRIAL_S) -> search.Trial:
            trial = self.run(load.at(rate_per_s), seconds).trial
            if not trial.passes:
                self.recover(count)
            return trial

        found = search.highest_rate(attempt, SEARCH_PER_S)
        return None if found is None else search.confirmed(lambda rate: attempt(rate, CONFIRM_S), found)


@contextmanager
def standing(seed: int, sessions: int, tables: Tables, note: Callable[[str], None]) -> Iterator[Stand]:
    """A started gateway with so many peers and a swarm of them; nobody is attached yet."""
    check_room(sessions, available_bytes())
    with Lab() as lab:
        scene, population = Scene.build(lab), Population(seed, sessions)
        note(f"{sessions:,} peers: writing the gateway's configuration")
        gateway = LoadGateway(scene, population, tables)
        note("starting the gateway")
        start_s = gateway.launch(START_S + START_PER_PEER_S * sessions)
        configured_bytes = gateway.rss_bytes()
        note(f"first handshake answered after {start_s:.1f} s; starting the swarm")
        swarm = Swarm(scene, population, PORT)
        stand = Stand(scene, population, gateway, swarm, start_s, configured_bytes)
        yield stand
        stand.stop()
