# SPDX-License-Identifier: Apache-2.0
"""Client files in TOML."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from gateway.control.config import ClientConfig, Endpoint, GatewayConfig, load, load_client, parse_client
from gateway.control.keysfile import decode_key, write_key_file
from gateway.errors import ConfigErrors
from tests.unit.control.samples import CLIENT, GATEWAY, OWN, WGQUICK, private, public


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse_client(text, "vpn.toml", environ={})
    return [str(error) for error in caught.value.errors]


def test_the_smallest_client() -> None:
    config = parse_client(CLIENT, "vpn.toml")
    assert config.addresses == (ip_interface("10.99.0.2/32"), ip_interface("fd99::2/128"))
    assert (config.interface, config.mtu, config.table, config.fwmark, config.listen_port) == (
        "jvpn0",
        1404,
        "auto",
        0,
        0,
    )
    (gateway,) = config.gateways
    assert gateway.public_key == decode_key(public(2))
    assert gateway.endpoints == (Endpoint("vpn.example.net", 51820),)
    assert gateway.allowed_ips == (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert (gateway.preshared_key, gateway.keepalive_s, gateway.protocol) == (None, 0, "auto")
    assert not config.dns


def test_every_key(tmp_path: Path) -> None:
    write_key_file(tmp_path / "own.key", b"\x01" * 32)
    text = f"""\
[client]
interface = "vpn0"
private_key_file = "own.key"
addresses = ["10.99.0.2/24"]
mtu = 1300
dns = ["10.99.0.1", "example.net"]
table = 51
fwmark = 7
listen_port = 4000
[control]
socket = "/run/x.sock"
[[gateway]]
public_key = "{public(2)}"
preshared_key = "{private(9)}"
endpoints = ["192.0.2.1:1", "[2001:db8::1]:2", "vpn.example.net:3"]
allowed_ips = ["10.0.0.0/8"]
keepalive = "25s"
protocol = "jump"
[[gateway]]
public_key = "{public(3)}"
endpoints = ["192.0.2.9:1"]
allowed_ips = ["172.16.0.0/12"]
"""
    config = parse_client(text, "vpn.toml", tmp_path)
    assert (config.interface, config.mtu, config.table, config.fwmark, config.listen_port) == (
        "vpn0",
        1300,
        51,
        7,
        4000,
    )
    assert config.control_socket == Path("/run/x.sock")
    assert config.dns.texts() == ["10.99.0.1", "example.net"]
    first, second = config.gateways
    assert [str(endpoint) for endpoint in first.endpoints] == [
        "192.0.2.1:1",
        "[2001:db8::1]:2",
        "vpn.example.net:3",
    ]
    assert (first.preshared_key, first.keepalive_s, first.protocol) == (b"\x09" * 32, 25, "jump")
    assert second.allowed_ips == (ip_network("172.16.0.0/12"),)
    assert repr(b"\x09" * 32)[2:-1] not in repr(config)
    assert repr(b"\x01" * 32)[2:-1] not in repr(config)


@pytest.mark.parametrize("table", ['"auto"', '"off"', "1", '"51820"'])
def test_tables(table: str) -> None:
    found = parse_client(CLIENT.replace("\n\n", f"\ntable = {table}\n\n")).table
    assert str(found) == table.strip('"')


def client(*lines: str) -> str:
    """CLIENT with lines after its third."""
    return CLIENT.replace("\n\n", "\n" + "\n".join(lines) + "\n\n")


MISTAKES = [
    (client('table = "main"'), 4, "client.table", '"auto", "off" or a number'),
    (client("table = 0"), 4, "client.table", "out of range"),
    (client("table = 4294967296"), 4, "client.table", "out of range"),
    (client("table = true"), 4, "client.table", "must be"),
    (client("listen_port = 65536"), 4, "client.listen_port", "out of range"),
    (client("mtu = 1279"), 4, "client.mtu", "IPv6 needs 1280"),
    (client('carrier = "tls"'), 4, "client.carrier", "does not exist yet"),
    (client('endpoint = "a:1"'), 4, "client.endpoint", "unknown key"),
    (CLIENT.replace("10.99.0.2/32", "10.99.0.2/40"), 3, "client.addresses[0]", "not an address"),
    (CLIENT.replace("addresses =", "#"), 1, "client.addresses", "is missing"),
    (CLIENT.replace(OWN, "x"), 2, "client.private_key", "not a WireGuard key"),
    (CLIENT.replace("private_key =", "#"), 1, "client.private_key_file", "client.key does not exist"),
    (CLIENT.replace(public(2), public(1)), 6, "gateway.public_key", "belongs to this client itself"),
    (CLIENT.replace("public_key", "#"), 5, "gateway.public_key", "is missing"),
    (CLIENT.replace("endpoints", "#"), 5, "gateway.endpoints", "is missing"),
    (CLIENT.replace("example.net:51820", "example.net"), 7, "gateway.endpoints[0]", "has no port"),
    (CLIENT + 'endpoint = "a:1"', 8, "gateway.endpoint", 'did you mean "endpoints"?'),
    (CLIENT + 'allowed_ips = ["x"]', 8, "gateway.allowed_ips[0]", "not a network prefix"),
    (CLIENT + 'carrier = "tls"', 8, "gateway.carrier", "does not exist yet"),
    (CLIENT + 'endpoints_ = ["tls://a:1"]', 8, "gateway.endpoints_", "unknown key"),
    (CLIENT.replace("vpn.example", "tls://vpn.example"), 7, "gateway.endpoints[0]", "does not exist yet"),
    (CLIENT + "[workers]\ncount = 2\nnative = false", 10, "workers.native", "not 2; write count = 1"),
    (CLIENT.partition("[gateway]")[0], 0, "gateway", "is missing"),
    (CLIENT.partition("[gateway]")[0] + "[peer]\n", 5, "peer", "unknown key"),
    ("gateway = 3\n" + CLIENT.partition("[gateway]")[0], 1, "gateway", "must be a table"),
]


@pytest.mark.parametrize(
    ("text", "line", "key", "problem"), MISTAKES, ids=[f"{m[2]}-{n}" for n, m in enumerate(MISTAKES)]
)
def test_a_mistake_has_file_line_and_key(text: str, line: int, key: str, problem: str) -> None:
    where = f"vpn.toml:{line}: {key}: " if line else f"vpn.toml: {key}: "
    assert any(found.startswith(where) and problem in found for found in mistakes(text + "\n"))


def test_two_gateways_share_nothing() -> None:
    array = CLIENT.replace("[gateway]", "[[gateway]]") + CLIENT.partition("[gateway]")[2].join(
        ("[[gateway]]", "")
    )
    found = mistakes(array)
    assert found[0].startswith(
        "vpn.toml:8: gateway[1].allowed_ips[0]: 0.0.0.0/0 belongs to gateway[0] (vpn.toml:5)"
    )
    assert found[2].startswith(
        "vpn.toml:9: gateway[1].public_key: this public key belongs to gateway[0] (vpn.toml:5)"
    )


def test_the_kind_of_a_file_is_found_out(tmp_path: Path) -> None:
    for name, text, kind in (
        ("a.toml", GATEWAY, GatewayConfig),
        ("b.toml", CLIENT, ClientConfig),
        ("c.conf", WGQUICK, ClientConfig),
    ):
        path = tmp_path / name
        path.write_text(text)
        assert isinstance(load(path), kind)
    assert load_client(tmp_path / "c.conf").interface == "c"
