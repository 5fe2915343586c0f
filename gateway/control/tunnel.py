# SPDX-License-Identifier: Apache-2.0
"""One tunnel: sockets, a TUN device, what moves packets between them, and what the event loop must see of that.

Without native workers the loop moves the packets: readiness drives the pumps. Native workers move them by themselves,
and the loop reads one descriptor that says that there are events.

Rule: every wakeup is bounded. A pump takes one burst, a wakeup handles a few events, and what is left waits for the
next turn of the loop, so that no flood of one kind starves the others.

Gateway and client are the same thing here; what tells them apart is in gateway.py and client.py.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.constants import NS_PER_S, UNDER_LOAD_HANDSHAKES_PER_S
from gateway.control import clock
from gateway.control.configmodel import DEFAULT_OFFLOAD, ON_THE_LOOP, Offload, Workers
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.exchange import Exchange, Keeper
from gateway.control.peers import Peer, PeerTable
from gateway.control.roaming import Roaming
from gateway.dataplane import engine as dp
from gateway.errors import DataplaneError
from gateway.net.tun import Tun
from gateway.net.udp import Sockets, close_all
from gateway.noise.admission import Admission
from gateway.noise.cookie import CookieChecker
from gateway.noise.handshake import Identity
from gateway.noise.timers import DEFAULT, Timers
from gateway.noise.timestamp import TimestampSource

# A handshake costs 0.3 ms, so a turn of the loop is held for 5 ms at most.
_EVENTS_PER_TURN: Final = 16
# The two rings of waiting handshakes hold some 1,000 each; an eighth of them is load, some 80 ms of work (kernel
# WireGuard: an eighth of its queue of 4,096).
_RING_HANDSHAKES: Final = 2000


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """Bounds of one tunnel's tables and what it takes for load."""

    peers: int = 1 << 17
    prefixes: int = 1 << 18
    under_load_per_s: int = UNDER_LOAD_HANDSHAKES_PER_S
    window_bits: int = 8192  # of each keypair's replay window


