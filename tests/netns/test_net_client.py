# SPDX-License-Identifier: Apache-2.0
"""The client's host set-up: what goes where while it is up, and that nothing of it stays."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.netns.net_bed import (
    ETC,
    GATE,
    NEAR,
    OUTSIDE,
    RESOLV,
    AgentError,
    Bed,
    bed,
    needs_nft,
    needs_root,
    sh,
)

pytestmark = [needs_root, needs_nft]
__all__ = ["bed"]

MARK = 51820
PLAN: dict[str, Any] = {
    "addresses": ["10.9.0.2/32", "fd09::2/128"],
    "allowed_ips": ["0.0.0.0/0", "::/0"],
    "endpoints": [OUTSIDE[4]],
    "fwmark": MARK,
    "dns_servers": ["10.9.0.1", "fd09::1"],
    "dns_search": ["inner.example"],
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("allowed", [["0.0.0.0/0", "::/0"], ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]])
def test_default_route_spares_the_tunnels_own_packets(
    bed: Bed, tmp_path: Path, version: int, allowed: list[str]
) -> None:
    with bed.agent(tmp_path) as agent, bed.udp(bed.outside, OUTSIDE[version], 7000) as far:
        agent.ask("client_up", **PLAN | {"allowed_ips": allowed})
        agent.ask("send", to=OUTSIDE[version], port=7000, text="outer", mark=MARK)
        data, source = far.recvfrom(100)
        assert (data, source[0]) == (b"outer", NEAR[version])
        agent.ask("send", to=OUTSIDE[version], port=7000, text="inner")
        packet = bytes.fromhex(agent.ask("tun_read", containing=b"inner".hex()))
        assert packet[0] >> 4 == version
        assert agent.ask("route_to", address=OUTSIDE[version])["device"] == "jv0"
        assert agent.ask("route_to", address=OUTSIDE[version], mark=MARK)["device"] == "near"


def test_neighbours_stay_reachable_past_a_default_route(bed: Bed, tmp_path: Path) -> None:
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        for version in (4, 6):
            assert agent.ask("route_to", address=GATE[version])["device"] == "near"


def test_a_prefix_that_holds_the_endpoint_does_not_loop(bed: Bed, tmp_path: Path) -> None:
    with bed.agent(tmp_path) as agent:
        report = agent.ask("client_up", **PLAN | {"allowed_ips": ["198.51.100.0/24", "10.9.0.0/24"]})
        assert report["table"] == MARK
        assert agent.ask("route_to", address=OUTSIDE[4])["device"] == "jv0"
        assert agent.ask("route_to", address=OUTSIDE[4], mark=MARK)["device"] == "near"
        assert agent.ask("route_to", address="10.9.0.77")["device"] == "jv0"


def test_down_restores_everything(bed: Bed, tmp_path: Path) -> None:
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        during = bed.snapshot()
        assert all(during[key] != before[key] for key in before if "forward" not in key), "nothing was set up"
        report = agent.ask("client_down")
        assert report["failed"] == []
        assert bed.snapshot() == before
    assert list(tmp_path.iterdir()) == []


def test_up_again_after_down(bed: Bed, tmp_path: Path) -> None:
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        for _ in range(2):
            agent.ask("client_up", **PLAN)
            agent.ask("client_down")
    assert bed.snapshot() == before


@pytest.mark.parametrize("action", ["recover", "prepare"])
def test_what_a_killed_client_left_is_removed(bed: Bed, tmp_path: Path, action: str) -> None:
    """By `jvpn disconnect` (recover) and by the next start (prepare)."""
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        agent.kill()
    left = bed.snapshot()
    assert all(left[key] != before[key] for key in ("rule", "-6 rule", "nft", "resolv.conf"))
    with bed.agent(tmp_path) as successor:
        report = successor.ask(action)
        assert report["failed"] == []
        assert "DNS in /etc/resolv.conf" in report["undone"]
        assert bed.snapshot() == before
        assert successor.ask("recover") == {"undone": [], "passed": [], "failed": []}


def test_a_successor_may_come_up_at_once(bed: Bed, tmp_path: Path) -> None:
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        during = bed.snapshot()
        agent.process.send_signal(signal.SIGKILL)
        agent.process.wait()
    with bed.agent(tmp_path) as successor:
        successor.ask("client_up", **PLAN)
        again = bed.snapshot()
        for name in ("rule", "-6 rule", "resolv.conf"):
            assert again[name] == during[name], name
        successor.ask("client_down")
    assert bed.snapshot() == before


def test_a_living_owner_is_not_robbed(bed: Bed, tmp_path: Path) -> None:
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        during = bed.snapshot()
        with bed.agent(tmp_path) as rival, pytest.raises(AgentError, match="belongs to the running process"):
            rival.ask("recover")
        assert bed.snapshot() == during


def test_a_journal_of_another_namespace(bed: Bed, tmp_path: Path) -> None:
    """While that namespace exists, undoing belongs there; once it is gone, so is what was done to it."""
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        agent.kill()
    left = bed.snapshot()
    with bed.agent(tmp_path, namespace=bed.outside) as stranger:
        with pytest.raises(AgentError, match="another network namespace"):
            stranger.ask("recover")
        assert bed.snapshot() == left
        sh("ip", "netns", "del", bed.machine)
        report = stranger.ask("recover")
        assert report["undone"] == report["failed"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_half_way_undoes_the_rest(bed: Bed, tmp_path: Path) -> None:
    bed.ip(bed.machine, "route del 192.0.2.0/24 dev near")
    bed.ip(bed.machine, "route add 192.0.2.1 dev near")
    bed.ip(bed.machine, "route add 192.0.2.0/24 via 192.0.2.1 dev near")
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        with pytest.raises(AgentError, match=r"192\.0\.2\.0/24 via 192\.0\.2\.1 dev near .* is in its place"):
            agent.ask("client_up", **PLAN | {"allowed_ips": ["::/0", "10.0.0.0/8", "192.0.2.0/24"]})
        agent.ask("client_down")
        assert bed.snapshot() == before


def test_a_default_route_without_a_mark_is_refused(bed: Bed, tmp_path: Path) -> None:
    before = bed.snapshot()
    with bed.agent(tmp_path) as agent:
        with pytest.raises(AgentError, match="fwmark"):
            agent.ask("client_up", **PLAN | {"fwmark": 0})
        agent.ask("client_down")
        assert bed.snapshot() == before


def test_table_off_adds_no_route_and_a_number_takes_them_all(bed: Bed, tmp_path: Path) -> None:
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN | {"table": "off"})
        assert agent.ask("route_to", address=OUTSIDE[4])["device"] == "near"
        agent.ask("client_down")
        agent.ask("client_up", **PLAN | {"table": 777})
        routes = json.loads(bed.ip(bed.machine, "-j route show table 777"))
        assert [(route["dst"], route["dev"]) for route in routes] == [("default", "jv0")]
        assert agent.ask("route_to", address=OUTSIDE[4])["device"] == "near"


@pytest.mark.parametrize(
    ("way", "wanted", "mtu"),
    [
        ("", 0, 1420),
        ("mtu 1400", 0, 1320),
        ("mtu 1300", 0, 1280),
        ("", 1333, 1333),
    ],
)
def test_mtu(bed: Bed, tmp_path: Path, way: str, wanted: int, mtu: int) -> None:
    bed.ip(bed.machine, f"route replace {OUTSIDE[4]} via 192.0.2.1 {way}")
    with bed.agent(tmp_path) as agent:
        report = agent.ask("client_up", **PLAN | {"mtu_bytes": wanted})
        assert report["mtu_bytes"] == mtu
        assert json.loads(bed.ip(bed.machine, "-j link show jv0"))[0]["mtu"] == mtu


def test_mtu_without_a_way(bed: Bed, tmp_path: Path) -> None:
    bed.ip(bed.machine, "route del default")
    with bed.agent(tmp_path) as agent:
        assert agent.ask("client_up", **PLAN)["mtu_bytes"] == 1420


def test_strict_reverse_path_filter_lets_answers_in(bed: Bed, tmp_path: Path) -> None:
    """With rp_filter = 1 the way back to its source must be the way it came; without the mark that is the tunnel."""
    for name in ("all", "near"):
        bed.sysctl(f"net/ipv4/conf/{name}/rp_filter", "1")
    with bed.agent(tmp_path) as agent, bed.udp(bed.outside, OUTSIDE[4], 7000) as far:
        agent.ask("client_up", **PLAN)

        def echo() -> None:
            data, source = far.recvfrom(100)
            far.sendto(data[::-1], source)

        thread = threading.Thread(target=echo)
        thread.start()
        answer = agent.ask("send", to=OUTSIDE[4], port=7000, text="abc", mark=MARK, answer=True)
        thread.join()
        assert answer == "cba"


def test_strangers_cannot_reach_the_inner_address(bed: Bed, tmp_path: Path) -> None:
    """CVE-2019-14899: a neighbour who guesses the inner address must get no answer through the outer interface."""
    bed.ip(bed.outside, "route add 10.9.0.2 via 192.0.2.2")
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        with bed.udp(bed.outside, "192.0.2.1") as stranger, bed.udp(bed.machine, "10.9.0.2", 7001) as service:
            stranger.sendto(b"guess", ("10.9.0.2", 7001))
            service.settimeout(0.3)
            with pytest.raises(TimeoutError):
                service.recv(100)


def test_rules_come_after_the_local_table_and_before_all_others(bed: Bed, tmp_path: Path) -> None:
    bed.ip(bed.machine, "rule add from 10.66.0.0/16 lookup 66 priority 100")
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        rules = json.loads(bed.ip(bed.machine, "-j rule"))
    assert [rule["priority"] for rule in rules] == [0, 98, 99, 100, 32766, 32767]
    assert [rule["table"] for rule in rules[1:3]] == ["main", str(MARK)]


def test_a_mark_that_others_use_is_not_taken(bed: Bed, tmp_path: Path) -> None:
    bed.ip(bed.machine, f"route add 10.77.0.0/16 via 192.0.2.1 table {MARK}")
    bed.ip(bed.machine, f"-6 rule add fwmark {MARK + 1} lookup main")
    with bed.agent(tmp_path) as agent:
        assert agent.ask("choose_mark", preferred=MARK) == MARK + 2


def test_resolv_conf_of_a_namespace_is_written_in_place(bed: Bed, tmp_path: Path) -> None:
    file = ETC / bed.machine / "resolv.conf"
    inode = file.stat().st_ino
    with bed.agent(tmp_path) as agent:
        assert agent.ask("client_up", **PLAN)["dns"] == "resolv.conf"
        lines = file.read_text().splitlines()
        assert lines[1:] == [
            "nameserver 10.9.0.1",
            "nameserver fd09::1",
            "search inner.example",
            "options timeout:2",
        ]
        agent.ask("client_down")
    assert file.read_bytes() == RESOLV
    assert file.stat().st_ino == inode, "a file that is mounted elsewhere must not be replaced"


def test_a_newer_resolv_conf_stays(bed: Bed, tmp_path: Path) -> None:
    file = ETC / bed.machine / "resolv.conf"
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        file.write_text("nameserver 192.0.2.99\n")
        report = agent.ask("client_down")
    assert "DNS in /etc/resolv.conf" in report["passed"]
    assert file.read_text() == "nameserver 192.0.2.99\n"


def test_no_link_local_address_on_the_tunnel(bed: Bed, tmp_path: Path) -> None:
    with bed.agent(tmp_path) as agent:
        agent.ask("client_up", **PLAN)
        info = json.loads(bed.ip(bed.machine, "-j addr show jv0"))[0]["addr_info"]
    assert {entry["local"] for entry in info} == {"10.9.0.2", "fd09::2"}


def test_ipv6_switched_off_is_named(bed: Bed, tmp_path: Path) -> None:
    bed.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
    with bed.agent(tmp_path) as agent, pytest.raises(AgentError, match="IPv6 is switched off here"):
        agent.ask("client_up", **PLAN)
