# SPDX-License-Identifier: Apache-2.0
"""Traffic between our daemons and wireguard-go (topology: tests/net/tunnel.py): addresses, keys, keepalives.

client ── router ── server ── backend         client or server is ours, the other is stock
"""

from __future__ import annotations

import time
from typing import Final, Literal

import pytest

from tests.interop.wg.conftest import CONTROL, MakeTunnel
from tests.net.lab import Lab
from tests.net.traffic import TcpServer, UdpStream, ping, tcp_recv, tcp_send, wait_reachable
from tests.net.tunnel import BACKEND, SERVER, Kind, Options, Site, Tunnel
from tests.net.wg import generate_psk

SIZE_BYTES = 4_000_001
INITIATION_BYTES: Final = 148
ENDS: Final[tuple[Literal["client", "server"], ...]] = ("client", "server")
PSK_CASES = [pytest.param(False, id="no-psk"), pytest.param(True, id="psk")]
OUTER_CASES = [pytest.param(4, id="outer4"), pytest.param(6, id="outer6")]


@pytest.mark.parametrize("psk", PSK_CASES)
@pytest.mark.parametrize("outer", OUTER_CASES)
def test_ping_and_tcp_inside_ipv4_and_ipv6(
    make_tunnel: MakeTunnel, any_pair: tuple[Kind, Kind], outer: int, psk: bool
) -> None:
    tunnel = make_tunnel(any_pair, outer=outer, psk=psk).start()
    client, backend = tunnel.site.client, tunnel.site.backend
    with TcpServer(backend):
        for gateway_host, host in zip(SERVER, BACKEND, strict=True):
            assert ping(client, gateway_host).ok
            assert ping(client, host).ok
            assert tcp_send(client, host, SIZE_BYTES).ok
            assert tcp_recv(client, host, SIZE_BYTES).ok
    # Two transfers each way, and what carries them: counters of both ends agree with what was moved.
    for end in ENDS:
        assert 2 * SIZE_BYTES < tunnel.rx_bytes(end) < 3 * SIZE_BYTES


def test_full_size_packets_pass_and_larger_ones_are_fragmented_inside(
    make_tunnel: MakeTunnel, pair: tuple[Kind, Kind]
) -> None:
    tunnel = make_tunnel(pair, outer=6).start()
    # 28 and 48 bytes of ICMP and IP headers up to our MTU of 1404, to the stock one of 1420, then beyond both.
    for total_bytes in (1404, 1420, 4048):
        for host, headers_bytes in ((SERVER[0], 28), (SERVER[1], 48)):
            assert ping(tunnel.site.client, host, count=2, size_bytes=total_bytes - headers_bytes).ok


def test_many_small_datagrams_both_ways_without_a_loss(
    make_tunnel: MakeTunnel, pair: tuple[Kind, Kind]
) -> None:
    tunnel = make_tunnel(pair).start()
    for host in BACKEND:
        with UdpStream(
            tunnel.site.client, tunnel.site.backend, host, rate_pps=3000, count=2000, echo=True
        ) as stream:
            report = stream.finish()
        assert (report.lost_count, report.duplicate_count) == (0, 0)


def test_a_wrong_preshared_key_lets_nothing_through(make_tunnel: MakeTunnel, pair: tuple[Kind, Kind]) -> None:
    tunnel = make_tunnel(pair, psk=True)
    stranger = make_tunnel(pair, psk=True)
    if tunnel.psk == stranger.psk or generate_psk() == tunnel.psk:
        pytest.fail("keys are not random")
    stranger.client_keys, stranger.server_keys = tunnel.client_keys, tunnel.server_keys
    # The server of one tunnel with the client of the other: same identities, different preshared keys.
    stranger.client = stranger._make_client()
    tunnel.server.start()
    stranger.client.start()
    assert ping(tunnel.site.client, SERVER[0], count=2, wait_s=1.0).received == 0
    # Initiations and nothing else; our client asks again after 0.5 and 1.5 s.
    assert tunnel.rx_bytes("server") in {count * INITIATION_BYTES for count in range(4)}


def test_persistent_keepalives_flow_while_idle(lab: Lab, pair: tuple[Kind, Kind]) -> None:
    """Ours counts what stock sends, and stock counts what ours sends: 32 bytes a second.

    One tunnel per sender: any packet restarts the timer of both ends, so two senders would share the work.
    """
    kinds: tuple[Kind, Kind] = ("wg", "wg") if CONTROL else pair
    by_client = Tunnel(Site.build(lab, "a"), *kinds, Options(client_keepalive_s=1)).start()
    by_server = Tunnel(Site.build(lab, "b"), *kinds, Options(server_keepalive_s=1)).start()
    time.sleep(4.0)  # our client asks for 3.75 s whether the gateway speaks jump frames; then it is silent
    before = by_client.rx_bytes("server"), by_server.rx_bytes("client")
    time.sleep(4.5)
    after = by_client.rx_bytes("server"), by_server.rx_bytes("client")
    for sender, earlier, later in zip(ENDS, before, after, strict=True):
        assert 3 * 32 <= later - earlier <= 6 * 32, sender
        assert (later - earlier) % 32 == 0, sender


def test_a_keepalive_alone_makes_the_tunnel(make_tunnel: MakeTunnel, pair: tuple[Kind, Kind]) -> None:
    """The server can reach a client that has sent nothing but its keepalive."""
    tunnel = make_tunnel(pair, client_keepalive_s=1)
    tunnel.server.start()
    tunnel.client.start()
    assert wait_reachable(tunnel.site.server, "10.8.0.2", timeout_s=8) < 8
    assert ping(tunnel.site.server, "fd08::2").ok


def test_sources_outside_the_allowed_addresses_are_dropped(
    make_tunnel: MakeTunnel, pair: tuple[Kind, Kind]
) -> None:
    tunnel = make_tunnel(pair).start()
    client = tunnel.site.client
    client.add_address("lo", "10.8.0.77/32")
    spoofed = client.run(["ping", "-c2", "-i0.1", "-W1", "-I", "10.8.0.77", SERVER[0]], check=False)
    assert "2 packets transmitted, 0 received" in spoofed.stdout
    assert ping(client, SERVER[0]).ok
