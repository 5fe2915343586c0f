# SPDX-License-Identifier: Apache-2.0
"""A thousand peers, and peers that come and go while others talk.

client ── router ── server ── backend
"""

from __future__ import annotations

import base64
import os
import time

import pytest

from tests.interop.wg.conftest import CONTROL
from tests.net.jvpn import JvpnGateway, JvpnPeer
from tests.net.traffic import UdpStream, ping, wait_reachable
from tests.net.tunnel import BACKEND, PORT, SERVER_OUTER, Site, join
from tests.net.wg import Keys, WgDevice, WgPeer

PEERS = 1000
START_LIMIT_S = 2.0
pytestmark = pytest.mark.skipif(CONTROL, reason="about our gateway only")


def stranger(number: int) -> JvpnPeer:
    """A configured peer that never comes: any 32 bytes are a public key."""
    addresses = [f"10.9.{number // 250}.{number % 250 + 1}/32", f"fd09::{number + 1:x}/128"]
    return JvpnPeer(f"peer{number}", base64.b64encode(os.urandom(32)).decode(), addresses)


def stock_client(site: Site, keys: Keys, gateway: Keys, host: str) -> WgDevice:
    """A wireguard-go client of ``gateway`` with an inner address."""
    peer = WgPeer(gateway.public, ["10.8.0.0/16", "10.3.0.0/24"], join(SERVER_OUTER[4], PORT))
    return WgDevice(site.lab, site.client, keys, [f"{host}/16"], [peer])


def test_a_thousand_configured_peers_start_within_two_seconds(site: Site) -> None:
    keys, ours = Keys.generate(), Keys.generate()
    peers = [stranger(number) for number in range(PEERS - 1)]
    peers.append(JvpnPeer("real", keys.public, ["10.8.0.2/32"]))
    gateway = JvpnGateway(site.lab, site.server, ours, ["10.8.0.1/16"], peers).start()
    took_s = [gateway.ready_after_s]
    # The best of a few: the limit is about the gateway, not about what else the machine does at that moment.
    while min(took_s) >= START_LIMIT_S and len(took_s) < 4:
        gateway.restart()
        took_s.append(gateway.ready_after_s)
    assert min(took_s) < START_LIMIT_S, took_s
    assert len(gateway.status()["peers"]) == PEERS
    stock_client(site, keys, ours, "10.8.0.2").start()
    assert wait_reachable(site.client, "10.8.0.1") < 3


def test_peers_come_and_go_while_another_loses_nothing(site: Site) -> None:
    steady, ours = Keys.generate(), Keys.generate()
    gateway = JvpnGateway(
        site.lab, site.server, ours, ["10.8.0.1/16"], [JvpnPeer("steady", steady.public, ["10.8.0.2/32"])]
    ).start()
    stock_client(site, steady, ours, "10.8.0.2").start()
    wait_reachable(site.client, "10.8.0.1")
    with UdpStream(site.client, site.backend, BACKEND[0], rate_pps=1000, echo=True) as stream:
        for number in range(30):
            gateway.add_peer(stranger(number))
            time.sleep(0.02)
        for number in range(30):
            gateway.remove_peer(f"peer{number}")
            time.sleep(0.02)
        report = stream.stop()
    assert [peer["name"] for peer in gateway.status()["peers"]] == ["steady"]
    assert report.sent > 1000
    assert (report.lost_count, report.duplicate_count) == (0, 0)


def test_a_peer_added_while_running_gets_in_and_a_removed_one_is_out_at_once(site: Site) -> None:
    keys, ours = Keys.generate(), Keys.generate()
    gateway = JvpnGateway(site.lab, site.server, ours, ["10.8.0.1/16"]).start()
    client = stock_client(site, keys, ours, "10.8.0.2").start()
    assert ping(site.client, "10.8.0.1", count=1, wait_s=1.0).received == 0
    gateway.cli("peer", "add", "late", "--public-key", keys.public, "--allowed-ip", "10.8.0.2/32")
    # The client repeats its initiation every 5 s.
    assert wait_reachable(site.client, "10.8.0.1", timeout_s=10) < 10
    gateway.cli("peer", "remove", "late")
    assert ping(site.client, "10.8.0.1", count=2, wait_s=1.0).received == 0
    assert gateway.status()["peers"] == []
    assert client.proc.running


def test_status_tells_the_truth_about_a_peer(site: Site) -> None:
    keys, ours = Keys.generate(), Keys.generate()
    peers = [JvpnPeer("phone", keys.public, ["10.8.0.2/32"]), stranger(1)]
    gateway = JvpnGateway(site.lab, site.server, ours, ["10.8.0.1/16"], peers).start()
    client = stock_client(site, keys, ours, "10.8.0.2").start()
    assert wait_reachable(site.client, "10.8.0.1") < 5
    assert ping(site.client, "10.8.0.1", count=10, interval_s=0.02).ok
    document = gateway.cli_json("status")
    assert document["schema"] == "jvpn.status/1"
    phone, other = (gateway.peer(name) for name in ("phone", "peer1"))
    seen = client.peer()
    assert abs(phone["rx_bytes"] - seen.tx_bytes) <= 148
    assert abs(phone["tx_bytes"] - seen.rx_bytes) <= 148
    assert phone["latest_handshake_s"] < 10
    assert phone["endpoint"].startswith("10.1.0.1:")
    assert (other["rx_bytes"], other["tx_bytes"], other["latest_handshake_s"]) == (0, 0, None)
