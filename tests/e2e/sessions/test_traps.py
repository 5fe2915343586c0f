# SPDX-License-Identifier: Apache-2.0
"""The traps of other systems that need a wire, each a test named after the one that fell into it.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import os
import time

import pytest

from tests.e2e.sessions.bed import LONG_WINDOW, NS_PER_S, ONE_UPLINK, Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.lab import Lab
from tests.net.stream import Stream
from tests.net.topology import ALLOWED, BACKEND, INNER_CLIENT, INNER_PREFIX, PORT, boot_ns
from tests.net.traffic import TcpServer, tcp_recv, tcp_send, wait_reachable
from tests.net.wg import WgDevice, WgPeer

MEGABYTE = 1_000_000
# A discretionary switch straight back is suppressed for 2 s.
BACK_S = 2.6


def stock_client(bed: Bed) -> WgDevice:
    """wireguard-go with the keys of peer 0, through relay A."""
    peer = WgPeer(bed.gateway.daemon.keys.public, ALLOWED, f"10.1.0.2:{PORT}")
    host = f"{INNER_CLIENT}/{INNER_PREFIX}"
    return WgDevice(bed.lab, bed.topology.client, bed.gateway.peer_keys[0], [host], [peer])


def stream_of(lab: Lab, bed: Bed, rate_pps: float = 500.0) -> Stream:
    """A stream of the first peer, whichever client has its keys."""
    return Stream(
        bed.topology.client, bed.topology.backend, INNER_CLIENT, BACKEND, lab.tmp, rate_pps=rate_pps
    )


# --- WireGuard: any authenticated packet moves the endpoint --------------------------------------------------------


def test_wireguard_one_forwarded_copy_moves_nothing_with_our_client(make_bed: MakeBed) -> None:
    """One copied packet made a gateway send 200 of 200 packets to the forwarder."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    real, before = active.mapping(), bed.versions()
    with bed.client.stream(200.0) as stream:
        time.sleep(1.0)
        began_ns = boot_ns()
        active.relay.attack("up", active.attacker, count=1)
        time.sleep(3.0)
        log = stream.stop()
    assert bed.gateway_sends_to() == real
    assert bed.versions() == before
    assert log.down.lost(began_ns) == []
    # Ciphertext that he already had, within three times what he forwarded, and challenges: never the stream.
    assert active.relay.stats()["down"]["back"] <= 12


@pytest.mark.parametrize("roaming", ["handshake", "wireguard"])
@pytest.mark.parametrize("count", [1, None], ids=["one-copy", "every-copy"])
def test_wireguard_a_forwarder_of_a_stock_client_does_not_stay_in_the_middle(
    lab: Lab, make_bed: MakeBed, count: int | None, roaming: str
) -> None:
    """A stock client cannot answer a challenge. "handshake": copies move nothing. "wireguard": he is left again."""
    bed = make_bed(peer_options={"roaming": roaming})
    bed.gateway.daemon.start()
    stock = stock_client(bed).start()
    wait_reachable(bed.topology.client, BACKEND)
    active = bed.topology.a
    real = active.mapping()
    with stream_of(lab, bed) as stream:
        time.sleep(1.0)
        active.relay.attack("up", active.attacker, count=count)
        time.sleep(3.0)
        if roaming == "handshake":
            assert bed.gateway_sends_to() == real
        active.relay.attack_off("up")
        time.sleep(2.0)
        ended_ns = boot_ns()
        time.sleep(1.0)
        log = stream.stop()
    assert bed.gateway_sends_to() == real
    assert log.down.arrived_after(ended_ns) > 300
    stock.stop()


# --- mud, engarde: junk ----------------------------------------------------------------------------------------------


def test_mud_junk_fills_no_path_slots(make_bed: MakeBed) -> None:
    """40 junk datagrams filled 32 of 32 slots; here a new path is still taken at once afterwards."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    paths = bed.gateway.session_of(bed.ident).paths
    for number in range(400):
        kind = (4, 0, 0, 0) if number % 2 else (5, 0, 1, 0)
        source = f"{active.attacker}:{9000 + number % 8}"
        active.relay.inject("up", bytes(kind) + os.urandom(64), source=source)
    assert [path.path_id for path in bed.gateway.session_of(bed.ident).paths] == [p.path_id for p in paths]
    standby = bed.client.standby()
    standby.rebind_port()
    time.sleep(3.0)
    assert any(standby.mapping() in path.address for path in bed.gateway.session_of(bed.ident).paths)


def test_engarde_a_spoofed_byte_earns_nothing(make_bed: MakeBed) -> None:
    """One spoofed byte earned 30 s of full downstream traffic."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    with bed.client.stream(500.0) as stream:
        time.sleep(0.5)
        for payload in (b"\x00", b"\x05", b"\x04\x00\x00\x00", os.urandom(148)):
            active.relay.inject("up", payload, source=f"{active.attacker}:9999")
        time.sleep(2.0)
        stream.stop()
    assert active.relay.stats()["down"]["back"] == 0
    bed.same_session()


# --- MLVPN, Nebula, iroh: what belongs to a path stays with it -------------------------------------------------------


