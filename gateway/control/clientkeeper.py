# SPDX-License-Identifier: Apache-2.0
"""The client's keeper: one session per gateway, over every transport of this machine.

Rule: the client sends only where its configuration or WELCOME points; no packet's source address changes that.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway import frames as fr
from gateway.control.greeting import Greeting
from gateway.control.keeperbase import SessionKeeper
from gateway.control.peers import Peer
from gateway.control.sessions import Live, Sink
from gateway.control.transports import PathSocket, Transports
from gateway.core import inputs as inp
from gateway.core.policy import Policy
from gateway.dataplane import engine as dp
from gateway.noise.handshake import TransportKeys
from gateway.suites import Suite


class ClientKeeper(SessionKeeper):
    """`transports` by the gateway's slot; the client process makes them and tells them of the links."""

    direction = fr.Direction.TO_CLIENT

    def __init__(
        self,
        engine: dp.Engine,
        sink: Sink,
        policy: Policy,
        random_bytes: Callable[[int], bytes],
        instance_id: bytes,
    ) -> None:
        super().__init__(engine, sink, policy, random_bytes)
        self.require_suites(policy)
        self.greeting = Greeting(engine, self.sessions, instance_id, policy)
        self.transports: dict[int, Transports] = {}
        self._turn = 0

    def set_policy(self, policy: Policy) -> None:
        """Sessions begin under this one from now on; ``greeting.follow_policy`` tells those that live."""
        self.require_suites(policy)
        self.engine.set_probe_budget(policy.probe_budget)
        self.greeting.policy = policy

    # --- transports -------------------------------------------------------------------------------------------

    def transport_changed(self, now_ns: int, peer: Peer, one: inp.Input) -> None:
        """What happened to a link or socket of this gateway's paths."""
        live = self.sessions.of(peer.slot)
        if live is not None and live.has_paths:
            if isinstance(one, inp.PathAdded):
                self._add_path(now_ns, live, one.path_id)
            else:
                self.sessions.feed(now_ns, live, one)

    def _add_path(self, now_ns: int, live: Live, path_id: int) -> None:
        path = self.transports[live.slot].by_id(path_id)
        if path is None or live.core.path(path_id) is not None:
            return
        candidate = path.candidate
        live.know(candidate.key, path.to)
        added = inp.PathAdded(path_id, candidate.key, candidate.carrier, candidate.tier, candidate.cost)
        self.sessions.feed(now_ns, live, added)

    def socket_failed(self, now_ns: int, socket_id: int, error: int) -> None:
        """The socket of a path: evidence at once, often before the news of its link (session.md §6)."""
        for transports in self.transports.values():
            if transports.socket_failed(now_ns, socket_id, error):
                return

    def refresh(self, now_ns: int, live: Live) -> None:
        """The sockets of paths may have been opened anew: their addresses follow, here and in the data plane."""
        for path in self.transports[live.slot].paths():
            key, to = path.candidate.key, path.to
            if live.at(key) not in (None, to):
                live.know(key, to)
                self.sessions.rehome(now_ns, live, path.path_id, to)

    def next_path(self, now_ns: int, peer: Peer) -> PathSocket | None:
        """Where the next initiation goes while there is no key: every path that is up, in turn."""
        ranked = self.transports[peer.slot].ranked(now_ns)
        if not ranked:
            return None
        self._turn += 1
        return ranked[(self._turn - 1) % len(ranked)]

    def _path_of(self, peer: Peer, source: dp.Endpoint) -> PathSocket | None:
        transports = self.transports.get(peer.slot)
        return transports.by_socket(source.socket_id) if transports is not None else None

    # --- handshakes -------------------------------------------------------------------------------------------

    def suites(self, peer: Peer) -> tuple[Suite, ...]:
        """Of our own policy; none for a gateway that is known to be a stock one."""
        live = self.sessions.of(peer.slot)
        stock = peer.config.protocol == "wireguard" or (live is not None and live.core.stock)
        return () if stock else self.permitted(self.greeting.policy)

    def goes_first(self, peer: Peer) -> bool | None:
        """Ours, while the session is bound. In trouble any handshake is welcome: the gateway may have lost its keys."""
        live = self.sessions.of(peer.slot)
        return True if live is not None and live.has_paths and live.core.bound_id else None

    def holds(self, peer: Peer, *, initiator: bool) -> bool:
        """Our HELLO goes ahead of everything under a keypair of our own. The gateway starts a handshake when it may
        have lost the keys before, so a keypair of our response seals with the first message.
        """
        live = self.sessions.of(peer.slot)
        return initiator and live is not None and self.greeting.greets(live)

    def answered(self, now_ns: int, peer: Peer, keys: TransportKeys, source: dp.Endpoint) -> None:
        """The gateway started this handshake; its keys say nothing until it has spoken under them."""

    def initiated(self, now_ns: int, peer: Peer, keys: TransportKeys, source: dp.Endpoint) -> None:
        path = self._path_of(peer, source)
        if path is None:
            return
        self.greeting.born(now_ns, peer, keys, path.path_id, path.candidate.key, path.to)

    def installed(self, now_ns: int, peer: Peer, keys: TransportKeys, source: dp.Endpoint) -> None:
        self._hello(now_ns, peer, keys.local_index, source)

    def confirmed(self, now_ns: int, peer: Peer, index: int, source: dp.Endpoint) -> None:
        """A handshake of the gateway: a rekey like any other, greeted like any other."""
        live, path = self.sessions.of(peer.slot), self._path_of(peer, source)
        if live is not None and path is None:  # its socket has gone meanwhile
            self.sessions.feed(now_ns, live, inp.KeyInstalled())
        elif live is not None and path is not None:
            self.greeting.renewed(now_ns, live, path.path_id, path.candidate.key, path.to)
            self._hello(now_ns, peer, index, source)

    def _hello(self, now_ns: int, peer: Peer, index: int, source: dp.Endpoint) -> None:
        live, path = self.sessions.of(peer.slot), self._path_of(peer, source)
        if live is not None and path is not None:
            live.know(path.candidate.key, path.to)
            key, to = path.candidate.key, path.to
            self.greeting.say_hello(now_ns, live, index, path.path_id, key, to)

    def noticed(self, now_ns: int, peer: Peer, event: dp.Event) -> None:
        """The gateway's address is ours to know: nothing moves."""

    def silent(self, now_ns: int, peer: Peer) -> None:
        """A jump session has probes. Of a stock gateway this is all there is: the handshake that begins now
        attaches the session again.
        """
        live = self.sessions.of(peer.slot)
        if live is not None and live.core.stock:
            self.sessions.feed(now_ns, live, inp.StockSilent())

    def _frame(self, now_ns: int, peer: Peer, event: dp.Event, frame: fr.Frame) -> None:
        live = self.sessions.of(peer.slot)
        if live is None:
            return
        if isinstance(frame, fr.Welcome):
            if self.greeting.welcome(now_ns, live, event, frame):
                self._offer_all(now_ns, live)
        elif isinstance(frame, fr.Refuse):
            self.greeting.refused(now_ns, live, frame)
        else:
            path = self._path_of(peer, event.source)
            self.greeting.frame(now_ns, live, event, path.path_id if path is not None else 0, frame)

    def _offer_all(self, now_ns: int, live: Live) -> None:
        """The gateway speaks jump frames: every transport that is up becomes a path of the session."""
        if not live.has_paths:
            self.sessions.open_paths(now_ns, live)
            self.sessions.bind_again(now_ns, live)
        for path in self.transports[live.slot].paths():
            if path.up:
                self._add_path(now_ns, live, path.path_id)

    # --- time -------------------------------------------------------------------------------------------------

    def timer_due(self, now_ns: int, most: int) -> None:
        super().timer_due(now_ns, most)
        self.greeting.timer_due(now_ns, most)
        for transports in self.transports.values():
            transports.timer_due(now_ns)

    @property
    def next_deadline_ns(self) -> int | None:
        due = [transports.next_deadline_ns for transports in self.transports.values()]
        both = (*due, self.sessions.next_deadline_ns, self.greeting.next_deadline_ns)
        return min((at for at in both if at is not None), default=None)
