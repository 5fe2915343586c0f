# SPDX-License-Identifier: Apache-2.0
"""Where a peer is when there are no sessions: WireGuard's own roaming, and two stricter policies.

Rule: an endpoint moves on authenticated evidence only. "handshake": when a handshake completes at the new address.
"wireguard": with the newest counter. "never": not at all, once it is known.
"""

from __future__ import annotations

from typing import Final

from gateway import wire
from gateway.constants import NS_PER_S
from gateway.control.exchange import Exchange
from gateway.control.peers import Peer, Roam
from gateway.dataplane.engine import Endpoint, Engine, Event
from gateway.noise.handshake import TransportKeys
from gateway.suites import Suite

# Nobody gets more bytes than three times what came from his address before it is proven (RFC 9000 §8.1).
_AMPLIFICATION: Final = 3
# A new address is asked at most this often (protocol: stock roaming).
_CANDIDATE_INTERVAL_NS: Final = 5 * NS_PER_S


class Roaming:
    """A keeper without sessions. `exchange` is set by who makes both."""

    exchange: Exchange

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.moved = 0

    def goes_first(self, peer: Peer) -> bool | None:
        """A stock peer knows no tie-break."""
        return None

    def suites(self, peer: Peer) -> tuple[Suite, ...]:
        """And one suite."""
        return ()

    def holds(self, peer: Peer, *, initiator: bool) -> bool:
        """A stock peer confirms a keypair with any message."""
        return False

    def answered(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """Remember where the response goes; WireGuard's own policy moves there at once."""
        if peer.config.roaming == "wireguard":
            self._move(now_ns, peer, source)
        _roam(peer).answered_to = source

    def initiated(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """The response shows where the peer is."""
        if peer.config.roaming != "never" or self._engine.endpoint(peer.slot) is None:
            self._move(now_ns, peer, source)

    def installed(self, now_ns: int, peer: Peer, keys: TransportKeys, source: Endpoint) -> None:
        """Nothing to say to a stock peer."""

    def confirmed(self, now_ns: int, peer: Peer, index: int, source: Endpoint) -> None:
        """The peer is where our response went, if its first packet came from there."""
        answered_to = _roam(peer).answered_to
        unbound = self._engine.endpoint(peer.slot) is None
        at_answered = answered_to is not None and answered_to.same_remote(source)
        if (
            unbound
            or (peer.config.roaming == "handshake" and at_answered)
            or peer.config.roaming == "wireguard"
        ):
            self._move(now_ns, peer, source)

    def noticed(self, now_ns: int, peer: Peer, event: Event) -> None:
        """A packet from a new address: the move itself, a question, or nothing."""
        if peer.config.roaming == "wireguard":
            if event.value:
                self._move(now_ns, peer, event.source)
        elif peer.config.roaming == "handshake":
            self._probe(now_ns, peer, event)

    def silent(self, now_ns: int, peer: Peer) -> None:
        """The exchange starts a handshake; there is no session to tell."""

    def aged(self, now_ns: int, peer: Peer) -> None:
        """The exchange renews the key."""

    def control(self, now_ns: int, peer: Peer, event: Event) -> None:
        """Without sessions nobody speaks jump frames to us."""

    def report(self, now_ns: int, peer: Peer, event: Event) -> None:
        """Without sessions there are no paths to measure."""

    def socket_failed(self, now_ns: int, socket_id: int, error: int) -> None:
        """There is one socket, and the counters say it."""

    def timer_due(self, now_ns: int, most: int) -> None:
        """Nothing of its own is ever due."""

    @property
    def next_deadline_ns(self) -> int | None:
        return None

    def _probe(self, now_ns: int, peer: Peer, event: Event) -> None:
        """Ask the new address for a handshake, within the budget of what came from it."""
        roam = _roam(peer)
        if roam.candidate is None or not roam.candidate.same_remote(event.source):
            roam.candidate, roam.candidate_bytes = event.source, 0
        roam.candidate_bytes += event.size_bytes
        due = roam.probing_ns is None or now_ns - roam.probing_ns >= _CANDIDATE_INTERVAL_NS
        if due and roam.candidate_bytes * _AMPLIFICATION >= wire.INITIATION_BYTES:
            roam.probing_ns, roam.candidate_bytes = now_ns, 0
            self.exchange.initiate_to(now_ns, peer, event.source)

    def _move(self, now_ns: int, peer: Peer, to: Endpoint) -> None:
        before = self._engine.endpoint(peer.slot)
        if before == to:
            return
        if before is not None and not before.same_remote(to):
            self.moved += 1
        self._engine.set_endpoint(peer.slot, to, now_ns)


def _roam(peer: Peer) -> Roam:
    if peer.roam is None:
        peer.roam = Roam()
    return peer.roam
