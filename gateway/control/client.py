# SPDX-License-Identifier: Apache-2.0
"""The client process: one tunnel to a gateway, with addresses, routes and DNS of this machine, and all of it put back.

Order of a start: leftovers of a killed run first (its DNS would fail the gateway's name), then the gateway's address,
sockets with their mark, device, routes. After kill -9 the next start or `disconnect` removes what was left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any, Final

import click
import structlog

from gateway.control import clock, config, ctlclient, daemon, statedir
from gateway.control.configfields import Endpoint as HostPort
from gateway.control.configmodel import ClientConfig, GatewayPeer
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.ctlsock import ControlServer
from gateway.control.peers import Peer
from gateway.control.resolve import resolve_first
from gateway.control.status import status_document
from gateway.control.tunnel import Tunnel
from gateway.errors import DaemonUnreachable, JumpError, NotFound, TryLater
from gateway.net.clientnet import ClientNetwork, ClientPlan
from gateway.net.netlink import Netlink
from gateway.net.tun import open_tun
from gateway.net.udp import open_listen
from gateway.net.undo import UndoJournal
from gateway.noise.handshake import Identity

# Asked for again that often while the gateway's name does not resolve (the network may not be up yet).
_RESOLVE_INTERVAL_S: Final = 3.0
_DISCONNECT_WAIT_S: Final = 10.0


def run(config_path: Path, state_dir: Path) -> int:
    """Stay connected until told to stop; the process's exit status."""
    loaded = config.load_client(config_path)
    log = daemon.logger()
    return daemon.run(Client(loaded, state_dir, log), log)


def disconnect(state_dir: Path, interface: str | None) -> int:
    """Stop the client of an interface, or undo what a killed one left. NotFound when there is neither."""
    name = interface or _only_interface(state_dir)
    path = statedir.control_socket(name)
    journal = UndoJournal(state_dir, name)
    with contextlib.suppress(DaemonUnreachable):
        ctlclient.call(path, "stop")
        _wait_until_gone(journal, name)
        click.echo(f"{name}: disconnected")
        return 0
    if journal.owner() is None:
        raise NotFound(f"{name}: no client runs and nothing was left behind")
    report = journal.recover()
    for step in report.undone:
        click.echo(f"{name}: removed {step}")
    for step in report.failed:
        click.echo(f"{name}: could not remove {step}")
    return 1 if report.failed else 0


def _only_interface(state_dir: Path) -> str:
    left = {path.stem.removeprefix("undo-") for path in state_dir.glob("undo-*.json")}
    found = sorted(left | {path.stem for path in statedir.control_sockets()})
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound("no client runs and nothing was left behind")
    raise NotFound(f"several interfaces are up: {', '.join(found)}; name one")


def _wait_until_gone(journal: UndoJournal, name: str) -> None:
    deadline_s = time.monotonic() + _DISCONNECT_WAIT_S
    while journal.owner() is not None:
        if time.monotonic() > deadline_s:
            raise TryLater(f"{name}: still disconnecting after {_DISCONNECT_WAIT_S:.0f} s")
        time.sleep(0.05)


