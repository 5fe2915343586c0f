# SPDX-License-Identifier: Apache-2.0
"""The client process: one tunnel to a gateway, with addresses, routes and DNS of this machine, and all of it put back.

Order of a start: leftovers of a killed run first (its DNS would fail the gateway's name), then the gateway's address,
sockets with their mark, device, routes. After kill -9 the next start or `disconnect` removes what was left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.control import clock, config, configkeys, daemon, keysfile, statedir
from gateway.control.actor import audit_changes, audited, current
from gateway.control.clientkeeper import ClientKeeper
from gateway.control.configfields import Endpoint as HostPort
from gateway.control.confighistory import History
from gateway.control.configlife import ConfigLife
from gateway.control.configmodel import ClientConfig, GatewayPeer
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.ctlsock import ControlServer, Handler
from gateway.control.eager import Eager
from gateway.control.loglevel import GATE, LEVELS
from gateway.control.peers import Peer
from gateway.control.ping import Pinger
from gateway.control.records import Records
from gateway.control.resolve import resolve_first
from gateway.control.service import attached
from gateway.control.sessiondocs import SessionDocs
from gateway.control.sessions import Live
from gateway.control.status import status_document
from gateway.control.told import Told, not_ours, told_by, with_learned
from gateway.control.transports import Transports
from gateway.control.tunnel import Tunnel
from gateway.control.watch import Watch
from gateway.core.inputs import Input, LinkUp, OperatorTerminate, PathAdded
from gateway.core.policy import Policy
from gateway.core.reasons import Reason
from gateway.dataplane.engine import Engine
from gateway.errors import (
    JumpError,
    TryLater,
)
from gateway.frames import Refuse, RefuseReason, Welcome
from gateway.net.clientnet import ClientNetwork, ClientPlan
from gateway.net.links import LinkWatch
from gateway.net.linkstate import Snapshot
from gateway.net.netlink import Netlink
from gateway.net.tun import open_with
from gateway.net.undo import UndoJournal
from gateway.noise.handshake import Identity

# Asked for again that often while the gateway's name does not resolve (the network may not be up yet).
_RESOLVE_INTERVAL_S: Final = 3.0
# Half a minute between two lines that say so.
_RESOLVES_PER_LINE: Final = 10


def run(config_path: Path, state_dir: Path) -> int:
    """Stay connected until told to stop; the process's exit status."""
    loaded = config.load_client(config_path)
    log = daemon.logger(LEVELS[loaded.log_level])
    return daemon.run(Client(loaded, state_dir, log), log)


