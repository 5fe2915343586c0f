# SPDX-License-Identifier: Apache-2.0
"""Native workers at both ends: everything arrives, while peers come and go and while Python has no time.

    client (jvpn connect) ─── router ─── server (jvpn gateway) ─── backend       drawn in tests/net/tunnel.py

How sessions move between paths with them is in sessions/test_workers.py.
"""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from tests.net.intact import move_tcp, move_udp, ours, running, without_faults
from tests.net.jvpn import Daemon, JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import Lab, missing_requirements, python_module
from tests.net.traffic import HELPER, Ping, UdpStream, ping, tcp_start, wait_reachable
from tests.net.tunnel import BACKEND, CLIENT, PORT, SERVER, SERVER_OUTER, Options, Site, Tunnel, join
from tests.net.wg import Keys

MISSING: Final = missing_requirements()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

ONE: Final = {"count": 1, "native": True}
TWO: Final = {"count": 2}
ON_THE_LOOP: Final = {"count": 1}
MIXED: Final = {
    "one": (ONE, ONE),
    "two": (TWO, TWO),
    "client-alone": (TWO, ON_THE_LOOP),
    "gateway-alone": ({}, TWO),
}
FLOWS: Final = 64
ECHO_PORT: Final = 5009
TRANSFER_BYTES: Final = 8_000_003
# A status document of so many peers holds the event loop for tens of milliseconds.
PEERS: Final = 8000
PINGS: Final = 400
ASK: Final = b'{"id":1,"command":"status","args":{}}\n'


@pytest.fixture(scope="module")
def place(lab: Lab) -> Site:
    """A site of its own: here the backend knows the way back."""
    return Site.build(lab, "w")


def make(place: Site, client: dict[str, Any], server: dict[str, Any], outer: Any = 4) -> Tunnel:
    """A tunnel with these [workers] at its ends."""
    tables = Options(outer=outer, client_tables={"workers": client}, server_tables={"workers": server})
    return Tunnel(place, "jvpn", "jvpn", tables)


def workers(daemon: Daemon) -> list[dict[str, int]]:
    """What `jvpn status` says of each native worker."""
    return list(daemon.status()["workers"]["each"])


def stranger(number: int) -> JvpnPeer:
    """A configured peer that never comes: any 32 bytes are a public key."""
    address = f"10.8.{16 + number // 250}.{number % 250 + 1}/32"
    return JvpnPeer(f"peer{number}", base64.b64encode(os.urandom(32)).decode(), [address])


# --- traffic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXED)
def test_everything_arrives_once(place: Site, name: str) -> None:
    client, server = MIXED[name]
    with running(make(place, client, server)) as tunnel, without_faults(tunnel):
        for host in BACKEND:
            move_tcp(tunnel, host)
            move_udp(tunnel, host, 1)
        for daemon, wanted in zip(ours(tunnel), (client, server), strict=True):
            native = wanted.get("native", wanted.get("count", 1) > 1)
            found = daemon.status()["workers"]
            assert (found["count"], found["native"]) == (wanted.get("count", 1), native)
            assert len(found["each"]) == (found["count"] if native else 0)
            if native:
                assert sum(each["rx_datagrams"] for each in found["each"]) > 0
                assert all(each["wakeups"] > 0 for each in found["each"] if each["tx_datagrams"])


def test_everything_arrives_over_ipv6(place: Site) -> None:
    with running(make(place, TWO, TWO, outer=6)) as tunnel, without_faults(tunnel):
        move_tcp(tunnel, BACKEND[0])
        move_udp(tunnel, BACKEND[1], 1)


def test_many_flows_at_once(place: Site) -> None:
    """Eight transfers each way at the same time: the workers share sessions, keys and windows."""
    with running(make(place, TWO, TWO)) as tunnel:
        moving = [
            tcp_start(place.client, way, host, TRANSFER_BYTES)
            for way in ("send", "recv")
            for host in 4 * BACKEND
        ]
        assert all(transfer.result(90).ok for transfer in moving)
        for daemon in ours(tunnel):
            assert daemon.counter("drop_replay") == 0


