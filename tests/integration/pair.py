# SPDX-License-Identifier: Apache-2.0
"""Two tunnels in one process, over real UDP sockets on loopback; the TUN devices are datagram socket pairs.

      inner a <-> [tunnel a] -- UDP 127.0.0.1 or ::1 -- [tunnel b] <-> inner b

The clock is the test's own: nothing happens until it turns the crank.
"""

from __future__ import annotations

import secrets
import select
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from gateway.constants import NS_PER_S
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.exchange import Exchange
from gateway.control.peers import Peer, PeerTable
from gateway.control.roaming import Roaming
from gateway.dataplane import engine as dp
from gateway.dataplane.engine import Endpoint, Engine
from gateway.net.udp import open_udp
from gateway.noise.admission import Admission
from gateway.noise.cookie import CookieChecker
from gateway.noise.handshake import Identity
from gateway.noise.timers import DEFAULT, Timers
from gateway.noise.timestamp import TimestampSource

MTU_BYTES = 1420


def ipv4_packet(source: str, destination: str, payload: bytes, protocol: int = 253) -> bytes:
    """A packet with a header that parses; protocol 253 is for experiments (RFC 3692)."""
    head = bytearray(20)
    head[0], head[8], head[9] = 0x45, 64, protocol
    head[2:4] = (20 + len(payload)).to_bytes(2, "big")
    head[12:16], head[16:20] = ip_address(source).packed, ip_address(destination).packed
    return bytes(head) + payload


def ipv6_packet(source: str, destination: str, payload: bytes) -> bytes:
    """The same for IPv6: next header 59 is none."""
    head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes((59, 64))
    return head + ip_address(source).packed + ip_address(destination).packed + payload


class End:
    """One tunnel end, cranked by hand."""

    def __init__(
        self, host: str, timers: Timers, under_load_per_s: int, keeper: type[Roaming] = Roaming
    ) -> None:
        self.now_ns = 1000 * NS_PER_S
        self.identity = Identity(secrets.token_bytes(32))
        self.engine = Engine(
            sessions=64,
            prefixes=256,
            window_bits=8192,
            index_seed=secrets.token_bytes(32),
            limits=timers,
            now_ns=self.now_ns,
        )
        self.udp = open_udp(host, 0)
        self.socket_id = self.engine.add_socket(self.udp.fileno())
        self.inner, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inner.setblocking(False)
        device.setblocking(False)
        self.device = device
        self.engine.set_tun(device.fileno(), MTU_BYTES)
        self.peers = PeerTable(self.engine, self.identity)
        self.admission = Admission(
            CookieChecker(self.identity.public, secrets.token_bytes),
            table_key=secrets.token_bytes(32),
            under_load_per_s=under_load_per_s,
        )
        self.keeper = keeper(self.engine)
        self.exchange = Exchange(
            self.engine,
            self.peers,
            self.identity,
            self.admission,
            timers,
            random_bytes=secrets.token_bytes,
            unix_ns=lambda: self.now_ns + 1_700_000_000 * NS_PER_S,
            timestamps=TimestampSource(),
            keeper=self.keeper,
        )
        self.keeper.exchange = self.exchange

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.udp.getsockname()[:2]
        return host, port

    def endpoint_of(self, other: End) -> Endpoint:
        return Endpoint.of(*other.address, self.socket_id)

    def deadline_ns(self) -> int:
        return min(self.engine.next_deadline_ns, self.exchange.next_deadline_ns or dp.NO_DEADLINE)

    def crank(self) -> bool:
        """Move what is waiting; whether anything was."""
        moved = self.engine.pump_udp(self.socket_id, self.now_ns) + self.engine.pump_tun(self.now_ns)
        self.engine.tick(self.now_ns)
        self.exchange.timer_due(self.now_ns, 64)
        events = self.engine.poll(64)
        for event in events:
            self.handle(event)
        return bool(moved or events)

    def handle(self, event: dp.Event) -> None:
        if event.kind == dp.EVENT_HANDSHAKE:
            self.exchange.receive(self.now_ns, event)
            return
        peer = self.peers.by_slot(event.slot)
        if peer is None:
            return
        if event.kind == dp.EVENT_WANTED:
            self.exchange.wanted(self.now_ns, peer)
        elif event.kind == dp.EVENT_CONFIRMED:
            self.exchange.confirmed(self.now_ns, peer, event.value, event.source)
        elif event.kind == dp.EVENT_NOTICE:
            self.keeper.noticed(self.now_ns, peer, event)

    def inner_packets(self) -> list[bytes]:
        """What came out of the tunnel."""
        packets = []
        while True:
            try:
                packets.append(self.inner.recv(65536))
            except BlockingIOError:
                return packets

    def close(self) -> None:
        for sock in (self.udp, self.inner, self.device):
            sock.close()


@dataclass
class Pair:
    """Client `a` and gateway `b`, each the other's peer."""

    a: End
    b: End
    a_peer: Peer  # b as a sees it
    b_peer: Peer  # a as b sees it

    def settle(self, turns: int = 50) -> None:
        """Crank both until nothing moves. Loopback delivers at once, so a short look is enough."""
        for _ in range(turns):
            moved = self.a.crank() | self.b.crank()
            if not moved and not select.select([self.a.udp, self.b.udp], [], [], 0.01)[0]:
                return
        raise AssertionError("the two ends never come to rest")

    def advance(self, seconds: float) -> None:
        for end in (self.a, self.b):
            end.now_ns += int(seconds * NS_PER_S)

    def run(self, seconds: float) -> None:
        """Let time pass, stopping at every deadline on the way as an event loop would."""
        end_ns = self.a.now_ns + int(seconds * NS_PER_S)
        while self.a.now_ns < end_ns:
            now_ns = max(self.a.now_ns + 1, min(end_ns, self.a.deadline_ns(), self.b.deadline_ns()))
            self.a.now_ns = self.b.now_ns = now_ns
            self.settle()

    def close(self) -> None:
        self.a.close()
        self.b.close()


def make_pair(
    host: str = "127.0.0.1",
    *,
    timers: Timers = DEFAULT,
    psk: bytes | None = None,
    roaming: str = "handshake",
    gateway_under_load: bool = False,
    keeper: type[Roaming] = Roaming,
) -> Pair:
    a, b = End(host, timers, 1000, keeper), End(host, timers, 0 if gateway_under_load else 1000, keeper)
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    mine = (ip_network("10.0.0.2/32"), ip_network("fd00::2/128"))
    a_peer = a.peers.add(PeerConfig("b", b.identity.public, psk, everything, roaming="never"), a.now_ns)
    b_peer = b.peers.add(PeerConfig("a", a.identity.public, psk, mine, roaming=roaming), b.now_ns)  # type: ignore[arg-type]
    a.engine.set_endpoint(a_peer.slot, a.endpoint_of(b), a.now_ns)
    return Pair(a, b, a_peer, b_peer)
