# SPDX-License-Identifier: Apache-2.0
"""A client behind a NAT whose mapping changes: the relay takes a new source port, then a new source address.

client ── router (relay, NAT) ── server ── backend
             10.2.0.1, .11, .12
"""

from __future__ import annotations

import time

import pytest

from tests.interop.wg.conftest import CONTROL, MakeTunnel
from tests.net.traffic import UdpStream, ping
from tests.net.tunnel import BACKEND, SERVER, Kind, Tunnel, join

SOURCES = ("10.2.0.11", "10.2.0.12")
# A stock client that hears nothing back initiates after 15 s (whitepaper §6.5: keepalive 10 s + rekey
# timeout 5 s).
STOCK_REACTION_S = 20.0
# Our gateway asks a new address at most every 5 s.
OUR_REACTION_S = 6.0


def relay_tunnel(make_tunnel: MakeTunnel, pair: tuple[Kind, Kind], **options: object) -> Tunnel:
    """A tunnel through the relay, which may use two more addresses of the router."""
    tunnel = make_tunnel(pair, through_relay=True, relay_sources=SOURCES, **options)
    tunnel.site.router.add_address("eth1", *(f"{source}/24" for source in SOURCES))
    return tunnel.start()


def mapping(tunnel: Tunnel) -> str:
    """The address from which the client now seems to come."""
    ((host, port),) = tunnel.relayed().upstream_sources()
    return join(host, port)


def test_wireguard_roaming_moves_with_the_next_packet(
    make_tunnel: MakeTunnel, pair: tuple[Kind, Kind]
) -> None:
    tunnel = relay_tunnel(make_tunnel, pair, roaming="wireguard")
    before = tunnel.server_endpoint()
    assert before == mapping(tunnel)
    for rebind in (tunnel.relayed().rebind_port, tunnel.relayed().rebind_address):
        rebind()
        assert ping(tunnel.site.client, SERVER[0], count=3).received >= 2
        assert tunnel.server_endpoint() == mapping(tunnel) != before
        before = mapping(tunnel)


def test_handshake_roaming_moves_only_by_a_handshake_and_loses_no_time(make_tunnel: MakeTunnel) -> None:
    """The default policy: an authenticated packet from a new address makes our gateway initiate a
    handshake there.
    """
    tunnel = relay_tunnel(make_tunnel, ("wg", "jvpn"))
    for rebind in (tunnel.relayed().rebind_port, tunnel.relayed().rebind_address):
        handshakes = tunnel.handshakes()
        rebind()
        with UdpStream(tunnel.site.client, tunnel.site.backend, BACKEND[0], rate_pps=50) as stream:
            tunnel.wait_server_endpoint(mapping(tunnel), STOCK_REACTION_S if CONTROL else OUR_REACTION_S)
            # The way up never breaks: what comes from a new address is authenticated like any other.
            assert stream.stop().lost_count == 0
        assert ping(tunnel.site.client, BACKEND[1]).ok
        assert CONTROL or tunnel.handshakes() > handshakes


@pytest.mark.skipif(CONTROL, reason="wireguard-go has one roaming policy")
def test_a_peer_that_may_not_roam_stays_where_it_was(make_tunnel: MakeTunnel) -> None:
    tunnel = relay_tunnel(make_tunnel, ("wg", "jvpn"), roaming="never")
    before = tunnel.server_endpoint()
    tunnel.relayed().rebind_port()
    ping(tunnel.site.client, SERVER[0], count=3, wait_s=0.5)
    assert tunnel.server_endpoint() == before


@pytest.mark.skipif(CONTROL, reason="wireguard-go follows every copy: that is the trap")
def test_one_copied_packet_does_not_move_a_peer(make_tunnel: MakeTunnel) -> None:
    """Copy-and-forward (WireGuard: one forwarded copy moved 200 of 200 packets to the forwarder)."""
    tunnel = relay_tunnel(make_tunnel, ("wg", "jvpn"))
    before = tunnel.server_endpoint()
    tunnel.relayed().attack("up", "10.2.0.12", count=1, types=[4])
    # The copy wins the race: it comes first, and the original is the duplicate.
    assert ping(tunnel.site.client, SERVER[0], count=3).received >= 2
    stream = UdpStream(tunnel.site.backend, tunnel.site.client, "10.8.0.2", rate_pps=200, count=200)
    with stream:
        report = stream.finish()
    assert tunnel.server_endpoint() == before
    assert report.received == 200


def test_an_outage_of_a_second_heals_without_a_handshake(
    make_tunnel: MakeTunnel, pair: tuple[Kind, Kind]
) -> None:
    tunnel = relay_tunnel(make_tunnel, pair, client_keepalive_s=1)
    before = tunnel.handshakes()
    tunnel.relayed().blackhole("both")
    time.sleep(1.0)
    tunnel.relayed().clear()
    assert ping(tunnel.site.client, BACKEND[0], count=5).ok
    assert tunnel.handshakes() == before
    assert tunnel.server_endpoint() == mapping(tunnel)
