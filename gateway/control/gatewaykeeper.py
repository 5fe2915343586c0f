# SPDX-License-Identifier: Apache-2.0
"""The gateway's keeper: every peer that completes a handshake has a session of the core, jump or stock."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace

from gateway import frames as fr
from gateway.control.keeperbase import PLAIN, SessionKeeper
from gateway.control.peers import Peer
from gateway.control.reception import Reception
from gateway.control.sessions import Sink
from gateway.core import inputs as inp
from gateway.core.path import VALIDATED
from gateway.core.policy import Policy, Roaming
from gateway.core.states import State
from gateway.dataplane import engine as dp
from gateway.noise.handshake import TransportKeys
from gateway.suites import Suite


class GatewayKeeper(SessionKeeper):
    """See reception.py for what a handshake and a HELLO mean."""

    direction = fr.Direction.TO_GATEWAY

    def __init__(
        self, engine: dp.Engine, sink: Sink, policy: Policy, random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__(engine, sink, policy, random_bytes)
        self.require_suites(policy)
        self._policies = _by_roaming(policy)
        self.reception = Reception(engine, self.sessions, self.policy_of)
        self._takeovers: dict[int, Peer] = {}
        self._hello_due: list[
            tuple[int, int]
        ] = []  # a time and whose it is; passed over once a HELLO has come

    def policy_of(self, peer: Peer) -> Policy:
        """The process's policy with the peer's roaming."""
        return self._policies[Roaming(peer.config.roaming)]

    def set_policy(self, policy: Policy) -> None:
        """Sessions begin under this one from now on; ``reception.follow_policy`` tells those that live."""
        self.require_suites(policy)
        self.engine.set_probe_budget(policy.probe_budget)
        self._policies = _by_roaming(policy)

    def suites(self, peer: Peer) -> tuple[Suite, ...]:
        """A session known to be a stock one saves the keys: a late HELLO gets its suite with the next keypair."""
        live, permitted = self.sessions.of(peer.slot), self.permitted(self.policy_of(peer))
        stock = live is not None and live.core.stock and live.core.state is not State.BIRTH
        if peer.config.protocol == "wireguard":
            return ()
        return PLAIN if stock and PLAIN[0] in permitted else permitted

    def goes_first(self, peer: Peer) -> bool | None:
        """The client's, in a jump session."""
        live = self.sessions.of(peer.slot)
        return False if live is not None and live.has_paths else None

    def holds(self, peer: Peer, *, initiator: bool) -> bool:
        """A jump session seals under its previous keypair until the HELLO has shown whose the new one is.

        Where we initiated, our keepalive is what the client's HELLO answers.
        """
        live = self.sessions.of(peer.slot)
        return not initiator and live is not None and not live.core.stock

    def answered(self, now_ns: int, peer: Peer, keys: TransportKeys, source: dp.Endpoint) -> None:
        self.reception.answered(now_ns, peer, keys, source)

    def initiated(self, now_ns: int, peer: Peer, keys: TransportKeys, source: dp.Endpoint) -> None:
        self.reception.initiated(now_ns, peer, keys, source)
        self._watch_for_hello(peer)

    def installed(self, now_ns: int, peer: Peer, keys: TransportKeys, source: dp.Endpoint) -> None:
        """The client speaks first."""

    def confirmed(self, now_ns: int, peer: Peer, index: int, source: dp.Endpoint) -> None:
        self.reception.confirmed(now_ns, peer, index, source)
        self._watch_for_hello(peer)

    def _watch_for_hello(self, peer: Peer) -> None:
        due_ns = _takeover_ns(peer)
        if due_ns:
            self._takeovers[peer.slot] = peer
            heapq.heappush(self._hello_due, (due_ns, peer.slot))

    def noticed(self, now_ns: int, peer: Peer, event: dp.Event) -> None:
        live = self.sessions.of(peer.slot)
        if live is None:
            return
        address = live.name(event.source)
        if live.core.stock:
            self.sessions.feed(
                now_ns, live, inp.StockAddressSeen(address, bool(event.flags & dp.NOTICE_NEWEST))
            )
        else:
            copy = bool(event.flags & dp.NOTICE_COPY)
            self.sessions.feed(now_ns, live, inp.AddressSeen(event.path_id, address, "udp", copy))

    def report(self, now_ns: int, peer: Peer, event: dp.Event) -> None:
        """A path that fell silent and answers again is not proven any more: it is challenged again (session.md §7)."""
        super().report(now_ns, peer, event)
        live = self.sessions.of(peer.slot)
        if live is None or event.kind not in (dp.EVENT_ANSWERED, dp.EVENT_MEASURED):
            return
        path = live.core.path(event.path_id)
        if path is not None and not path.has(VALIDATED):
            self.sessions.feed(
                now_ns, live, inp.AddressSeen(path.path_id, path.address, path.carrier, copy=False)
            )

    def silent(self, now_ns: int, peer: Peer) -> None:
        live = self.sessions.of(peer.slot)
        if live is not None and live.core.stock:
            self.sessions.feed(now_ns, live, inp.StockSilent())

    def _frame(self, now_ns: int, peer: Peer, event: dp.Event, frame: fr.Frame) -> None:
        if isinstance(frame, fr.Hello):
            self._takeovers.pop(peer.slot, None)
            self.reception.hello(now_ns, peer, event, frame)
            return
        live = self.sessions.of(peer.slot)
        if live is not None and not live.core.stock:
            self.reception.frame(now_ns, live, event, frame)

    # --- time -------------------------------------------------------------------------------------------------

    def timer_due(self, now_ns: int, most: int) -> None:
        super().timer_due(now_ns, most)
        while most > 0 and (due_ns := self._next_hello_ns()) is not None and due_ns <= now_ns:
            peer = self._takeovers.pop(heapq.heappop(self._hello_due)[1])
            if _takeover_ns(peer) <= now_ns:
                self.reception.takeover_due(now_ns, peer)
            self._watch_for_hello(peer)
            most -= 1

    def _next_hello_ns(self) -> int | None:
        """Until when the first of those that owe a HELLO has to say it."""
        while self._hello_due and self._hello_due[0][1] not in self._takeovers:
            heapq.heappop(self._hello_due)
        return self._hello_due[0][0] if self._hello_due else None

    @property
    def next_deadline_ns(self) -> int | None:
        hello_ns, sessions_ns = self._next_hello_ns(), self.sessions.next_deadline_ns
        if hello_ns is None or sessions_ns is None:
            return hello_ns if sessions_ns is None else sessions_ns
        return min(hello_ns, sessions_ns)


def _by_roaming(policy: Policy) -> dict[Roaming, Policy]:
    return {roaming: replace(policy, roaming=roaming) for roaming in Roaming}


def _takeover_ns(peer: Peer) -> int:
    return min((birth.hello_by_ns for birth in peer.births if birth.hello_by_ns), default=0)
