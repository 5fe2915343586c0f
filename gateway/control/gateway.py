# SPDX-License-Identifier: Apache-2.0
"""The gateway process: configuration, host set-up, tunnel, peers and control socket put together.

Order of a start: leftovers of a killed run, sockets, device, peers, host network, control socket, ready. `stop` goes
back the same way and also cleans up after a start that failed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import structlog

from gateway.control import clock, config, configkeys, daemon, drain, farewell, pauses, statedir
from gateway.control.actor import audit_changes, audited, current, recorded
from gateway.control.configfields import Endpoint as HostPort
from gateway.control.configfields import host_and_port
from gateway.control.confighistory import History
from gateway.control.configlife import ConfigLife
from gateway.control.configmodel import GatewayConfig
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.ctlsock import ControlServer, Handler
from gateway.control.gatewaykeeper import GatewayKeeper
from gateway.control.gatewaylive import GatewayLive, Peering, advertised, network_plan
from gateway.control.loglevel import LEVELS
from gateway.control.observed import MakeSurface, Observed, Phase, Surface
from gateway.control.peerbook import PeerBook, catch_up, peer_handlers
from gateway.control.peers import Peer
from gateway.control.peersfile import PeersFile
from gateway.control.ping import Pinger
from gateway.control.records import Records
from gateway.control.resolve import resolve
from gateway.control.service import attached
from gateway.control.sessiondocs import SessionDocs
from gateway.control.sessions import Live, Sessions
from gateway.control.status import status_document
from gateway.control.tunnel import Tunnel, TunnelLimits
from gateway.control.wggateway import WgGateway
from gateway.control.wgserver import SOCKETS, WgServer
from gateway.core.inputs import OperatorTerminate
from gateway.dataplane.engine import Endpoint
from gateway.errors import DataplaneError, JumpError, TryLater
from gateway.net.gatewaynet import GatewayNetwork
from gateway.net.netlink import Netlink
from gateway.net.tun import open_with
from gateway.net.udp import open_listen
from gateway.net.undo import UndoJournal
from gateway.noise.handshake import Identity

# Handshakes to peers found in the store: 16 in 10 ms are a quarter of a core for as long as it takes.
_CALLS_PER_TURN: Final = 16
_CALL_PAUSE_S: Final = 0.01


def run(config_path: Path | None, state_dir: Path, surface: MakeSurface | None = None) -> int:
    """Run a gateway until it is told to stop; the process's exit status. Without a file it makes one."""
    if config_path is None:
        made = statedir.bootstrap_gateway(state_dir)
        for sentence in made.created:
            click.echo(f"jvpn: {sentence}")
        if made.created:
            click.echo("jvpn: add clients from another terminal: jvpn peer add NAME --qr")
        config_path = made.config_path
    with pauses.loading():
        loaded = config.load_gateway(config_path)
    log = daemon.logger(LEVELS[loaded.log_level])
    return daemon.run(Gateway(loaded, state_dir, log, surface), log)


