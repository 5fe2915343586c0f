# SPDX-License-Identifier: Apache-2.0
"""A running gateway under `wg`: all of it is shown; peers come and go as its own rules allow, all else has an errno.

client (wireguard-go) ─── router ─── server (jvpn gateway) ─── backend           drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from errno import EINVAL, EOPNOTSUPP, EPERM
from pathlib import Path
from typing import Final

import pytest

from tests.net.jump import wait_for
from tests.net.jvpn import JvpnGateway, JvpnPeer
from tests.net.lab import Lab, missing_requirements
from tests.net.traffic import ping, wait_reachable
from tests.net.tunnel import PORT, SERVER, SERVER_OUTER, Site, join
from tests.net.wg import SOCKETS, Keys, WgDevice, WgPeer, generate_psk

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "wg", "wireguard-go", "nft"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")


@pytest.fixture
def stock(lab: Lab, site: Site) -> Iterator[WgDevice]:
    device = WgDevice(lab, site.client, Keys.generate(), ["10.8.0.2/24"])
    yield device
    device.stop()


@pytest.fixture
def gateway(lab: Lab, site: Site, stock: WgDevice) -> Iterator[JvpnGateway]:
    peer = JvpnPeer("stock", stock.keys.public, ["10.8.0.2/32", "fd08::2/128"], keepalive="25s")
    name = f"jw{secrets.token_hex(4)}"
    lab.remove_later(SOCKETS / f"{name}.sock")
    made = JvpnGateway(
        lab, site.server, Keys.generate(), ["10.8.0.1/24", "fd08::1/64"], [peer],
        interface=name, pool={"ipv4": "10.8.0.0/24"},
    )  # fmt: skip
    made.start()
    back = WgPeer(made.keys.public, ["10.8.0.0/24"], join(SERVER_OUTER[4], PORT))
    stock.start().set_peer(back)
    yield made
    made.stop()
    assert not (SOCKETS / f"{name}.sock").exists()


def wg(gateway: JvpnGateway, *words: str) -> str:
    return gateway.namespace.run(["wg", "show", gateway.interface, *words]).stdout.strip()


def refused(gateway: JvpnGateway, number: int, *words: str) -> bool:
    before = wg(gateway, "allowed-ips")
    done = gateway.namespace.run(["wg", "set", gateway.interface, *words], check=False)
    return (
        done.returncode != 0 and os.strerror(number) in done.stderr and wg(gateway, "allowed-ips") == before
    )


def test_wg_shows_a_gateway_and_its_peers(gateway: JvpnGateway, stock: WgDevice, site: Site) -> None:
    wait_reachable(site.client, SERVER[0])
    assert wg(gateway, "public-key") == gateway.keys.public
    assert wg(gateway, "listen-port") == str(PORT)
    key, _psk, endpoint, allowed, handshake, rx_bytes, tx_bytes, keepalive = (
        wg(gateway, "dump").split("\n")[1].split("\t")
    )
    assert (key, allowed, keepalive) == (stock.keys.public, "10.8.0.2/32,fd08::2/128", "25")
    assert endpoint == gateway.peer("stock")["endpoint"]
    assert abs(int(handshake) - time.time()) < 30
    assert int(rx_bytes) > 0 < int(tx_bytes)


def test_peers_come_and_go(gateway: JvpnGateway, stock: WgDevice, site: Site) -> None:
    wait_reachable(site.client, SERVER[0])
    new = Keys.generate().public
    site.server.run(["wg", "set", gateway.interface, "peer", new])
    (peer,) = [peer for peer in gateway.cli_json("peer", "list")["peers"] if peer["public_key"] == new]
    assert peer["managed"]
    assert peer["allowed_ips"] == ["10.8.0.3/32"]  # from the pool
    assert new in wg(gateway, "peers").split()
    site.server.run(["wg", "set", gateway.interface, "peer", new, "remove"])
    assert wg(gateway, "peers") == stock.keys.public
    assert ping(site.client, SERVER[0]).ok
    me, name = f"uid:{os.geteuid()}", peer["name"]
    assert wait_for(
        lambda: [(one["action"], one["by"], one["via"], one["target"]) for one in acts(gateway)],
        lambda seen: seen == [(act, me, "wg", name) for act in ("peer.add", "peer.remove")],
        "who acted, in the journal",
        10.0,
    )


def acts(gateway: JvpnGateway) -> list[dict[str, str]]:
    exported = gateway.cli("audit", "export", "--state-dir", str(gateway.state_dir))
    records = [json.loads(line) for line in exported.splitlines()]
    return [one for one in records if one["event"] == "OPERATOR_ACTION"]


def test_what_the_configuration_says_is_not_changed(gateway: JvpnGateway, stock: WgDevice) -> None:
    assert refused(gateway, EPERM, "peer", stock.keys.public, "remove")
    assert refused(gateway, EOPNOTSUPP, "peer", stock.keys.public, "endpoint", "192.0.2.1:9")
    assert refused(gateway, EINVAL, "peer", stock.keys.public, "allowed-ips", "")
    assert refused(gateway, EOPNOTSUPP, "listen-port", "1234")
    assert refused(gateway, EOPNOTSUPP, "fwmark", "1", "peer", Keys.generate().public)
    assert refused(gateway, EOPNOTSUPP, "private-key", "/dev/null")
    assert refused(gateway, EPERM, "peer", Keys.generate().public, "allowed-ips", "10.8.0.2/32")
    gateway.namespace.run(["wg", "set", gateway.interface, "listen-port", str(PORT)])
    same = ["peer", stock.keys.public, "allowed-ips", "10.8.0.2/32,fd08::2/128", "persistent-keepalive", "25"]
    gateway.namespace.run(["wg", "set", gateway.interface, *same])


def test_a_peer_that_exists_changes_under_its_session(
    gateway: JvpnGateway, stock: WgDevice, site: Site, tmp_path: Path
) -> None:
    """One of gateway.toml: another address moves in and out, the session stays; a reload goes by the file again."""
    key, name = stock.keys.public, gateway.interface
    wait_reachable(site.client, SERVER[0])
    (ident,) = [row["session_id"] for row in gateway.call("sessions")["sessions"]]
    own = "10.8.0.2/32,fd08::2/128"
    site.server.run(
        ["wg", "set", name, "peer", key, "allowed-ips", f"{own},10.66.0.0/24", "persistent-keepalive", "9"]
    )
    assert wg(gateway, "allowed-ips") == f"{key}\t10.8.0.2/32 fd08::2/128 10.66.0.0/24"
    assert name in site.server.run(["ip", "route", "show", "10.66.0.0/24"]).stdout
    assert gateway.peer("stock")["keepalive_s"] == 9
    assert [change["key"] for change in gateway.cli_json("config", "diff")["changes"]] == [
        "peer.stock.allowed_ips",
        "peer.stock.keepalive",
    ]

    # A preshared key counts from the next handshake on: the client gets it as well, and goes on.
    psk = tmp_path / "psk"
    psk.touch(mode=0o600)
    psk.write_text(generate_psk())
    site.server.run(["wg", "set", name, "peer", key, "preshared-key", str(psk)])
    assert psk.read_text() in wg(gateway, "preshared-keys")
    stock.change_peer(gateway.keys.public, preshared_key=psk.read_text())
    wait_reachable(site.client, SERVER[0])

    gateway.cli("config", "reload")
    me = f"uid:{os.geteuid()}"
    assert wait_for(
        lambda: [(one["action"], one["by"], one["via"], one["target"]) for one in acts(gateway)],
        lambda seen: (
            seen
            == [
                ("peer.set", me, "wg", "stock"),
                ("peer.set", me, "wg", "stock"),
                ("config.reload", me, "control", ""),
            ]
        ),
        "who acted, in the journal",
        10.0,
    )
    assert wg(gateway, "allowed-ips") == f"{key}\t10.8.0.2/32 fd08::2/128"
    assert site.server.run(["ip", "route", "show", "10.66.0.0/24"]).stdout == ""
    assert [row["session_id"] for row in gateway.call("sessions")["sessions"]] == [ident]


def test_a_peer_of_peers_toml_changes_there_as_well(gateway: JvpnGateway, site: Site) -> None:
    new = Keys.generate().public
    site.server.run(["wg", "set", gateway.interface, "peer", new])
    site.server.run(["wg", "set", gateway.interface, "peer", new, "allowed-ips", "10.8.0.77/32"])
    assert refused(gateway, EPERM, "peer", new, "allowed-ips", "10.8.0.2/32")
    assert '"10.8.0.77/32"' in (gateway.state_dir / "peers.toml").read_text()
    gateway.restart()
    (peer,) = [peer for peer in gateway.cli_json("peer", "list")["peers"] if peer["public_key"] == new]
    assert peer["allowed_ips"] == ["10.8.0.77/32"]
