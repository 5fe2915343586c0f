# SPDX-License-Identifier: Apache-2.0
"""The gateway's host set-up. The test plays the clients: it writes their packets into the TUN device and reads it."""

from __future__ import annotations

import json
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.netns import net_packets
from tests.netns.net_bed import NEAR, OUTSIDE, AgentError, Bed, bed, needs_nft, needs_root

pytestmark = [needs_root, needs_nft]
__all__ = ["bed"]

PLAN: dict[str, Any] = {"addresses": ["10.9.0.1/24", "fd09::1/64"], "nat": True}
CLIENT = {4: "10.9.0.2", 6: "fd09::2"}
OTHER = {4: "10.9.0.3", 6: "fd09::3"}
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def test_down_restores_everything(bed: Bed, tmp_path: Path) -> None:
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN | {"peer_routes": ["10.50.0.0/16", "10.9.0.2/32"]})
        during = bed.snapshot()
        assert [during[key] for key in FORWARDING] == ["1", "1"]
        assert during["nft"] != before["nft"]
        assert agent.ask("gateway_down")["failed"] == []
        assert bed.snapshot() == before
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_gateway_left_is_removed(bed: Bed, tmp_path: Path) -> None:
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN)
        agent.kill()
    assert bed.snapshot() != before
    with bed.agent(tmp_path) as successor:
        assert successor.ask("recover")["failed"] == []
    assert bed.snapshot() == before


def test_interfaces_that_forwarded_before_still_do(bed: Bed, tmp_path: Path) -> None:
    """The global switch resets all others, in both directions."""
    keys = ("net/ipv4/conf/near/forwarding", "net/ipv6/conf/near/forwarding")
    for key in keys:
        bed.sysctl(key, "1")
    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN)
        agent.ask("gateway_down")
    assert [bed.sysctl(key) for key in (*keys, *FORWARDING)] == ["1", "1", "0", "0"]


def test_router_advertisements_are_still_heard(bed: Bed, tmp_path: Path) -> None:
    """A forwarding host ignores them unless accept_ra is 2, and would lose its own IPv6 default route."""
    key = "net/ipv6/conf/near/accept_ra"
    assert bed.sysctl(key) == "1"
    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN)
        assert bed.sysctl(key) == "2"
        agent.ask("gateway_down")
    assert bed.sysctl(key) == "1"


def test_forwarding_that_was_on_stays_on(bed: Bed, tmp_path: Path) -> None:
    for key in FORWARDING:
        bed.sysctl(key, "1")
    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN)
        agent.ask("gateway_down")
    assert [bed.sysctl(key) for key in FORWARDING] == ["1", "1"]


SECOND: dict[str, Any] = {"addresses": ["10.19.0.1/24", "fd19::1/64"]}


@pytest.mark.parametrize("first", ["jv0", "jv1"])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_last_of_two_gateways_turns_forwarding_off(
    bed: Bed, tmp_path: Path, first: str, how: str
) -> None:
    """Whoever goes first, in order or killed and cleaned up after: the other one still forwards."""
    before = bed.snapshot()
    heard = "net/ipv6/conf/near/accept_ra"
    with bed.agent(tmp_path) as one, bed.agent(tmp_path, "jv1") as two:
        one.ask("gateway_up", **PLAN)
        two.ask("gateway_up", **SECOND)
        going, staying = (one, two) if first == "jv0" else (two, one)
        if how == "stop":
            assert going.ask("gateway_down")["failed"] == []
        else:
            going.kill()
            with bed.agent(tmp_path, first) as successor:
                assert successor.ask("recover")["failed"] == []
        assert [bed.sysctl(key) for key in (*FORWARDING, heard)] == ["1", "1", "2"]
        assert staying.ask("gateway_down")["failed"] == []
    assert bed.snapshot() == before
    assert bed.sysctl(heard) == "1"
    assert list(tmp_path.iterdir()) == []