class Client:
    """One tunnel of this machine."""

    def __init__(self, loaded: ClientConfig, state_dir: Path, log: structlog.stdlib.BoundLogger) -> None:
        self._config = loaded
        self._state_dir = state_dir
        self._log = log.bind(interface=loaded.interface)
        self._started_ns = clock.now_ns()
        self._records: Records | None = None
        self._keeper: ClientKeeper | None = None
        self._watch: LinkWatch | None = None
        self._progress: Watch | None = None
        self._tunnel: Tunnel | None = None
        self._netlink: Netlink | None = None
        self._network: ClientNetwork | None = None
        self._control: ControlServer | None = None
        self._ready = False
        self._leaving = False
        # What each gateway's endpoints resolved to.
        self._addresses: dict[bytes, list[tuple[str, int]]] = {}
        # Uplinks that answers are let in by, as (device, its number).
        self._loosened: frozenset[tuple[str, int]] = frozenset()
        # What each gateway said in its last WELCOME.
        self._told: dict[bytes, Told] = {}
        # Slots of gateways whose silence was explained already, and of those that are going away.
        self._silent: set[int] = set()
        self._draining: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._life = ConfigLife(
            loaded,
            History(state_dir, loaded.interface),
            self._log,
            read=lambda text, path: config.parse_client(text, str(path), path.parent),
            take=configkeys.take_client,
            apply=self._take_over,
        )

    async def start(self, stopping: daemon.Stopping) -> None:
        """Bring the tunnel up; JumpError says what was refused."""
        for warning in self._config.warnings:
            self._log.warning("configuration", problem=warning)
        daemon.refuse_second(self._control_path(), self._config.interface)
        records = Records(self._state_dir, self._config.interface, self._log, self._config.audit)
        self._records = records
        network = await self._prepare_host()
        # From here on `jvpn disconnect` ends it, also while the gateway's name is not found.
        await self._serve_control(stopping)
        await self._resolve_all()
        fwmark = await self._mark(network)
        tunnel, keeper = self._open_tunnel(records)
        tunnel.on_failure = stopping.ask
        await self._set_up_host(network, fwmark)
        tunnel.start()
        self._progress = Watch(tunnel)
        self._progress.start()
        await records.read_versions()
        snapshot = await self._watch_links(tunnel, keeper)
        for gateway in self._config.gateways:
            self._add_gateway(tunnel, keeper, gateway, fwmark, snapshot)
        self._add_session_commands(tunnel, keeper, records)
        self._ready = True
        self._spawn(self._life.serve())
        paths = [str(path.candidate.key) for one in keeper.transports.values() for path in one.paths()]
        self._log.info("interface is up, calling the gateway", paths=paths, gateways=len(tunnel.peers))

    async def stop(self) -> None:
        """Put everything back; what cannot be is logged and stays in the journal for `jvpn disconnect`."""
        if self._progress is not None:
            self._progress.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control is not None:
            await self._control.stop()
        if self._network is not None:
            report = await self._network.down()
            for failure in report.failed:
                self._log.error("not undone", step=failure)
        if self._watch is not None:
            await self._watch.stop()
        if self._keeper is not None:
            for transports in self._keeper.transports.values():
                transports.close()
        if self._tunnel is not None:
            self._tunnel.stop()
        if self._netlink is not None:
            await self._netlink.close()
        if self._records is not None:
            await asyncio.to_thread(self._records.close)

    def hang_up(self) -> None:
        """SIGHUP: read the file again."""
        self._life.hang_up()

    def announce_reloads(self, around: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        """What the service manager is told goes around each."""
        self._life.around = around

    async def _take_over(self, wanted: ClientConfig) -> Sequence[str]:
        """The keys of ``configkeys.LIVE_CLIENT``."""
        if self._keeper is None or self._tunnel is None or not self._ready:
            raise TryLater(f"{self._config.interface} is starting")
        self._keeper.set_policy(own_policy(wanted))
        GATE.level = LEVELS[wanted.log_level]
        for live in list(self._keeper.sessions):
            self._keeper.greeting.follow_policy(clock.now_ns(), live)
        self._tunnel.kick()
        return ()

    def problems(self) -> list[str]:
        """What of the data plane does not move."""
        return self._progress.problems() if self._progress is not None else []

    def summary(self) -> str:
        """One line for `systemctl status`."""
        return attached(self._keeper.sessions) if self._keeper is not None else "starting"

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
            for attempt in itertools.count():
                try:
                    self._addresses[gateway.public_key] = await resolve_first(gateway.endpoints)
                    break
                except JumpError as error:
                    if attempt % _RESOLVES_PER_LINE == 0:
                        self._log.warning("gateway not found, trying again", reason=str(error))
                    await asyncio.sleep(_RESOLVE_INTERVAL_S)

    async def _mark(self, network: ClientNetwork) -> int:
        """A mark is needed only where a route through the tunnel could swallow the tunnel's own packets."""
        if self._config.fwmark or self._config.table != "auto":
            return self._config.fwmark
        return await network.choose_mark()

    def _open_tunnel(self, records: Records) -> tuple[Tunnel, ClientKeeper]:
        settings = self._config
        made: list[ClientKeeper] = []

        def make(engine: Engine) -> ClientKeeper:
            policy, instance_id = own_policy(settings), secrets.token_bytes(16)
            made.append(ClientKeeper(engine, records.audit, policy, secrets.token_bytes, instance_id))
            return made[0]

        tunnel = Tunnel(
            Identity(settings.private_key),
            timers=settings.timers,
            timestamps=records.timestamps(),
            keeper=make,
            client=True,
            offload=settings.offload,
            workers=settings.workers,
        )
        self._tunnel, self._keeper = tunnel, made[0]
        device = open_with(settings.interface, settings.offload.tun, settings.workers.count)
        tunnel.attach([], device, settings.mtu)
        records.follow(made[0].sessions)
        made[0].greeting.on_refused = self._log_refusal
        made[0].greeting.on_verdict = self._log_verdict
        made[0].greeting.on_downgrade = self._log_downgrade
        made[0].greeting.on_welcome = self._welcomed
        made[0].greeting.on_drain = self._log_drain
        made[0].sessions.on_ended = self._session_ended
        tunnel.exchange.eager = Eager()
        tunnel.exchange.on_retry = self._retried
        tunnel.exchange.on_complete = self._completed
        return tunnel, made[0]

    async def _set_up_host(self, network: ClientNetwork, fwmark: int) -> None:
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

    def _control_path(self) -> Path:
        return self._config.control_socket or statedir.control_socket(self._config.interface)

    async def _serve_control(self, stopping: daemon.Stopping) -> None:
        async def status(_args: dict[str, Any]) -> dict[str, Any]:
            tunnel = self._tunnel
            if tunnel is None or not self._ready:
                raise TryLater(f"{self._config.interface} is starting: looking up its gateway's address")
            document = status_document(
                tunnel, role="client", interface=self._config.interface, started_ns=self._started_ns
            )
            told = {keysfile.encode_key(key): one.document() for key, one in self._told.items()}
            return {**document, "told": told}

        async def stop(_args: dict[str, Any]) -> dict[str, Any]:
            self._end_sessions()
            stopping.ask()
            return {"stopping": True, "interface": self._config.interface}

        async def interface(_args: dict[str, Any]) -> dict[str, Any]:
            return {"interface": self._config.interface}

        self._handlers: dict[str, Handler] = {"status": status, "stop": stop, "interface": interface}
        self._control = ControlServer(self._control_path(), self._handlers, on_error=self._handler_failed)
        await self._control.start()

    def _end_sessions(self) -> None:
        """`jvpn disconnect` means it: the gateway is told. A signal keeps the session for the next start."""
        self._leaving = True
        if self._keeper is None:
            return
        for live in list(self._keeper.sessions):
            self._keeper.sessions.feed(clock.now_ns(), live, OperatorTerminate(str(current())))

    def _log_downgrade(self, live: Live) -> None:
        required = live.peer.config.protocol == "jump"
        does = "nothing passes until it does" if required else "one path is used, and it is asked every 30 s"
        self._log.warning(
            "the gateway answers no jump frames; is it an older one, or does somebody drop them?",
            gateway=live.peer.config.name,
            consequence=does,
        )

    def _log_verdict(self, now_ns: int, live: Live, jump: bool) -> None:
        if jump and self._records is not None:
            self._records.spoke(live.peer)
        says = (
            "speaks jump frames: all paths are used"
            if jump
            else "is a stock WireGuard peer: one path is used"
        )
        self._log.info("the gateway " + says, gateway=live.peer.config.name)

    def _welcomed(self, live: Live, welcome: Welcome) -> None:
        """What the gateway says of itself and of us; the first WELCOME of many is news, and one that differs."""
        told, key = told_by(welcome), live.peer.config.public_key
        before, self._told[key] = self._told.get(key), told
        if before is not None and before[:2] == told[:2]:
            return
        foreign = not_ours(told, (address.ip for address in self._config.addresses))
        if foreign:
            self._log.warning(
                "the gateway names other addresses for this client than its configuration",
                only_here=foreign,
                gateway_says=list(told.addresses),
            )
        if (
            told.endpoints
            and self._watch is not None
            and self._tunnel is not None
            and self._keeper is not None
        ):
            self._update_transports(self._tunnel, self._keeper, live.peer, self._watch.snapshot)

    def _log_drain(self, live: Live) -> None:
        """Said three times, since a datagram may be lost; logged once, until there is a handshake again."""
        if live.slot not in self._draining:
            self._draining.add(live.slot)
            self._log.info("the gateway is stopping and keeps the session", gateway=live.peer.config.name)

    def _log_refusal(self, live: Live, refusal: Refuse) -> None:
        try:
            reason = RefuseReason(refusal.reason).name
        except ValueError:
            reason = str(refusal.reason)
        self._log.warning(
            "the gateway does not serve this client",
            gateway=live.peer.config.name,
            reason=reason,
            retry_after_s=refusal.retry_after_ms / 1000,
        )

    def _add_session_commands(self, tunnel: Tunnel, keeper: ClientKeeper, records: Records) -> None:
        docs = SessionDocs(
            keeper.sessions,
            records.audit,
            records.journal,
            interface=self._config.interface,
            kick=tunnel.kick,
            ping=Pinger(keeper.sessions, secrets.token_bytes, kick=tunnel.kick).ping,
        )
        self._life.audited = partial(audited, write=records.audit.acted, now_ns=clock.now_ns)
        self._handlers.update(docs.handlers() | self._life.handlers())
        self._handlers["audit.rotate"] = records.rotate
        audit_changes(self._handlers, records.audit.acted, clock.now_ns)

    def _handler_failed(self, command: str, error: BaseException) -> None:
        self._log.error("control command failed", command=command, error=repr(error))

    # --- gateways ---------------------------------------------------------------------------------------------

    async def _watch_links(self, tunnel: Tunnel, keeper: ClientKeeper) -> Snapshot:
        """Links, addresses and routes, live: what goes down there moves sessions within milliseconds."""
        if self._netlink is None:
            return Snapshot()

        def changed(snapshot: Snapshot) -> None:
            for peer in tunnel.peers:
                if peer.slot in keeper.transports:
                    self._update_transports(tunnel, keeper, peer, snapshot)
            tunnel.kick()

        self._watch = LinkWatch(self._netlink, changed)
        return await self._watch.start()

    def _add_gateway(
        self, tunnel: Tunnel, keeper: ClientKeeper, gateway: GatewayPeer, fwmark: int, snapshot: Snapshot
    ) -> None:
        """The first handshake starts at once, so that a wrong key shows now and not at the first packet."""
        first = gateway.endpoints[0] if gateway.endpoints else None
        now_ns = clock.now_ns()
        peer = tunnel.peers.add(_as_peer(gateway, first), now_ns)
        keeper.transports[peer.slot] = Transports(
            tunnel,
            settings=self._config.transport,
            emit=lambda one: self._transport_changed(keeper, peer, one),
            own_device=self._config.interface,
            fwmark=fwmark,
            listen_port=self._config.listen_port,
            workers=self._config.workers.count,
        )
        if self._records is not None:
            peer.spoken = gateway.public_key in self._records.store.load_spoken()
        self._resume(tunnel, keeper, peer)
        self._update_transports(tunnel, keeper, peer, snapshot)
        if not keeper.transports[peer.slot].paths():
            self._log.warning("no network device leads to the gateway yet; waiting for one")
        tunnel.kick()

    def _resume(self, tunnel: Tunnel, keeper: ClientKeeper, peer: Peer) -> None:
        """A session that an earlier run of this client left inside its recovery window."""
        saved = self._records.saved().get(peer.config.public_key) if self._records is not None else None
        if saved is None or self._records is None:
            return
        policy = keeper.greeting.policy
        live = self._records.resume(clock.now_ns(), keeper.sessions, peer, saved, policy)
        if live is not None:
            self._log.info("session resumed", session=live.core.session_id.hex())

    def _transport_changed(self, keeper: ClientKeeper, peer: Peer, one: Input) -> None:
        keeper.transport_changed(clock.now_ns(), peer, one)
        if isinstance(one, PathAdded | LinkUp):
            self._loosen(keeper)

    def _loosen(self, keeper: ClientKeeper) -> None:
        """Several uplinks: strict reverse-path filtering would drop the answers of all but the best one (IPv4 only)."""
        bound = [path.candidate for one in keeper.transports.values() for path in one.paths()]
        uplinks = frozenset((each.device, each.ifindex) for each in bound if ":" not in each.local_ip)
        if len({device for device, _ in uplinks}) > 1 and not uplinks <= self._loosened:
            self._loosened = uplinks
            self._spawn(self._loosen_now(sorted({device for device, _ in uplinks})))

    async def _loosen_now(self, devices: list[str]) -> None:
        if self._network is None:
            return
        try:
            warnings = await self._network.loosen(devices)
        except JumpError as error:
            warnings = (str(error),)
        for warning in warnings:
            self._log.warning("answers by further uplinks may be dropped", problem=warning)

    def _update_transports(
        self, tunnel: Tunnel, keeper: ClientKeeper, peer: Peer, snapshot: Snapshot
    ) -> None:
        transports = keeper.transports[peer.slot]
        key = peer.config.public_key
        known, allowed = self._addresses.get(key, []), self._config.transport.learn_endpoints
        endpoints = with_learned(known, self._told.get(key, Told()), allowed=allowed)
        transports.update(clock.now_ns(), snapshot, endpoints)
        live = keeper.sessions.of(peer.slot)
        if live is not None:
            keeper.refresh(clock.now_ns(), live)
        if tunnel.engine.endpoint(peer.slot) is None and not tunnel.has_key(peer):
            self._aim(tunnel, keeper, peer)

    def _aim(self, tunnel: Tunnel, keeper: ClientKeeper, peer: Peer) -> None:
        """Without a key every path is tried in turn."""
        path = keeper.next_path(clock.now_ns(), peer)
        if path is not None:
            now_ns = clock.now_ns()
            tunnel.engine.set_endpoint(peer.slot, path.to, now_ns)
            tunnel.exchange.wanted(now_ns, peer)

    def _session_ended(self, now_ns: int, live: Live) -> None:
        """A client stays connected: after an end the next session is begun, unless somebody here wanted the end."""
        tunnel, keeper = self._tunnel, self._keeper
        reason = live.core.history()[-1].reason if live.core.history() else Reason.NONE
        self._log.warning("session ended", session=live.core.session_id.hex(), reason=reason.name)
        if tunnel is None or keeper is None or self._leaving:
            return
        path = keeper.next_path(now_ns, live.peer)
        if path is not None:
            tunnel.engine.set_endpoint(live.slot, path.to, now_ns)
            if reason is not Reason.OPERATOR_TERMINATED:
                tunnel.exchange.wanted(now_ns, live.peer)

    def _retried(self, peer: Peer) -> None:
        """No answer and no key: the next path; the gateway's name is looked up again meanwhile."""
        tunnel, keeper = self._tunnel, self._keeper
        if tunnel is None or keeper is None or tunnel.has_key(peer):
            return
        self._say_silence(tunnel, peer)
        path = keeper.next_path(clock.now_ns(), peer)
        if path is not None:
            tunnel.engine.set_endpoint(peer.slot, path.to, clock.now_ns())
        self._spawn(self._look_up_again(tunnel, keeper, peer))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _say_silence(self, tunnel: Tunnel, peer: Peer) -> None:
        """A gateway that does not know our key, or that we know by a wrong one, is silent too: say it once."""
        tried = str(tunnel.engine.endpoint(peer.slot))
        if peer.slot in self._silent:
            self._log.info("still no answer", gateway=tried)
            return
        self._silent.add(peer.slot)
        self._log.warning(
            "no answer from the gateway, trying on",
            gateway=tried,
            check="does it run, does UDP reach it, is public_key its key, does it have this client as a peer",
            our_public_key=keysfile.encode_key(self._config.public_key),
        )

    async def _look_up_again(self, tunnel: Tunnel, keeper: ClientKeeper, peer: Peer) -> None:
        gateway = next(g for g in self._config.gateways if g.public_key == peer.config.public_key)
        with contextlib.suppress(JumpError):
            found = await resolve_first(gateway.endpoints)
            known = self._addresses.get(gateway.public_key, [])
            # An address that the name no longer has may still carry the session: the union counts.
            self._addresses[gateway.public_key] = [*found, *(old for old in known if old not in found)][:8]
            if self._watch is not None:
                self._update_transports(tunnel, keeper, peer, self._watch.snapshot)

    def _completed(self, peer: Peer) -> None:
        if self._tunnel is not None:
            self._silent.discard(peer.slot)
            self._draining.discard(peer.slot)
            if self._records is not None:
                self._records.stamp(peer, self._tunnel.timestamps)
            gateway = self._tunnel.engine.endpoint(peer.slot)
            self._log.info("handshake completed", gateway=str(gateway) if gateway else "unbound yet")


def own_policy(settings: ClientConfig) -> Policy:
    """The policy of the file; how many paths there are is [transport]'s to say."""
    return replace(settings.policy, max_candidates=settings.transport.max_candidates)


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