class Client:
    """One tunnel of this machine."""

    def __init__(self, loaded: ClientConfig, state_dir: Path, log: structlog.stdlib.BoundLogger) -> None:
        self._config = loaded
        self._state_dir = state_dir
        self._log = log.bind(interface=loaded.interface)
        self._started_ns = clock.now_ns()
        self._stamps = daemon.StampFile(state_dir, loaded.interface)
        self._tunnel: Tunnel | None = None
        self._netlink: Netlink | None = None
        self._network: ClientNetwork | None = None
        self._control: ControlServer | None = None
        # What each gateway's endpoints resolved to, and which is in use.
        self._addresses: dict[bytes, list[tuple[str, int]]] = {}
        self._chosen: dict[bytes, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, stopping: daemon.Stopping) -> None:
        """Bring the tunnel up; JumpError says what was refused."""
        for warning in self._config.warnings:
            self._log.warning("configuration", problem=warning)
        statedir.ensure_dir(self._state_dir)
        network = await self._prepare_host()
        await self._resolve_all()
        fwmark = await self._mark(network)
        tunnel = self._open_tunnel(fwmark)
        tunnel.on_failure = stopping.ask
        await self._set_up_host(network, tunnel, fwmark)
        tunnel.start()
        for gateway in self._config.gateways:
            self._add_gateway(tunnel, gateway)
        await self._serve_control(tunnel, stopping)
        self._log.info("client ready", listen=tunnel.local_addresses(), gateways=len(tunnel.peers))

    async def stop(self) -> None:
        """Put everything back; what cannot be is logged and stays in the journal for `jvpn disconnect`."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control is not None:
            await self._control.stop()
        if self._network is not None:
            report = await self._network.down()
            for failure in report.failed:
                self._log.error("not undone", step=failure)
        if self._tunnel is not None:
            with contextlib.suppress(JumpError, OSError):
                self._stamps.save(self._tunnel.timestamps)
            self._tunnel.stop()
        if self._netlink is not None:
            await self._netlink.close()

    # --- parts of the start -----------------------------------------------------------------------------------

    async def _prepare_host(self) -> ClientNetwork:
        self._netlink = Netlink()
        network = ClientNetwork(self._netlink, UndoJournal(self._state_dir, self._config.interface))
        report = await network.prepare()
        self._network = network
        for undone in report.undone:
            self._log.info("removed what a killed run left", step=undone)
        return network

    async def _resolve_all(self) -> None:
        for gateway in self._config.gateways:
            while gateway.endpoints:
                try:
                    self._addresses[gateway.public_key] = await resolve_first(gateway.endpoints)
                    break
                except JumpError as error:
                    self._log.warning("gateway not found, trying again", reason=str(error))
                    await asyncio.sleep(_RESOLVE_INTERVAL_S)

    async def _mark(self, network: ClientNetwork) -> int:
        """A mark is needed only where a route through the tunnel could swallow the tunnel's own packets."""
        if self._config.fwmark or self._config.table != "auto":
            return self._config.fwmark
        return await network.choose_mark()

    def _open_tunnel(self, fwmark: int) -> Tunnel:
        settings = self._config
        tunnel = Tunnel(Identity(settings.private_key), timers=settings.timers, timestamps=self._stamps.load())
        self._tunnel = tunnel
        port = settings.listen_port
        tunnel.attach(
            open_listen([f"0.0.0.0:{port}", f"[::]:{port}"], fwmark=fwmark),
            open_tun(settings.interface),
            settings.mtu,
        )
        for address in settings.addresses:
            tunnel.engine.set_inner(address.ip)
        tunnel.exchange.on_retry = self._retried
        tunnel.exchange.on_complete = self._completed
        return tunnel

    async def _set_up_host(self, network: ClientNetwork, tunnel: Tunnel, fwmark: int) -> None:
        settings = self._config
        report = await network.up(
            ClientPlan(
                interface=settings.interface,
                addresses=tuple(str(address) for address in settings.addresses),
                allowed_ips=tuple(str(net) for gateway in settings.gateways for net in gateway.allowed_ips),
                endpoints=tuple(host for found in self._addresses.values() for host, _ in found),
                fwmark=fwmark,
                mtu_bytes=settings.mtu,
                table=settings.table,
                dns_servers=tuple(str(server) for server in settings.dns.servers),
                dns_search=settings.dns.search,
            )
        )
        for warning in report.warnings:
            self._log.warning("host", problem=warning)

    async def _serve_control(self, tunnel: Tunnel, stopping: daemon.Stopping) -> None:
        async def status(_args: dict[str, Any]) -> dict[str, Any]:
            return status_document(
                tunnel, role="client", interface=self._config.interface, started_ns=self._started_ns
            )

        async def stop(_args: dict[str, Any]) -> dict[str, Any]:
            stopping.ask()
            return {"stopping": True}

        path = self._config.control_socket or statedir.control_socket(self._config.interface)
        self._control = ControlServer(path, {"status": status, "stop": stop}, on_error=self._handler_failed)
        await self._control.start()

    def _handler_failed(self, command: str, error: BaseException) -> None:
        self._log.error("control command failed", command=command, error=repr(error))

    # --- gateways ---------------------------------------------------------------------------------------------

    def _add_gateway(self, tunnel: Tunnel, gateway: GatewayPeer) -> None:
        """The first handshake starts at once, so that a wrong key shows now and not at the first packet."""
        found = self._addresses.get(gateway.public_key, [])
        first = gateway.endpoints[0] if gateway.endpoints else None
        peer = tunnel.peers.add(_as_peer(gateway, first), clock.now_ns())
        if found:
            self._use(tunnel, peer, 0)
            tunnel.exchange.wanted(clock.now_ns(), peer)
        tunnel.kick()

    def _use(self, tunnel: Tunnel, peer: Peer, choice: int) -> None:
        """Send to one of the gateway's addresses; the kernel says whether this machine has that family."""
        found = self._addresses[peer.config.public_key]
        host, port = found[choice % len(found)]
        self._chosen[peer.config.public_key] = choice % len(found)
        tunnel.send_to(peer, host, port)

    def _retried(self, peer: Peer) -> None:
        """No answer and no key: the next address of the gateway; its name is looked up again meanwhile."""
        tunnel = self._tunnel
        if tunnel is None or not self._addresses.get(peer.config.public_key) or tunnel.has_key(peer):
            return
        self._use(tunnel, peer, self._chosen[peer.config.public_key] + 1)
        self._log.info("no answer yet", gateway=str(tunnel.engine.endpoint(peer.slot)))
        task = asyncio.ensure_future(self._look_up_again(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up_again(self, peer: Peer) -> None:
        gateway = next(g for g in self._config.gateways if g.public_key == peer.config.public_key)
        with contextlib.suppress(JumpError):
            self._addresses[gateway.public_key] = await resolve_first(gateway.endpoints)

    def _completed(self, peer: Peer) -> None:
        if self._tunnel is not None:
            self._log.info("handshake completed", gateway=str(self._tunnel.engine.endpoint(peer.slot)))


def _as_peer(gateway: GatewayPeer, endpoint: HostPort | None) -> PeerConfig:
    """The gateway seen as a peer. It never roams: we send only where our own configuration points."""
    return PeerConfig(
        name=str(endpoint or "gateway"),
        public_key=gateway.public_key,
        preshared_key=gateway.preshared_key,
        allowed_ips=gateway.allowed_ips,
        endpoint=endpoint,
        keepalive_s=gateway.keepalive_s,
        roaming="never",
        protocol=gateway.protocol,
    )
