# SPDX-License-Identifier: Apache-2.0
"""A session that has lost its paths asks on each of them in turn; a gateway under load wants a cookie first."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from gateway.dataplane import engine as dp
from gateway.dataplane.engine import Endpoint, Event
from gateway.net.udp import open_udp
from gateway.noise.cookie import CookieChecker
from tests.integration.pair import make_pair


class TwoPaths:
    """The client of a pair has a second socket; what the gateway sees of both is noted."""

    def __init__(self) -> None:
        self.pair = make_pair(gateway_under_load=True)
        self._second = open_udp("127.0.0.1", 0)
        client, gateway = self.pair.a, self.pair.b
        self._second_id = client.engine.add_socket(self._second.fileno())
        self._paths = (client.endpoint_of(gateway), Endpoint.of(*gateway.address, self._second_id))
        self._ports = (client.udp.getsockname()[1], self._second.getsockname()[1])
        self.seen: list[int] = []  # the path of each initiation, as it came in
        self._handle, gateway.handle = gateway.handle, self._see  # type: ignore[method-assign]

    def _see(self, event: Event) -> None:
        if event.kind == dp.EVENT_HANDSHAKE:
            self.seen.append(self._ports.index(event.source.port))
        self._handle(event)

    def ask(self, path: int) -> int:
        """One initiation, a second after the last; how many handshakes have completed by then."""
        client = self.pair.a
        client.exchange.initiate_to(client.now_ns, self.pair.a_peer, self._paths[path])
        for _ in range(2):
            self.pair.settle()
            client.engine.pump_udp(self._second_id, client.now_ns)
        self.pair.settle()
        self.pair.advance(1)
        return client.exchange.counters["completed"]

    @property
    def cookies(self) -> int:
        """How many have come."""
        return self.pair.a.exchange.counters["cookies_received"]

    def close(self) -> None:
        self.pair.close()
        self._second.close()


@pytest.fixture
def two() -> Iterator[TwoPaths]:
    made = TwoPaths()
    yield made
    made.close()


def test_each_path_brings_the_cookie_that_came_on_it(two: TwoPaths) -> None:
    assert [two.ask(0), two.ask(1)] == [0, 0]
    assert two.cookies == 2
    assert two.ask(0) == 1
    assert two.seen == [0, 1, 0] and two.cookies == 2


def test_cookies_that_are_never_taken_hold_nobody_on_a_path(two: TwoPaths) -> None:
    gateway = two.pair.b
    for turn in range(6):
        gateway.admission.serve(CookieChecker(gateway.identity.public, secrets.token_bytes))
        assert two.ask(turn % 2) == 0
    assert two.seen == [0, 1] * 3 and two.cookies == 6
