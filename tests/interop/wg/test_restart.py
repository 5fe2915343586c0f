# SPDX-License-Identifier: Apache-2.0
"""Either side is restarted or killed while the other one stays: traffic comes back by itself.

All cases run at the same time, each on a site of its own: most of their time is WireGuard's 15 s of patience.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import pytest

from tests.interop.wg.conftest import CONTROL
from tests.net.lab import Lab
from tests.net.traffic import TcpServer, tcp_recv, wait_reachable
from tests.net.tunnel import BACKEND, SERVER, Kind, Options, Site, Tunnel


class Case(NamedTuple):
    """Who is at the ends, which end is restarted and how, and how long the other may need to notice."""

    client: Kind
    server: Kind
    end: Literal["client", "server"]
    how: Literal["stop", "kill"]
    back_within_s: float


# A client that starts has something to say at once. A server that starts has nobody to talk to; its client
# notices after 15 s (keepalive timeout + rekey timeout), plus the time of its first unanswered packet.
CASES = [
    Case("wg", "jvpn", "client", "kill", 3.0),
    Case("wg", "jvpn", "server", "stop", 21.0),
    Case("wg", "jvpn", "server", "kill", 21.0),
    Case("jvpn", "wg", "client", "stop", 3.0),
    Case("jvpn", "wg", "client", "kill", 3.0),
    Case("jvpn", "wg", "server", "stop", 21.0),
]


def restart(tunnel: Tunnel, case: Case) -> float:
    """Restart one end under traffic; returns the seconds until the client is answered again."""
    device = tunnel.client if case.end == "client" else tunnel.server
    device.stop() if case.how == "stop" else device.kill()
    device.start()
    start_s = time.monotonic()
    wait_reachable(tunnel.site.client, SERVER[0], timeout_s=case.back_within_s + 10)
    return time.monotonic() - start_s


@pytest.mark.slow
def test_traffic_returns_after_a_restart_of_either_side(lab: Lab) -> None:
    tunnels = []
    for number, case in enumerate(CASES):
        kinds: tuple[Kind, Kind] = ("wg", "wg") if CONTROL else (case.client, case.server)
        tunnels.append(Tunnel(Site.build(lab, f"r{number}"), *kinds, Options()).start())
    with ThreadPoolExecutor(len(CASES)) as pool:
        took_s = list(pool.map(restart, tunnels, CASES))
    late = [(case, took) for case, took in zip(CASES, took_s, strict=True) if took > case.back_within_s]
    assert late == []
    for tunnel in tunnels:
        with TcpServer(tunnel.site.backend):
            assert tcp_recv(tunnel.site.client, BACKEND[0], 1_000_000).ok
