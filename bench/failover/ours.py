# SPDX-License-Identifier: Apache-2.0
"""Runs with our own gateway and client: a gateway per block; per run a client with its own key, so a fresh session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from bench.failover import measure
from bench.failover.plan import Event, Profile
from tests.net import journal
from tests.net.jump import JumpClient, JumpGateway, SessionView, end
from tests.net.lab import Lab, LabError
from tests.net.stream import Stream, StreamLog
from tests.net.topology import Topology, Uplink, boot_ns

# A stream this old is steady: handshake, HELLO and the first measurements of both paths are behind it.
WARM_S: Final = 0.8
IDLE_S: Final = 1.0
RESUME_S: Final = 0.3
# The relays hold a packet for 10 ms.
DRAIN_S: Final = 0.15
LOSS: Final = 0.30
POLICIES: Final[dict[str, Mapping[str, Mapping[str, Any]]]] = {
    "default": {},
    "critical": {"liveness": {"profile": "critical"}},
}


class Block:
    """A gateway that serves a number of runs, each with the next of its peers."""

    def __init__(self, lab: Lab, topology: Topology, profile: Profile, peers: int) -> None:
        self.lab, self.topology = lab, topology
        self.gateway = JumpGateway(lab, topology, peers=peers, policy=POLICIES[profile])
        self.gateway.daemon.start()
        self._next = 0

    def run(self, event: Event) -> dict[str, Any]:
        """One run; the figures. LabError when it could not be made."""
        client = self.gateway.client(self._next)
        self._next += 1
        for uplink in self.topology.uplinks.values():
            uplink.heal()
            self.topology.set_link(uplink.side, True)
        self.gateway.journal.forget()
        try:
            return self._measured(event, client)
        finally:
            end(client.daemon)

    def close(self) -> list[str]:
        """Stop the gateway; everything wrong with its journal."""
        self.gateway.daemon.stop()
        return journal.problems(self.gateway.daemon.state_dir)

    def _measured(self, event: Event, client: JumpClient) -> dict[str, Any]:
        before = client.start()
        with client.stream() as stream:
            time.sleep(WARM_S)
            times = self._happen(event, client, stream)
            log = stream.stop(DRAIN_S)
        after = client.view()
        client.daemon.stop()
        return self._figures(event, client, log, times, (before, after))

    def _happen(self, event: Event, client: JumpClient, stream: Stream) -> dict[str, int]:
        uplink = client.wait_settled(3.0) and client.active()
        if event.idle:
            stream.pause()
            time.sleep(IDLE_S)
        cut_ns = cut(event, client, uplink)
        time.sleep(event.observe_s)
        until_ns = boot_ns()
        resumed_ns = until_ns
        if event.idle:
            stream.resume()
            time.sleep(RESUME_S)
        return {"cut_ns": cut_ns, "until_ns": until_ns, "resumed_ns": resumed_ns}

    def _figures(
        self,
        event: Event,
        client: JumpClient,
        log: StreamLog,
        times: dict[str, int],
        views: tuple[SessionView, SessionView],
    ) -> dict[str, Any]:
        before, after = views
        ident, cut_ns = before.session_id, times["cut_ns"]
        client.journal.poll()
        self.gateway.journal.poll()
        ends = [
            [body for body in journal_.records if body.get("session_id") == ident]
            for journal_ in (client.journal, self.gateway.journal)
        ]
        if event.idle:
            found = measure.idle_figures(log, times["resumed_ns"], cut_ns, ends[0], ends[1])
        else:
            found = measure.stream_figures(log, cut_ns, times["until_ns"])
        found |= measure.audit_figures(event, cut_ns, ends[0], ends[1])
        created = client.journal.session_ids()
        found["session_unchanged"] = created == [ident] and after.session_id == ident
        found["state_after"] = after.state
        problems = journal.problems(client.daemon.state_dir)
        found["audit_ok"], found["audit_problems"] = not problems, problems[:5]
        return found


def cut(event: Event, client: JumpClient, uplink: Uplink) -> int:
    """Make it happen; when, on CLOCK_BOOTTIME."""
    kind = event.key.removesuffix("_critical")
    if kind == "link_down":
        return client.topology.set_link(uplink.side, False)
    if kind in ("blackhole_both", "blackhole_idle"):
        return uplink.blackhole("both")
    if kind == "blackhole_up":
        return uplink.blackhole("up")
    if kind == "blackhole_down":
        return uplink.blackhole("down")
    if kind == "nat_rebind":
        return uplink.rebind_port()
    if kind == "loss_30":
        return uplink.impair("both", loss=LOSS)
    if kind == "operator_switch":
        other, at_ns = client.standby().side, boot_ns()
        client.switch(other)
        return at_ns
    raise LabError(f"no such event: {event.key}")
