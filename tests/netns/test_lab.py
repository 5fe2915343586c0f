# SPDX-License-Identifier: Apache-2.0
"""The laboratory itself: what it builds works, and nothing of it survives its owner.

    client ──── router ──── server
      10.1.0.0/24   10.2.0.0/24      (and fd01::/64, fd02::/64)

wireguard-go against wireguard-go through the relay shows that a failure of later tests is not the harness's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.net.lab import REPO, Lab, LabError, Link, Namespace, missing_requirements
from tests.net.ledger import remains
from tests.net.relay import Relay
from tests.net.traffic import (
    MEGABYTE,
    TcpServer,
    UdpStream,
    ping,
    tcp_recv,
    tcp_send,
    tcp_start,
    wait_reachable,
)
from tests.net.wg import SOCKETS, Keys, WgDevice, WgPeer, generate_psk

MISSING: Final = missing_requirements()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")


class Triangle(NamedTuple):
    """A client and a server with a router between them."""

    lab: Lab
    client: Namespace
    router: Namespace
    server: Namespace
    near: Link
    far: Link


@pytest.fixture
def net() -> Iterator[Triangle]:
    """The topology of the file's head."""
    with Lab() as lab:
        client, router, server = (lab.namespace(role) for role in ("client", "router", "server"))
        router.forward()
        near = lab.link(client, router, "10.1.0.0/24", "fd01::/64")
        far = lab.link(router, server, "10.2.0.0/24", "fd02::/64")
        for via in ("10.1.0.2", "fd01::2"):
            client.add_route("default", via=via)
        for via in ("10.2.0.1", "fd02::1"):
            server.add_route("default", via=via)
        yield Triangle(lab, client, router, server, near, far)


def processes(marker: str) -> list[int]:
    """Processes whose command line holds the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found += [int(path.parent.name)] if marker.encode() in words else []
    return found


# --- what it builds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["10.2.0.2", "fd02::2"])
def test_addresses_and_routes_work_at_once(net: Triangle, host: str) -> None:
    answered = ping(net.client, host, count=3)
    assert answered.ok
    assert answered.median_ms < 20


@pytest.mark.parametrize("host", ["10.2.0.2", "fd02::2"])
def test_tcp_transfers_are_checked_both_ways(net: Triangle, host: str) -> None:
    with TcpServer(net.server):
        for transfer in (tcp_send(net.client, host, 5_000_001), tcp_recv(net.client, host, 5_000_001)):
            assert transfer.ok
            assert transfer.size_bytes == 5_000_001
            assert transfer.mbit_per_s > 0


def test_a_cut_transfer_is_an_error_not_a_success(net: Triangle) -> None:
    with TcpServer(net.server) as server:
        running = tcp_start(net.client, "send", "10.2.0.2", 2000 * MEGABYTE)
        time.sleep(0.3)
        server.proc.kill()
        with pytest.raises(LabError):
            running.result(10.0)


@pytest.mark.parametrize("echo", [False, True])
def test_udp_stream_reports_every_datagram(net: Triangle, echo: bool) -> None:
    with UdpStream(net.client, net.server, "fd02::2", rate_pps=2000, count=1000, echo=echo) as stream:
        report = stream.finish()
    assert (report.sent, report.received, report.lost_count, report.duplicate_count) == (1000, 1000, 0, 0)
    assert report.delay_p50_ms < 20


def test_udp_stream_sees_the_outage_of_a_link(net: Triangle) -> None:
    with UdpStream(net.client, net.server, "10.2.0.2", rate_pps=500) as stream:
        time.sleep(0.3)
        net.router.run(["ip", "route", "add", "blackhole", "10.2.0.2/32"])
        time.sleep(0.3)
        net.router.run(["ip", "route", "del", "blackhole", "10.2.0.2/32"])
        time.sleep(0.3)
        report = stream.stop()
    assert 100 < report.lost_count < 250
    assert report.lost == tuple(range(report.lost[0], report.lost[0] + 32))
    assert 250 < report.max_gap_ms < 500


def test_links_go_down_come_back_and_disappear(net: Triangle) -> None:
    net.near.down("a")
    assert ping(net.client, "10.1.0.2", count=1, wait_s=0.3).received == 0
    net.near.up("a")
    assert wait_reachable(net.client, "fd01::2") < 10
    net.lab.delete_link(net.near)
    assert net.client.devices() == ["lo"]


def test_resolv_conf_is_the_namespaces_own(net: Triangle) -> None:
    before = Path("/etc/resolv.conf").read_bytes() if Path("/etc/resolv.conf").exists() else None
    net.client.run(["sh", "-c", "echo nameserver 10.9.9.9 > /etc/resolv.conf"])
    assert "10.9.9.9" in net.client.run(["cat", "/etc/resolv.conf"]).stdout
    assert "10.9.9.9" not in net.server.run(["cat", "/etc/resolv.conf"]).stdout
    assert (Path("/etc/resolv.conf").read_bytes() if before is not None else None) == before


def test_a_failing_command_explains_itself(net: Triangle) -> None:
    with pytest.raises(LabError, match="no such thing"):
        net.client.run(["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(LabError, match="ended with 4"):
        net.client.spawn(["sh", "-c", "exit 4"]).wait_line("never")


# --- what it leaves ---------------------------------------------------------------------------------------------

OWNER: Final = """
import sys, time
from tests.net.lab import Lab
with Lab() as lab:
    one, two = lab.namespace("one"), lab.namespace("two")
    lab.link(one, two, "10.1.0.0/24")
    one.spawn(["sleep", MARKER])
    one.spawn(["sh", "-c", "trap '' TERM; sleep " + MARKER + "; true"])
    lab.spawn(["sleep", MARKER], "outside")
    print(lab.token, flush=True)
    if sys.argv[1] == "raise":
        raise ValueError("on purpose")
    time.sleep(60)
