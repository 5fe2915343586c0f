# SPDX-License-Identifier: Apache-2.0
"""Handshakes between the data plane's events and the pure objects of `noise`: who is answered, retried, believed.

Rule 1: a message that fails costs a counter. Nothing is logged or kept for somebody who has not authenticated.
Rule 2: what a completed handshake means (a session, a rekey, a move) is the keeper's to say: reception.py at the
gateway, greeting.py at the client, roaming.py where there are no sessions.

The clock, randomness and the loop belong to the tunnel; every method is told the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from gateway import wire
from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control.duequeue import DueQueue
from gateway.control.eager import EARLY_NS, Eager
from gateway.control.peers import Peer, PeerTable
from gateway.dataplane.engine import Endpoint, Engine, Event
from gateway.errors import AuthError
from gateway.noise.admission import Admission, Verdict
from gateway.noise.handshake import Identity, TransportKeys, read_static
from gateway.noise.peer import Due, HandshakeRefused
from gateway.noise.timers import Timers
from gateway.noise.timestamp import TimestampSource
from gateway.suites import MSG_JUMP, TRAITS, Suite, traffic_key

# A session that has lost every path asks once a second (session.md §7), not every 5 s; the answering side takes 50/s.
SESSION_RETRY_NS: Final = NS_PER_S

# Our client asks again after 500 ms and takes no answer to what it asked before. What has waited for half of that is
# passed over: else a gateway with more to do than it can would answer nobody in time.
LATE_NS: Final = 250 * NS_PER_MS

RandomBytes = Callable[[int], bytes]


class Keeper(Protocol):
    """Decides what handshakes mean for the peer: its session, and where it is."""

    exchange: Exchange  # set by who makes both

    def goes_first(self, peer: Peer) -> bool | None:
        """Whose initiation of a rekey wins when two cross: True ours, False the peer's, None: both complete."""

    def suites(self, peer: Peer) -> tuple[Suite, ...]:
        """Suites that data may be sealed under with this peer's next keypair, best first."""

    def holds(self, peer: Peer, *, initiator: bool) -> bool:
        """Whether a HELLO comes first under the new keypair (protocol.md §2): nothing is sent ahead of it."""

    def answered(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """Our response is about to leave; its keys wait for the first message under them."""

    def initiated(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """Our initiation was answered; the keys are not installed yet, and installing them sends at once."""

    def installed(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """The keys of our initiation are in use."""

    def confirmed(self, now_ns: int, peer: Peer, index: int, source: Endpoint) -> None:
        """The first message under the keys of our response (local index) has authenticated."""

    def noticed(self, now_ns: int, peer: Peer, event: Event) -> None:
        """An authenticated packet came from an address that is no path of the peer."""

    def silent(self, now_ns: int, peer: Peer) -> None:
        """Data went out and nothing authenticated came back for 15 s."""

    def aged(self, now_ns: int, peer: Peer) -> None:
        """The data plane finds the current key old: what the session does about it comes first, and is audited."""

    def control(self, now_ns: int, peer: Peer, event: Event) -> None:
        """An authenticated message of jump frames."""

    def report(self, now_ns: int, peer: Peer, event: Event) -> None:
        """What the data plane measured on a path."""

    def socket_failed(self, now_ns: int, socket_id: int, error: int) -> None:
        """This host's own kernel refused what was to leave by a socket, with this errno."""

    def timer_due(self, now_ns: int, most: int) -> None:
        """Run what is due, bounded."""

    @property
    def next_deadline_ns(self) -> int | None:
        """When `timer_due` has work."""


def _control_keys(peer: Peer, keys: TransportKeys) -> tuple[bytes, bytes] | None:
    """Keys of type 5 control, or None for a peer that may only speak WireGuard."""
    if peer.config.protocol == "wireguard":
        return None
    return traffic_key(keys.send_key, Suite.CONTROL), traffic_key(keys.recv_key, Suite.CONTROL)


def _data_keys(peer: Peer, keys: TransportKeys) -> dict[int, tuple[bytes, bytes]]:
    """Keys of type 5 data for what the peer's newest keypair offers."""
    own = [suite for suite in peer.offers if TRAITS[suite].message_type == MSG_JUMP]
    return {suite: (traffic_key(keys.send_key, suite), traffic_key(keys.recv_key, suite)) for suite in own}


class Exchange:
    """All handshakes of one identity."""

    def __init__(
        self,
        engine: Engine,
        peers: PeerTable,
        identity: Identity,
        admission: Admission,
        timers: Timers,
        *,
        random_bytes: RandomBytes,
        unix_ns: Callable[[], int],
        timestamps: TimestampSource,
        keeper: Keeper,
    ) -> None:
        self._engine = engine
        self._peers = peers
        self.identity = identity
        self.silenced = False  # without a key of our own nobody is called
        self._admission = admission
        self._timers = timers
        self._random = random_bytes
        self._unix_ns = unix_ns
        self._timestamps = timestamps
        self.keeper = keeper
        self.due: DueQueue[Peer] = DueQueue()
        self.counters: Counter[str] = Counter()
        # Called when an attempt has to be repeated: the client looks its gateway's name up again.
        self.on_retry: Callable[[Peer], None] = lambda peer: None
        # Called when a handshake has completed.
        self.on_complete: Callable[[Peer], None] = lambda peer: None
        # Whether a peer may begin a session now; one that has a session always may go on.
        self.admits: Callable[[Peer], bool] = lambda peer: True
        # A client's: without a key it asks sooner than WireGuard does.
        self.eager: Eager | None = None
        # Told how long each took.
        self.on_took: Callable[[int], None] = lambda took_ns: None

    # --- messages of types 1 to 3 -----------------------------------------------------------------------------

    def receive(self, now_ns: int, event: Event) -> None:
        """One unauthenticated handshake message."""
        if event.data[0] == wire.MSG_INITIATION and now_ns - event.value > LATE_NS:
            self.counters["late"] += 1
            return
        source = event.source
        verdict = self._admission.check(now_ns, event.data, source.source, source.prefix)
        if verdict is Verdict.COOKIE_REQUIRED:
            self._engine.send(
                source, self._admission.make_reply(now_ns, event.data, source.source, self._random(24))
            )
        if verdict is not Verdict.ACCEPT:
            return
        kind = wire.message_type(event.data)
        handler = (self._initiation, self._response, self._cookie)[kind - 1]
        try:
            handler(now_ns, event.data, source)
        except AuthError:
            self.counters["auth_failed"] += 1
        except HandshakeRefused as refused:
            self.counters[refused.reason.value] += 1

    def _initiation(self, now_ns: int, message: bytes, source: Endpoint) -> None:
        opened = read_static(self.identity, message)
        peer = self._peers.by_key(opened.remote_public)
        if peer is None:
            self.counters["unknown_peer"] += 1
            return
        if not self.admits(peer):
            self.counters["draining"] += 1
            return
        received, handshake = opened.verify(peer.keys), peer.started(self._timers)
        goes_first = self.keeper.goes_first(peer)
        if goes_first and handshake.crosses(now_ns):
            handshake.pass_over(now_ns, received)
            self.counters["crossed"] += 1
            return
        response, keys = handshake.accept(
            now_ns,
            received,
            local_index=self._engine.new_index(peer.slot),
            ephemeral_private=self._random(32),
        )
        peer.offers = self.keeper.suites(peer)
        self._install(now_ns, peer, keys)
        self.keeper.answered(now_ns, peer, keys, source)
        self._engine.send(source, response)
        self.counters["responses_sent"] += 1
        if goes_first is False:
            self._yield(now_ns, peer)

    def _install(self, now_ns: int, peer: Peer, keys: TransportKeys) -> None:
        control, data = _control_keys(peer, keys), _data_keys(peer, keys)
        held = self.keeper.holds(peer, initiator=keys.is_initiator)
        self._engine.install(peer.slot, keys, now_ns, control, held, data)

    def _yield(self, now_ns: int, peer: Peer) -> None:
        """The peer's initiation wins. If it comes to nothing, whoever wants a key asks again after REKEY_TIMEOUT."""
        if peer.handshake is not None and peer.handshake.cancel() is not None:
            self.counters["yielded"] += 1
        if peer.wanted or peer.renews:
            self._arm(peer, now_ns + self._timers.rekey_timeout_ns + self._jitter_ns())

    def _response(self, now_ns: int, message: bytes, source: Endpoint) -> None:
        peer = self._addressee(message)
        if (
            peer is None
            or peer.handshake is None
            or peer.handshake.pending_index != wire.receiver_index(message)
        ):
            self.counters["not_expected"] += 1
            return
        keys = peer.handshake.receive_response(now_ns, message)
        peer.offers = self.keeper.suites(peer)
        self.keeper.initiated(now_ns, peer, keys, source)
        self._install(now_ns, peer, keys)
        self._completed(now_ns, peer)
        self.keeper.installed(now_ns, peer, keys, source)

    def _cookie(self, now_ns: int, message: bytes, source: Endpoint) -> None:
        peer = self._addressee(message)
        if peer is None or peer.handshake is None:
            self.counters["not_expected"] += 1
            return
        peer.handshake.receive_cookie(now_ns, message)
        self.counters["cookies_received"] += 1
        eager = self._eager(now_ns, peer)
        if eager is not None and peer.deadline_ns is not None:
            eager.begin(peer.slot)
            self._arm(peer, min(peer.deadline_ns, now_ns + EARLY_NS))

    def _eager(self, now_ns: int, peer: Peer) -> Eager | None:
        """Early tries, for a gateway that may be one of ours and while nothing passes for want of a key."""
        stock = peer.config.protocol == "wireguard"
        return None if self.eager is None or stock or self.has_key(now_ns, peer) else self.eager

    def _addressee(self, message: bytes) -> Peer | None:
        return self._peers.by_slot(self._engine.slot_of(wire.receiver_index(message)))

    def _completed(self, now_ns: int, peer: Peer) -> None:
        self.counters["completed"] += 1
        if peer.handshake is not None:
            took_ns = peer.handshake.took_ns(now_ns)
            if took_ns is not None:
                self.on_took(took_ns)
            peer.handshake.completed()
        peer.wanted = peer.renews = False
        peer.deadline_ns = None
        if self.eager is not None:
            self.eager.end(peer.slot)
        self.on_complete(peer)

    # --- what the data plane reports of authenticated sessions -----------------------------------------------

    def wanted(self, now_ns: int, peer: Peer) -> None:
        """The data plane needs a new key for this peer."""
        if not self.admits(peer):
            self.counters["draining"] += 1
            self._give_up(peer)
            return
        peer.wanted = True
        handshake = peer.started(self._timers)
        if now_ns < peer.not_before_ns:
            self._arm(peer, peer.not_before_ns)
        elif handshake.pending_index is not None:
            handshake.restart_attempt(now_ns)
        elif (until_ns := self._waits_until_ns(now_ns, peer)) is not None:
            self._arm(peer, until_ns)
        elif handshake.may_initiate(now_ns):
            eager = self._eager(now_ns, peer)
            if eager is not None:
                eager.begin(peer.slot)
            self._initiate(now_ns, peer)
        else:
            self._arm(peer, now_ns + self._timers.rekey_timeout_ns)

    def rekey(self, now_ns: int, peer: Peer, to: Endpoint | None) -> None:
        """Renew the keys of a living session: one initiation to an address or to where the peer is, repeated until
        there is a new key.

        At the pace of a session rather than every 5 s: a policy may spend a key within a second.
        """
        peer.renews = True
        until_ns = self._waits_until_ns(now_ns, peer)
        if until_ns is None:
            self.initiate_to(now_ns, peer, to)
        if peer.deadline_ns is None:
            self._arm(peer, until_ns or now_ns + self._timers.rekey_timeout_ns)

    def _waits_until_ns(self, now_ns: int, peer: Peer) -> int | None:
        """Until when the peer may finish its own handshake before we begin one: two that cross cost a stock peer the
        packets on their way. Without a usable key nothing is on its way and nobody waits.
        """
        return peer.started(self._timers).waits_until_ns(now_ns) if self.has_key(now_ns, peer) else None

    def has_key(self, now_ns: int, peer: Peer) -> bool:
        """Whether a keypair of this peer can still seal."""
        birth_ns = self._engine.stats(peer.slot)["key_birth_ns"]
        return bool(birth_ns) and now_ns - birth_ns < self._timers.reject_after_time_ns

    def confirmed(self, now_ns: int, peer: Peer, index: int, source: Endpoint) -> None:
        """The first packet under the keys of our response: the peer has them too (§5.4.6)."""
        self._completed(now_ns, peer)
        self.keeper.confirmed(now_ns, peer, index, source)

    def initiate_to(self, now_ns: int, peer: Peer, to: Endpoint | None) -> None:
        """One initiation to an address, or to where the peer is. The session that asks knows its own pace."""
        if to is None:
            to = self._engine.endpoint(peer.slot)
        if to is not None and peer.started(self._timers).may_initiate(now_ns, SESSION_RETRY_NS):
            self._send_initiation(now_ns, peer, to, SESSION_RETRY_NS)

    # --- our own initiations and time -------------------------------------------------------------------------

    def _initiate(self, now_ns: int, peer: Peer) -> None:
        """Start or repeat an attempt towards the peer's endpoint. Without one the waiting packets are dropped, unless
        there is a key: then they wait for the session to bind a path, and so does the rekey.
        """
        to = self._engine.endpoint(peer.slot)
        if to is not None and not self.silenced:
            self._send_initiation(now_ns, peer, to)
            return
        self.counters["no_endpoint"] += 1
        if self.has_key(now_ns, peer):
            self._arm(peer, now_ns + self._timers.rekey_timeout_ns)
        else:
            self._give_up(peer)

    def _send_initiation(self, now_ns: int, peer: Peer, to: Endpoint, after_ns: int | None = None) -> None:
        handshake = peer.started(self._timers)
        eager = self._eager(now_ns, peer) if after_ns is None else None
        message = handshake.initiate(
            now_ns,
            local_index=self._engine.new_index(peer.slot),
            timestamp=self._timestamps.next(self._unix_ns()),
            ephemeral_private=self._random(32),
            after_ns=EARLY_NS if eager is not None else after_ns,
            way=to,
        )
        self._engine.send(to, message)
        self.counters["initiations_sent"] += 1
        usual_ns = handshake.next_deadline(self._jitter_ns())
        self._arm(peer, eager.next_ns(peer.slot, now_ns, usual_ns) if eager is not None else usual_ns)

    def _jitter_ns(self) -> int:
        most = self._timers.rekey_timeout_jitter_max_ns
        return int.from_bytes(self._random(4), "little") % (most + 1)

    def abandon(self, peer: Peer) -> None:
        """End what is in progress with a peer; the next packet to it begins anew."""
        self._give_up(peer)

    def _give_up(self, peer: Peer) -> None:
        if peer.handshake is not None:
            peer.handshake.cancel()
        if self.eager is not None:
            self.eager.end(peer.slot)
        peer.wanted = peer.renews = False
        peer.deadline_ns = None
        self._engine.gave_up(peer.slot)

    def _arm(self, peer: Peer, deadline_ns: int | None) -> None:
        if deadline_ns is None:
            peer.deadline_ns = None
        else:
            self.due.arm(peer, deadline_ns)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `timer_due` has work, None when never."""
        return self.due.next_ns

    def timer_due(self, now_ns: int, most: int) -> None:
        """Repeat or end up to `most` attempts that are due."""
        while most > 0 and (deadline_ns := self.next_deadline_ns) is not None and deadline_ns <= now_ns:
            self._due(now_ns, self.due.pop())
            most -= 1

    def _due(self, now_ns: int, peer: Peer) -> None:
        handshake = peer.started(self._timers)
        due = handshake.timer_due(now_ns)
        if due is Due.GIVE_UP:
            self.counters["gave_up"] += 1
            self._give_up(peer)
        elif not (peer.wanted or peer.renews):
            handshake.cancel()  # only a new address was asked, and nobody needs a key
        elif (until_ns := self._waits_until_ns(now_ns, peer)) is not None:
            self._arm(peer, until_ns)
        elif handshake.may_initiate(now_ns, EARLY_NS if (eager := self._eager(now_ns, peer)) else None):
            self.counters["retries"] += 1
            if eager is None or not eager.is_early(peer.slot):
                self.on_retry(peer)
            self._initiate(now_ns, peer)
        else:
            self._arm(peer, now_ns + self._timers.rekey_timeout_ns)
