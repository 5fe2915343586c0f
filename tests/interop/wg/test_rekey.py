# SPDX-License-Identifier: Apache-2.0
"""New keys under traffic: not a packet is lost while they change.

Timers are shortened in our end only; wireguard-go has no way to shorten its own, so one test lives through
its 120 s.
"""

from __future__ import annotations

import pytest

from tests.interop.wg.conftest import CONTROL, LongRun
from tests.net.lab import Lab
from tests.net.traffic import TcpServer, UdpStream, ping, tcp_start
from tests.net.tunnel import BACKEND, CLIENT, Options, Site, Tunnel

# Initiations are 5 s apart at least; reject must leave room for a keepalive and a retransmission (15 s).
SHORT_TIMERS = {"rekey_after_time": "5s", "reject_after_time": "20s"}


@pytest.mark.slow
@pytest.mark.skipif(CONTROL, reason="wireguard-go's timers cannot be shortened")
def test_our_end_rekeys_every_five_seconds_without_losing_a_packet(lab: Lab) -> None:
    """Three tunnels at once: our client; our gateway, as initiator; our client with a slow bulk transfer.

    A gateway that knows its peer's endpoint and speaks first is the initiator, and so the one that rekeys.
    """
    ours = {"keys": SHORT_TIMERS}
    calling = Options(client_tables=ours)
    called = Options(client_port=40000, server_knows_client=True, server_tables=ours)
    bulk = Options(client_tables=ours, through_relay=True)
    from_client = Tunnel(Site.build(lab, "a"), "jvpn", "wg", calling).start()
    from_gateway = Tunnel(Site.build(lab, "b"), "wg", "jvpn", called)
    moving = Tunnel(Site.build(lab, "c"), "jvpn", "wg", bulk).start()
    from_gateway.client.start()
    from_gateway.server.start()
    assert ping(from_gateway.site.backend, CLIENT[1]).received > 0
    # 16 Mbit/s: 30 MB take 15 s.
    moving.relayed().set("both", rate_mbit=16, queue_bytes=100_000)
    site = from_gateway.site
    with (
        TcpServer(moving.site.backend),
        UdpStream(
            from_client.site.client, from_client.site.backend, BACKEND[0], rate_pps=800, echo=True
        ) as one,
        UdpStream(site.backend, site.client, CLIENT[1], rate_pps=800, echo=True) as two,
    ):
        transfer = tcp_start(moving.site.client, "send", BACKEND[1], 30_000_000).result(60.0)
        reports = [stream.stop() for stream in (one, two)]
    assert transfer.ok
    assert [(report.lost_count, report.duplicate_count) for report in reports] == [(0, 0), (0, 0)]
    for tunnel in (from_client, from_gateway, moving):
        assert tunnel.handshakes() >= 3, tunnel.kinds


@pytest.mark.slow
def test_the_real_rekey_after_120_seconds_loses_nothing(long_run: LongRun) -> None:
    """Default timers everywhere, beside the load of all other tests, past the initiator's 120 s rekey."""
    long_run.wait_until(128)
    rekeys_at_most = long_run.elapsed_s / 120 + 1
    for tunnel, stream, before in zip(
        long_run.tunnels, long_run.streams, long_run.handshakes_before, strict=True
    ):
        with stream:
            report = stream.stop()
        assert 1 <= tunnel.handshakes() - before <= rekeys_at_most, tunnel.kinds
        assert (report.lost_count, report.duplicate_count) == (0, 0), tunnel.kinds
        assert report.sent > 12_000, tunnel.kinds
