# SPDX-License-Identifier: Apache-2.0
"""The gateway process: configuration, host set-up, tunnel, peers and control socket put together.

Order of a start: leftovers of a killed run, sockets, device, peers, host network, control socket, ready. `stop` goes
back the same way and also cleans up after a start that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import click
import structlog

from gateway.control import clock, config, ctlclient, daemon, statedir
from gateway.control.configfields import Endpoint as HostPort
from gateway.control.configmodel import GatewayConfig
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.ctlsock import ControlServer, Handler
from gateway.control.peerbook import PeerBook, catch_up, peer_handlers
from gateway.control.peers import Peer
from gateway.control.peersfile import PeersFile
from gateway.control.resolve import resolve
from gateway.control.status import status_document
from gateway.control.tunnel import Tunnel, TunnelLimits
from gateway.errors import JumpError, Refused
from gateway.net.gatewaynet import GatewayNetwork, GatewayPlan
from gateway.net.netlink import Netlink
from gateway.net.tun import open_tun
from gateway.net.udp import open_listen
from gateway.net.undo import UndoJournal
from gateway.noise.handshake import Identity

_SAVE_INTERVAL_S: Final = 10.0


def run(config_path: Path | None, state_dir: Path) -> int:
    """Run a gateway until it is told to stop; the process's exit status. Without a file it makes one."""
    if config_path is None:
        made = statedir.bootstrap_gateway(state_dir)
        for sentence in made.created:
            click.echo(f"jvpn: {sentence}")
        config_path = made.config_path
    loaded = config.load_gateway(config_path)
    log = daemon.logger()
    return daemon.run(Gateway(loaded, state_dir, log), log)


