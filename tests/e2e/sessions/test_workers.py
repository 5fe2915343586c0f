# SPDX-License-Identifier: Apache-2.0
"""Sessions over native workers: they move between paths, sockets and workers, and remain what they are.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import time
from typing import Any, Final

import pytest

from tests.e2e.sessions.bed import NS_PER_S, ONE_UPLINK, Bed, in_order
from tests.e2e.sessions.conftest import MakeBed
from tests.net.topology import boot_ns

WORKERS: Final = {"one": {"count": 1, "native": True}, "two": {"count": 2}}
# A new outer flow has even odds to come to the other worker; 16 of them leave 1 in 65,000.
REBINDS: Final = 16


def native(make_bed: MakeBed, each: dict[str, Any], **options: Any) -> Bed:
    """A bed whose ends have these [workers]."""
    return make_bed(gateway_tables={"workers": each}, client_tables={"workers": each}, **options)


@pytest.mark.parametrize("count", WORKERS)
def test_an_operators_switch_loses_nothing(make_bed: MakeBed, count: str) -> None:
    bed = native(make_bed, WORKERS[count])
    bed.start()
    target = bed.client.standby()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        at_ns = boot_ns()
        bed.client.switch(target.side)
        bed.client.wait_view(
            lambda seen: bool(seen.path) and bed.topology.side_of(seen.path or "") == target.side, "switched"
        )
        time.sleep(1.0)
        log = stream.stop()
    bed.same_session()
    assert log.tcp.alive_after(at_ns + NS_PER_S // 2)
    assert (log.up.lost(at_ns), log.down.lost(at_ns)) == ([], [])


@pytest.mark.parametrize("count", WORKERS)
@pytest.mark.parametrize("how", ["link", "blackhole"])
def test_a_dead_path_is_left(make_bed: MakeBed, count: str, how: str) -> None:
    bed = native(make_bed, WORKERS[count])
    bed.start()
    active = bed.client.active()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        cut_ns = bed.topology.set_link(active.side, False) if how == "link" else active.blackhole("both")
        time.sleep(3.0)
        log = stream.stop()
    seen = bed.same_session()
    assert bed.topology.side_of(seen.path or "") != active.side
    mine, theirs = bed.ends()
    assert in_order(["VOLATILE", "RECOVERING", "ATTACHED"], mine.states(cut_ns))
    assert in_order(["VOLATILE", "RECOVERING", "ATTACHED"], theirs.states(cut_ns))
    assert log.tcp.alive_after(cut_ns + NS_PER_S), log.tcp


def test_a_socket_is_closed_and_opened_again_under_traffic(make_bed: MakeBed) -> None:
    """The client's device goes and is made anew: its path has other sockets, and the other path's traffic stays."""
    bed = native(make_bed, WORKERS["two"])
    bed.start()
    standby = bed.client.standby()
    with bed.client.stream() as stream:
        time.sleep(0.5)
        at_ns = boot_ns()
        for _ in range(3):
            bed.topology.set_link(standby.side, False)
            bed.client.wait_view(lambda seen: len(seen.with_status("STANDBY")) == 0, "no standby")
            bed.topology.set_link(standby.side, True)
            bed.client.wait_view(lambda seen: len(seen.with_status("STANDBY")) == 1, "a standby again")
        log = stream.stop()
    bed.same_session()
    assert (log.up.lost(at_ns), log.down.lost(at_ns)) == ([], [])


def test_a_session_moves_from_worker_to_worker_of_the_gateway(make_bed: MakeBed) -> None:
    """A new port of the translator is a new flow to the kernel, and one day another worker's."""
    bed = native(make_bed, WORKERS["two"], endpoints=ONE_UPLINK)
    bed.start(settled=False)
    uplink = bed.topology.a
    with bed.client.stream(200.0) as stream:
        for number in range(REBINDS):
            received = [each["rx_datagrams"] for each in gateway_workers(bed)]
            if min(received) > 100:
                break
            at_ns = uplink.rebind_port()
            bed.gateway.journal.wait(
                lambda body: body["event"] == "TRANSPORT_SWITCH", f"rebind {number}", 5.0, since_ns=at_ns
            )
            time.sleep(4.0)  # rebinds of the same path are limited to 20 in a minute
        log = stream.stop()
    assert min(received) > 100, received
    bed.same_session()
    assert not log.tcp.error


def gateway_workers(bed: Bed) -> list[dict[str, int]]:
    """What `jvpn status` says of each worker of the gateway."""
    return list(bed.gateway.daemon.status()["workers"]["each"])
