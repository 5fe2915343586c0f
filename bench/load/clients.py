# SPDX-License-Identifier: Apache-2.0
"""What differs from our client when one process is a hundred thousand of them: who speaks, and as whose process.

Rule: handshakes, greetings, sessions and paths are the client's own code (`gateway.control`); here is only that every
peer has an identity of its own, and that nothing is held per client which all of them could share.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any, Final

from bench.load.population import BEYOND, nth
from bench.load.uplinks import Lines, Uplinks
from gateway import crypto, wire
from gateway.control.clientkeeper import ClientKeeper
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.exchange import Exchange
from gateway.control.greeting import Greeting
from gateway.control.peers import Peer, PeerTable
from gateway.control.sessions import Live, Sessions, Sink
from gateway.control.snapshot import agreed_policy
from gateway.core.policy import Policy
from gateway.dataplane.engine import Endpoint, Engine, Event
from gateway.frames import INSTANCE_ID_BYTES, PolicySnapshot
from gateway.noise.admission import Admission, Verdict
from gateway.noise.handshake import Identity
from gateway.noise.timers import Timers
from gateway.noise.timestamp import TimestampSource, tai64n

# Different words of a gateway on its policy: it announces another probe interval as it fills.
_POLICIES_MAX: Final = 64


class Stamps(TimestampSource):
    """One source for all: every stamp is above every earlier one, so it is above each client's own last one.

    Unrounded. A grain of 17 ms for each of a thousand handshakes per second would run away from the clock.
    """

    __slots__ = ("_last_ns",)

    def __init__(self) -> None:
        super().__init__()
        self._last_ns = 0

    def next(self, unix_ns: int) -> bytes:
        self._last_ns = max(unix_ns, self._last_ns + 1)
        return tai64n(self._last_ns)


class Clients(PeerTable):
    """Every client as a peer of the tunnel: the same gateway each time, with another identity of ours."""

    def __init__(self, engine: Engine, identity: Identity) -> None:
        super().__init__(engine, identity)
        self.called: Peer | None = None  # whose message is being read
        self._by_number: list[Peer] = []
        self._numbers = array("I")

    def enlist(self, config: PeerConfig, identity: Identity) -> Peer:
        """The next client: its row, its route, its keys. The curve operation of both static keys is done here."""
        peer = Peer(config, identity, self._engine.add_session())
        number = len(self._by_number)
        self._by_slot[peer.slot] = peer
        self._by_number.append(peer)
        while len(self._numbers) <= peer.slot:
            self._numbers.append(0)
        self._numbers[peer.slot] = number
        self._engine.add_route(ip_network(nth(BEYOND, number)), peer.slot)
        _ = peer.keys.static_shared, peer.keys.mac1_key
        return peer

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_number)

    def number_of(self, slot: int) -> int:
        """Which client has that row."""
        return self._numbers[slot]

    def at(self, number: int | None) -> Peer | None:
        """The client of that number."""
        return self._by_number[number] if number is not None and number < len(self._by_number) else None

    def by_key(self, public_key: bytes) -> Peer | None:
        """All of them know one gateway; the message names the client by where it arrived."""
        peer = self.called
        return peer if peer is not None and peer.config.public_key == public_key else None

    def remove(self, peer: Peer) -> None:
        """With the tunnel, all of them."""
        self._engine.remove_session(peer.slot)
        del self._by_slot[peer.slot]
        peer.keys.wipe()


class Gate:
    """Admission of a client: what is no handshake for it is dropped. One client is never under load."""

    def __init__(self) -> None:
        self.identity: Identity | None = None

    def check(self, _now_ns: int, message: bytes, _source: bytes, _source_key: bytes) -> Verdict:
        kind = wire.message_type(message)
        if not kind or self.identity is None:
            return Verdict.BAD_TYPE
        if kind == wire.MSG_COOKIE_REPLY:
            return Verdict.ACCEPT
        mac1 = crypto.blake2s_mac(self.identity.mac1_key, wire.before_mac1(message))
        return Verdict.ACCEPT if mac1 == wire.mac1(message) else Verdict.BAD_MAC1


class Calls(Exchange):
    """All handshakes, each under the identity of the client at whose address the message came in."""

    def __init__(
        self,
        engine: Engine,
        peers: Clients,
        identity: Identity,
        _admission: Admission,  # is one host's
        timers: Timers,
        **rest: Any,
    ) -> None:
        self._gate = Gate()
        super().__init__(engine, peers, identity, self._gate, timers, **rest)
        self.find: Callable[[Endpoint], Peer | None] = lambda here: None

    def receive(self, now_ns: int, event: Event) -> None:
        peer = self._peers.called = self.find(event.source)
        if peer is None:
            self.counters["stray"] += 1
            return
        self.identity = self._gate.identity = peer.keys.identity
        super().receive(now_ns, event)


class Hail(Greeting):
    """Every client is a process of its own, and a new one after a restart. Equal policies are one object."""

    def __init__(
        self,
        engine: Engine,
        sessions: Sessions,
        policy: Policy,
        instance_of: Callable[[int], bytes],
    ) -> None:
        super().__init__(engine, sessions, bytes(INSTANCE_ID_BYTES), policy)
        self.instance_of = instance_of
        self._agreed: dict[PolicySnapshot, Policy] = {}
        self._same: dict[Policy, Policy] = {}

    def follow_policy(self, now_ns: int, live: Live) -> None:
        seen = self._snapshots.pop(live.slot, None)
        policy = self._policy(seen) if seen is not None else live.core.policy
        if policy != live.core.policy:
            self._sessions.change_policy(now_ns, live, policy)

    def _policy(self, seen: PolicySnapshot) -> Policy:
        known = self._agreed.get(seen)
        if known is None:
            if len(self._agreed) >= _POLICIES_MAX:
                self._agreed.clear()
            known = agreed_policy(self.policy, seen)
            known = self._agreed[seen] = self._same.setdefault(known, known)
        return known

    def forget(self, slot: int) -> None:
        """The client's process has ended."""
        self._asking.pop(slot, None)
        self._welcomed.discard(slot)
        self._displaced.pop(slot, None)


