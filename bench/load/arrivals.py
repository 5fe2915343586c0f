# SPDX-License-Identifier: Apache-2.0
"""New clients at a gateway's reception, in one process: real messages, sockets, sessions, store and audit journal.

    clients: noise and AEAD here ── UDP on loopback ── Tunnel, GatewayKeeper, Records ── no TUN device: a socket pair

What the clients do is prepared between the measurements, so that what is left is what the gateway's process pays.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import structlog

from bench.load.population import INSIDE, Population, nth
from gateway import crypto, wire
from gateway import frames as fr
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.gatewaykeeper import GatewayKeeper
from gateway.control.records import Records
from gateway.control.tunnel import Tunnel, TunnelLimits
from gateway.core.policy import Policy
from gateway.net.udp import open_udp
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import Initiator, PeerKeys, TransportKeys
from gateway.noise.timestamp import tai64n
from gateway.suites import Suite

MTU_BYTES: Final = 1420
RECV_BYTES: Final = 2048
# As many as one pump takes: at 1,000 a second the records of so many are written together.
GROUP: Final = 64
NEVER_LOADED: Final = 1 << 40


class Reception:
    """A gateway of `count` peers that knows all of them, and none of their sessions."""

    def __init__(self, people: Population, state_dir: Path, *, under_load_per_s: int = NEVER_LOADED) -> None:
        self.records = Records(state_dir, "jvpn0", structlog.stdlib.get_logger())
        keeper = partial(
            GatewayKeeper, sink=self.records.audit, policy=Policy(), random_bytes=secrets.token_bytes
        )
        self.tunnel = Tunnel(
            people.gateway,
            limits=TunnelLimits(people.count, people.count, under_load_per_s),
            keeper=keeper,
        )
        if isinstance(self.tunnel.keeper, GatewayKeeper):
            self.records.follow(self.tunnel.keeper.sessions)
            self.tunnel.keeper.reception.on_spoken = self.records.spoke
            self.sessions = self.tunnel.keeper.sessions
        self.tunnel.exchange.on_complete = lambda peer: self.records.stamp(peer, self.tunnel.timestamps)
        self.sock = open_udp("127.0.0.1", 0)
        self._socket_id = self.tunnel.engine.add_socket(self.sock.fileno())
        self._device, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._device.setblocking(False)
        self.tunnel.engine.set_tun(self._device.fileno(), MTU_BYTES)
        for number in range(people.count):
            inside = ip_network(f"{nth(INSIDE, number)}/32")
            config = PeerConfig(f"c{number}", people.identity(number).public, allowed_ips=(inside,))
            self.tunnel.peers.add(config, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def serve(self) -> None:
        """Everything that waits in the socket, then in the rings."""
        engine = self.tunnel.engine
        while engine.pump_udp(self._socket_id, time.clock_gettime_ns(time.CLOCK_BOOTTIME)):
            while not engine.calm(0):
                self.tunnel.kick()

    def settle(self) -> None:
        """Store and journal have written what they were given."""
        self.records.audit.hurry()
        while self.records.audit.queued:
            time.sleep(0.001)
        self.records.store.flush()

    def close(self) -> None:
        self.tunnel.stop()
        self.records.close()
        for sock in (self.sock, self._device, self._inner):
            sock.close()


class Newcomers:
    """Some of the population, each with one handshake at a time: ask, greet, hear."""

    def __init__(self, people: Population, first: int, count: int, to: tuple[str, int]) -> None:
        gateway = people.gateway.public
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._sock.connect(to)
        self._instance_id = secrets.token_bytes(fr.INSTANCE_ID_BYTES)
        self._peers = {
            number + 1: PeerKeys(people.identity(number), gateway) for number in range(first, first + count)
        }
        self._sessions: dict[int, bytes] = {}  # by the index that the client gave itself
        self.renew()

    def renew(self) -> None:
        """Another handshake of each: the first, or a rekey."""
        self._asked: list[bytes] = []
        self._initiators: dict[int, Initiator] = {}
        self._keys: list[TransportKeys] = []
        self._hellos: list[bytes] = []
        for index, keys in self._peers.items():
            made = Initiator.start(
                keys,
                local_index=index,
                timestamp=tai64n(time.time_ns()),
                ephemeral_private=secrets.token_bytes(crypto.KEY_BYTES),
            )
            self._initiators[index] = made
            self._asked.append(add_macs(made.packet, keys.mac1_key, None))

    def ask(self) -> None:
        """Their initiations."""
        for message in self._asked:
            self._sock.send(message)

    def answered(self) -> int:
        """How many were answered; prepares what they say next."""
        for message in self._received(wire.RESPONSE_BYTES):
            keys = self._initiators[wire.receiver_index(message)].finish(message)
            self._keys.append(keys)
            session_id = self._sessions.get(keys.local_index, fr.NO_SESSION)
            self._hellos.append(_sealed(keys, _hello(self._instance_id, session_id)))
        return len(self._keys)

    def greet(self) -> None:
        """Their HELLOs."""
        for message in self._hellos:
            self._sock.send(message)

    def confirm(self) -> None:
        """What a stock client says: a keepalive."""
        for keys in self._keys:
            self._sock.send(_sealed(keys, b""))

    def welcomed(self) -> int:
        """How many were welcomed."""
        by_index = {keys.local_index: keys for keys in self._keys}
        welcomes = 0
        for message in self._received(0):
            keys = by_index.get(wire.receiver_index(message))
            if keys is None or message[0] != wire.MSG_TRANSPORT:
                continue
            plain = crypto.chacha20poly1305_decrypt(
                keys.recv_key, int.from_bytes(message[8:16], "little"), message[16:], b""
            )
            found = fr.parse(plain, fr.Direction.TO_CLIENT)[0]
            if isinstance(found, fr.Welcome):
                self._sessions[keys.local_index] = found.session_id
                welcomes += 1
        return welcomes

    def _received(self, size_bytes: int) -> list[bytes]:
        found = []
        while True:
            try:
                message = self._sock.recv(RECV_BYTES)
            except BlockingIOError:
                return found
            if size_bytes in (0, len(message)):
                found.append(message)

    def close(self) -> None:
        self._sock.close()


def _hello(instance_id: bytes, session_id: bytes) -> bytes:
    hello = fr.Hello(
        capabilities=0,
        instance_id=instance_id,
        session_id=session_id,
        binding_epoch=0,
        path_id=1,
        suites=(int(Suite.AEGIS_128L), int(Suite.CHACHA20_POLY1305)),
        liveness_interval_ms=300,
        liveness_misses=3,
    )
    return fr.encode((hello,))


def _sealed(keys: TransportKeys, plaintext: bytes) -> bytes:
    padded = plaintext.ljust(-(-len(plaintext) // 16) * 16, b"\0")
    sealed = crypto.chacha20poly1305_encrypt(keys.send_key, 0, padded, b"")
    return wire.transport_header(keys.remote_index, 0) + sealed


def cpu_us(work: Callable[[], object]) -> float:
    """Processor time of this whole process, its threads included."""
    begin_ns = time.process_time_ns()
    work()
    return (time.process_time_ns() - begin_ns) / 1000
