# SPDX-License-Identifier: Apache-2.0
"""What WELCOME tells a client: its own addresses, and ways to the gateway that its configuration does not know.

          ┌─ upa ── relay A ─┐      the client is configured with relay A,
client ───┤                  ├─── gateway ── backend      the gateway advertises relay B
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import time
from typing import Any

from tests.e2e.sessions.bed import LONG_WINDOW, ONE_UPLINK
from tests.e2e.sessions.conftest import MakeBed
from tests.net.jvpn import Daemon
from tests.net.topology import BACKEND, ENDPOINTS
from tests.net.traffic import ping

ADVERTISED = {"gateway": {"advertise": [ENDPOINTS[1]]}}


def told(client: Daemon) -> dict[str, Any]:
    """What the only gateway of a client told it, as soon as it has: a session is ATTACHED a round trip before."""
    deadline_s = time.monotonic() + 5.0
    while not (found := client.status()["told"]):
        assert time.monotonic() < deadline_s, "no WELCOME"
        time.sleep(0.02)
    (one,) = found.values()
    return dict(one)


def test_an_advertised_endpoint_becomes_a_path(make_bed: MakeBed) -> None:
    """It is proven as a standby, and carries the session when the configured way is gone."""
    bed = make_bed(policy=LONG_WINDOW, endpoints=ONE_UPLINK, gateway_tables=ADVERTISED)
    seen = bed.start()
    assert bed.topology.side_of(seen.path or "") == "a"
    assert [bed.topology.side_of(path.address) for path in seen.with_status("STANDBY")] == ["b"]
    shown = told(bed.client.daemon)
    assert (shown["inner_addresses"], shown["endpoints"]) == ([f"{bed.client.host}/32"], [ENDPOINTS[1]])
    # The client's own source address, as relay A presents it to the gateway.
    assert shown["observed"].startswith("10.11.0.1:")
    assert f"further ways  {ENDPOINTS[1]}" in bed.client.daemon.cli("status")
    bed.topology.set_link("a", False)
    bed.client.wait_view(lambda view: view.epoch == 2 and view.state == "ATTACHED", "the switch")
    assert bed.client.active().side == "b"
    assert ping(bed.topology.client, BACKEND, count=5).received == 5
    bed.same_session()


def test_without_leave_it_is_only_shown(make_bed: MakeBed) -> None:
    bed = make_bed(
        policy=LONG_WINDOW,
        endpoints=ONE_UPLINK,
        gateway_tables=ADVERTISED,
        client_tables={"transport": {"include": ["up*"], "learn_endpoints": False}},
    )
    seen = bed.start(settled=False)
    assert told(bed.client.daemon)["endpoints"] == [ENDPOINTS[1]]
    assert ping(bed.topology.client, BACKEND, count=5, interval_s=0.3).ok
    assert [bed.topology.side_of(path.address) for path in bed.client.view().paths] == ["a"]
    assert bed.client.view().session_id == seen.session_id


def test_learned_ways_keep_to_max_candidates(make_bed: MakeBed) -> None:
    """Sixteen more ways, and room for two paths: each uplink has its one."""
    many = [ENDPOINTS[1], *(f"10.2.0.{host}:51820" for host in range(100, 115))]
    bed = make_bed(
        policy=LONG_WINDOW,
        endpoints=ONE_UPLINK,
        gateway_tables={"gateway": {"advertise": many}},
        client_tables={"transport": {"include": ["up*"], "max_candidates": 2}},
    )
    seen = bed.start()
    assert len(seen.paths) == 2
    assert len(told(bed.client.daemon)["endpoints"]) == 16


def test_both_ends_probe_at_the_slower_pace_that_is_asked_for(make_bed: MakeBed) -> None:
    """session.md §4, liveness.profile: the client asks in HELLO, the gateway goes along."""
    slow = {**LONG_WINDOW, "liveness": {"profile": "metered"}}
    bed = make_bed(policy=LONG_WINDOW, client_policy=slow, endpoints=ONE_UPLINK)
    seen = bed.start(settled=False)
    bed.gateway.journal.wait(lambda body: body["event"] == "POLICY_EVENT" and body["applied"], "the profile")
    told(bed.client.daemon)
    for journal in bed.ends():
        policies = {body["policy"]: body["values"] for body in journal.records if body["event"] == "POLICY"}
        last = [body for body in journal.records if body.get("session_id") == seen.session_id][-1]
        assert policies[last["policy"]]["liveness.profile"] == "METERED"
