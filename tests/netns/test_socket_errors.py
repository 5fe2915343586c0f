# SPDX-License-Identifier: Apache-2.0
"""A socket whose device goes down: this host's own kernel says so with the next packet, and the engine passes it on.

client ── eth0 10.1.0.1/24 ── 10.1.0.2 gateway
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.constants import NS_PER_S
from gateway.control.transports import LOCAL_ERRNOS
from gateway.dataplane import engine as dp
from gateway.noise.timers import DEFAULT
from tests.net.lab import Lab, Link, missing_requirements

_PROBLEM = missing_requirements(("ip", "sysctl"))
pytestmark = pytest.mark.skipif(_PROBLEM is not None, reason=_PROBLEM or "")

GATEWAY = ("10.1.0.2", 51820)


class Sender:
    """An engine with one socket that is bound to the client's device."""

    def __init__(self, sock: socket.socket) -> None:
        self.now_ns = 1000 * NS_PER_S
        self.engine = dp.Engine(
            sessions=1,
            prefixes=1,
            window_bits=1024,
            index_seed=os.urandom(32),
            limits=DEFAULT,
            now_ns=self.now_ns,
            client=True,
        )
        self.sock = sock
        self.socket_id = self.engine.add_socket(sock.fileno())
        self.to = dp.Endpoint.of(*GATEWAY, self.socket_id)

    def send(self) -> bool:
        return self.engine.send(self.to, bytes(148))

    def errors(self) -> list[tuple[int, int]]:
        """(socket id, errno) of what the engine told."""
        found = [event for event in self.engine.poll(100) if event.kind == dp.EVENT_SOCKET_ERROR]
        return [(event.value, event.reason) for event in found]


@contextmanager
def bound(link: Link) -> Iterator[Sender]:
    with link.a.namespace.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.a.dev.encode())
        sock.bind((link.a.address4 or "", 0))
        yield Sender(sock)


@pytest.fixture
def link() -> Iterator[Link]:
    with Lab() as lab:
        yield lab.link(lab.namespace("client"), lab.namespace("gateway"), "10.1.0.0/24")


def test_a_device_that_goes_down_is_told_with_the_next_packet(link: Link) -> None:
    with bound(link) as one:
        assert one.send() and one.errors() == []
        link.down("a")
        assert not one.send()
        ((socket_id, error),) = one.errors()
        assert socket_id == one.socket_id
        assert error in LOCAL_ERRNOS, errno.errorcode[error]
        assert one.engine.counters()["drop_tx_error"] == 1


def test_what_is_told_is_bounded(link: Link) -> None:
    """Ten a second for each socket, whatever is sent."""
    with bound(link) as one:
        link.down("a")
        assert not any(one.send() for _ in range(500))
        assert len(one.errors()) == 10
        one.engine.tick(one.now_ns + NS_PER_S)
        one.send()
        assert len(one.errors()) == 1


def test_what_the_network_says_is_no_error_of_the_host(link: Link) -> None:
    """Nobody listens: ICMP port unreachable comes back, and says nothing that is believed."""
    with bound(link) as one:
        for _ in range(5):
            assert one.send()
            time.sleep(0.02)
            one.engine.pump_udp(one.socket_id, one.now_ns)
        assert one.errors() == []
