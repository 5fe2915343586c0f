# SPDX-License-Identifier: Apache-2.0
"""Two tunnels with native workers in this process, on a real event loop; the TUN queues are datagram socket pairs.

    inner a <-> [tunnel a] -- UDP 127.0.0.1 -- [tunnel b] <-> inner b

Rule: where a test says that Python is busy, it really is: the loop does not turn, or the interpreter's lock is held.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.configmodel import Workers
from gateway.control.tunnel import Tunnel, TunnelLimits
from gateway.net.tun import Tun
from gateway.net.udp import close_all, open_shared
from gateway.noise.handshake import Identity
from tests.integration.pair import MTU_BYTES, ipv4_packet

A_INNER: Final = "10.0.0.2"
B_INNER: Final = "10.0.0.1"
TIMEOUT_S: Final = 5.0
LIMITS: Final = TunnelLimits(peers=64, prefixes=256)
ONE, TWO, ON_THE_LOOP = Workers(1, True), Workers(2, True), Workers()


class End:
    """One tunnel, the machine's ends of its queues, and why it failed, if it did."""

    def __init__(self, workers: Workers) -> None:
        self.identity = Identity(secrets.token_bytes(32))
        self.tunnel = Tunnel(self.identity, limits=LIMITS, workers=workers)
        self.failures: list[str] = []
        self.tunnel.on_failure = self.failures.append
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers.count)]
        self.inner = [inner for inner, _ in pairs]
        for _, device in pairs:
            device.setblocking(False)
        first, *more = (device.detach() for _, device in pairs)
        ports = [open_shared("127.0.0.1", 0, workers=workers.count)]
        self.tunnel.attach(ports, Tun(first, "none", frozenset(), tuple(more)), MTU_BYTES)

    @property
    def port(self) -> int:
        return int(self.tunnel.local_addresses()[0].rpartition(":")[2])

    def close(self) -> None:
        self.tunnel.stop()
        close_all(self.inner)


class Pair:
    """Both ends; a is the one that calls."""

    def __init__(self, a: Workers, b: Workers) -> None:
        self.a, self.b = End(a), End(b)

    def start(self) -> None:
        everything = (ip_network("0.0.0.0/0"),)
        self.b.tunnel.add_peer(
            PeerConfig("a", self.a.identity.public, None, (ip_network(f"{A_INNER}/32"),), roaming="handshake")
        )
        peer = self.a.tunnel.add_peer(
            PeerConfig("b", self.b.identity.public, None, everything, roaming="never")
        )
        self.a.tunnel.send_to(peer, "127.0.0.1", self.b.port)
        for end in (self.a, self.b):
            end.tunnel.start()
        self.a.tunnel.kick()

    async def connect(self) -> None:
        """The first packet makes the handshake, which Python sees through the workers' one descriptor."""
        self.start()
        self.send(b"first")
        await until(lambda: self.received() == [b"first"])

    def send(self, payload: bytes, queue: int = 0, back: bool = False) -> None:
        end, source, to = (self.b, B_INNER, A_INNER) if back else (self.a, A_INNER, B_INNER)
        end.inner[queue].send(ipv4_packet(source, to, payload))

    def received(self, back: bool = False) -> list[bytes]:
        """Payloads that have come out at b (or back at a) and were not asked for before."""
        found = []
        for inner in self.a.inner if back else self.b.inner:
            inner.setblocking(False)
            try:
                while True:
                    found.append(inner.recv(65_536)[20:])
            except BlockingIOError:
                continue
        return found

    def close(self) -> None:
        self.a.close()
        self.b.close()


async def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "it never came to that"
        await asyncio.sleep(0.002)


