# SPDX-License-Identifier: Apache-2.0
"""A gateway without its network under a real stats endpoint: real tunnel, keeper, journal, store and HTTP, on loopback.

The TUN device is a socket pair. Tests run inside ``serve``: one loop has the tunnel, the endpoint and the client.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog
import uvloop

from gateway.control import clock, config, drain
from gateway.control.actor import Handler, audited
from gateway.control.auditfile import journal_files
from gateway.control.configfields import Endpoint as HostPort
from gateway.control.configmodel import ON_THE_LOOP, GatewayConfig, Stats, Workers
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.gatewaykeeper import GatewayKeeper
from gateway.control.observed import Observed, Phase
from gateway.control.peerbook import PeerBook, peer_handlers
from gateway.control.peersfile import PeersFile
from gateway.control.records import Records
from gateway.control.sessiondocs import SessionDocs
from gateway.control.sessions import Live, address_name
from gateway.control.tunnel import Tunnel
from gateway.core import inputs as inp
from gateway.core.driver import First
from gateway.core.policy import Policy
from gateway.core.states import Role
from gateway.dataplane import engine as dp
from gateway.net.tun import Tun
from gateway.net.udp import open_listen
from gateway.noise.handshake import Identity
from gateway.ops.stats.server import StatsServer
from tests.unit.control.samples import GATEWAY

INTERFACE: Final = "lo"  # the device is a socket pair, so something that is up stands for it
PRIVATE: Final = bytes(range(32))
PSK: Final = bytes(range(100, 132))
SOMEWHERE: Final = "udp:127.0.0.1:9"


class Made:
    """The gateway and its endpoint."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        self.folder = folder
        self.log = structlog.get_logger()
        self.records = Records(folder / "state", INTERFACE, self.log)
        keeper = partial(
            GatewayKeeper, sink=self.records.audit, policy=Policy(), random_bytes=secrets.token_bytes
        )
        self.tunnel = Tunnel(Identity(PRIVATE), keeper=keeper, workers=workers)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers.count)]
        self.inner = [inner for inner, _ in pairs]
        for _, device in pairs:
            device.setblocking(False)
        first, *more = (device.detach() for _, device in pairs)
        self.ports = open_listen(["127.0.0.1:0"], workers=workers.count)
        self.tunnel.attach(self.ports, Tun(first, INTERFACE, frozenset(), tuple(more)), 1404)
        assert isinstance(self.tunnel.keeper, GatewayKeeper)
        self.sessions = self.tunnel.keeper.sessions
        docs = SessionDocs(self.sessions, self.records.audit, self.records.journal, interface=INTERFACE)
        self.docs = docs
        self.book = PeerBook(a_gateway(folder), PeersFile(folder / "state"))
        self.seen = Observed(INTERFACE, clock.now_ns(), self.tunnel, self.sessions, docs, self.records)
        self.seen.commands = self._commands()
        self.server: StatsServer | None = None

    def _commands(self) -> dict[str, Handler]:
        """Those of a gateway that are asked for here, put together as it does."""
        peers = peer_handlers(self.book, self.tunnel.add_peer, self._uninstall)
        acts = {"drain": partial(drain.command, self.seen)} | {
            name: peers[name] for name in ("peer.add", "peer.remove")
        }
        write = self.records.audit.acted
        wrapped = {name: audited(name, act, write, clock.now_ns) for name, act in acts.items()}
        return {**self.docs.handlers(), **wrapped}

    def _uninstall(self, peer: PeerConfig) -> None:
        live = self.tunnel.peers.by_key(peer.public_key)
        if live is not None:
            self.tunnel.peers.remove(live)

    @property
    def socket_path(self) -> Path:
        return self.folder / "s.http"

    def add_session(self, number: int = 1) -> Live:
        """A stock session of a new peer, attached somewhere."""
        now_ns = clock.now_ns()
        key = (number + 100).to_bytes(32, "little")
        peer = self.tunnel.peers.add(PeerConfig(f"peer{number}", key, PSK), now_ns)
        at = dp.Endpoint.of("127.0.0.1", 9, self.tunnel.engine.socket_for(False))
        first = First(1, address_name(at))
        ident = number.to_bytes(4, "big") + bytes(12)
        live = self.sessions.create(now_ns, peer, Role.GATEWAY, ident, Policy(), first, at, stock=True)
        self.sessions.feed(now_ns, live, inp.Confirmed(SOMEWHERE))
        return live

    def journal(self) -> list[dict[str, Any]]:
        """All records so far, written down first."""
        self.records.audit.hurry()
        while self.records.audit.queued:
            time.sleep(0.005)
        files = journal_files(self.records.journal, INTERFACE)
        return [json.loads(line) for file in files for line in file.path.read_text().splitlines()]

    def move(self, live: Live, port: int) -> None:
        """The peer roams: its session switches to another port."""
        at = dp.Endpoint.of("127.0.0.1", port, self.tunnel.engine.socket_for(False))
        name = live.name(at)
        self.sessions.feed(clock.now_ns(), live, inp.StockHandshake(name))

    def close(self) -> None:
        self.tunnel.stop()
        for inner in self.inner:
            inner.close()
        self.records.close()


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    pump: bool = True,
    workers: Workers = ON_THE_LOOP,
    settings: dict[str, Any] | None = None,
    **bounds: Any,
) -> AsyncIterator[Made]:
    """A gateway that serves; ``pump=False`` leaves what arrives unread."""
    made = Made(folder, workers)
    if pump:
        made.tunnel.start()
    made.seen.phase = Phase.SERVING
    given = {"listen": (HostPort("127.0.0.1", 0),), "socket": made.socket_path, **(settings or {})}
    made.server = StatsServer(made.seen, Stats(**given), made.log, **bounds)
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop()
        made.close()


def a_gateway(folder: Path) -> GatewayConfig:
    """A configuration whose pool gives addresses to peers."""
    pool = '[pool]\nipv4 = "10.99.0.0/24"\n'
    return config.parse_gateway(GATEWAY + pool, str(folder / "g.toml"), folder, {})


def base(made: Made) -> str:
    """The endpoint's address."""
    assert made.server is not None
    host, port = made.server.addresses[0]
    return f"http://{host}:{port}"


async def get(made: Made, path: str, **headers: str) -> tuple[int, Any]:
    """Status and document."""
    async with aiohttp.ClientSession() as session, session.get(base(made) + path, headers=headers) as answer:
        body = await answer.read()
        return answer.status, (
            await answer.json() if answer.content_type == "application/json" else body.decode()
        )


def on_loop(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test on the loop that the product runs on."""
    uvloop.run(asyncio.wait_for(work(), 60))