class Gateway:
    """One gateway on this machine."""

    def __init__(
        self,
        loaded: GatewayConfig,
        state_dir: Path,
        log: structlog.stdlib.BoundLogger,
        surface: MakeSurface | None = None,
    ) -> None:
        self._config = loaded
        self._state_dir = state_dir
        self._log = log.bind(interface=loaded.interface)
        self._started_ns = clock.now_ns()
        self._records: Records | None = None
        self._keeper: GatewayKeeper | None = None
        self._tunnel: Tunnel | None = None
        self._netlink: Netlink | None = None
        self._network: GatewayNetwork | None = None
        self._control: ControlServer | None = None
        self._wg: WgServer | None = None
        self._make_surface = surface
        self._surface: Surface | None = None
        self._seen: Observed | None = None
        # Routes of peers that came or went, until the command that did it has made them hold.
        self._route_changes: list[tuple[bool, list[str]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._live: GatewayLive | None = None
        self._life = ConfigLife(
            loaded,
            History(state_dir, loaded.interface),
            self._log,
            read=lambda text, path: config.parse_gateway(text, str(path), path.parent),
            take=configkeys.take_gateway,
            apply=self._take_over,
        )

    async def start(self, stopping: daemon.Stopping) -> None:
        """Bring everything up; JumpError says what was refused."""
        for warning in self._config.warnings:
            self._log.warning("configuration", problem=warning)
        daemon.refuse_second(self._control_path(), self._config.interface)
        records = Records(self._state_dir, self._config.interface, self._log, self._config.audit)
        self._records = records
        with pauses.loading():
            tunnel, book = await self._load(records)
            tunnel.on_failure = stopping.ask
        await self._serve_control(tunnel, book, records)
        pauses.settle()
        tunnel.start()
        catch_up(book, self._install, self._uninstall)
        await self._apply_routes()
        self._live = self._can_change(tunnel, book)
        self._spawn(self._life.serve())
        if self._seen is not None:
            self._seen.watch.start()
            self._seen.pauses.start()
            self._seen.phase = Phase.SERVING
        self._log.info(
            "gateway ready",
            listen=tunnel.local_addresses(),
            addresses=[str(address) for address in self._config.addresses],
            peers=len(tunnel.peers),
            startup_ms=(clock.now_ns() - self._started_ns) // 1_000_000,
        )

    async def stop(self) -> None:
        """Take everything down in reverse; what cannot be undone is logged and stays in the journal."""
        if self._seen is not None:
            self._seen.watch.stop()
            self._seen.pauses.stop()
            told = await farewell.say(self._seen)
            self._log.info("draining", clients_told=told, sessions=len(self._seen.sessions))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._wg is not None:
            await self._wg.stop()
        if self._surface is not None:
            await self._surface.stop()
        if self._control is not None:
            await self._control.stop()
        if self._tunnel is not None:
            self._tunnel.stop()
        if self._network is not None:
            report = await self._network.down()
            for failure in report.failed:
                self._log.error("not undone", step=failure)
        if self._netlink is not None:
            await self._netlink.close()
        if self._records is not None:
            await asyncio.to_thread(self._records.close)

    def hang_up(self) -> None:
        """SIGHUP: read the file again."""
        self._life.hang_up()

    def announce_reloads(self, around: Callable[[], AbstractContextManager[None]]) -> None:
        """What the service manager is told goes around each."""
        self._life.around = around

    def problems(self) -> list[str]:
        """What of the data plane does not move."""
        return self._seen.watch.problems() if self._seen is not None else []

    def summary(self) -> str:
        """One line for `systemctl status`."""
        if self._seen is None:
            return "starting"
        return f"{attached(self._seen.sessions)}, {len(self._seen.tunnel.peers)} peers"

    def _control_path(self) -> Path:
        return self._config.control_socket or statedir.control_socket(self._config.interface)

    # --- parts of the start -----------------------------------------------------------------------------------

    async def _load(self, records: Records) -> tuple[Tunnel, PeerBook]:
        """Everything there is one of for each peer."""
        book = PeerBook(self._config, PeersFile(self._state_dir))
        await self._prepare_host()
        tunnel = self._open_tunnel(records)
        await self._set_up_host(book)
        for peer in book.peers.values():
            self._add_to_tunnel(tunnel, peer)
        await records.read_versions()
        self._resume(tunnel, records)
        records.audited.clear()  # one entry for each session the journal ever named
        return tunnel, book

    async def _prepare_host(self) -> None:
        self._netlink = Netlink()
        journal = UndoJournal(self._state_dir, self._config.interface)
        network = GatewayNetwork(self._netlink, journal)
        report = await network.prepare()
        self._network = network
        for undone in report.undone:
            self._log.info("removed what a killed run left", step=undone)

    def _open_tunnel(self, records: Records) -> Tunnel:
        settings = self._config
        keeper = partial(
            GatewayKeeper, sink=records.audit, policy=settings.policy, random_bytes=secrets.token_bytes
        )
        tunnel = Tunnel(
            Identity(settings.private_key),
            timers=settings.timers,
            limits=TunnelLimits(under_load_per_s=settings.under_load_per_s),
            timestamps=records.timestamps(),
            keeper=keeper,
            offload=settings.offload,
            workers=settings.workers,
        )
        self._tunnel = tunnel
        if isinstance(tunnel.keeper, GatewayKeeper):
            self._keeper = tunnel.keeper
            records.follow(tunnel.keeper.sessions)
            tunnel.keeper.reception.on_spoken = records.spoke
            tunnel.keeper.reception.endpoints = advertised(settings)
            tunnel.keeper.sessions.on_ended = self._session_ended
        tunnel.exchange.on_complete = lambda peer: records.stamp(peer, tunnel.timestamps)
        count = settings.workers.count
        listen = [str(address) for address in settings.listen]
        ports = open_listen(listen, fwmark=settings.fwmark, workers=count)
        tunnel.attach(ports, open_with(settings.interface, settings.offload.tun, count), settings.mtu)
        return tunnel

    async def _set_up_host(self, book: PeerBook) -> None:
        routes = tuple(str(net) for peer in book.peers.values() for net in peer.allowed_ips)
        if self._network is not None:
            for warning in await self._network.up(network_plan(self._config, routes)):
                self._log.warning("host", problem=warning)

    def _resume(self, tunnel: Tunnel, records: Records) -> None:
        """Sessions of an earlier run go on by T22; a peer that is gone leaves its record to be forgotten."""
        now_ns, stamps = clock.now_ns(), records.store.load_stamps()
        spoken = records.store.load_spoken()
        for peer in tunnel.peers:
            peer.spoken = peer.config.public_key in spoken
            if peer.config.public_key in stamps:
                peer.started(tunnel.timers).greatest_timestamp = stamps[peer.config.public_key]
        resumed: list[Live] = []
        for public_key, saved in records.saved().items():
            live_peer = tunnel.peers.by_key(public_key)
            if live_peer is None or self._keeper is None:
                records.store.forget_session(public_key)
                continue
            policy = self._keeper.policy_of(live_peer)
            live = records.resume(now_ns, self._keeper.sessions, live_peer, saved, policy)
            if live is not None:
                resumed.append(live)
        if resumed:
            self._log.info("sessions resumed", count=len(resumed))
            self._spawn(self._call_back(tunnel, [live for live in resumed if live.core.stock]))

    async def _call_back(self, tunnel: Tunnel, lives: list[Live]) -> None:
        """Stock peers do not notice our restart for 15 s; a handshake from here brings them back at once."""
        for number, live in enumerate(lives):
            if number % _CALLS_PER_TURN == 0:
                await asyncio.sleep(_CALL_PAUSE_S)
            self._call_home(tunnel, live)

    @staticmethod
    def _call_home(tunnel: Tunnel, live: Live) -> None:
        host, port = host_and_port(live.core.home.removeprefix("udp:"))
        try:
            to = Endpoint.of(host, int(port), tunnel.engine.socket_for(":" in host))
        except (ValueError, DataplaneError):
            return  # an address of a kind this gateway no longer listens on
        tunnel.exchange.initiate_to(clock.now_ns(), live.peer, to)
        tunnel.kick()

    async def _serve_control(self, tunnel: Tunnel, book: PeerBook, records: Records) -> None:
        async def status(_args: dict[str, Any]) -> dict[str, Any]:
            return status_document(
                tunnel, role="gateway", interface=self._config.interface, started_ns=self._started_ns
            )

        handlers: dict[str, Handler] = {"status": status, "audit.rotate": records.rotate}
        self._life.audited = partial(audited, write=records.audit.acted, now_ns=clock.now_ns)
        handlers.update(self._life.handlers())
        for name, handler in peer_handlers(book, self._install, self._uninstall).items():
            handlers[name] = self._then_routes(handler)
        if self._keeper is not None:
            docs = SessionDocs(
                self._keeper.sessions,
                records.audit,
                records.journal,
                interface=self._config.interface,
                kick=tunnel.kick,
                ping=Pinger(self._keeper.sessions, secrets.token_bytes, kick=tunnel.kick).ping,
            )
            handlers.update(docs.handlers())
            await self._show(tunnel, self._keeper.sessions, docs, records, handlers)
        self._control = ControlServer(self._control_path(), handlers, on_error=self._handler_failed)
        await self._control.start()
        if self._config.wg_socket:
            await self._serve_wg(tunnel, handlers)

    async def _serve_wg(self, tunnel: Tunnel, handlers: dict[str, Handler]) -> None:
        """For WireGuard's own tools. A gateway that may not write there works without."""
        backend = WgGateway(
            self._config,
            tunnel,
            add=handlers["peer.add"],
            remove=handlers["peer.remove"],
            change=self._set_peer,
        )
        server = WgServer(
            SOCKETS / f"{self._config.interface}.sock",
            backend,
            on_error=lambda error: self._handler_failed("wg set", error),
        )
        try:
            await server.start()
        except JumpError as error:
            self._log.info("not served to wg", reason=str(error))
        else:
            self._wg = server

    async def _show(
        self,
        tunnel: Tunnel,
        sessions: Sessions,
        docs: SessionDocs,
        records: Records,
        handlers: dict[str, Handler],
    ) -> None:
        """Open the stats endpoint, from before the first packet until after the last."""
        self._seen = Observed(
            interface=self._config.interface,
            started_ns=self._started_ns,
            tunnel=tunnel,
            sessions=sessions,
            docs=docs,
            records=records,
            commands=handlers,
        )
        handlers["drain"] = partial(drain.command, self._seen)
        audit_changes(handlers, records.audit.acted, clock.now_ns)
        if self._make_surface is not None:
            self._surface = self._make_surface(self._seen, self._config.stats, self._log)
            await self._surface.start()

    def _then_routes(self, handler: Handler) -> Handler:
        """A command is answered when its peer's routes hold as well."""

        async def handle(args: dict[str, Any]) -> dict[str, Any]:
            result = await handler(args)
            await self._apply_routes()
            return result

        return handle

    def _session_ended(self, now_ns: int, live: Live) -> None:
        past = live.core.history()
        reason = past[-1].reason.name if past else ""
        self._log.info(
            "session ended", peer=live.core.peer, session=live.core.session_id.hex(), reason=reason
        )
        if self._keeper is not None:
            self._keeper.reception.succeed(now_ns, live)

    async def _apply_routes(self) -> None:
        while self._route_changes and self._network is not None:
            add, prefixes = self._route_changes.pop(0)
            await (self._network.add_routes if add else self._network.remove_routes)(prefixes)

    def _install(self, peer: PeerConfig) -> None:
        if self._tunnel is not None:
            self._add_to_tunnel(self._tunnel, peer)
        self._route_changes.append((True, [str(net) for net in peer.allowed_ips]))
        self._log.info("peer added", peer=peer.name)

    def _uninstall(self, peer: PeerConfig) -> None:
        live = self._tunnel.peers.by_key(peer.public_key) if self._tunnel is not None else None
        if self._tunnel is not None and live is not None:
            self._end_session(live)
            self._tunnel.peers.remove(live)
        self._route_changes.append((False, [str(net) for net in peer.allowed_ips]))
        self._log.info("peer removed", peer=peer.name)

    def _handler_failed(self, command: str, error: BaseException) -> None:
        self._log.error("control command failed", command=command, error=repr(error))

    def _end_session(self, peer: Peer) -> None:
        """A peer that is removed leaves no session behind."""
        session = self._keeper.sessions.of(peer.slot) if self._keeper is not None else None
        if session is not None and self._keeper is not None:
            self._keeper.sessions.feed(clock.now_ns(), session, OperatorTerminate(str(current())))

    # --- another configuration --------------------------------------------------------------------------------

    def _can_change(self, tunnel: Tunnel, book: PeerBook) -> GatewayLive | None:
        if self._keeper is None or self._network is None:
            return None
        return GatewayLive(
            self._config,
            tunnel=tunnel,
            keeper=self._keeper,
            book=book,
            network=self._network,
            peering=Peering(
                install=self._install,
                uninstall=self._uninstall,
                change=self._change,
                settle=self._apply_routes,
            ),
            surface=self._surface,
            log=self._log,
        )

    async def _take_over(self, wanted: GatewayConfig) -> Sequence[str]:
        if self._live is None:
            raise TryLater(f"{self._config.interface} is starting")
        return await self._live.apply(wanted)

    async def _set_peer(self, after: PeerConfig) -> None:
        """One of the file is as said here until the file is read again."""
        if self._live is None or self._records is None:
            raise TryLater(f"{self._config.interface} is starting")
        with recorded("peer.set", after.name, self._records.audit.acted, clock.now_ns):
            await self._live.change_peer(after)
        self._life.running = replace(self._life.running, peers=self._live.configured)

    def _change(self, changed: list[tuple[Peer, PeerConfig]]) -> None:
        """Peers that are allowed something else. Where one is called is news only while it has no session."""
        before = [live.config for live, _ in changed]
        if self._tunnel is not None:
            self._tunnel.peers.change(changed, clock.now_ns())
        for old, (live, after) in zip(before, changed, strict=True):
            gone, come = (
                set(old.allowed_ips) - set(after.allowed_ips),
                set(after.allowed_ips) - set(old.allowed_ips),
            )
            self._route_changes.append((False, [str(net) for net in gone]))
            self._route_changes.append((True, [str(net) for net in come]))
            if self._tunnel is not None and after.endpoint not in (None, old.endpoint):
                self._spawn(self._find(self._tunnel, live, after.endpoint, anew=True))
            self._log.info("peer changed", peer=after.name)

    # --- peers ------------------------------------------------------------------------------------------------

    def _add_to_tunnel(self, tunnel: Tunnel, peer: PeerConfig) -> None:
        live = tunnel.add_peer(peer)
        if peer.endpoint is not None:
            self._spawn(self._find(tunnel, live, peer.endpoint))

    async def _find(self, tunnel: Tunnel, peer: Peer, endpoint: HostPort, anew: bool = False) -> None:
        """A configured endpoint is where a peer is called until it shows up somewhere itself."""
        try:
            host, port = (await resolve(endpoint))[0]
            if tunnel.peers.by_slot(peer.slot) is not peer:
                return
            idle = anew and self._keeper is not None and self._keeper.sessions.of(peer.slot) is None
            if idle or tunnel.engine.endpoint(peer.slot) is None:
                tunnel.send_to(peer, host, port)
                tunnel.kick()
        except JumpError as error:
            self._log.warning("peer has no address yet", peer=peer.config.name, reason=str(error))

    # --- background -------------------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