def on_a_loop(a: Workers, b: Workers, work: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        pair = Pair(a, b)
        try:
            await work(pair)
            assert pair.a.failures == pair.b.failures == []
        finally:
            pair.close()

    uvloop.run(whole())
    assert threads() == []


def threads() -> list[str]:
    """The workers' threads of this process."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sorted(name for name in names if name.startswith("jvpn-worker"))


@pytest.mark.parametrize(("a", "b"), [(ONE, ONE), (TWO, TWO), (ON_THE_LOOP, TWO), (ONE, ON_THE_LOOP)])
def test_packets_pass_both_ways(a: Workers, b: Workers) -> None:
    async def work(pair: Pair) -> None:
        await pair.connect()
        assert len(threads()) == a.threads + b.threads
        pair.send(b"back", back=True)
        await until(lambda: pair.received(back=True) == [b"back"])
        for end, workers in ((pair.a, a), (pair.b, b)):
            assert len(end.tunnel.worker_stats()) == workers.threads

    on_a_loop(a, b, work)


def test_every_queue_is_read_and_every_worker_says_so() -> None:
    async def work(pair: Pair) -> None:
        await pair.connect()
        for queue in range(2):
            for _ in range(50):
                pair.send(b"x", queue)
        arrived: list[bytes] = []

        def all_there() -> bool:
            arrived.extend(pair.received())
            return len(arrived) == 100

        await until(all_there)
        assert min(worker["tx_datagrams"] for worker in pair.a.tunnel.worker_stats()) >= 50
        assert all(worker["cpu_ns"] > 0 and worker["wakeups"] > 0 for worker in pair.a.tunnel.worker_stats())

    on_a_loop(TWO, TWO, work)


@pytest.mark.parametrize("each", [ONE, TWO], ids=["one", "two"])
def test_packets_pass_while_the_loop_does_not_turn(each: Workers) -> None:
    async def work(pair: Pair) -> None:
        await pair.connect()
        pair.b.inner[0].settimeout(TIMEOUT_S)
        pair.a.inner[0].settimeout(TIMEOUT_S)
        for number in range(20):
            pair.send(b"%d" % number)
            assert deliver(pair, pair.b) == b"%d" % number
            pair.send(b"%d" % number, back=True)
            assert deliver(pair, pair.a) == b"%d" % number

    on_a_loop(each, each, work)


def deliver(pair: Pair, end: End) -> bytes:
    """The next payload that comes out of any queue of an end; nothing else happens in Python meanwhile."""
    ready, _, _ = select.select(end.inner, [], [], TIMEOUT_S)
    assert ready, "nothing came: the packet waits for the loop"
    return ready[0].recv(65_536)[20:]


def test_on_the_loop_they_wait_for_it() -> None:
    """The counterpart: without this the tests above would show nothing."""

    async def work(pair: Pair) -> None:
        await pair.connect()
        pair.send(b"waits")
        assert select.select(pair.b.inner, [], [], 0.2)[0] == []
        await until(lambda: pair.received() == [b"waits"])

    on_a_loop(ON_THE_LOOP, ON_THE_LOOP, work)


def test_packets_pass_while_the_interpreters_lock_is_held() -> None:
    """PyDLL calls keep the lock: for 0.2 s no Python runs in any thread, and when it does the packets are there."""
    hold = ctypes.PyDLL(None).usleep

    async def work(pair: Pair) -> None:
        await pair.connect()
        for number in range(50):
            pair.send(b"%d" % number)
        hold(200_000)
        assert sorted(pair.received()) == sorted(b"%d" % number for number in range(50))

    on_a_loop(TWO, ONE, work)


def test_ports_come_and_go_while_packets_pass() -> None:
    async def work(pair: Pair) -> None:
        await pair.connect()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            sockets = open_shared("127.0.0.1", 0, workers=2)
            socket_id = pair.a.tunnel.add_port(sockets)
            pair.send(b"%d" % number, number % 2)
            pair.a.tunnel.remove_port(socket_id)
            close_all(sockets)
        arrived: list[bytes] = []

        def all_there() -> bool:
            arrived.extend(pair.received())
            return len(arrived) == 50

        await until(all_there)
        assert len(os.listdir("/proc/self/fd")) == before

    on_a_loop(TWO, TWO, work)


def test_peers_come_and_go_while_packets_pass() -> None:
    async def work(pair: Pair) -> None:
        await pair.connect()
        arrived: list[bytes] = []
        for number in range(200):
            other = pair.b.tunnel.add_peer(
                PeerConfig("x", secrets.token_bytes(32), None, (ip_network(f"10.1.0.{number}/32"),))
            )
            pair.send(b"%d" % number, number % 2)
            pair.b.tunnel.peers.remove(other)
            if number % 20 == 0:
                await asyncio.sleep(0)
                arrived.extend(pair.received())

        def all_there() -> bool:
            arrived.extend(pair.received())
            return len(arrived) == 200

        await until(all_there)

    on_a_loop(TWO, TWO, work)


def test_a_tunnel_that_never_started_stops() -> None:
    async def work(pair: Pair) -> None:
        assert threads() == []

    on_a_loop(TWO, ONE, work)


def test_a_timer_is_the_workers() -> None:
    """Persistent keepalives leave while the loop does not turn."""

    async def work(pair: Pair) -> None:
        await pair.connect()
        peer = next(iter(pair.a.tunnel.peers))
        received = next(iter(pair.b.tunnel.peers))
        before = pair.b.tunnel.engine.stats(received.slot)["rx_packets"]
        pair.a.tunnel.engine.set_keepalive(peer.slot, 1, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        deadline_s = time.monotonic() + TIMEOUT_S
        while pair.b.tunnel.engine.stats(received.slot)["rx_packets"] < before + 2:
            assert time.monotonic() < deadline_s, "no keepalives"
            time.sleep(0.01)  # the loop does not turn

    on_a_loop(ONE, ONE, work)
