# SPDX-License-Identifier: Apache-2.0
"""Handshakes between the data plane's events and the pure objects of `noise`: who is answered, retried, believed.

Rule 1: a peer's endpoint changes here and nowhere else, by its roaming policy and only on authenticated evidence.
Rule 2: a message that fails costs a counter. Nothing is logged or kept for somebody who has not authenticated.

The clock, randomness and the loop belong to the tunnel; every method is told the time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway import wire
from gateway.constants import NS_PER_S
from gateway.control.peers import Peer, PeerTable
from gateway.dataplane.engine import Endpoint, Engine, Event
from gateway.errors import AuthError
from gateway.noise.admission import Admission, Verdict
from gateway.noise.handshake import Identity, read_static
from gateway.noise.peer import Due, HandshakeRefused
from gateway.noise.timers import Timers
from gateway.noise.timestamp import TimestampSource

# Nobody gets more bytes than three times what came from his address before it is proven (RFC 9000 §8.1).
_AMPLIFICATION: Final = 3
# A new address of a stock peer is asked at most this often (protocol: stock roaming).
_CANDIDATE_INTERVAL_NS: Final = 5 * NS_PER_S

RandomBytes = Callable[[int], bytes]


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
    ) -> None:
        self._engine = engine
        self._peers = peers
        self._identity = identity
        self._admission = admission
        self._timers = timers
        self._random = random_bytes
        self._unix_ns = unix_ns
        self._timestamps = timestamps
        self._queue: list[tuple[int, int, Peer]] = []
        self._order = 0
        self.counters: Counter[str] = Counter()
        # Called when an attempt has to be repeated: the client looks its gateway's name up again.
        self.on_retry: Callable[[Peer], None] = lambda peer: None
        # Called when a handshake has completed.
        self.on_complete: Callable[[Peer], None] = lambda peer: None

    # --- messages of types 1 to 3 -----------------------------------------------------------------------------

    def receive(self, now_ns: int, event: Event) -> None:
        """One unauthenticated handshake message."""
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
        opened = read_static(self._identity, message)
        peer = self._peers.by_key(opened.remote_public)
        if peer is None:
            self.counters["unknown_peer"] += 1
            return
        received = opened.verify(peer.keys)
        response, keys = peer.started(self._timers).accept(
            now_ns, received, local_index=self._engine.new_index(peer.slot), ephemeral_private=self._random(32)
        )
        self._engine.install(peer.slot, keys, now_ns)
        if peer.config.roaming == "wireguard":
            self._move(now_ns, peer, source)
        peer.answered_to = source
        self._engine.send(source, response)
        self.counters["responses_sent"] += 1

    def _response(self, now_ns: int, message: bytes, source: Endpoint) -> None:
        peer = self._addressee(message)
        if peer is None or peer.handshake is None or peer.handshake.pending_index != wire.receiver_index(message):
            self.counters["not_expected"] += 1
            return
        keys = peer.handshake.receive_response(now_ns, message)
        if peer.config.roaming != "never":
            self._move(now_ns, peer, source)
        self._engine.install(peer.slot, keys, now_ns)
        self._completed(peer)

    def _cookie(self, now_ns: int, message: bytes, source: Endpoint) -> None:
        peer = self._addressee(message)
        if peer is None or peer.handshake is None:
            self.counters["not_expected"] += 1
            return
        peer.handshake.receive_cookie(now_ns, message)
        self.counters["cookies_received"] += 1

    def _addressee(self, message: bytes) -> Peer | None:
        return self._peers.by_slot(self._engine.slot_of(wire.receiver_index(message)))

    def _completed(self, peer: Peer) -> None:
        self.counters["completed"] += 1
        if peer.handshake is not None:
            peer.handshake.cancel()  # of two that crossed one is enough
        peer.wanted = False
        peer.candidate = None
        peer.deadline_ns = None
        self.on_complete(peer)

    # --- what the data plane reports of authenticated sessions -----------------------------------------------

    def wanted(self, now_ns: int, peer: Peer) -> None:
        """The data plane needs a new key for this peer."""
        peer.wanted = True
        handshake = peer.started(self._timers)
        if handshake.pending_index is not None:
            handshake.restart_attempt(now_ns)
        elif handshake.may_initiate(now_ns):
            self._initiate(now_ns, peer)
        else:
            self._arm(peer, now_ns + self._timers.rekey_timeout_ns)

    def confirmed(self, now_ns: int, peer: Peer, source: Endpoint) -> None:
        """The first packet under the keys of our response: the peer is where that response went (§5.4.6)."""
        unbound = self._engine.endpoint(peer.slot) is None
        at_answered = peer.answered_to is not None and peer.answered_to.same_remote(source)
        if unbound or (peer.config.roaming == "handshake" and at_answered) or peer.config.roaming == "wireguard":
            self._move(now_ns, peer, source)
        self._completed(peer)

    def noticed(self, now_ns: int, peer: Peer, event: Event) -> None:
        """An authenticated packet came from an address that is not the peer's endpoint."""
        if peer.config.roaming == "wireguard":
            if event.value:
                self._move(now_ns, peer, event.source)
        elif peer.config.roaming == "handshake":
            self._probe(now_ns, peer, event)

    def _probe(self, now_ns: int, peer: Peer, event: Event) -> None:
        """Ask the new address for a handshake, within the budget of what came from it."""
        if peer.candidate is None or not peer.candidate.same_remote(event.source):
            peer.candidate, peer.candidate_bytes = event.source, 0
        peer.candidate_bytes += event.size_bytes
        due = peer.probing_ns is None or now_ns - peer.probing_ns >= _CANDIDATE_INTERVAL_NS
        if not due or peer.candidate_bytes * _AMPLIFICATION < wire.INITIATION_BYTES:
            return
        if peer.started(self._timers).may_initiate(now_ns):
            peer.probing_ns, peer.candidate_bytes = now_ns, 0
            self.counters["candidates_asked"] += 1
            self._send_initiation(now_ns, peer, event.source)

    def _move(self, now_ns: int, peer: Peer, to: Endpoint) -> None:
        before = self._engine.endpoint(peer.slot)
        if before == to:
            return
        if before is not None and not before.same_remote(to):
            self.counters["endpoint_moved"] += 1
        self._engine.set_endpoint(peer.slot, to, now_ns)

    # --- our own initiations and time -------------------------------------------------------------------------

    def _initiate(self, now_ns: int, peer: Peer) -> None:
        """Start or repeat an attempt towards the peer's endpoint; without one the waiting packets are dropped."""
        to = self._engine.endpoint(peer.slot)
        if to is None:
            self.counters["no_endpoint"] += 1
            self._give_up(peer)
            return
        self._send_initiation(now_ns, peer, to)

    def _send_initiation(self, now_ns: int, peer: Peer, to: Endpoint) -> None:
        handshake = peer.started(self._timers)
        message = handshake.initiate(
            now_ns,
            local_index=self._engine.new_index(peer.slot),
            timestamp=self._timestamps.next(self._unix_ns()),
            ephemeral_private=self._random(32),
        )
        self._engine.send(to, message)
        self.counters["initiations_sent"] += 1
        self._arm(peer, handshake.next_deadline(self._jitter_ns()))

    def _jitter_ns(self) -> int:
        most = self._timers.rekey_timeout_jitter_max_ns
        return int.from_bytes(self._random(4), "little") % (most + 1)

    def _give_up(self, peer: Peer) -> None:
        if peer.handshake is not None:
            peer.handshake.cancel()
        peer.wanted = False
        peer.deadline_ns = None
        self._engine.gave_up(peer.slot)

    def _arm(self, peer: Peer, deadline_ns: int | None) -> None:
        peer.deadline_ns = deadline_ns
        if deadline_ns is not None:
            self._order += 1
            heapq.heappush(self._queue, (deadline_ns, self._order, peer))

    @property
    def next_deadline_ns(self) -> int | None:
        """When `timer_due` has work, None when never. Entries whose peer was armed anew are passed over."""
        while self._queue and self._queue[0][2].deadline_ns != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def timer_due(self, now_ns: int, most: int) -> None:
        """Repeat or end up to `most` attempts that are due."""
        while most > 0 and (deadline_ns := self.next_deadline_ns) is not None and deadline_ns <= now_ns:
            peer = heapq.heappop(self._queue)[2]
            peer.deadline_ns = None
            self._due(now_ns, peer)
            most -= 1

    def _due(self, now_ns: int, peer: Peer) -> None:
        handshake = peer.started(self._timers)
        due = handshake.timer_due(now_ns)
        if due is Due.GIVE_UP:
            self.counters["gave_up"] += 1
            self._give_up(peer)
        elif not peer.wanted:
            handshake.cancel()  # only a new address was asked, and nobody needs a key
        elif handshake.may_initiate(now_ns):
            self.counters["retries"] += 1
            self.on_retry(peer)
            self._initiate(now_ns, peer)
        else:
            self._arm(peer, now_ns + self._timers.rekey_timeout_ns)
