# SPDX-License-Identifier: Apache-2.0
"""A client process's sessions without its network: real core, data plane, audit log and handlers, a clock set by hand.

One session of peer "gw" over two paths, and one of "phone", a stock WireGuard peer.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control.auditfile import load_signing_key
from gateway.control.auditlog import AuditLog
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.peers import PeerTable
from gateway.control.sessiondocs import SessionDocs
from gateway.control.sessions import Live, Sessions, address_name
from gateway.core import inputs as inp
from gateway.core.driver import First
from gateway.core.policy import Policy
from gateway.core.states import Evidence, Role
from gateway.dataplane import engine as dp
from gateway.noise.handshake import Identity
from gateway.noise.timers import DEFAULT

S, MS = NS_PER_S, NS_PER_MS
GW_ID = bytes.fromhex("a1b2c3d4" + "00" * 12)
PHONE_ID = bytes.fromhex("a1b2c3ff" + "11" * 12)
INTERFACE = "jvpn0"


@dataclass
class Clocks:
    """Both clocks, moved by the test."""

    now: int = 1000 * S
    offset: int = 1_767_323_045 * S

    def now_ns(self) -> int:
        return self.now

    def unix_ns(self) -> int:
        return self.offset + self.now


class Host:
    """Builds the sessions and moves them."""

    def __init__(self, state: Path, sock: socket.socket) -> None:
        self.clocks = Clocks()
        self.engine = dp.Engine(
            sessions=16,
            prefixes=16,
            window_bits=1024,
            index_seed=bytes(32),
            limits=DEFAULT,
            now_ns=self.clocks.now,
        )
        self.socket_id = self.engine.add_socket(sock.fileno())
        self.audit = AuditLog(
            state / "audit",
            "client-1",
            load_signing_key(state, bytes),
            interface=INTERFACE,
            unix_ns=self.clocks.unix_ns,
            now_ns=self.clocks.now_ns,
        )
        self.sessions = Sessions(self.engine, self.audit, bytes)
        identity = Identity(bytes(range(32)))
        table = PeerTable(self.engine, identity)
        gw = table.add(PeerConfig("gw", b"\x09" + bytes(31)), self.clocks.now)
        phone = table.add(PeerConfig("phone", b"\x0a" + bytes(31)), self.clocks.now)
        now = self.clocks.now
        at = dp.Endpoint.of("127.0.0.1", 9, self.socket_id)
        first = First(1, address_name(at))
        self.gw = self.sessions.create(now, gw, Role.CLIENT, GW_ID, Policy(), first, at, stock=False)
        self.phone = self.sessions.create(now, phone, Role.GATEWAY, PHONE_ID, Policy(), first, at, stock=True)
        self.docs = SessionDocs(
            self.sessions, self.audit, state / "audit", interface=INTERFACE, now_ns=self.clocks.now_ns
        )

    def feed(self, live: Live, *many: inp.Input, after_ns: int = MS) -> None:
        for one in many:
            self.clocks.now += after_ns
            self.sessions.feed(self.clocks.now, live, one)

    def attach(self) -> None:
        """Both sessions attached; "gw" has a validated second path."""
        here = "udp:127.0.0.1:9"
        second = dp.Endpoint.of("127.0.0.1", 10, self.socket_id)
        self.feed(self.phone, inp.Confirmed(here))
        self.feed(self.gw, inp.Confirmed(here), inp.Welcomed(1, 1, 0), inp.PeerBinding(1, 1))
        self.feed(
            self.gw, inp.PathAdded(2, self.gw.name(second)), inp.PathAnswered(2, 40), inp.PathAnswered(1, 40)
        )
        measured = inp.PathMeasured(1, 20_000, 1000, 500, 0, 64, 0, 16, 16)
        self.feed(self.gw, measured, inp.PathMeasured(2, 30_000, 1000, 2500, 10_000, 64, 1, 16, 16))

    def cut(self) -> None:
        """The active link dies and the other path takes over."""
        self.feed(self.gw, inp.PathLost(1, Evidence.LINK_DOWN))
        self.feed(
            self.gw, inp.ReattachAck(self.gw.core.attempt_id, 2, 2), inp.PeerBinding(2, 2), after_ns=12 * MS
        )

    def close(self) -> None:
        self.audit.close()


@contextmanager
def host(state: Path) -> Iterator[Host]:
    """A host for the time of the block; its journal is closed at the end."""
    state.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        made = Host(state, sock)
        try:
            made.attach()
            yield made
        finally:
            made.close()
