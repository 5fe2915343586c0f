# SPDX-License-Identifier: Apache-2.0
"""Which card is which network, what networkd is told, and the packet filter, which the real nft checks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from appliance.guest import apply, files, firewall, gatewayfile, networkd, nics, settings
from appliance.guest.host import Done
from appliance.guest.nics import Assigned, Nic
from appliance.guest.settings import Link, Settings
from tests.unit.appliance.box import Box

ROOTFS = Path(__file__).resolve().parents[3] / "appliance/rootfs"
FIRST, SECOND, THIRD = (Nic(f"ens{n}", f"52:54:00:00:00:0{n}") for n in (3, 4, 5))
SIDES = firewall.Sides("jvpn0", ["ens4"], ["ens4"], [51820, 4500], [51821])

needs_nft = pytest.mark.skipif(os.geteuid() != 0, reason="nft checks rules for root only")


def nft_check(text: str) -> None:
    done = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- cards ----------------------------------------------------------------------------------------------------------


def test_cards_come_in_the_order_of_the_bus(box: Box) -> None:
    box.add_card("eth9", "52:54:00:00:00:09", 2)
    box.add_card("ens16", "52:54:00:00:00:10", 16)
    (box.layout.interfaces / "lo").mkdir()
    assert [nic.name for nic in nics.found(box.layout.interfaces)] == ["eth9", "ens3", "ens4", "ens16"]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ((Link("wan"), Link("lan")), ["ens3", "ens4"]),
        ((Link("lan"), Link("wan")), ["ens3", "ens4"]),
        ((Link("wan", match="ens4"), Link("lan")), ["ens4", "ens3"]),
        ((Link("wan"), Link("lan", match=FIRST.mac)), ["ens4", "ens3"]),
        ((Link("wan"), Link("wan2"), Link("lan")), ["ens3", "ens4", "ens5"]),
        ((Link("wan", match="eth0"), Link("lan")), [None, "ens3"]),
    ],
)
def test_who_names_a_card_gets_it_and_the_others_what_is_left(
    links: tuple[Link, ...], expected: list[str | None]
) -> None:
    found = nics.assign([FIRST, SECOND, THIRD], links)
    assert [one.nic.name if one.nic else None for one in found] == expected


def test_one_card_alone_is_the_wan_and_a_missing_one_is_told() -> None:
    assert [one.link.role for one in nics.assign([FIRST], settings.DEFAULT_LINKS)] == ["wan"]
    assert nics.missing(nics.assign([], settings.DEFAULT_LINKS)) == ("network.wan: no interface left for it",)
    named = nics.assign([FIRST], [Link("lan", match="ens9")])
    assert nics.missing(named) == ("network.lan: no interface ens9 in this machine",)


# --- networkd -------------------------------------------------------------------------------------------------------


def test_the_lan_gives_no_default_route_and_no_name_servers() -> None:
    found = networkd.network_files(nics.assign([FIRST, SECOND], settings.DEFAULT_LINKS))
    wan, lan = found["10-jvpn-wan.network"], found["10-jvpn-lan.network"]
    assert "UseGateway=no" in lan and "UseDNS=no" in lan and "LinkLocalAddressing=yes" in lan
    assert "UseGateway" not in wan and "UseDNS" not in wan and "RouteMetric=100" in wan


def test_what_is_written_by_hand_is_all_there_is() -> None:
    link = Link(
        "wan", "", ("192.0.2.10/24", "2001:db8::2/64"), ("192.0.2.1", "fe80::1"), ("9.9.9.9",), False, 1400
    )
    text = networkd.network_files([Assigned(link, FIRST)])["10-jvpn-wan.network"]
    for line in (
        "Name=ens3",
        "MTUBytes=1400",
        "Address=2001:db8::2/64",
        "Gateway=fe80::1",
        "DNS=9.9.9.9",
        "DHCP=no",
    ):
        assert f"{line}\n" in text
    assert "[DHCPv4]" not in text and "IPv6AcceptRA=no" in text


def test_a_card_that_is_not_there_is_waited_for_by_its_address() -> None:
    found = networkd.network_files([Assigned(Link("wan", match="52:54:00:00:00:07"), None)])
    assert "MACAddress=52:54:00:00:00:07" in found["10-jvpn-wan.network"]


def test_own_files_win_and_old_ones_go(box: Box) -> None:
    box.boot()
    directory = box.layout.networkd
    (directory / "10-jvpn-old.network").write_text("")
    (box.layout.network / "10-jvpn-wan.network").write_text("[Match]\nName=mine\n")
    apply.render(box.layout, box.programs)
    assert (directory / "10-jvpn-wan.network").read_text() == "[Match]\nName=mine\n"
    assert not (directory / "10-jvpn-old.network").exists()


# --- the packet filter ----------------------------------------------------------------------------------------------


@needs_nft
@pytest.mark.parametrize(
    "sides",
    [
        SIDES,
        SIDES._replace(lan=[], management=[]),
        SIDES._replace(vpn_ports=[], stats_ports=[]),
        SIDES._replace(nat=False),
        SIDES._replace(management=["ens4", "jvpn0"], lan=["ens4", "eth1"]),
    ],
)
def test_nft_takes_every_variant(sides: firewall.Sides) -> None:
    nft_check(firewall.ruleset(sides))


@needs_nft
def test_nft_takes_own_rules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.nft").write_text(
        "table inet mine { chain input { type filter hook input priority 10; }; };\n"
    )
    nft_check(firewall.ruleset(SIDES, f"{tmp_path}/*.nft"))
    nft_check(firewall.ruleset(SIDES, f"{tmp_path}/none*.nft"))


@needs_nft
def test_nft_takes_the_fallback_of_the_image() -> None:
    nft_check((ROOTFS / "etc/nftables.conf").read_text())


def test_management_is_on_no_line_of_the_wan() -> None:
    """Every accept of a TCP port names the interfaces it holds for."""
    for text in (firewall.ruleset(SIDES), (ROOTFS / "etc/nftables.conf").read_text()):
        accepted = [line.strip() for line in text.splitlines() if "tcp" in line and "accept" in line]
        assert all(line.startswith("iifname {") and "ens3" not in line for line in accepted), accepted
        assert "policy drop" in text


def test_the_policy_follows_the_gateways_file(booted: Box) -> None:
    text = booted.layout.gateway_file.read_text()
    text = gatewayfile.with_key(text, "gateway", 'listen = ["0.0.0.0:4500"]')
    files.write(booted.layout.gateway_file, gatewayfile.with_key(text, "gateway", 'interface = "vpn7"'))
    apply.render(booted.layout, booted.programs)
    rules = booted.layout.nftables.read_text()
    assert "udp dport { 4500 } accept" in rules and 'iifname "vpn7" accept' in rules and "51820" not in rules


def test_a_client_may_send_from_the_ports_of_the_vpn() -> None:
    """Its answers come to a port that is tracked; without NAT in the gateway there is none here either."""
    rules = firewall.ruleset(SIDES)
    assert (
        'iifname "jvpn0" oifname != "jvpn0" udp sport { 4500, 51820 } masquerade to :20000-23999 random'
        in rules
    )
    assert 'iifname != "jvpn0" udp dport { 4500, 51820 } notrack' in rules
    assert "masquerade" not in firewall.ruleset(SIDES._replace(nat=False))
    assert "masquerade to :24000-27999" in firewall.ruleset(SIDES._replace(vpn_ports=[20000, 51820]))
    assert 'iifname "jvpn0" oifname "ens3" udp sport' in firewall.ruleset(SIDES._replace(nat_out="ens3"))


def test_management_through_the_tunnel_is_a_choice(booted: Box) -> None:
    rules = booted.layout.nftables.read_text()
    assert 'iifname { "ens4" } tcp dport { 22, 51821 } accept' in rules
    files.write(booted.layout.settings, settings.encode(Settings(management=("tunnel",))))
    apply.render(booted.layout, booted.programs)
    assert 'iifname { "jvpn0" } tcp dport { 22, 51821 } accept' in booted.layout.nftables.read_text()


def test_own_rules_that_are_wrong_are_left_out_and_told(booted: Box) -> None:
    (booted.layout.network / "mine.nft").write_text("nonsense\n")
    booted.programs.answer = lambda command, _text: (
        Done(1, "", "syntax error, unexpected string") if command[:2] == ["nft", "-c"] else None
    )
    problems = apply.render(booted.layout, booted.programs).problems
    assert problems == ("/data/network/*.nft left out: syntax error, unexpected string",)
    assert "include" not in booted.layout.nftables.read_text()


# --- gateway.toml ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[gateway]\nmtu = 0\n", '[gateway]\nendpoint = "a:1"\nmtu = 0\n'),
        ('[gateway]\nendpoint = "b:2"\n[nat]\n', '[gateway]\nendpoint = "a:1"\n[nat]\n'),
        ('[gateway]\n# endpoint = "b:2"\n', '[gateway]\nendpoint = "a:1"\n# endpoint = "b:2"\n'),
        ("[nat]\nenabled = true\n", '[gateway]\nendpoint = "a:1"\n\n[nat]\nenabled = true\n'),
        ("gateway.mtu = 0\n", 'gateway.endpoint = "a:1"\ngateway.mtu = 0\n'),
        (
            '[[peer]]\nendpoint = "x:1"\n[gateway]\n',
            '[[peer]]\nendpoint = "x:1"\n[gateway]\nendpoint = "a:1"\n',
        ),
    ],
)
def test_a_key_is_set_where_it_belongs_and_nothing_else_moves(before: str, after: str) -> None:
    assert gatewayfile.with_key(before, "gateway", 'endpoint = "a:1"') == after


@pytest.mark.parametrize(
    "text", ["", "[gateway]\n", "[nat]\nenabled = false\n", "gateway.mtu = 0\n", "[stats]\n"]
)
def test_whatever_is_left_out_the_result_is_a_gateway(booted: Box, text: str) -> None:
    whole = gatewayfile.completed(text, "user-data", booted.random)
    found = gatewayfile.check(whole, "user-data", booted.layout.config)
    assert found.audit.keep_files == 8
    assert found.nat_enabled == ("enabled = false" not in text)