"""


def start_owner(how: str, marker: str) -> tuple[subprocess.Popen[str], str]:
    """A process that owns a laboratory; returns it and the laboratory's token."""
    argv = [sys.executable, "-c", OWNER.replace("MARKER", repr(marker)), how]
    owner = subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if owner.stdout is None:
        raise LabError("no output of the owner")
    return owner, owner.stdout.readline().strip()


@pytest.mark.parametrize("how", ["raise", "SIGINT", "SIGTERM", "SIGHUP"])
def test_nothing_is_left_after_an_exception_or_a_signal(how: str) -> None:
    marker = f"6{os.getpid()}.{len(how)}"
    owner, token = start_owner(how, marker)
    with owner:
        if how != "raise":
            owner.send_signal(signal.Signals[how])
        _, stderr = owner.communicate(timeout=15)
    assert owner.returncode != 0
    assert ("on purpose" in stderr) == (how == "raise")
    assert remains(token) == []
    assert processes(marker) == []


def test_leftovers_of_a_killed_owner_go_with_the_next_start() -> None:
    marker = f"7{os.getpid()}.5"
    owner, token = start_owner("wait", marker)
    with owner:
        owner.kill()
        owner.communicate(timeout=15)
    assert len(remains(token)) == 6
    started_s = time.monotonic()
    while len(processes(marker)) < 3 and time.monotonic() < started_s + 10:
        time.sleep(0.05)  # the shell of one of them may not have come to its child yet
    assert len(processes(marker)) == 3
    with Lab() as other:
        other.namespace("x")
        assert remains(token) == []
        assert processes(marker) == []
        with Lab():
            assert len(remains(other.token)) == 4


# --- the stock peers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("listen", "upstream"), [("10.1.0.2", "10.2.0.2"), ("[fd01::2]", "[fd02::2]")])
def test_wireguard_go_talks_to_itself_through_the_relay(net: Triangle, listen: str, upstream: str) -> None:
    left, right, psk = Keys.generate(), Keys.generate(), generate_psk()
    relay = Relay(net.lab, net.router, f"{listen}:4500", f"{upstream}:51820", seed=3)
    serves = WgPeer(left.public, ["10.8.0.2/32", "fd08::2/128"], preshared_key=psk)
    calls = WgPeer(right.public, ["10.8.0.0/24", "fd08::/64"], f"{listen}:4500", psk, keepalive_s=1)
    server = WgDevice(net.lab, net.server, right, ["10.8.0.1/24", "fd08::1/64"], [serves], listen_port=51820)
    client = WgDevice(net.lab, net.client, left, ["10.8.0.2/24", "fd08::2/64"], [calls])
    server.start()
    client.start()
    client.wait_handshake()
    relay.set("both", delay_ms=10)
    with TcpServer(net.server):
        for host in ("10.8.0.1", "fd08::1"):
            assert 20 <= ping(net.client, host).median_ms < 30
            assert tcp_send(net.client, host, MEGABYTE).ok
            assert tcp_recv(net.client, host, MEGABYTE).ok
    before = server.peer().endpoint
    relay.rebind_port()
    assert ping(net.client, "10.8.0.1").ok
    assert server.peer().endpoint not in (None, before)
    assert client.peer().rx_bytes > MEGABYTE
    assert relay.stats()["down"]["bytes"] > MEGABYTE
    server.restart()
    client.kill()
    assert not list(SOCKETS.glob(f"{client.interface}.sock"))
    assert client.interface not in net.client.devices()
