# SPDX-License-Identifier: Apache-2.0
"""New keys under traffic: not a packet is lost while they change.

Timers are shortened in our end only; wireguard-go has no way to shorten its own, so one test lives through
its 120 s.
"""

from __future__ import annotations

import time

import pytest

from tests.interop.wg.conftest import CONTROL, PAIRS, MakeTunnel
from tests.net.lab import Lab
from tests.net.traffic import TcpServer, UdpStream, ping, tcp_start
from tests.net.tunnel import BACKEND, CLIENT, Kind, Options, Site, Tunnel

# Reject must leave room for a keepalive and a retransmission (15 s).
SHORT_TIMERS = {"rekey_after_time": "2s", "reject_after_time": "20s"}


@pytest.mark.skipif(CONTROL, reason="wireguard-go's timers cannot be shortened")
def test_our_client_rekeys_every_two_seconds_without_losing_a_packet(make_tunnel: MakeTunnel) -> None:
    tunnel = make_tunnel(("jvpn", "wg"), client_tables={"keys": SHORT_TIMERS}).start()
    with UdpStream(tunnel.site.client, tunnel.site.backend, BACKEND[0], rate_pps=1000, echo=True) as stream:
        time.sleep(9)
        report = stream.stop()
    assert tunnel.handshakes() >= 4
    assert (report.lost_count, report.duplicate_count) == (0, 0)
    assert report.sent > 8000


@pytest.mark.skipif(CONTROL, reason="wireguard-go's timers cannot be shortened")
def test_our_gateway_rekeys_as_initiator_without_losing_a_packet(make_tunnel: MakeTunnel) -> None:
    """A gateway that knows its peer's endpoint and speaks first is the initiator, and so the one that
    rekeys.
    """
    options = {
        "client_port": 40000,
        "server_knows_client": True,
        "server_tables": {"keys": SHORT_TIMERS},
    }
    tunnel = make_tunnel(("wg", "jvpn"), **options)
    tunnel.client.start()
    tunnel.server.start()
    assert ping(tunnel.site.backend, CLIENT[1]).received > 0
    with UdpStream(tunnel.site.backend, tunnel.site.client, CLIENT[1], rate_pps=1000, echo=True) as stream:
        time.sleep(9)
        report = stream.stop()
    assert tunnel.handshakes() >= 4
    assert (report.lost_count, report.duplicate_count) == (0, 0)


@pytest.mark.skipif(CONTROL, reason="wireguard-go's timers cannot be shortened")
def test_a_bulk_transfer_survives_rekeys(make_tunnel: MakeTunnel) -> None:
    tunnel = make_tunnel(("jvpn", "wg"), client_tables={"keys": SHORT_TIMERS}, through_relay=True).start()
    # 16 Mbit/s: 12 MB take six seconds, three rekeys.
    tunnel.relayed().set("both", rate_mbit=16, queue_bytes=100_000)
    with TcpServer(tunnel.site.backend):
        assert tcp_start(tunnel.site.client, "send", BACKEND[1], 12_000_000).result(60.0).ok
    assert tunnel.handshakes() >= 3


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_real_rekey_after_120_seconds_loses_nothing(lab: Lab) -> None:
    """All pairs at once, default timers everywhere, long enough for the initiator's 120 s rekey."""
    kinds: tuple[tuple[Kind, Kind], ...] = (("wg", "wg"),) if CONTROL else PAIRS
    tunnels = [
        Tunnel(Site.build(lab, f"p{number}"), *kind, Options()).start() for number, kind in enumerate(kinds)
    ]
    before = [tunnel.handshakes() for tunnel in tunnels]
    streams = [
        UdpStream(tunnel.site.client, tunnel.site.backend, BACKEND[0], rate_pps=200, echo=True)
        for tunnel in tunnels
    ]
    time.sleep(128)
    for tunnel, stream, handshakes in zip(tunnels, streams, before, strict=True):
        with stream:
            report = stream.stop()
        assert tunnel.handshakes() == handshakes + 1, tunnel.kinds
        assert (report.lost_count, report.duplicate_count) == (0, 0), tunnel.kinds
        assert report.max_gap_ms < 500, tunnel.kinds
