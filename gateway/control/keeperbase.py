# SPDX-License-Identifier: Apache-2.0
"""What both keepers of sessions do alike: frames in by their message type, reports in as the core's inputs.

Rule: a message is parsed whole before any frame acts, and a frame in the wrong kind of message is a protocol error:
counted, never believed.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

from gateway import frames as fr
from gateway.constants import REKEY_AFTER_MESSAGES
from gateway.control.exchange import Exchange
from gateway.control.keyuse import KeyUse
from gateway.control.peers import Peer
from gateway.control.sessions import Live, Sessions, Sink
from gateway.core import inputs as inp
from gateway.core.policy import Policy
from gateway.crypto import sodium_features
from gateway.dataplane import engine as dp
from gateway.errors import ProtocolError, Refused
from gateway.framefields import FrameError
from gateway.suites import BY_NAME, TRAITS, Suite, available

_TYPE_DATA = 4
PLAIN = (Suite.CHACHA20_POLY1305,)


class SessionKeeper:
    """Base of the gateway's and the client's keeper."""

    exchange: Exchange
    direction: fr.Direction

    def __init__(
        self, engine: dp.Engine, sink: Sink, policy: Policy, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.engine = engine
        engine.set_probe_budget(policy.probe_budget)
        self.sessions = Sessions(engine, sink, random_bytes)
        self.sessions.on_handshake = self._handshake
        self.sessions.on_rekey = self._rekey
        self.counters: Counter[str] = Counter()
        self.host_suites = available(sodium_features())

    def permitted(self, policy: Policy) -> tuple[Suite, ...]:
        """What the policy permits and this machine has, in the policy's order."""
        return _permitted(policy.suites, self.host_suites)

    def require_suites(self, policy: Policy) -> None:
        """Refused when this machine has no suite that the policy permits."""
        if not self.permitted(policy):
            has = ", ".join(TRAITS[suite].name for suite in self.host_suites)
            raise Refused(f"policy.security.suites permits nothing that this machine has ({has})")

    def _handshake(self, now_ns: int, live: Live, to: dp.Endpoint | None) -> None:
        self.exchange.initiate_to(now_ns, live.peer, to)

    def _rekey(self, now_ns: int, live: Live, to: dp.Endpoint | None) -> None:
        self.exchange.rekey(now_ns, live.peer, to)

    # --- frames -----------------------------------------------------------------------------------------------

    def control(self, now_ns: int, peer: Peer, event: dp.Event) -> None:
        """An authenticated message of jump frames."""
        try:
            found = self._parse(event)
        except (FrameError, ProtocolError) as error:
            self.counters[f"frame_{getattr(error, 'fault', 'misplaced')}"] += 1
            return
        for frame in found:
            self._frame(now_ns, peer, event, frame)

    def _parse(self, event: dp.Event) -> tuple[fr.Frame, ...]:
        found = fr.parse(event.data, self.direction)
        opening = event.reason == _TYPE_DATA
        if any((frame.TYPE in fr.OPENING_TYPES) is not opening for frame in found):
            raise ProtocolError("a frame travels in the other kind of message")
        return found

    def _frame(self, now_ns: int, peer: Peer, event: dp.Event, frame: fr.Frame) -> None:
        raise NotImplementedError

    def aged(self, now_ns: int, peer: Peer) -> None:
        """The session's own timer is due at the same time; it starts the rekey and says why."""
        live = self.sessions.of(peer.slot)
        if live is not None:
            self.sessions.run_timers(now_ns, live)

    # --- reports of the data plane ----------------------------------------------------------------------------

    def report(self, now_ns: int, peer: Peer, event: dp.Event) -> None:
        """What the data plane found out about a path, as an input."""
        live = self.sessions.of(peer.slot)
        if live is None:
            return
        one = report_input(event)
        if one is not None:
            self.sessions.feed(now_ns, live, one)
            self._count_key(now_ns, live)

    def _count_key(self, now_ns: int, live: Live) -> None:
        """How much the current keypair has carried, where a policy limits it; reports come at least once a second."""
        policy = live.core.policy
        if live.ended or (
            not policy.rekey_after_bytes and policy.rekey_after_packets >= REKEY_AFTER_MESSAGES
        ):
            return
        if live.key_use is None:
            live.key_use = KeyUse()
        packets, size_bytes = live.key_use.busier_direction(self.engine.stats(live.slot))
        if packets >= policy.rekey_after_packets or 0 < policy.rekey_after_bytes <= size_bytes:
            self.sessions.feed(now_ns, live, inp.KeyUsage(packets, size_bytes))

    def socket_failed(self, now_ns: int, socket_id: int, error: int) -> None:
        """A gateway's sockets belong to no path: its counters say it."""

    # --- time -------------------------------------------------------------------------------------------------

    def timer_due(self, now_ns: int, most: int) -> None:
        """Sessions whose deadline has come."""
        self.sessions.timer_due(now_ns, most)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `timer_due` has work."""
        return self.sessions.next_deadline_ns


@functools.lru_cache(maxsize=64)
def _permitted(names: tuple[str, ...], host: tuple[Suite, ...]) -> tuple[Suite, ...]:
    """One object for all peers, which keep it."""
    return tuple(BY_NAME[name] for name in names if BY_NAME[name] in host)


def report_input(event: dp.Event) -> inp.Input | None:
    """The core's name for a report; None for one it does not ask for."""
    if event.kind == dp.EVENT_SUSPECTED:
        return inp.PathSuspected(event.path_id)
    if event.kind == dp.EVENT_MISSED:
        return inp.PathMissed(event.path_id, event.reason, event.value)
    if event.kind == dp.EVENT_ANSWERED:
        return inp.PathAnswered(event.path_id, event.reason)
    if event.kind == dp.EVENT_MEASURED:
        return inp.PathMeasured(event.path_id, *event.numbers)
    if event.kind == dp.EVENT_PMTU:
        return inp.PathCarries(event.path_id, event.value, bool(event.reason))
    if event.kind == dp.EVENT_PEER_BINDING:
        return inp.PeerBinding(event.value, event.path_id)
    return None
