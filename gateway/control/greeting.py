# SPDX-License-Identifier: Apache-2.0
"""The client's greeting: HELLO under every new keypair until WELCOME, or the verdict that the gateway is a stock one.

Rule: the client speaks first and only here. What the gateway says is believed when it authenticated under our keypair
and names our own process (protocol.md §2).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from gateway import frames as fr
from gateway import suites
from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control.peers import Peer
from gateway.control.reception import reason_of
from gateway.control.sessions import Live, Sessions
from gateway.control.snapshot import agreed_policy
from gateway.core import inputs as inp
from gateway.core.driver import First
from gateway.core.policy import Policy
from gateway.core.rates import comeback_ns
from gateway.core.reasons import Reason
from gateway.core.states import Role
from gateway.dataplane.engine import Endpoint, Engine, Event
from gateway.errors import NotFound
from gateway.noise.handshake import TransportKeys

# HELLO leaves at these times after the handshake; nothing after the last means a stock peer.
HELLO_AT_NS: Final = (0, 250 * NS_PER_MS, 750 * NS_PER_MS, 1750 * NS_PER_MS)
STOCK_AFTER_NS: Final = 3750 * NS_PER_MS
# A gateway that has spoken jump frames before and is silent now is asked again that often (protocol.md §2).
ASK_AGAIN_NS: Final = 30 * NS_PER_S
# With protocol = "jump" nothing passes until it answers, so it is asked more often.
ASK_REQUIRED_NS: Final = 5 * NS_PER_S


@dataclass(slots=True)
class Asking:
    """A HELLO that waits for its WELCOME."""

    index: int  # the keypair it is asked under
    started_ns: int
    to: Endpoint  # the handshake confirmed that we are heard there
    path_id: int
    address: str  # what the core calls it
    zero: bool  # asks for a new session
    offers: tuple[suites.Suite, ...]
    sent: int = 0
    every_ns: int = 0  # the four have gone unanswered: one HELLO each so often, from `started_ns` on


class Greeting:
    """Client side. One object for all gateways; `asking` by the peer's slot."""

    def __init__(self, engine: Engine, sessions: Sessions, instance_id: bytes, policy: Policy) -> None:
        self._engine = engine
        self._sessions = sessions
        self._instance_id = instance_id
        self.policy = policy
        self._asking: dict[int, Asking] = {}
        self._queue: list[tuple[int, int, int, Asking]] = []  # due_ns, order, slot
        self._order = 0
        self._displaced: dict[int, int] = {}  # how often in a row another device took the session
        self._snapshots: dict[int, fr.PolicySnapshot] = {}  # of the last WELCOME, by slot
        self._welcomed: set[int] = set()  # slots whose gateway has answered a HELLO in this process
        # Told why a gateway does not serve us, for the log.
        self.on_refused: Callable[[Live, fr.Refuse], None] = lambda live, refusal: None
        # Told what a gateway says of itself and of us.
        self.on_welcome: Callable[[Live, fr.Welcome], None] = lambda live, welcome: None
        # Told when a gateway that has spoken jump frames before, or must, answers no HELLO.
        self.on_downgrade: Callable[[Live], None] = lambda live: None
        # Told that a gateway is about to go away, as often as it says so.
        self.on_drain: Callable[[Live], None] = lambda live: None
        # Told when a gateway turned out to be a stock one, or a jump one.
        self.on_verdict: Callable[[int, Live, bool], None] = lambda now_ns, live, jump: None

    # --- handshakes -------------------------------------------------------------------------------------------

    def born(
        self, now_ns: int, peer: Peer, keys: TransportKeys, path_id: int, address: str, at: Endpoint
    ) -> None:
        """Our handshake was answered: T0 and T1 in one step for a new session, else a rekey of the living one."""
        live = self._sessions.of(peer.slot)
        if live is not None:
            self.renewed(now_ns, live, path_id, address, at)
            return
        live = self._sessions.create(
            now_ns,
            peer,
            Role.CLIENT,
            suites.session_id(keys.handshake_hash),
            self.policy,
            First(path_id, address),
            at,
            stock=peer.config.protocol == "wireguard",
        )
        live.born_index = keys.local_index
        self._sessions.feed(now_ns, live, inp.Confirmed(address))

    def renewed(self, now_ns: int, live: Live, path_id: int, address: str, at: Endpoint) -> None:
        """A further handshake of a living session: new keys, and at a stock gateway its reattachment."""
        self._sessions.feed(now_ns, live, inp.KeyInstalled())
        if live.core.stock:
            live.know(address, at)
            self._sessions.feed(now_ns, live, inp.StockHandshake(address, path_id))

    @staticmethod
    def greets(live: Live) -> bool:
        """Whether its next keypair begins with a HELLO. What has spoken jump frames before is always asked."""
        return live.peer.config.protocol != "wireguard" and (not live.core.stock or live.peer.spoken)

    def say_hello(
        self, now_ns: int, live: Live, index: int, path_id: int, address: str, to: Endpoint
    ) -> None:
        """HELLO is the first message under every new keypair (local index); data may follow it at once."""
        if not self.greets(live):
            return
        # Under a later handshake "a new session" would be another one than ours.
        zero = index == live.born_index and live.slot not in self._welcomed
        asking = Asking(index, now_ns, to, path_id, address, zero, live.peer.offers)
        self._asking[live.slot] = asking
        self._due(now_ns, live.slot, asking)

    def instance_of(self, slot: int) -> bytes:
        """The process that greets this gateway: ours."""
        return self._instance_id

    def _ask(self, slot: int, asking: Asking) -> None:
        """This one waits from now on, and no older one of that gateway."""
        self._asking[slot] = asking
        self._order += 1
        heapq.heappush(self._queue, (_due_ns(asking), self._order, slot, asking))

    @property
    def next_deadline_ns(self) -> int | None:
        """When a HELLO is repeated or its verdict falls. Entries that were answered or armed anew are passed over."""
        while self._queue and not self._waits(*self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def _waits(self, due_ns: int, _order: int, slot: int, asking: Asking) -> bool:
        return self._asking.get(slot) is asking and _due_ns(asking) == due_ns

    def timer_due(self, now_ns: int, most: int) -> None:
        """Repeat up to `most` that are due, each once: what has arrived meanwhile is looked at before the next HELLO,
        and before the verdict that 3.75 s of silence are.
        """
        due: list[tuple[int, Asking]] = []
        while len(due) < most and (at_ns := self.next_deadline_ns) is not None and at_ns <= now_ns:
            due.append(heapq.heappop(self._queue)[2:])
        for slot, asking in due:
            self._due(now_ns, slot, asking)

    def _due(self, now_ns: int, slot: int, asking: Asking) -> None:
        live = self._sessions.of(slot)
        if live is None:
            del self._asking[slot]
            return
        self._advance(now_ns, slot, asking, live)
        if self._asking.get(slot) is asking:
            self._ask(slot, asking)

    def _advance(self, now_ns: int, slot: int, asking: Asking, live: Live) -> None:
        if asking.every_ns:
            self._ask_again(now_ns, asking, live)
        elif asking.sent < len(HELLO_AT_NS):
            asking.sent += 1
            self._send_hello(now_ns, asking, live)
        else:
            self._unanswered(now_ns, slot, asking, live)

    def _ask_again(self, now_ns: int, asking: Asking, live: Live) -> None:
        """One HELLO. Where nothing has passed, the gateway may have given up a key that nobody confirmed: a new one."""
        asking.started_ns = now_ns + asking.every_ns
        self._send_hello(now_ns, asking, live)
        if live.peer.config.protocol == "jump":
            self._sessions.on_handshake(now_ns, live, asking.to)

    def _unanswered(self, now_ns: int, slot: int, asking: Asking, live: Live) -> None:
        """A stock peer, unless it has spoken jump frames before or must: then it is asked on and on."""
        required = live.peer.config.protocol == "jump"
        if live.has_paths:  # a rekey of a jump session: its paths say whether it lives
            self._ask(slot, replace(asking, started_ns=now_ns + ASK_AGAIN_NS, sent=0))
        elif not required and not live.peer.spoken:
            del self._asking[slot]
            self._serve_plain(now_ns, asking, live, inp.PlainWireguard(spoken=False))
            self.on_verdict(now_ns, live, False)
        else:
            asking.every_ns = ASK_REQUIRED_NS if required else ASK_AGAIN_NS
            asking.started_ns = now_ns + asking.every_ns
            self._say_downgrade(now_ns, asking, live, required)

    def _say_downgrade(self, now_ns: int, asking: Asking, live: Live, required: bool) -> None:
        """Once per session, however often its keys are renewed meanwhile."""
        if not live.downgraded:
            live.downgraded = True
            self._serve_plain(now_ns, asking, live, inp.PlainWireguard(live.peer.spoken, required))
            self.on_downgrade(live)

    def _serve_plain(self, now_ns: int, asking: Asking, live: Live, verdict: inp.PlainWireguard) -> None:
        """The verdict; a session of an earlier run waited for a WELCOME to bind it, and is bound by its handshake."""
        self._sessions.feed(now_ns, live, verdict)
        if live.core.stock and not live.core.bound_id:
            self._sessions.feed(now_ns, live, inp.StockHandshake(asking.address, asking.path_id))

    def _send_hello(self, now_ns: int, asking: Asking, live: Live) -> None:
        profile = live.core.policy.profile
        hello = fr.Hello(
            capabilities=0,
            instance_id=self.instance_of(live.slot),
            session_id=fr.NO_SESSION if asking.zero else live.core.session_id,
            binding_epoch=live.core.epoch,
            path_id=asking.path_id,
            suites=asking.offers,
            liveness_interval_ms=profile.interval_ns // NS_PER_MS,
            liveness_misses=profile.misses,
        )
        with suppress(NotFound):  # a newer keypair has taken over meanwhile
            self._engine.expect_suites(live.slot, asking.index)
        self._engine.send_data(live.slot, asking.index, asking.to, fr.encode((hello,)), now_ns)

    # --- the gateway's answer ---------------------------------------------------------------------------------

    def welcome(self, now_ns: int, live: Live, event: Event, welcome: fr.Welcome) -> bool:
        """The session as the gateway has it; whether it answers our HELLO. Another session's is nobody's answer."""
        asking = self._asking.get(live.slot)
        if asking is None or event.local_index != asking.index or welcome.session_id != live.core.session_id:
            return False
        if welcome.suite not in asking.offers:
            self._sessions.feed(now_ns, live, inp.SuiteRefused())
            return False
        del self._asking[live.slot]
        live.suite = suites.Suite(welcome.suite)
        with suppress(NotFound):  # a newer keypair has taken over meanwhile
            self._engine.choose_suite(live.slot, event.local_index, welcome.suite)
            self._engine.promote(live.slot, event.local_index, now_ns)
        first = live.slot not in self._welcomed
        self._welcomed.add(live.slot)
        live.downgraded = False
        if live.peer.config.protocol == "jump":
            self._engine.mute(live.slot, False, now_ns)
        self._snapshots[live.slot] = welcome.policy
        self.follow_policy(now_ns, live)
        answer = inp.Welcomed(welcome.binding_epoch, welcome.bound_path_id, welcome.last_attempt_id)
        self._sessions.feed(now_ns, live, answer)
        if first:
            self.on_verdict(now_ns, live, True)
        self.on_welcome(live, welcome)
        return True

    def follow_policy(self, now_ns: int, live: Live) -> None:
        """Our own policy and the gateway's last word on it, for a session that follows something else."""
        seen = None if live.core.stock else self._snapshots.get(live.slot)
        policy = agreed_policy(self.policy, seen) if seen is not None else self.policy
        if policy != live.core.policy:
            self._sessions.change_policy(now_ns, live, policy)

    def refused(self, now_ns: int, live: Live, refusal: fr.Refuse) -> None:
        """Not served. An unknown session is over; the next handshake makes a new one."""
        if refusal.instance_id != self.instance_of(live.slot):
            return
        asking = self._asking.pop(live.slot, None)
        self.on_refused(live, refusal)
        if refusal.reason == fr.RefuseReason.RATE_LIMITED:
            if asking is not None:
                later_ns = now_ns + max(refusal.retry_after_ms * NS_PER_MS, NS_PER_S)
                self._ask(live.slot, replace(asking, started_ns=later_ns, sent=0, every_ns=0))
            return
        if refusal.reason in (fr.RefuseReason.INSTANCE_CONFLICT, fr.RefuseReason.POLICY_DENIED):
            self._stay_away(now_ns, live)
        self._sessions.feed(now_ns, live, inp.PeerTerminated())

    def _stay_away(self, now_ns: int, live: Live) -> None:
        """Another device has our session, or we are not wanted: not before a minute, doubling. Two with one key would
        fight for ever, and a policy does not change by asking.
        """
        times = self._displaced[live.slot] = self._displaced.get(live.slot, 0) + 1
        live.peer.not_before_ns = now_ns + comeback_ns(times)

    # --- control frames ---------------------------------------------------------------------------------------

    def frame(self, now_ns: int, live: Live, event: Event, path_id: int, frame: fr.Frame) -> None:
        """One control frame of the gateway, that came in on the socket of `path_id`."""
        if isinstance(frame, fr.ReattachAck):
            self._feed(now_ns, live, inp.ReattachAck(frame.attempt_id, frame.binding_epoch, frame.path_id))
        elif isinstance(frame, fr.ReattachReject):
            self._feed(now_ns, live, _reject(frame))
        elif isinstance(frame, fr.SwitchAdvice):
            self._feed(now_ns, live, inp.SwitchAdvice(reason_of(frame.reason), frame.preferred_path_id))
            if frame.reason == fr.AdviceReason.DRAIN:
                self.on_drain(live)
        elif isinstance(frame, fr.Challenge):
            live.response = fr.Response(path_id=path_id, nonce=frame.nonce) if path_id else None
            self._feed(now_ns, live, inp.ChallengeReceived(path_id, frame.path_id, frame.rebind))
            live.response = None
        elif isinstance(frame, fr.Ping):
            path = live.core.path(path_id)
            if path is not None:
                self._sessions.answer_ping(now_ns, live, path.address, frame)
        elif isinstance(frame, fr.Pong):
            self._sessions.on_pong(now_ns, live, frame.token)
        elif isinstance(frame, fr.Terminate):
            if reason_of(frame.reason) is Reason.SUPERSEDED:
                self._stay_away(now_ns, live)
            self._feed(now_ns, live, inp.PeerTerminated())

    def _feed(self, now_ns: int, live: Live, one: inp.Input) -> None:
        self._sessions.feed(now_ns, live, one)


def _due_ns(asking: Asking) -> int:
    """The next HELLO, or the verdict."""
    if asking.every_ns:
        return asking.started_ns
    after = HELLO_AT_NS[asking.sent] if asking.sent < len(HELLO_AT_NS) else STOCK_AFTER_NS
    return asking.started_ns + after


def _reject(frame: fr.ReattachReject) -> inp.ReattachReject:
    reason = reason_of(frame.reason)
    if reason is Reason.NONE:
        reason = Reason.POLICY_DENIED
    return inp.ReattachReject(frame.attempt_id, reason, frame.binding_epoch, frame.retry_after_ms * NS_PER_MS)