def test_what_a_gateway_of_another_machine_left_claims_nothing(bed: Bed, tmp_path: Path) -> None:
    """Journals in the same folder, but of another network namespace: nothing of theirs is here."""
    with bed.agent(tmp_path) as here, bed.agent(tmp_path, "jv1", bed.outside) as there:
        there.ask("gateway_up", **SECOND)
        here.ask("gateway_up", **PLAN)
        here.ask("gateway_down")
        assert [bed.sysctl(key) for key in FORWARDING] == ["0", "0"]
        there.ask("gateway_down")


def test_a_third_gateway_inherits_through_the_second(bed: Bed, tmp_path: Path) -> None:
    third = {"addresses": ["10.29.0.1/24"]}
    with bed.agent(tmp_path) as a, bed.agent(tmp_path, "jv1") as b, bed.agent(tmp_path, "jv2") as c:
        a.ask("gateway_up", **PLAN)
        b.ask("gateway_up", **SECOND)
        a.ask("gateway_down")
        c.ask("gateway_up", **third)
        b.ask("gateway_down")
        # The third has IPv4 only, so IPv6 is nobody's any more.
        assert [bed.sysctl(key) for key in FORWARDING] == ["1", "0"]
        c.ask("gateway_down")
    assert [bed.sysctl(key) for key in FORWARDING] == ["0", "0"]


@pytest.mark.parametrize("version", [4, 6])
def test_nat_hides_the_client_and_lets_answers_in(bed: Bed, tmp_path: Path, version: int) -> None:
    with bed.agent(tmp_path) as agent, bed.udp(bed.outside, OUTSIDE[version], 7000) as far:
        agent.ask("gateway_up", **PLAN)
        packet = net_packets.udp(CLIENT[version], OUTSIDE[version], 7000, b"hello")
        agent.ask("tun_write", packet=packet.hex())
        data, source = far.recvfrom(100)
        assert (data, source[0]) == (b"hello", NEAR[version])
        far.sendto(b"welcome", source)
        answer = bytes.fromhex(agent.ask("tun_read", containing=b"welcome".hex()))
        assert ip_address(CLIENT[version]).packed in answer


def test_without_nat_the_client_shows(bed: Bed, tmp_path: Path) -> None:
    bed.ip(bed.outside, "route add 10.9.0.0/24 via 192.0.2.2")
    with bed.agent(tmp_path) as agent, bed.udp(bed.outside, OUTSIDE[4], 7000) as far:
        agent.ask("gateway_up", **PLAN | {"nat": False})
        agent.ask("tun_write", packet=net_packets.udp(CLIENT[4], OUTSIDE[4], 7000, b"hello").hex())
        assert far.recvfrom(100)[1][0] == CLIENT[4]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("inbound", [False, True])
def test_the_outside_opens_connections_only_if_allowed(
    bed: Bed, tmp_path: Path, version: int, inbound: bool
) -> None:
    bed.ip(bed.outside, "route add 10.9.0.0/24 via 192.0.2.2")
    bed.ip(bed.outside, "route add fd09::/64 via 2001:db8:1::2")
    with bed.agent(tmp_path) as agent, bed.udp(bed.outside, OUTSIDE[version]) as far:
        agent.ask("gateway_up", **PLAN | {"inbound": inbound})
        far.sendto(b"knock", (CLIENT[version], 7000))
        assert bool(agent.ask("tun_read", containing=b"knock".hex(), wait_s=5 if inbound else 0.3)) is inbound


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("clients", [False, True])
def test_clients_reach_each_other_only_if_allowed(
    bed: Bed, tmp_path: Path, version: int, clients: bool
) -> None:
    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN | {"clients": clients})
        agent.ask("tun_write", packet=net_packets.udp(CLIENT[version], OTHER[version], 7000, b"psst").hex())
        passed = agent.ask("tun_read", containing=b"psst".hex(), wait_s=5 if clients else 0.3)
        assert bool(passed) is clients
        if passed:
            assert ip_address(CLIENT[version]).packed in bytes.fromhex(passed), "it keeps its address inside"


