# SPDX-License-Identifier: Apache-2.0
"""wireguard-go at both ends of the same topology: one tunnel, helped by its host's second route.

What it never leaves is watched for 20 s in several laboratories at once; what it does leave, one run at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.failover import measure
from bench.failover.ours import IDLE_S, LOSS, WARM_S
from bench.failover.plan import STOCK_CUTOFF_S, Event
from tests.net.lab import Lab
from tests.net.stream import Stream
from tests.net.topology import (
    ALLOWED,
    BACKEND,
    INNER_CLIENT,
    INNER_GATEWAY,
    INNER_PREFIX,
    PORT,
    SHARED,
    Topology,
    boot_ns,
)
from tests.net.traffic import wait_reachable
from tests.net.wg import Keys, WgDevice, WgPeer

SHORT_S: Final = 3.0
# An operator's route: better than both that the host has.
PREFERRED_METRIC: Final = "50"


@dataclass(slots=True)
class StockPair:
    """Two wireguard-go processes with fresh keys on a topology with a shared endpoint."""

    topology: Topology
    client: WgDevice
    gateway: WgDevice

    @classmethod
    def start(cls, lab: Lab, topology: Topology) -> StockPair:
        """Start both and wait for the first answer through the tunnel."""
        ours, theirs = Keys.generate(), Keys.generate()
        inside = WgPeer(ours.public, [f"{INNER_CLIENT}/32"])
        outside = WgPeer(theirs.public, ALLOWED, f"{SHARED}:{PORT}")
        addresses = ([f"{INNER_GATEWAY}/{INNER_PREFIX}"], [f"{INNER_CLIENT}/{INNER_PREFIX}"])
        gateway = WgDevice(lab, topology.gateway, theirs, addresses[0], [inside], listen_port=PORT).start()
        client = WgDevice(lab, topology.client, ours, addresses[1], [outside]).start()
        wait_reachable(topology.client, BACKEND)
        return cls(topology, client, gateway)

    def stop(self) -> None:
        """End both."""
        self.client.kill()
        self.gateway.kill()

    def stream(self) -> Stream:
        """A measured stream through the tunnel, from now on."""
        lab = self.topology.lab
        return Stream(self.topology.client, self.topology.backend, INNER_CLIENT, BACKEND, lab.tmp)

    def cut(self, event: Event) -> int:
        """Make it happen on the first uplink; when, on CLOCK_BOOTTIME."""
        uplink = self.topology.a
        if event.key == "link_down":
            at_ns = self.topology.set_link("a", False)
            # The kernel says nothing of routes that went with a link: the host's network manager does it here.
            self._prefer_second()
            return at_ns
        if event.key == "operator_switch":
            at_ns = boot_ns()
            self._prefer_second()
            return at_ns
        if event.key == "nat_rebind":
            return uplink.rebind_port()
        if event.key == "loss_30":
            return uplink.impair("both", loss=LOSS)
        ways = {"blackhole_up": "up", "blackhole_down": "down"}.get(event.key, "both")
        return uplink.blackhole(ways)  # type: ignore[arg-type]

    def _prefer_second(self) -> None:
        route = ("route", "replace", f"{SHARED}/32", "via", "10.2.0.2", "metric", PREFERRED_METRIC)
        self.topology.client.ip(*route)

    def restore(self) -> None:
        """The uplinks as they were."""
        self.topology.client.ip(
            "route", "del", f"{SHARED}/32", "via", "10.2.0.2", "metric", PREFERRED_METRIC, check=False
        )
        for uplink in self.topology.uplinks.values():
            uplink.heal()
            self.topology.set_link(uplink.side, True)


def run_together(
    lab: Lab,
    topologies: list[Topology],
    event: Event,
    observe_s: float,
    done: Callable[[dict[str, Any]], None],
) -> None:
    """One run on each topology, all at once; ``done`` gets the figures of each."""
    pairs = [StockPair.start(lab, topology) for topology in topologies]
    streams = [pair.stream() for pair in pairs]
    time.sleep(WARM_S)
    if event.idle:
        for stream in streams:
            stream.pause()
        time.sleep(IDLE_S)
    cuts = [pair.cut(event) for pair in pairs]
    resumed = [0] * len(pairs)
    if event.idle:
        time.sleep(event.observe_s)
        resumed = [boot_ns() for stream in streams if stream.resume() is None]
    time.sleep(max(0.0, observe_s - (boot_ns() - cuts[0]) / 1e9))
    until_ns = boot_ns()
    for pair, stream, cut_ns, resumed_ns in zip(pairs, streams, cuts, resumed, strict=True):
        log = stream.stop()
        if event.idle:
            done(measure.idle_stock_figures(log, resumed_ns, cut_ns, until_ns))
        else:
            done(measure.stream_figures(log, cut_ns, until_ns))
        pair.stop()
        pair.restore()


def observe_s(event: Event, short: bool) -> float:
    """How long a stock run is watched."""
    return SHORT_S if short and event.stock_heals else STOCK_CUTOFF_S + 0.2