def test_mlvpn_packets_of_another_path_are_no_loss_of_this_one(make_bed: MakeBed) -> None:
    """A global sequence made every path look 50 % lossy: after moving to and fro both measure no loss."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.start()
    with bed.client.stream() as stream:
        for _ in range(3):
            time.sleep(BACK_S)
            bed.client.wait_settled()
            bed.client.switch(bed.client.standby().side)
        time.sleep(2.0)
        seen, theirs = bed.client.view(), bed.gateway.session_of(bed.ident)
        stream.stop()
    for path in (*seen.paths, *theirs.paths):
        assert (path.loss or 0.0) <= 0.02, path
    mine, other = bed.ends()
    assert mine.of("VOLATILITY_SIGNAL") + other.of("VOLATILITY_SIGNAL") == []


def test_nebula_traffic_on_another_path_keeps_no_dead_path_alive(make_bed: MakeBed) -> None:
    """Liveness credited from another path keeps a dead one alive for ever."""
    bed = make_bed()
    bed.start()
    standby = bed.client.standby()
    path_id = bed.client.path_on(standby.side).path_id
    with bed.client.stream() as stream:
        time.sleep(1.0)
        cut_ns = standby.blackhole("both")
        lost = bed.client.journal.wait(
            lambda b: b["event"] in ("PATH_CHANGE", "TRANSPORT_DEAD") and b["path_id"] == path_id,
            "the standby is lost",
            5.0,
            cut_ns,
        )
        stream.stop()
    assert lost["mono_ns"] - cut_ns < 3 * NS_PER_S
    assert not [p for p in bed.client.view().paths if p.path_id == path_id and p.status == "STANDBY"]
    standby.heal()
    bed.client.wait_settled()


@pytest.mark.parametrize("mtu_bytes", [1400, 1300])
def test_iroh_a_size_learned_on_one_path_blackholes_no_other(make_bed: MakeBed, mtu_bytes: int) -> None:
    """The standby swallows large packets: it is used with what it carries, and transfers go on over it."""
    bed = make_bed()
    bed.start()
    standby = bed.client.standby()
    standby.impair("both", mtu_bytes=mtu_bytes)
    with TcpServer(bed.topology.backend):
        assert tcp_send(bed.topology.client, BACKEND, 5 * MEGABYTE).ok
        bed.client.switch(standby.side)
        time.sleep(1.0)
        assert tcp_send(bed.topology.client, BACKEND, 5 * MEGABYTE, timeout_s=60.0).ok
        assert tcp_recv(bed.topology.client, BACKEND, 5 * MEGABYTE, timeout_s=60.0).ok
    assert bed.topology.side_of(bed.same_session().path or "") == standby.side


# --- OpenMPTCProuter, ZeroTier, OpenVPN ------------------------------------------------------------------------------


def test_openmptcprouter_a_recovered_link_resets_nothing(make_bed: MakeBed) -> None:
    """The recovery of the preferred link resets every session there; here nothing moves, and nothing is reclaimed."""
    bed = make_bed()
    bed.start()
    first = bed.client.active()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        bed.topology.set_link(first.side, False)
        time.sleep(2.0)
        bed.client.wait_attached()
        versions, up_ns = bed.versions(), boot_ns()
        bed.topology.set_link(first.side, True)
        time.sleep(10.0)
        log = stream.stop()
    assert bed.versions()[1:] == versions[1:]
    assert (log.up.lost(up_ns), log.down.lost(up_ns)) == ([], [])
    assert log.tcp.alive_after(up_ns + NS_PER_S)
    assert len(bed.switches()) == 1


def test_zerotier_the_limiter_is_reached(make_bed: MakeBed) -> None:
    """Its anti-flap is computed and never read. Here the budget of operator switches is refused by name."""
    bed = make_bed(policy={"switching": {"max_switches_per_min": 4, "reserved": 2, "cooldown": "500ms"}})
    bed.start()
    denied = ""
    for _ in range(6):
        time.sleep(BACK_S)
        try:
            bed.client.switch(bed.client.standby().side)
        except Exception as error:
            denied = str(error)
            break
    assert "SWITCH_RATE_LIMITED" in denied
    bed.client.journal.wait(lambda body: body.get("rule") == "SWITCH_RATE_LIMITED", "the denial", 2.0)
    assert len(bed.switches()) <= 4
    bed.same_session()


def test_openvpn_an_address_collision_kills_no_innocent_session(make_bed: MakeBed) -> None:
    """A peer's NAT moves to the very address that another peer's session has: the other one does not notice."""
    bed = make_bed(peers=2, second_client=True, endpoints=ONE_UPLINK)
    bed.start(settled=False)
    assert bed.topology.second is not None
    other = bed.another_client(1, namespace=bed.topology.second, endpoints=ONE_UPLINK)
    other.start(settled=False)
    before = bed.versions()
    with bed.client.stream() as stream:
        time.sleep(0.5)
        began_ns = boot_ns()
        # Both sit behind relay A: it gives both new ports, and a flood from the one's address carries the other's junk.
        host, port = bed.topology.a.mapping(0).split(":")
        bed.topology.a.relay.inject("up", bytes((4, 0, 0, 0)) + os.urandom(60), count=200, flow=0)
        other.terminate("client")
        time.sleep(2.0)
        log = stream.stop()
    assert host and port
    assert bed.versions() == before
    assert log.up.lost(began_ns) == []
    bed.same_session()
