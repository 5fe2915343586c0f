# SPDX-License-Identifier: Apache-2.0
"""One peer's handshake over time: what may be sent, what is believed, when to retry, when to give up.

Rule 1: every change of a peer's handshake state is here, and only an authentic message or our own decision
makes one. A method that raises has changed nothing.
Rule 2: the object knows no clock, socket or index table. Times are CLOCK_BOOTTIME nanoseconds; the caller
owns the indices it passes in and frees them when the object stops naming them.

Our own initiation and one of the peer's may be in progress together, and with a stock peer both complete. Between
our own ends the client's goes first (protocol.md §4): `crosses`, `pass_over` and `cancel` are what that takes.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, StrEnum

from gateway import wire
from gateway.errors import ProtocolError
from gateway.noise import timers as timers_module
from gateway.noise.cookie import CookieJar, add_macs
from gateway.noise.handshake import Initiator, PeerKeys, ReceivedInitiation, TransportKeys
from gateway.noise.timers import Timers


class Due(Enum):
    """What a handshake timer asks for."""

    NONE = "none"
    RESEND = "resend"
    GIVE_UP = "give_up"


class Refusal(StrEnum):
    """Why an authentic or well-formed message was refused; the names are counters."""

    TIMESTAMP_REPLAYED = "timestamp_replayed"
    TOO_SOON = "too_soon"
    NOT_EXPECTED = "not_expected"


class HandshakeRefused(ProtocolError):
    """A message or a wish that the handshake's state does not allow; the state is as it was."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class PeerHandshake:
    """Create it with the peer's first handshake; one that never spoke needs only its `PeerKeys`."""

    __slots__ = (
        "_accepted_ns",
        "_attempt_ns",
        "_awaited_ns",
        "_greatest_timestamp",
        "_initiator",
        "_jar",
        "_sent_ns",
        "keys",
        "timers",
    )

    def __init__(
        self, keys: PeerKeys, timers: Timers = timers_module.DEFAULT, greatest_timestamp: bytes = b""
    ) -> None:
        self.keys = keys
        self.timers = timers
        self._initiator: Initiator | None = None
        self._jar: CookieJar | None = None
        self._sent_ns: int | None = None
        self._attempt_ns = 0
        self._accepted_ns: int | None = None
        self._awaited_ns: int | None = None
        self._greatest_timestamp = b""
        self.greatest_timestamp = greatest_timestamp

    @property
    def greatest_timestamp(self) -> bytes:
        """Greatest TAI64N stamp of the peer, b"" before its first initiation. The store keeps it."""
        return self._greatest_timestamp

    @greatest_timestamp.setter
    def greatest_timestamp(self, stamp: bytes) -> None:
        """Never goes back: an older stamp from a store is ignored."""
        if stamp and len(stamp) != wire.TIMESTAMP_BYTES:
            raise ValueError("a timestamp has 12 bytes")
        self._greatest_timestamp = max(self._greatest_timestamp, stamp)

    # --- our initiation -------------------------------------------------------------------------------------

    @property
    def pending_index(self) -> int | None:
        """Local index of the initiation in flight."""
        return self._initiator.local_index if self._initiator else None

    def may_initiate(self, now_ns: int, after_ns: int | None = None) -> bool:
        """An initiation leaves at most every REKEY_TIMEOUT (§6.1), or `after_ns` for a session without any path."""
        wait_ns = self.timers.rekey_timeout_ns if after_ns is None else after_ns
        return self._sent_ns is None or now_ns - self._sent_ns >= wait_ns

    def initiate(
        self,
        now_ns: int,
        *,
        local_index: int,
        timestamp: bytes,
        ephemeral_private: bytes,
        after_ns: int | None = None,
        way: Hashable = None,
    ) -> bytes:
        """Start an attempt or retransmit: a whole initiation (148 bytes), with fresh stamp and ephemeral key.

        The former initiation is forgotten and its index free. HandshakeRefused when `may_initiate` says no. `way` is
        whatever the caller calls the address that it leaves from: a cookie is brought by the way that it came.
        """
        if not self.may_initiate(now_ns, after_ns):
            raise HandshakeRefused(Refusal.TOO_SOON, "an initiation left less than REKEY_TIMEOUT ago")
        initiator = Initiator.start(
            self.keys, local_index=local_index, timestamp=timestamp, ephemeral_private=ephemeral_private
        )
        if self._initiator is None:
            self._attempt_ns = now_ns
        self._initiator = initiator
        self._sent_ns = now_ns
        return self._with_macs(now_ns, initiator.packet, way)

    def receive_response(self, now_ns: int, msg: bytes) -> TransportKeys:
        """Complete our initiation. AuthError or HandshakeRefused leave it waiting for the genuine response.

        `msg` has passed admission, which checks its mac1.
        """
        if self._initiator is None:
            raise HandshakeRefused(Refusal.NOT_EXPECTED, "no initiation in flight")
        keys = self._initiator.finish(msg)
        self._initiator = None
        return keys

    def receive_cookie(self, now_ns: int, msg: bytes) -> None:
        """Keep a cookie for the next message, which leaves at its usual time. AuthError changes nothing.

        The reply may answer our last initiation or our last response: its receiver index is that message's.
        """
        if self._jar is None:
            raise HandshakeRefused(Refusal.NOT_EXPECTED, "no handshake message sent yet")
        self._jar.consume_reply(now_ns, msg, self.timers.cookie_refresh_time_ns)

    def restart_attempt(self, now_ns: int) -> None:
        """The user sent data while we try: count the 90 s from now (§6.4)."""
        self._attempt_ns = now_ns

    def cancel(self) -> int | None:
        """Forget the initiation in flight (given up, or the peer came first); returns its freed index."""
        index = self.pending_index
        self._initiator = None
        return index

    def took_ns(self, now_ns: int) -> int | None:
        """How long the handshake took that has its proof now: since our response, else since our last initiation."""
        began_ns = self._awaited_ns if self._awaited_ns is not None else self._sent_ns
        return now_ns - began_ns if began_ns is not None else None

    def completed(self) -> None:
        """A handshake of either side has its proof: of two that crossed one is enough."""
        self.cancel()
        self._awaited_ns = None
        if self._jar is not None and not self._jar.full:
            self._jar = None  # nobody is asked for a cookie any more

    # --- the peer's initiation ------------------------------------------------------------------------------

    def crosses(self, now_ns: int) -> bool:
        """Whether an initiation of ours, younger than REKEY_TIMEOUT, still waits for its response."""
        return self._initiator is not None and not self.may_initiate(now_ns)

    def waits_until_ns(self, now_ns: int) -> int | None:
        """Until when the peer has to prove the keys of our last response, None when it has or never will."""
        if self._awaited_ns is None:
            return None
        until_ns = self._awaited_ns + self.timers.rekey_timeout_ns
        return until_ns if now_ns < until_ns else None

    def pass_over(self, now_ns: int, opened: ReceivedInitiation) -> None:
        """Leave an authentic initiation unanswered. Its stamp is spent, so that nobody brings it again later.

        HandshakeRefused as for `accept`.
        """
        self._check(now_ns, opened)
        self._greatest_timestamp = opened.timestamp

    def accept(
        self, now_ns: int, opened: ReceivedInitiation, *, local_index: int, ephemeral_private: bytes
    ) -> tuple[bytes, TransportKeys]:
        """Answer the peer's initiation: a whole response (92 bytes) and the keys, to be used once confirmed.

        HandshakeRefused for a stamp not above the greatest seen, or sooner than INITIATION_INTERVAL (§5.1).
        """
        self._check(now_ns, opened)
        body, keys = opened.respond(local_index=local_index, ephemeral_private=ephemeral_private)
        self._greatest_timestamp = opened.timestamp
        self._accepted_ns = self._awaited_ns = now_ns
        return self._with_macs(now_ns, body), keys

    def _check(self, now_ns: int, opened: ReceivedInitiation) -> None:
        if opened.remote_public != self.keys.remote_public:
            raise ValueError("the initiation belongs to another peer")
        if opened.timestamp <= self._greatest_timestamp:
            raise HandshakeRefused(Refusal.TIMESTAMP_REPLAYED, "initiation is a replay")
        if self._accepted_ns is not None and now_ns - self._accepted_ns < self.timers.initiation_interval_ns:
            raise HandshakeRefused(Refusal.TOO_SOON, "initiations follow each other too fast")

    # --- time -----------------------------------------------------------------------------------------------

    def next_deadline(self, jitter_ns: int) -> int | None:
        """When to call `timer_due`: at the next retransmission or the end of the attempt; None without one.

        `jitter_ns` is drawn by the caller per retransmission, 0 to REKEY_TIMEOUT_JITTER_MAX; more is cut.
        """
        if self._initiator is None or self._sent_ns is None:
            return None
        jitter_ns = max(0, min(jitter_ns, self.timers.rekey_timeout_jitter_max_ns))
        return min(self._sent_ns + self.timers.rekey_timeout_ns + jitter_ns, self._gives_up_ns())

    def timer_due(self, now_ns: int) -> Due:
        """What to do now: `initiate` again, or `cancel` as 90 s brought nothing (§6.4). Changes nothing."""
        if self._initiator is None:
            return Due.NONE
        if now_ns >= self._gives_up_ns():
            return Due.GIVE_UP
        return Due.RESEND if self.may_initiate(now_ns) else Due.NONE

    def _gives_up_ns(self) -> int:
        return self._attempt_ns + self.timers.rekey_attempt_time_ns

    def _with_macs(self, now_ns: int, body: bytes, way: Hashable = None) -> bytes:
        """Finish an outgoing message: a cookie if we hold one, and remember mac1 for a cookie reply."""
        if self._jar is None:
            self._jar = CookieJar(self.keys.remote_public)
        message = add_macs(body, self.keys.mac1_key, self._jar.current(now_ns, way))
        self._jar.sent(message, way)
        return message

    def __repr__(self) -> str:
        return f"PeerHandshake({self.keys!r}, pending_index={self.pending_index})"
