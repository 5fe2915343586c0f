# SPDX-License-Identifier: Apache-2.0
"""The peers of a running tunnel: who they are, which row of the data plane is theirs, how their handshake stands.

Rule: what a packet needs lives in the data plane's row; here is only what Python decides with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.control.configmodel import Peer as PeerConfig
from gateway.core.rates import Bucket
from gateway.dataplane.engine import Endpoint, Engine
from gateway.errors import NotFound, Refused
from gateway.noise.handshake import NO_PSK, Identity, PeerKeys, TransportKeys
from gateway.noise.peer import PeerHandshake
from gateway.noise.timers import Timers
from gateway.suites import Suite, session_id

# A rekey that crosses another and one that was lost may both still be confirmed.
_BIRTHS_MAX: Final = 3


class Birth:
    """A handshake that completed here: the session it would make, and where the peer was. Holds no key."""

    __slots__ = ("greeted", "hello_by_ns", "index", "offers", "session_id", "source")

    def __init__(self, keys: TransportKeys, source: Endpoint, offers: tuple[Suite, ...]) -> None:
        self.index = keys.local_index
        self.session_id = session_id(keys.handshake_hash)
        self.source = source
        self.offers = offers  # suites whose keys the data plane has; one of them once it was chosen
        self.hello_by_ns = 0  # without a HELLO until then a stock client has taken over
        self.greeted = False  # its HELLO was accepted


class Roam:
    """Where a peer may be moving to, as roaming.py judges it."""

    __slots__ = ("answered_to", "candidate", "candidate_bytes", "probing_ns")

    def __init__(self) -> None:
        self.answered_to: Endpoint | None = None  # where our last response went
        self.candidate: Endpoint | None = None  # a new address that authenticated packets come from
        self.candidate_bytes = 0  # how much came from there: three times as much may be sent
        self.probing_ns: int | None = None  # when a handshake was last sent to a candidate


class Peer:
    """One configured peer. `handshake` exists from its first handshake on: 100,000 idle peers stay small."""

    __slots__ = (
        "births",
        "config",
        "deadline_ns",
        "handshake",
        "keys",
        "not_before_ns",
        "offers",
        "renews",
        "roam",
        "slot",
        "spoken",
        "takeovers",
        "wanted",
    )

    def __init__(self, config: PeerConfig, identity: Identity, slot: int) -> None:
        self.config = config
        self.keys = PeerKeys(identity, config.public_key, config.preshared_key or NO_PSK)
        self.slot = slot
        self.handshake: PeerHandshake | None = None
        self.wanted = False  # the data plane waits for a key
        self.renews = False  # its session has begun a rekey
        self.deadline_ns: int | None = None  # of its one entry in the queue of timers
        self.roam: Roam | None = None  # of a tunnel without sessions
        self.births: tuple[Birth, ...] = ()  # oldest first
        self.takeovers: Bucket | None = None  # what superseding its session costs
        self.spoken = False  # it has spoken jump frames, in this run or an earlier one
        self.offers: tuple[Suite, ...] = ()  # suites of its newest keypair
        self.not_before_ns = 0  # it was displaced: no handshake by itself before that

    def started(self, timers: Timers) -> PeerHandshake:
        """The peer's handshake state, made at its first use."""
        if self.handshake is None:
            self.handshake = PeerHandshake(self.keys, timers)
        return self.handshake

    def start_over(self) -> None:
        """Forget the handshake in progress and when one was sent. Its stamp stays: an old initiation is a replay."""
        before = self.handshake
        if before is not None:
            self.handshake = PeerHandshake(self.keys, before.timers, before.greatest_timestamp)

    def remember(self, keys: TransportKeys, source: Endpoint) -> Birth:
        """Keep what the first message under these keys will need; the oldest of three gives way."""
        birth = Birth(keys, source, self.offers)
        self.births = (*self.births[1 - _BIRTHS_MAX :], birth)
        return birth

    def birth(self, index: int) -> Birth | None:
        """What was kept for the keypair with this local index."""
        return next((birth for birth in self.births if birth.index == index), None)

    def greeted(self, now: Birth) -> None:
        """A HELLO was accepted under it. The keypairs before that were greeted too are not heard of again."""
        now.greeted = True
        self.births = tuple(birth for birth in self.births if birth is now or not birth.greeted)

    def __repr__(self) -> str:
        return f"Peer({self.config.name}, slot={self.slot})"


class PeerTable:
    """All peers by public key and by slot; keeps the data plane's rows, routes and keepalives in step."""

    def __init__(self, engine: Engine, identity: Identity) -> None:
        self._engine = engine
        self._identity = identity
        self._by_key: dict[bytes, Peer] = {}
        self._by_slot: dict[int, Peer] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_key.values())

    def by_key(self, public_key: bytes) -> Peer | None:
        return self._by_key.get(public_key)

    def by_slot(self, slot: int | None) -> Peer | None:
        return None if slot is None else self._by_slot.get(slot)

    def by_name(self, name: str) -> Peer:
        """The peer of that name; NotFound when there is none."""
        for peer in self:
            if peer.config.name == name:
                return peer
        raise NotFound(f"no peer is named {name}")

    def add(self, config: PeerConfig, now_ns: int) -> Peer:
        """Give a peer a row, its routes and its keepalive. Refused when it is there already."""
        if config.public_key in self._by_key:
            raise Refused(f"peer {config.name}: its public key belongs to another peer already")
        peer = Peer(config, self._identity, self._engine.add_session())
        self._by_key[config.public_key] = peer
        self._by_slot[peer.slot] = peer
        try:
            for network in config.allowed_ips:
                self._engine.add_route(network, peer.slot)
        except Exception:
            self.remove(peer)
            raise
        if config.protocol == "jump":
            self._engine.mute(peer.slot, True, now_ns)
        if config.keepalive_s:
            self._engine.set_keepalive(peer.slot, config.keepalive_s, now_ns)
        return peer

    def change(self, changed: Sequence[tuple[Peer, PeerConfig]], now_ns: int) -> None:
        """Let peers be allowed something else: prefixes, preshared key, keepalive, roaming. Sessions live on.

        Prefixes may go from one of them to another. A preshared key counts from the next handshake on.
        """
        for peer, after in changed:
            before, peer.config = peer.config, after
            for network in set(before.allowed_ips).difference(after.allowed_ips):
                self._engine.remove_route(network, peer.slot)
            peer.keys.psk = after.preshared_key or NO_PSK
            if after.keepalive_s != before.keepalive_s:
                self._engine.set_keepalive(peer.slot, after.keepalive_s, now_ns)
        for peer, after in changed:
            for network in after.allowed_ips:
                self._engine.add_route(network, peer.slot)

    def set_identity(self, identity: Identity) -> None:
        """The same peers under another key of ours."""
        self._identity = identity
        for peer in self:
            psk = peer.keys.psk
            peer.keys.wipe()
            peer.keys = PeerKeys(identity, peer.config.public_key, psk)
            peer.start_over()

    def remove(self, peer: Peer) -> None:
        """Take a peer out; its keys are wiped and its row is free at once."""
        for network in peer.config.allowed_ips:
            self._engine.remove_route(network, peer.slot)
        self._engine.remove_session(peer.slot)
        del self._by_key[peer.config.public_key]
        del self._by_slot[peer.slot]
        peer.keys.wipe()
        peer.deadline_ns = None