@pytest.mark.parametrize("clamp", [False, True])
def test_segment_sizes_fit_the_way_out(bed: Bed, tmp_path: Path, clamp: bool) -> None:
    bed.ip(bed.machine, "link set near mtu 1300")
    raw = bed.socket(bed.outside, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw, bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN | {"mss_clamp": clamp})
        agent.ask("tun_write", packet=net_packets.syn(CLIENT[4], OUTSIDE[4], 7000, 1460).hex())
        assert net_packets.mss_of(raw.recv(100)[20:]) == (1260 if clamp else 1460)


def test_nat_only_where_asked(bed: Bed, tmp_path: Path) -> None:
    bed.ip(bed.outside, "route add 10.9.0.0/24 via 192.0.2.2")
    with bed.agent(tmp_path) as agent, bed.udp(bed.outside, OUTSIDE[4], 7000) as far:
        agent.ask("gateway_up", **PLAN | {"out_interface": "elsewhere"})
        agent.ask("tun_write", packet=net_packets.udp(CLIENT[4], OUTSIDE[4], 7000, b"hello").hex())
        assert far.recvfrom(100)[1][0] == CLIENT[4]


def test_peer_routes_come_and_go(bed: Bed, tmp_path: Path) -> None:
    def routed() -> list[str]:
        shown = json.loads(bed.ip(bed.machine, "-j route show dev jv0"))
        shown += json.loads(bed.ip(bed.machine, "-6 -j route show dev jv0"))
        return sorted(route["dst"] for route in shown if route.get("protocol") != "kernel")

    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN | {"peer_routes": ["10.9.0.2/32", "10.50.0.0/16", "fd50::/64"]})
        assert routed() == ["10.50.0.0/16", "fd50::/64"]
        assert agent.ask("add_routes", prefixes=["10.50.0.0/16", "10.51.0.0/16", "10.9.0.9/32"]) == []
        agent.ask("remove_routes", prefixes=["10.50.0.0/16"])
        assert routed() == ["10.50.0.0/16", "10.51.0.0/16", "fd50::/64"], "another peer has it too"
        agent.ask("remove_routes", prefixes=["10.50.0.0/16", "10.99.0.0/16"])
        assert routed() == ["10.51.0.0/16", "fd50::/64"]
        (warning,) = agent.ask("add_routes", prefixes=["0.0.0.0/0", "10.52.0.0/16"])
        assert "0.0.0.0/0" in warning
        assert agent.ask("route_to", address=OUTSIDE[4])["device"] == "near"
        bed.ip(bed.machine, "route add 10.60.0.0/16 via 192.0.2.1")
        with pytest.raises(AgentError, match="is in its place"):
            agent.ask("add_routes", prefixes=["10.53.0.0/16", "10.60.0.0/16"])
        assert routed() == ["10.51.0.0/16", "10.52.0.0/16", "fd50::/64"], "all or nothing"


def test_a_thousand_peer_routes(bed: Bed, tmp_path: Path) -> None:
    """1,000 configured peers start in under 2 s; routes may take half of it."""
    routes = [f"10.{100 + n // 250}.{n % 250}.0/24" for n in range(1000)]
    with bed.agent(tmp_path) as agent:
        agent.ask("gateway_up", **PLAN)
        begun = agent.ask("cpu_s")
        agent.ask("add_routes", prefixes=routes)
        assert agent.ask("cpu_s") - begun < 1.0
        assert len(bed.ip(bed.machine, "route show dev jv0").splitlines()) == 1001


def test_an_interface_that_is_missing_is_named(bed: Bed, tmp_path: Path) -> None:
    with bed.agent(tmp_path, "bad name") as agent:
        assert agent.process.wait(20) != 0
    with (
        bed.agent(tmp_path) as agent,
        pytest.raises(AgentError, match="cannot set the MTU of jv0 to 99999999"),
    ):
        agent.ask("gateway_up", **PLAN | {"mtu_bytes": 99999999})