def test_the_kernel_spreads_flows_over_the_workers(place: Site) -> None:
    with running(make(place, TWO, TWO)) as tunnel, echoing(place), ExitStack() as stack:
        before = [each["tx_datagrams"] for each in workers(ours(tunnel)[0])]
        senders = [
            stack.enter_context(place.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(FLOWS)
        ]
        for sender in senders:
            sender.settimeout(5.0)
            sender.sendto(b"flow", (BACKEND[0], ECHO_PORT))
        assert [sender.recv(16) for sender in senders] == [b"flow"] * FLOWS
        after = [each["tx_datagrams"] for each in workers(ours(tunnel)[0])]
        grown = [late - early for early, late in zip(before, after, strict=True)]
        assert min(grown) > 0, grown
        assert sum(grown) >= FLOWS


@contextmanager
def echoing(place: Site) -> Iterator[None]:
    """The backend sends datagrams back."""
    echo = place.backend.spawn(python_module(HELPER, "udp-echo", str(ECHO_PORT)))
    echo.wait_line("^ready")
    try:
        yield
    finally:
        echo.kill()


# --- life -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [ONE, TWO], ids=["one", "two"])
def test_peers_come_and_go_while_another_loses_nothing(place: Site, each: dict[str, Any]) -> None:
    with running(make(place, each, each)) as tunnel:
        gateway = tunnel.server
        assert isinstance(gateway, JvpnGateway)
        with UdpStream(place.client, place.backend, BACKEND[0], rate_pps=1000, echo=True) as stream:
            for number in range(30):
                gateway.add_peer(stranger(number))
                time.sleep(0.02)
            for number in range(30):
                gateway.remove_peer(f"peer{number}")
                time.sleep(0.02)
            report = stream.stop()
        assert [peer["name"] for peer in gateway.status()["peers"]] == ["client"]
        assert report.sent > 1000
        assert (report.lost_count, report.duplicate_count) == (0, 0)


def test_a_peer_added_while_running_gets_in_and_a_removed_one_is_out_at_once(place: Site) -> None:
    with apart(place, TWO, []) as (gateway, client):
        assert ping(place.client, SERVER[0], count=1, wait_s=0.5).received == 0
        gateway.add_peer(JvpnPeer("late", client.keys.public, [f"{CLIENT[0]}/32"]))
        wait_reachable(place.client, SERVER[0])
        with UdpStream(place.client, place.server, SERVER[0], rate_pps=2000):
            wait_for_traffic(gateway)
            gateway.remove_peer("late")
        assert ping(place.client, SERVER[0], count=2, wait_s=1.0).received == 0
        assert gateway.status()["peers"] == []
        gateway.add_peer(JvpnPeer("late", client.keys.public, [f"{CLIENT[0]}/32"]))
        wait_reachable(place.client, SERVER[0])


@contextmanager
def apart(
    place: Site, each: dict[str, Any], peers: Sequence[JvpnPeer], known: bool = False
) -> Iterator[tuple[JvpnGateway, JvpnClient]]:
    """A gateway with these [workers] and peers, and a client with one native worker, which is ``known`` or not."""
    theirs, mine = Keys.generate(), Keys.generate()
    own = [JvpnPeer("client", mine.public, [f"{CLIENT[0]}/32"])] if known else []
    gateway = JvpnGateway(
        place.lab, place.server, theirs, [f"{SERVER[0]}/16"], [*peers, *own], workers=each
    ).start()
    table = {
        "public_key": theirs.public,
        "endpoints": [join(SERVER_OUTER[4], PORT)],
        "allowed_ips": ["10.8.0.0/16"],
    }
    client = JvpnClient(place.lab, place.client, mine, [f"{CLIENT[0]}/16"], table, workers=ONE).start()
    try:
        yield gateway, client
    finally:
        assert [client.stop(), gateway.stop()] == [0, 0]


@pytest.mark.parametrize("each", [ONE, TWO], ids=["one", "two"])
def test_both_ends_stop_in_order_under_traffic_and_start_again(place: Site, each: dict[str, Any]) -> None:
    tunnel = make(place, each, each).start()
    for _ in range(2):
        with UdpStream(place.client, place.backend, BACKEND[0], rate_pps=5000):
            wait_for_traffic(tunnel.server)
            assert [daemon.stop() for daemon in ours(tunnel)] == [0, 0]
        assert "jv0" not in place.client.devices() + place.server.devices()
        tunnel.start()
    for daemon in ours(tunnel):
        assert daemon.stop() == 0


def wait_for_traffic(daemon: Any, timeout_s: float = 10.0) -> None:
    """Until some hundred datagrams more have come."""
    deadline_s = time.monotonic() + timeout_s
    first = sum(each["rx_datagrams"] for each in workers(daemon))
    while sum(each["rx_datagrams"] for each in workers(daemon)) < first + 500:
        assert time.monotonic() < deadline_s, "no traffic"
        time.sleep(0.02)


@pytest.mark.parametrize("each", [ON_THE_LOOP, ONE, TWO], ids=["loop", "one", "two"])
def test_a_device_that_vanishes_ends_the_daemon_with_the_reason(place: Site, each: dict[str, Any]) -> None:
    tunnel = make(place, each, each).start()
    server, client = tunnel.server, tunnel.client
    assert isinstance(server, Daemon)
    place.server.ip("link", "del", "jv0")
    assert server.proc.wait(10.0) == 1
    assert "ended" in server.proc.output
    assert "File descriptor in bad state" in server.proc.output
    client.stop()


# --- Python has no time -----------------------------------------------------------------------------------------------


class Asking:
    """Status asked for again and again, as a monitor does; the answers are read and thrown away."""

    def __init__(self, daemon: Daemon) -> None:
        self._path, self._stop = str(daemon.control_socket), threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answers = 0

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        buffer = bytearray(1 << 20)
        while not self._stop.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.connect(self._path)
                asking.sendall(ASK)
                while (size := asking.recv_into(buffer)) and buffer[size - 1] != ord("\n"):
                    pass
            self.answers += 1


def busy_round_trips(place: Site, server: dict[str, Any]) -> Ping:
    """Round trips of a client while the gateway's Python writes status documents of thousands of peers."""
    with apart(place, server, [*map(stranger, range(PEERS))], known=True) as (gateway, _):
        wait_reachable(place.client, SERVER[0])
        with Asking(gateway) as asking:
            found = ping(place.client, SERVER[0], count=PINGS, interval_s=0.01)
        assert asking.answers > 5, "Python was not busy"
        return found


def p99_ms(found: Ping) -> float:
    """What one round trip in a hundred takes longer than."""
    return sorted(found.rtts_ms)[len(found.rtts_ms) * 99 // 100]


def test_traffic_flows_while_python_is_busy(place: Site) -> None:
    """The same load in the same test: what holds the loop holds its packets, and not those of a native worker."""
    loop, native = (busy_round_trips(place, server) for server in (ON_THE_LOOP, ONE))
    assert native.ok
    assert p99_ms(loop) > 20, f"the loop was not held: {p99_ms(loop)} ms"
    # A twentieth on two quiet processors; on busy ones a worker also waits for its turn.
    assert p99_ms(native) < p99_ms(loop) / 2, (p99_ms(native), p99_ms(loop))
    assert native.median_ms < loop.median_ms / 5, (native.median_ms, loop.median_ms)
