# SPDX-License-Identifier: Apache-2.0
"""wg-quick files: read as wg-quick reads them, hooks refused, and what we write is read back the same."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from gateway.control.config import Endpoint, parse_client
from gateway.control.keysfile import decode_key
from gateway.control.wgquick import StockClient, is_wgquick, wgquick_text
from gateway.errors import ConfigErrors
from tests.unit.control.samples import CLIENT, OWN, WGQUICK, private, public


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse_client(text, "wg0.conf")
    return [str(error) for error in caught.value.errors]


def test_a_stock_file() -> None:
    config = parse_client(WGQUICK, "/etc/wireguard/wg0.conf")
    assert config.interface == "wg0"
    assert config.private_key == decode_key(OWN)
    assert config.addresses == (ip_interface("10.99.0.2/32"), ip_interface("fd99::2/128"))
    assert config.dns.texts() == ["9.9.9.9", "example.net"]
    assert (config.mtu, config.table, config.fwmark, config.listen_port) == (1400, "auto", 0, 0)
    (gateway,) = config.gateways
    assert gateway.public_key == decode_key(public(2))
    assert gateway.preshared_key == decode_key(private(9))
    assert gateway.allowed_ips == (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert gateway.endpoints == (Endpoint("2001:db8::1", 51820),)
    assert gateway.keepalive_s == 25


def test_what_wg_quick_forgives() -> None:
    text = (
        WGQUICK.replace("[Interface]", "  [interface]  # comment")
        .replace("PrivateKey = ", "privatekey=")
        .replace("MTU = 1400", "FwMark = 0xca6c\nTable = off\nListenPort = 4000\nSaveConfig = false\n;"[:-1])
        .replace("0.0.0.0/0", "10.1.2.3/8, 10.0.0.0/8")
        .replace("Keepalive = 25", "Keepalive = off")
        .replace("\n", "\r\n")
    )
    config = parse_client(text, "x y.conf")
    assert (config.interface, config.fwmark, config.table, config.listen_port) == (
        "jvpn0",
        0xCA6C,
        "off",
        4000,
    )
    assert config.gateways[0].allowed_ips == (ip_network("10.0.0.0/8"), ip_network("::/0"))
    assert config.gateways[0].keepalive_s == 0
    assert config.mtu == 1404


def test_several_peers() -> None:
    second = f"[Peer]\nPublicKey = {public(3)}\nEndpoint = a.example:1\nAllowedIPs = 10.9.0.0/16\n"
    first, other = parse_client(WGQUICK + second).gateways
    assert first.public_key != other.public_key
    assert other.allowed_ips == (ip_network("10.9.0.0/16"),)


@pytest.mark.parametrize("hook", ["PreUp", "PostUp", "PreDown", "PostDown", "postup"])
@pytest.mark.parametrize("value", ["iptables -A FORWARD", "", "a = b, c"])
def test_hooks_are_refused_with_line_and_reason(hook: str, value: str) -> None:
    text = WGQUICK.replace("MTU = 1400", f"{hook} = {value}")
    (found,) = mistakes(text)
    assert found.lower().startswith(f"wg0.conf:6: interface.{hook.lower()}: ")
    assert "hooks run shell commands" in found


def test_every_hook_is_listed() -> None:
    text = WGQUICK.replace("MTU = 1400", "PostUp = a\nPostDown = b\nSaveConfig = true")
    assert [found.split(": ")[:2] for found in mistakes(text)] == [
        ["wg0.conf:6", "Interface.PostUp"],
        ["wg0.conf:7", "Interface.PostDown"],
        ["wg0.conf:8", "Interface.SaveConfig"],
    ]


MISTAKES = [
    (WGQUICK.replace("MTU = 1400", "MTU = big"), 6, "Interface.MTU", "not a whole number"),
    (WGQUICK.replace("MTU = 1400", "MTU = 99"), 6, "Interface.MTU", "out of range"),
    (WGQUICK.replace("MTU = 1400", "MTU ="), 6, "Interface.MTU", "has no value"),
    (WGQUICK.replace("MTU = 1400", "MTU"), 6, "Interface.MTU", "has no value"),
    (WGQUICK.replace("MTU = 1400", "Tabel = 1"), 6, "Interface.Tabel", 'did you mean "Table"?'),
    (WGQUICK.replace("MTU = 1400", "Table = main"), 6, "Interface.Table", "not a routing table"),
    (WGQUICK.replace("MTU = 1400", "FwMark = 0x123456789"), 6, "Interface.FwMark", "not a whole number"),
    (WGQUICK.replace("MTU = 1400", "ListenPort = 65536"), 6, "Interface.ListenPort", "out of range"),
    (WGQUICK.replace("MTU = 1400", "Endpoint = a:1"), 6, "Interface.Endpoint", "unknown key"),
    (WGQUICK.replace(f"= {OWN}", "= x"), 3, "Interface.PrivateKey", "not a WireGuard key"),
    (WGQUICK.replace(f"PrivateKey = {OWN}", "#"), 2, "Interface.PrivateKey", "is missing"),
    (WGQUICK.replace("fd99::2/128", "fd99::2/129"), 4, "Interface.Address[1]", "not an address"),
    (WGQUICK.replace("Address", "#"), 2, "Interface.Address", "is missing"),
    (WGQUICK.replace("9.9.9.9", "9.9"), 5, "Interface.DNS[0]", "neither a DNS server"),
    (WGQUICK.replace(public(2), public(1)), 9, "Peer[0].PublicKey", "belongs to this client itself"),
    (WGQUICK.replace(public(2), "A" * 43 + "="), 9, "Peer[0].PublicKey", "low-order"),
    (WGQUICK.replace(private(9), "x"), 10, "Peer[0].PresharedKey", "not a WireGuard key"),
    (WGQUICK.replace("::/0", "::/200"), 12, "Peer[0].AllowedIPs[1]", "not a network prefix"),
    (WGQUICK.replace("]:51820", "]"), 13, "Peer[0].Endpoint", "has no port"),
    (WGQUICK.replace("Endpoint", "#"), 8, "Peer[0].Endpoint", "is missing"),
    (
        WGQUICK.replace("Keepalive = 25", "Keepalive = 65536"),
        14,
        "Peer[0].PersistentKeepalive",
        "out of range",
    ),
    (WGQUICK + "[Other]\nx = 1\n", 15, "[Other]", "outside of an [Interface] or [Peer]"),
    ("[Interface]\n", 0, "gateway", "is missing"),
]


@pytest.mark.parametrize(
    ("text", "line", "key", "problem"), MISTAKES, ids=[f"{m[2]}-{n}" for n, m in enumerate(MISTAKES)]
)
def test_a_mistake_has_file_line_and_key(text: str, line: int, key: str, problem: str) -> None:
    where = f"wg0.conf:{line}: {key}: " if line else f"wg0.conf: {key}: "
    assert any(found.startswith(where) and problem in found for found in mistakes(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WGQUICK, True),
        ("\n\n# x\n[Interface]", True),
        ("[Peer]\n", True),
        ("[INTERFACE]", True),
        (CLIENT, False),
        ("[[peer]]\n", False),
        ("[peer]\n", False),
        ("", False),
        ("# only [Interface]\n", False),
    ],
)
def test_recognising_one(text: str, expected: bool) -> None:
    assert is_wgquick(text) is expected


def test_what_we_write_is_read_back() -> None:
    text = wgquick_text(
        StockClient(
            private_key=OWN,
            addresses=("10.99.0.2/32", "fd99::2/128"),
            gateway_public_key=public(2),
            endpoint="vpn.example.net:51820",
            allowed_ips=("0.0.0.0/0", "::/0"),
            preshared_key=private(9),
            dns=("9.9.9.9",),
            mtu=1400,
        )
    )
    config = parse_client(text, "phone.conf")
    assert [str(address) for address in config.addresses] == ["10.99.0.2/32", "fd99::2/128"]
    assert config.dns.texts() == ["9.9.9.9"]
    assert config.mtu == 1400
    assert config.gateways[0].preshared_key == b"\x09" * 32
    assert config.gateways[0].keepalive_s == 25


def test_what_is_not_set_is_not_written(tmp_path: Path) -> None:
    client = StockClient(OWN, ("10.99.0.2/32",), public(2), "a:1", ("::/0",), keepalive_s=0)
    text = wgquick_text(client)
    assert "Preshared" not in text
    assert "DNS" not in text
    assert "Keepalive" not in text
    assert OWN not in repr(client)
