# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests against wireguard-go.

A test that takes ``pair`` runs once with our gateway and a stock client and once with our client and a
stock gateway. JVPN_INTEROP_CONTROL=1 puts wireguard-go at both ends instead: what fails then is not our
daemons' fault.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.net.lab import Lab, missing_requirements
from tests.net.traffic import UdpStream
from tests.net.tunnel import BACKEND, Kind, Options, Site, Tunnel

MISSING: Final = missing_requirements()
CONTROL: Final = os.environ.get("JVPN_INTEROP_CONTROL") == "1"
PAIRS: Final[tuple[tuple[Kind, Kind], ...]] = (("wg", "jvpn"), ("jvpn", "wg"))
NAMES: Final = {"wg": "stock", "jvpn": "ours"}

MakeTunnel = Callable[..., Tunnel]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of it, loudly, where namespaces cannot be made; what waits for a long run comes last."""
    if MISSING is not None:
        for item in items:
            if "interop/wg" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=f"no laboratory: {MISSING}"))
    items.sort(key=_waits)


def _waits(item: pytest.Item) -> bool:
    return "long_run" in getattr(item, "fixturenames", ())


class LongRun:
    """Tunnels with default timers and a stream through each, from the first test of this folder on."""

    def __init__(self, lab: Lab) -> None:
        pairs: tuple[tuple[Kind, Kind], ...] = (("wg", "wg"),) if CONTROL else PAIRS
        sites = [Site.build(lab, f"long{number}") for number in range(len(pairs))]
        self.tunnels = [
            Tunnel(site, *kinds, Options()).start() for site, kinds in zip(sites, pairs, strict=True)
        ]
        self.handshakes_before = [tunnel.handshakes() for tunnel in self.tunnels]
        self.streams = [
            UdpStream(site.client, site.backend, BACKEND[0], rate_pps=100, echo=True) for site in sites
        ]
        self._start_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the streams began."""
        return time.monotonic() - self._start_s

    def wait_until(self, elapsed_s: float) -> None:
        """Sleep for what is left of that time."""
        time.sleep(max(0.0, elapsed_s - self.elapsed_s))


@pytest.fixture(scope="session")
def long_run() -> Iterator[LongRun]:
    """The one long run of a session."""
    with Lab() as made:
        yield LongRun(made)


@pytest.fixture(scope="session", autouse=True)
def _start_long_run_early(request: pytest.FixtureRequest) -> None:
    """It runs beside the other tests, so that two minutes of WireGuard's patience cost few of ours."""
    if MISSING is None and any(_waits(item) for item in request.session.items):
        request.getfixturevalue("long_run")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A laboratory of the test's own."""
    with Lab() as made:
        yield made


@pytest.fixture
def site(lab: Lab) -> Site:
    """Client, router, server and backend."""
    return Site.build(lab)


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{NAMES[pair[0]]}-client-{NAMES[pair[1]]}-gateway")
def pair(request: pytest.FixtureRequest) -> tuple[Kind, Kind]:
    """Kinds of client and server."""
    kinds: tuple[Kind, Kind] = request.param
    return kinds


@pytest.fixture(params=(*PAIRS, ("jvpn", "jvpn")), ids=lambda pair: "-".join(NAMES[kind] for kind in pair))
def any_pair(request: pytest.FixtureRequest) -> tuple[Kind, Kind]:
    """Kinds of client and server, also ours at both ends."""
    kinds: tuple[Kind, Kind] = request.param
    return kinds


@pytest.fixture
def make_tunnel(site: Site) -> MakeTunnel:
    """Make (not start) a tunnel of the given kinds on the site; keywords are `Options`."""

    def make(pair: tuple[Kind, Kind], **options: Any) -> Tunnel:
        kinds: tuple[Kind, Kind] = ("wg", "wg") if CONTROL else pair
        return Tunnel(site, *kinds, Options(**options))

    return make
