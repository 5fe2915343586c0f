# SPDX-License-Identifier: Apache-2.0
"""A handshake flood with valid mac1: cookies are asked for, and an honest peer still gets in.

attacker ─┐
client ── router ── server                   the flood comes from many addresses of 10.9.0.0/16
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.interop.wg.conftest import CONTROL, MakeTunnel
from tests.net.traffic import ping, wait_reachable
from tests.net.tunnel import PORT, SERVER, SERVER_OUTER, Tunnel

INITIATION_BYTES: Final = 148
COOKIE_REPLY_BYTES: Final = 64
SOURCES: Final = 32
IP_TRANSPARENT: Final = 19


def forged_initiation(server_public: str) -> bytes:
    """An initiation whose mac1 is right and whose rest is noise (whitepaper §5.4.2, §5.4.4)."""
    head = b"\x01\x00\x00\x00" + os.urandom(INITIATION_BYTES - 4 - 32)
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(server_public)).digest()
    return head + hashlib.blake2s(head, key=key, digest_size=16).digest() + bytes(16)


class Flood(threading.Thread):
    """Sends forged initiations from many addresses at a steady rate and counts the cookie replies."""

    def __init__(self, tunnel: Tunnel, rate_per_s: float, sources: int = SOURCES) -> None:
        super().__init__(daemon=True)
        self.sent = self.cookie_replies = self.other_replies = 0
        self._stopping = threading.Event()
        self._public, self._pause_s = tunnel.server_keys.public, 1 / rate_per_s
        self._to = (SERVER_OUTER[4], PORT)
        self._sockets = [self._socket(tunnel, number) for number in range(sources)]

    def _socket(self, tunnel: Tunnel, number: int) -> socket.socket:
        made = tunnel.site.router.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        made.bind((f"10.2.9.{number + 1}", 0))
        made.setblocking(False)
        return made

    def run(self) -> None:
        """The thread."""
        while not self._stopping.is_set():
            for sock in self._sockets:
                sock.sendto(forged_initiation(self._public), self._to)
                self.sent += 1
                self._collect(sock)
                time.sleep(self._pause_s)

    def _collect(self, sock: socket.socket) -> None:
        try:
            while True:
                reply = sock.recv(2048)
                is_cookie = len(reply) == COOKIE_REPLY_BYTES and reply[0] == 3
                self.cookie_replies += is_cookie
                self.other_replies += not is_cookie
        except BlockingIOError:
            return

    def stop(self) -> None:
        """End the flood and close its sockets."""
        self._stopping.set()
        self.join()
        for sock in self._sockets:
            self._collect(sock)
            sock.close()


@contextmanager
def flooding(tunnel: Tunnel, rate_per_s: float) -> Iterator[Flood]:
    """A flood of the tunnel's server, from addresses that live on the router."""
    tunnel.site.router.add_address("lo", "10.2.9.1/24")
    tunnel.site.server.add_route("10.2.9.0/24", via="10.2.0.1")
    flood = Flood(tunnel, rate_per_s)
    flood.start()
    try:
        yield flood
    finally:
        flood.stop()


@pytest.mark.skipif(CONTROL, reason="wireguard-go is under load only at thousands a second")
def test_our_gateway_asks_a_stock_client_for_a_cookie_and_serves_it(make_tunnel: MakeTunnel) -> None:
    tunnel = make_tunnel(("wg", "jvpn"), server_tables={"handshake": {"under_load_per_s": 20}})
    tunnel.server.start()
    with flooding(tunnel, rate_per_s=300) as flood:
        time.sleep(1.5)
        assert flood.cookie_replies > 0
        tunnel.client.start()
        # First try: a cookie. The retry, 5 s later, carries it in mac2.
        assert wait_reachable(tunnel.site.client, SERVER[0], timeout_s=15) < 12
        assert "Receiving cookie response" in tunnel.client.proc.output
        assert ping(tunnel.site.client, SERVER[1], count=10).ok
    assert flood.other_replies == 0
    assert flood.cookie_replies < flood.sent


@pytest.mark.skipif(CONTROL, reason="wireguard-go is under load only at thousands a second")
def test_an_established_session_does_not_feel_the_flood(make_tunnel: MakeTunnel) -> None:
    tunnel = make_tunnel(("wg", "jvpn"), server_tables={"handshake": {"under_load_per_s": 20}}).start()
    with flooding(tunnel, rate_per_s=1000) as flood:
        answered = ping(tunnel.site.client, SERVER[0], count=100, interval_s=0.02)
    assert answered.ok
    assert answered.median_ms < 20
    assert flood.sent > 500


def test_our_client_answers_a_stock_servers_cookie(make_tunnel: MakeTunnel) -> None:
    """wireguard-go takes 128 waiting handshakes for load: the relay injects bursts, then our client
    knocks.
    """
    tunnel = make_tunnel(("jvpn", "wg"), through_relay=True)
    tunnel.server.start()
    relay, stop = tunnel.relayed(), threading.Event()
    forged = forged_initiation(tunnel.server_keys.public)
    source = "10.2.0.1"

    def flood() -> None:
        # It stays "under load" for a second after a burst; between bursts its queue has room for honest
        # peers.
        while not stop.wait(0.3):
            relay.inject("up", forged, count=3000, source=source)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        time.sleep(0.5)
        tunnel.client.start()
        deadline_s = time.monotonic() + 10
        while relay_cookies(tunnel) == 0 and time.monotonic() < deadline_s:
            ping(tunnel.site.client, SERVER[0], count=1, wait_s=0.2)
        assert relay_cookies(tunnel) > 0
        assert wait_reachable(tunnel.site.client, SERVER[0], timeout_s=20) < 20
    finally:
        stop.set()
        thread.join()


def relay_cookies(tunnel: Tunnel) -> int:
    """Cookie replies that the stock server says it has sent."""
    return int(tunnel.server.proc.output.count("Sending cookie response"))
