# SPDX-License-Identifier: Apache-2.0
"""One sitting: a gateway with thousands of sessions, asked about them while a client's traffic passes.

    client 10.1.0.1 ──── 10.1.0.2 gateway 10.3.0.1 ──── 10.3.0.2 backend        drawn in bench/tunnel/scene.py
    └─ tunnel 10.8.0.2 ────── 10.8.0.1 ─┘    10.2.0.2
                                              └──────── 10.2.0.1 the crowd

All sessions are real: every member of the crowd has completed a handshake. One more session is our own client's, whose
round trips are measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.tunnel.measure import Figures, round_trips
from bench.tunnel.ours import our_gateway
from bench.tunnel.scene import BACKEND, CLIENT, CROWD_ENDPOINT, ENDPOINT, GATEWAY, INSIDE, Scene
from bench.tunnel.storm import Crowd, encoded
from tests.net.jvpn import JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import Lab, LabError, Proc, python_module
from tests.net.traffic import wait_reachable
from tests.net.wg import Keys

STATS_PORT: Final = 51821
METRICS: Final = "/metrics"
PAGE: Final = "/api/v1/sessions"
# Half of what makes a gateway ask for cookies.
CROWD_PER_S: Final = 400.0
START_S: Final = 60.0
# Longer than the box is kept, so that each answer reads it anew, as a scrape of every 15 s does.
PAUSE_S: Final = 1.1
# What the API gives without a limit, and at most.
PAGE_SESSIONS: Final = 100
PAGE_MAX: Final = 500
# While pings run, somebody asks ten times a second: more than one ping in a hundred meets an answer in the making.
ASK_EVERY_S: Final = 0.1
PING_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of it; a test is content with little."""

    sessions: int = 5000
    scrapes: int = 8  # with a pause before each
    quick: int = 100  # without
    pings: int = 600

    @property
    def seconds(self) -> float:
        """Roughly how long a sitting takes."""
        return 10 + self.sessions / CROWD_PER_S + self.scrapes * PAUSE_S + 3 * self.pings * PING_S * 1.2


# Tables of the gateway's configuration.
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "aggregates": {},
    "per-session": {"stats": {"per_session": True}},
}


class Sitting:
    """A gateway with its sessions, for as long as the block lasts."""

    def __init__(self, lab: Lab, tables: Mapping[str, Any], sizes: Sizes) -> None:
        self._scene, self._sizes = Scene.build(lab), sizes
        self._place = self._scene.add_crowd()
        self._crowd = Crowd.generate(sizes.sessions - 1)
        self._keys, client = Keys.generate(), Keys.generate()
        known = [JvpnPeer("client", client.public, [f"{CLIENT}/32"]), *self._crowd.peers()]
        self._gateway: JvpnGateway = our_gateway(self._scene, self._keys, known, tables)
        there = {
            "public_key": self._keys.public,
            "endpoints": [ENDPOINT],
            "allowed_ips": [f"{GATEWAY}/32", INSIDE],
        }
        self._client = JvpnClient(lab, self._scene.client, client, [f"{CLIENT}/32"], there)

    def start(self) -> None:
        """Returns when all sessions are attached."""
        self._gateway.start(START_S)
        self._client.start()
        wait_reachable(self._scene.client, BACKEND)
        self._gather()
        if (found := self.attached()) != self._sizes.sessions:
            raise LabError(f"{found} of {self._sizes.sessions} sessions are attached")

    def _gather(self) -> None:
        folder = self._scene.lab.tmp
        file = folder / "members.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps([encoded(private) for private in self._crowd.privates]))
        host, port = CROWD_ENDPOINT
        words = (host, str(port), self._keys.public, str(file), str(CROWD_PER_S))
        argv = python_module("bench.ops.crowd", *words)
        done = self._place.run(argv, timeout_s=30 + 6 * self._sizes.sessions / CROWD_PER_S)
        came = json.loads(done.stdout.splitlines()[-1])["sessions"]
        if came != self._sizes.sessions - 1:
            raise LabError(f"{came} of {self._sizes.sessions - 1} members of the crowd came in")

    def attached(self) -> int:
        """Sessions that carry traffic, as the control socket counts them."""
        rows = self._gateway.call("sessions")["sessions"]
        return sum(row["state"] == "ATTACHED" for row in rows)

    def stop(self) -> None:
        """In order."""
        self._client.stop()
        self._gateway.stop()

    # --- asking -------------------------------------------------------------------------------------------------------

    def _argv(self, mode: str, *words: object) -> list[str]:
        pid = self._gateway.proc.pid
        return python_module("bench.ops.ask", mode, str(STATS_PORT), str(pid), *map(str, words))

    def _ask(self, mode: str, *words: object) -> dict[str, Any]:
        done = self._gateway.namespace.run(self._argv(mode, *words), timeout_s=120)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def measure(self) -> Figures:
        """All figures of one sitting."""
        sizes = self._sizes
        paused = self._ask("times", METRICS, sizes.scrapes, PAUSE_S)
        quick = self._ask("times", METRICS, sizes.quick, 0)
        page, largest = self._ask("pages", PAGE_SESSIONS), self._ask("pages", PAGE_MAX)
        figures = {
            **spelled("metrics", paused),
            "metrics_quick_ms": median(quick["times_ms"]),
            "metrics_quick_cpu_ms": quick["cpu_ms"],
            **spelled("page", page),
            **spelled("largest", largest),
            **self._pings(),
        }
        if (left := self.attached()) != sizes.sessions:
            raise LabError(f"{left} of {sizes.sessions} sessions were still attached at the end")
        return {**figures, "sessions": float(left)}

    def _pings(self) -> Figures:
        """Round trips while nobody asks, and while somebody does."""
        idle = round_trips(self._scene.client, self._sizes.pings, "idle_")
        scraped = self._beside(METRICS, "scraped_")
        paged = self._beside(f"{PAGE}?limit={PAGE_SESSIONS}", "paged_")
        added = {
            f"{name}_adds_ms": (figures[f"{name}_p99_us"] - idle["idle_p99_us"]) / 1000
            for name, figures in (("scraped", scraped), ("paged", paged))
        }
        return {**idle, **scraped, **paged, **added}

    def _beside(self, path: str, prefix: str) -> Figures:
        seconds = 1.2 * self._sizes.pings * PING_S
        asking: Proc = self._gateway.namespace.spawn(
            self._argv("steady", path, seconds, ASK_EVERY_S), "asking"
        )
        asking.wait_line("ready")
        found = round_trips(self._scene.client, self._sizes.pings, prefix)
        asking.wait(seconds + 20)
        asked = json.loads(asking.stdout.splitlines()[-1])
        return {**found, f"{prefix}answers": float(len(asked["times_ms"]))}


def spelled(name: str, asked: Mapping[str, Any]) -> Figures:
    """Figures of one kind of question under its name."""
    times: Sequence[float] = asked["times_ms"]
    return {
        f"{name}_ms": median(times),
        f"{name}_max_ms": max(times),
        f"{name}_cpu_ms": asked["cpu_ms"],
        f"{name}_kb": asked["bytes"] / 1000,
    }


def sit(variant: str, sizes: Sizes) -> Figures:
    """One sitting from its start to its end; LabError when it could not be had."""
    with Lab() as lab:
        sitting = Sitting(lab, VARIANTS[variant], sizes)
        sitting.start()
        figures = sitting.measure()
        sitting.stop()
    return figures
