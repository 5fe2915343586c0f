# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests against wireguard-go.

A test that takes ``pair`` runs once with our gateway and a stock client and once with our client and a
stock gateway. JVPN_INTEROP_CONTROL=1 puts wireguard-go at both ends instead: what fails then is not our
daemons' fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.net.lab import Lab, missing_requirements
from tests.net.tunnel import Kind, Options, Site, Tunnel

MISSING: Final = missing_requirements()
CONTROL: Final = os.environ.get("JVPN_INTEROP_CONTROL") == "1"
PAIRS: Final[tuple[tuple[Kind, Kind], ...]] = (("wg", "jvpn"), ("jvpn", "wg"))
NAMES: Final = {"wg": "stock", "jvpn": "ours"}

MakeTunnel = Callable[..., Tunnel]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of it, loudly, where namespaces cannot be made."""
    if MISSING is not None:
        for item in items:
            if "interop/wg" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=f"no laboratory: {MISSING}"))


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


@pytest.fixture
def make_tunnel(site: Site) -> MakeTunnel:
    """Make (not start) a tunnel of the given kinds on the site; keywords are `Options`."""

    def make(pair: tuple[Kind, Kind], **options: Any) -> Tunnel:
        kinds: tuple[Kind, Kind] = ("wg", "wg") if CONTROL else pair
        return Tunnel(site, *kinds, Options(**options))

    return make