class Gateway:
    """One gateway on this machine."""

    def __init__(self, loaded: GatewayConfig, state_dir: Path, log: structlog.stdlib.BoundLogger) -> None:
        self._config = loaded
        self._state_dir = state_dir
        self._log = log.bind(interface=loaded.interface)
        self._started_ns = clock.now_ns()
        self._stamps = daemon.StampFile(state_dir, loaded.interface)
        self._tunnel: Tunnel | None = None
        self._netlink: Netlink | None = None
        self._network: GatewayNetwork | None = None
        self._control: ControlServer | None = None
        # Routes of peers that came or went, until the command that did it has made them hold.
        self._route_changes: list[tuple[bool, list[str]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, stopping: daemon.Stopping) -> None:
        """Bring everything up; JumpError says what was refused."""
        for warning in self._config.warnings:
            self._log.warning("configuration", problem=warning)
        statedir.ensure_dir(self._state_dir)
        self._refuse_second()
        book = PeerBook(self._config, PeersFile(self._state_dir))
        await self._prepare_host()
        tunnel = self._open_tunnel()
        tunnel.on_failure = stopping.ask
        await self._set_up_host(book)
        for peer in book.peers.values():
            self._add_to_tunnel(tunnel, peer)
        await self._serve_control(tunnel, book)
        tunnel.start()
        catch_up(book, self._install, self._uninstall)
        await self._apply_routes()
        self._spawn(self._keep_stamps(tunnel))
        self._log.info(
            "gateway ready",
            listen=tunnel.local_addresses(),
            addresses=[str(address) for address in self._config.addresses],
            peers=len(tunnel.peers),
            startup_ms=(clock.now_ns() - self._started_ns) // 1_000_000,
        )

    async def stop(self) -> None:
        """Take everything down in reverse; what cannot be undone is logged and stays in the journal."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control is not None:
            await self._control.stop()
        if self._tunnel is not None:
            with contextlib.suppress(JumpError, OSError):
                self._stamps.save(self._tunnel.timestamps)
            self._tunnel.stop()
        if self._network is not None:
            report = await self._network.down()
            for failure in report.failed:
                self._log.error("not undone", step=failure)
        if self._netlink is not None:
            await self._netlink.close()

    def _control_path(self) -> Path:
        return self._config.control_socket or statedir.control_socket(self._config.interface)

    def _refuse_second(self) -> None:
        """Before anything is touched: a second gateway must not take a running one's leftovers for dead ones."""
        pid = ctlclient.owner_pid(self._control_path())
        if pid:
            raise Refused(f"interface {self._config.interface}: already running, pid {pid}")

    # --- parts of the start -----------------------------------------------------------------------------------

    async def _prepare_host(self) -> None:
        self._netlink = Netlink()
        journal = UndoJournal(self._state_dir, self._config.interface)
        network = GatewayNetwork(self._netlink, journal)
        report = await network.prepare()
        self._network = network
        for undone in report.undone:
            self._log.info("removed what a killed run left", step=undone)

    def _open_tunnel(self) -> Tunnel:
        settings = self._config
        tunnel = Tunnel(
            Identity(settings.private_key),
            timers=settings.timers,
            limits=TunnelLimits(under_load_per_s=settings.under_load_per_s),
            timestamps=self._stamps.load(),
        )
        self._tunnel = tunnel
        sockets = open_listen([str(address) for address in settings.listen], fwmark=settings.fwmark)
        tunnel.attach(sockets, open_tun(settings.interface), settings.mtu)
        for address in settings.addresses:
            tunnel.engine.set_inner(address.ip)
        return tunnel

    async def _set_up_host(self, book: PeerBook) -> None:
        settings = self._config
        plan = GatewayPlan(
            interface=settings.interface,
            addresses=tuple(str(address) for address in settings.addresses),
            mtu_bytes=settings.mtu,
            peer_routes=tuple(str(net) for peer in book.peers.values() for net in peer.allowed_ips),
            forward=settings.forward_enabled,
            nat=settings.nat_enabled,
            out_interface=settings.nat_out_interface,
            pools=tuple(str(pool) for pool in settings.pools),
            clients=settings.forward_clients,
        )
        if self._network is not None:
            for warning in await self._network.up(plan):
                self._log.warning("host", problem=warning)

    async def _serve_control(self, tunnel: Tunnel, book: PeerBook) -> None:
        async def status(_args: dict[str, Any]) -> dict[str, Any]:
            return status_document(
                tunnel, role="gateway", interface=self._config.interface, started_ns=self._started_ns
            )

        handlers: dict[str, Handler] = {"status": status}
        for name, handler in peer_handlers(book, self._install, self._uninstall).items():
            handlers[name] = self._then_routes(handler)
        self._control = ControlServer(self._control_path(), handlers, on_error=self._handler_failed)
        await self._control.start()

    def _then_routes(self, handler: Handler) -> Handler:
        """A command is answered when its peer's routes hold as well."""

        async def handle(args: dict[str, Any]) -> dict[str, Any]:
            result = await handler(args)
            await self._apply_routes()
            return result

        return handle

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
            self._tunnel.peers.remove(live)
        self._route_changes.append((False, [str(net) for net in peer.allowed_ips]))
        self._log.info("peer removed", peer=peer.name)

    def _handler_failed(self, command: str, error: BaseException) -> None:
        self._log.error("control command failed", command=command, error=repr(error))

    # --- peers ------------------------------------------------------------------------------------------------

    def _add_to_tunnel(self, tunnel: Tunnel, peer: PeerConfig) -> None:
        live = tunnel.add_peer(peer)
        if peer.endpoint is not None:
            self._spawn(self._find(tunnel, live, peer.endpoint))

    async def _find(self, tunnel: Tunnel, peer: Peer, endpoint: HostPort) -> None:
        """A configured endpoint is where a peer is called until it shows up somewhere itself."""
        try:
            host, port = (await resolve(endpoint))[0]
            if tunnel.engine.endpoint(peer.slot) is None:
                tunnel.send_to(peer, host, port)
                tunnel.kick()
        except JumpError as error:
            self._log.warning("peer has no address yet", peer=peer.config.name, reason=str(error))

    # --- background -------------------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_stamps(self, tunnel: Tunnel) -> None:
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            with contextlib.suppress(JumpError, OSError):
                await asyncio.to_thread(self._stamps.save, tunnel.timestamps)