class Tunnel:
    """Owns the engine and its peers. `start` and `stop` attach it to the running loop."""

    def __init__(
        self,
        identity: Identity,
        *,
        timers: Timers = DEFAULT,
        limits: TunnelLimits = TunnelLimits(),
        timestamps: TimestampSource | None = None,
        keeper: Callable[[dp.Engine], Keeper] = Roaming,
        peers: Callable[[dp.Engine, Identity], PeerTable] = PeerTable,
        exchange: type[Exchange] = Exchange,
        client: bool = False,
        offload: Offload = DEFAULT_OFFLOAD,
        workers: Workers = ON_THE_LOOP,
    ) -> None:
        self.engine = dp.Engine(
            sessions=limits.peers,
            prefixes=limits.prefixes,
            window_bits=limits.window_bits,
            index_seed=secrets.token_bytes(32),
            limits=timers,
            now_ns=clock.now_ns(),
            client=client,
            udp_segment=offload.udp_segment,
            udp_gro=offload.udp_gro,
            workers=workers.threads,
        )
        self.limits = limits
        self.workers = workers
        self.identity = identity
        self.timers = timers
        self.timestamps = timestamps or TimestampSource()
        self.peers = peers(self.engine, identity)
        self.admission = Admission(
            CookieChecker(identity.public, secrets.token_bytes),
            table_key=secrets.token_bytes(32),
            under_load_per_s=limits.under_load_per_s,
        )
        self.keeper = keeper(self.engine)
        self.exchange = exchange(
            self.engine,
            self.peers,
            identity,
            self.admission,
            timers,
            random_bytes=secrets.token_bytes,
            unix_ns=clock.unix_ns,
            timestamps=self.timestamps,
            keeper=self.keeper,
        )
        self.keeper.exchange = self.exchange
        # Called when the device, a socket or a worker is gone for good; the daemon ends with the reason.
        self.on_failure: Callable[[str], None] = lambda reason: None
        self._ports: dict[int, Sockets] = {}
        self._listening: set[int] = set()  # those of _ports that are closed here
        self._tun: Tun | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._more_pending = False

    # --- life -------------------------------------------------------------------------------------------------

    def attach(self, ports: Sequence[Sockets], tun: Tun, mtu_bytes: int) -> None:
        """Hand over the open descriptors; the tunnel closes them in `stop`. One socket and one queue per worker."""
        for sockets in ports:
            self._listening.add(self.add_port(sockets))
        self.engine.set_tun(tun.fd, mtu_bytes, tun.features, tun.more)
        self._tun = tun

    def add_port(self, sockets: Sockets) -> int:
        """Use the sockets of one more port, also while traffic flows; returns the engine's id of it.

        They stay the caller's, who takes them back with `remove_port`. DataplaneError when the table is full.
        """
        first, *more = (sock.fileno() for sock in sockets)
        socket_id = self.engine.add_socket(first, more)
        self._ports[socket_id] = sockets
        self._watch(socket_id)
        return socket_id

    def remove_port(self, socket_id: int) -> None:
        """When this returns, nobody touches the sockets any more."""
        self._unwatch(socket_id)
        self.engine.remove_socket(socket_id)
        del self._ports[socket_id]

    def start(self) -> None:
        """Move packets from now on; the running loop sees what Python must."""
        self._loop = asyncio.get_running_loop()
        for socket_id in self._ports:
            self._watch(socket_id)
        if self.workers.native:
            self._loop.add_reader(self.engine.event_fd, self._on_event)
            self.engine.start_workers()
        elif self._tun is not None:
            self._loop.add_reader(self._tun.fd, self._on_tun)
        self._rearm(clock.now_ns())

    def stop(self) -> None:
        """Close device and sockets; keys are wiped with the engine."""
        self._halt()
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None
        for peer in list(self.peers):
            self.peers.remove(peer)
        for socket_id in self._listening:
            sockets = self._ports[socket_id]
            self.remove_port(socket_id)
            close_all(sockets)
        self._listening.clear()
        if self._tun is not None:
            self._tun.close()
            self._tun = None

    def _halt(self) -> None:
        """No packet moves after this."""
        if self._loop is None:
            return
        for socket_id in self._ports:
            self._unwatch(socket_id)
        if self.workers.native:
            self.engine.stop_workers()
            self._loop.remove_reader(self.engine.event_fd)
        elif self._tun is not None:
            self._loop.remove_reader(self._tun.fd)

    def _watch(self, socket_id: int) -> None:
        """On the loop a port has one socket."""
        if self._loop is not None and not self.workers.native:
            self._loop.add_reader(self._ports[socket_id][0].fileno(), self._on_udp, socket_id)

    def _unwatch(self, socket_id: int) -> None:
        if self._loop is not None and not self.workers.native:
            self._loop.remove_reader(self._ports[socket_id][0].fileno())

    def kick(self) -> None:
        """Something outside of a wakeup (a new peer, a new endpoint) may have made events or deadlines."""
        self._handle_events(clock.now_ns())

    def add_peer(self, config: PeerConfig) -> Peer:
        """Give a peer its row and its routes while traffic flows."""
        peer = self.peers.add(config, clock.now_ns())
        self.kick()
        return peer

    def send_to(self, peer: Peer, host: str, port: int) -> None:
        """Set where a peer is, from a configuration. DataplaneError when no socket has that family.

        Outside of a wakeup `kick` follows.
        """
        endpoint = dp.Endpoint.of(host, port, self.engine.socket_for(":" in host))
        self.engine.set_endpoint(peer.slot, endpoint, clock.now_ns())

    def set_identity(self, identity: Identity) -> None:
        """Be somebody else from now on: every keypair and handshake ends, peers and counters stay."""
        self.identity = identity
        self.admission.serve(CookieChecker(identity.public, secrets.token_bytes))
        self.exchange.identity = identity
        for peer in self.peers:
            self.forget_keys(peer)
        self.peers.set_identity(identity)

    def forget_keys(self, peer: Peer) -> None:
        """Wipe a peer's keypairs, and what waits for one; the next handshake may begin at once."""
        self.exchange.abandon(peer)
        peer.start_over()
        self.engine.erase_keys(peer.slot)

    def set_mtu(self, mtu_bytes: int) -> None:
        """The device's MTU is another one. What waits for a handshake is dropped; native workers rest meanwhile."""
        if self._tun is None:
            return
        works = self.workers.native and self._loop is not None
        if works:
            self.engine.stop_workers()
        try:
            for peer in self.peers:
                self.engine.gave_up(peer.slot)
            self.engine.set_tun(self._tun.fd, mtu_bytes, self._tun.features, self._tun.more)
        finally:
            if works:
                self.engine.start_workers()

    def has_key(self, peer: Peer) -> bool:
        """Whether a keypair of this peer can still seal."""
        return self.exchange.has_key(clock.now_ns(), peer)

    def local_addresses(self) -> list[str]:
        """What the ports are bound to that others call, as host:port."""
        bound = [self._ports[socket_id][0].getsockname() for socket_id in sorted(self._listening)]
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in bound]

    def offloads(self) -> dict[str, bool]:
        """Which offloads are in use, by name."""
        tun = self._tun.features if self._tun is not None else frozenset()
        udp = self.engine.udp_features()
        return {**udp, **{name: name in tun for name in ("vnet_hdr", "csum", "tso4", "tso6", "uso4", "uso6")}}

    def lanes(self) -> list[tuple[tuple[int, ...], int]]:
        """Of each worker: the descriptors it reads, and a number that grows whenever it has read something."""
        ports = [self._ports[socket_id] for socket_id in sorted(self._listening)]
        queues = (self._tun.fd, *self._tun.more) if self._tun is not None else ()
        if self.workers.native:
            marks = [worker["wakeups"] for worker in self.engine.worker_stats()]
        else:
            marks = [sum(self.engine.counters().values())]
        return [
            (tuple(port[n].fileno() for port in ports if n < len(port)) + queues[n : n + 1], mark)
            for n, mark in enumerate(marks)
        ]

    def worker_stats(self) -> list[dict[str, int]]:
        """What each native worker has done: wakeups, rx_datagrams, tx_datagrams, cpu_ns. Empty without any."""
        return self.engine.worker_stats()

    # --- wakeups ----------------------------------------------------------------------------------------------

    def _on_udp(self, socket_id: int) -> None:
        now_ns = clock.now_ns()
        try:
            self.engine.pump_udp(socket_id, now_ns)
        except DataplaneError as error:
            if socket_id in self._listening:
                self._fail(self._ports[socket_id][0].fileno(), str(error))
        self._after_pump(now_ns)

    def _on_tun(self) -> None:
        now_ns = clock.now_ns()
        try:
            self.engine.pump_tun(now_ns)
        except DataplaneError as error:
            if self._tun is not None:
                self._fail(self._tun.fd, str(error))
        self._after_pump(now_ns)

    def _after_pump(self, now_ns: int) -> None:
        """Mostly packets are all there was: deadlines of Python's own come with events and commands only."""
        if self._timer is None or not self.engine.calm(self._timer_ns):
            self._handle_events(now_ns)

    def _on_event(self) -> None:
        """A worker has made events. What comes after this is announced again."""
        self.engine.clear_event()
        self._handle_events(clock.now_ns())

    def _on_timer(self) -> None:
        now_ns = clock.now_ns()
        self._timer = None
        if not self.workers.native:
            self.engine.tick(now_ns)
        self.exchange.timer_due(now_ns, _EVENTS_PER_TURN)
        self.keeper.timer_due(now_ns, _EVENTS_PER_TURN)
        self._handle_events(now_ns)

    def _fail(self, fd: int, reason: str) -> None:
        """A descriptor that fails would be ready for ever: stop watching it and say so."""
        if self._loop is not None:
            self._loop.remove_reader(fd)
        self.on_failure(reason)

    # --- events -----------------------------------------------------------------------------------------------

    def _handle_events(self, now_ns: int) -> None:
        events = self.engine.poll(_EVENTS_PER_TURN)
        if events:
            self.admission.note_backlog(self.engine.handshakes_waiting / _RING_HANDSHAKES)
        for event in events:
            self._handle(now_ns, event)
        if len(events) == _EVENTS_PER_TURN:
            self._come_back()
        self._rearm(now_ns)

    def _come_back(self) -> None:
        if not self._more_pending and self._loop is not None:
            self._more_pending = True
            self._loop.call_soon(self._on_more)

    def _on_more(self) -> None:
        self._more_pending = False
        self._handle_events(clock.now_ns())

    def _handle(self, now_ns: int, event: dp.Event) -> None:
        if event.kind == dp.EVENT_HANDSHAKE:
            self.exchange.receive(now_ns, event)
            return
        if event.kind == dp.EVENT_SOCKET_ERROR:
            self.keeper.socket_failed(now_ns, event.value, event.reason)
            return
        if event.kind == dp.EVENT_WORKER_FAILED:
            self.on_failure(f"worker {event.value}: {os.strerror(event.reason)}")
            return
        peer = self.peers.by_slot(event.slot)
        if peer is not None:
            self._handle_peer(now_ns, peer, event)

    def _handle_peer(self, now_ns: int, peer: Peer, event: dp.Event) -> None:
        if event.kind == dp.EVENT_CONTROL:
            self.keeper.control(now_ns, peer, event)
        elif event.kind == dp.EVENT_WANTED:
            self._wanted(now_ns, peer, event)
        elif event.kind == dp.EVENT_CONFIRMED:
            self.exchange.confirmed(now_ns, peer, event.value, event.source)
        elif event.kind == dp.EVENT_NOTICE:
            self.keeper.noticed(now_ns, peer, event)
        elif event.kind != dp.EVENT_ERASED:
            self.keeper.report(now_ns, peer, event)

    def _wanted(self, now_ns: int, peer: Peer, event: dp.Event) -> None:
        if event.reason == dp.WANTED_SILENT:
            self.keeper.silent(now_ns, peer)
        elif event.reason == dp.WANTED_REKEY:
            self.keeper.aged(now_ns, peer)
        if self.peers.by_slot(peer.slot) is peer:
            self.exchange.wanted(now_ns, peer)

    # --- the one timer ----------------------------------------------------------------------------------------

    def _rearm(self, now_ns: int) -> None:
        """Stand at the earliest deadline. A timer that stands earlier is left: it will look again."""
        deadline_ns = self.engine.next_deadline_ns
        for other_ns in (self.exchange.next_deadline_ns, self.keeper.next_deadline_ns):
            if other_ns is not None and other_ns < deadline_ns:
                deadline_ns = other_ns
        if deadline_ns == dp.NO_DEADLINE or self._loop is None:
            return
        if self._timer is not None:
            if self._timer_ns <= deadline_ns:
                return
            self._timer.cancel()
        self._timer_ns = deadline_ns
        self._timer = self._loop.call_later(max(0, deadline_ns - now_ns) / NS_PER_S, self._on_timer)
