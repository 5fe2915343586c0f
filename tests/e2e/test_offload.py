# SPDX-License-Identifier: Apache-2.0
"""Super-packets through a real device at both ends, and everything that a kernel may lack.

    client (jvpn connect) ─── router ─── server (jvpn gateway) ─── backend       drawn in tests/net/tunnel.py

Rule: whatever is in use, every byte and every datagram arrives once, and on these clean links nothing is lost, resent
or refused by a checksum. That super-packets are in use is told by the counters of both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pytest

from tests.net.intact import DATAGRAMS, TRAIN, in_use, move_tcp, move_udp, ours, running, without_faults
from tests.net.lab import Lab, missing_requirements
from tests.net.tunnel import BACKEND, Options, Site, Tunnel

MISSING: Final = missing_requirements()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

TUN: Final = frozenset(("vnet_hdr", "csum", "tso4", "tso6", "uso4", "uso6"))
TSO: Final = TUN - {"uso4", "uso6"}
UDP: Final = frozenset(("udp_segment", "udp_gro"))
PLAIN: Final = {"tun": "off", "udp_segment": False, "udp_gro": False}


class Case(NamedTuple):
    """What the client and the gateway are told, and what the client then uses."""

    client: Mapping[str, Any]
    server: Mapping[str, Any]
    used: frozenset[str]


CASES: Final = {
    "no-uso": Case({"tun": "no-uso"}, {"tun": "no-uso"}, TSO | UDP),
    "no-tso": Case({"tun": "no-tso"}, {"tun": "no-tso"}, UDP | {"vnet_hdr"}),
    "no-header": Case({"tun": "off"}, {"tun": "off"}, UDP),
    "no-udp-segment": Case({"udp_segment": False}, {"udp_segment": False}, TUN | {"udp_gro"}),
    "no-udp-gro": Case({"udp_gro": False}, {"udp_gro": False}, TUN | {"udp_segment"}),
    "nothing": Case(PLAIN, PLAIN, frozenset()),
    "client-alone": Case({}, PLAIN, TUN | UDP),
    "gateway-alone": Case(PLAIN, {}, frozenset()),
}


@pytest.fixture(scope="module")
def place(lab: Lab) -> Site:
    """A site of its own: here the backend knows the way back."""
    return Site.build(lab, "o")


def supers(tunnel: Tunnel) -> tuple[int, int, int, int]:
    """Super-packets so far: into the client, out of the gateway, and the same the other way."""
    client, server = ours(tunnel)
    read, written = "tun_rx_supers", "tun_tx_supers"
    return client.counter(read), server.counter(written), server.counter(read), client.counter(written)


def grown(tunnel: Tunnel, before: tuple[int, ...]) -> list[int]:
    """Super-packets since then."""
    return [later - earlier for earlier, later in zip(before, supers(tunnel), strict=True)]


@pytest.mark.parametrize("outer", [4, 6])
def test_super_packets_carry_tcp_and_udp(place: Site, outer: Any) -> None:
    with running(Tunnel(place, "jvpn", "jvpn", Options(outer=outer))) as tunnel, without_faults(tunnel):
        assert [in_use(daemon) for daemon in ours(tunnel)] == [TUN | UDP] * 2
        for host in BACKEND:
            before = supers(tunnel)
            move_tcp(tunnel, host)
            # 30 MB are 22,000 packets: four of them together at the least, and no fewer super-packets than of 64 KB.
            assert all(450 <= count <= 5500 for count in grown(tunnel, before)), grown(tunnel, before)
            before = supers(tunnel)
            move_udp(tunnel, host, TRAIN)
            client_in, gateway_out, *_ = grown(tunnel, before)
            assert client_in == DATAGRAMS // TRAIN
            assert DATAGRAMS // TRAIN // 2 <= gateway_out <= 4 * DATAGRAMS // TRAIN


@pytest.mark.parametrize("name", CASES)
def test_what_is_lacking_is_done_without(place: Site, name: str) -> None:
    case = CASES[name]
    options = Options(client_tables={"offload": case.client}, server_tables={"offload": case.server})
    with running(Tunnel(place, "jvpn", "jvpn", options)) as tunnel, without_faults(tunnel):
        client, server = ours(tunnel)
        assert in_use(client) == case.used
        for host in BACKEND:
            move_tcp(tunnel, host)
        # A device without checksum offload takes no trains from its host either.
        move_udp(tunnel, BACKEND[0], TRAIN if "csum" in case.used else 1)
        client_in, gateway_out, gateway_in, client_out = supers(tunnel)
        assert bool(client_in) == bool(client_out) == ("tso4" in case.used)
        assert bool(gateway_in) == bool(gateway_out) == ("tso4" in in_use(server))