class Everybody:
    """Stands where the keeper has its gateways' transports by slot: no client's is kept, none has deadlines."""

    def __init__(self, uplinks: Uplinks, peers: Clients) -> None:
        self._uplinks, self._peers = uplinks, peers

    def __getitem__(self, slot: int) -> Lines:
        return Lines(self._uplinks, self._peers.number_of(slot))

    get = __getitem__

    @staticmethod
    def values() -> tuple[Lines, ...]:
        return ()


class CrowdKeeper(ClientKeeper):
    """The client's keeper of all sessions; `settle` gives it what is made after it."""

    def __init__(
        self,
        engine: Engine,
        sink: Sink,
        policy: Policy,
        random_bytes: Callable[[int], bytes],
        instance_of: Callable[[int], bytes],
    ) -> None:
        super().__init__(engine, sink, policy, random_bytes, bytes(INSTANCE_ID_BYTES))
        self.greeting = Hail(engine, self.sessions, policy, instance_of)

    def settle(self, uplinks: Uplinks, peers: Clients) -> None:
        """Where everybody is."""
        self._uplinks = uplinks
        self.transports = Everybody(uplinks, peers)

    def control(self, now_ns: int, peer: Peer, event: Event) -> None:
        """Unless it was sent to where the client is no more."""
        if self._uplinks.number_at(event.source) is None:
            self.counters["at_old_mapping"] += 1
            return
        super().control(now_ns, peer, event)

    def next_path(self, now_ns: int, peer: Peer) -> Any:
        """The other uplink than the last time."""
        before = self.engine.endpoint(peer.slot)
        uplink = self._uplinks.uplink_of(before.socket_id) if before is not None else None
        return self.transports[peer.slot].by_id(2 if uplink == 0 else 1)
