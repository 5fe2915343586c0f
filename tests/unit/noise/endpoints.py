# SPDX-License-Identifier: Apache-2.0
"""Two endpoints in memory: keys from a seed, a clock that only the test moves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from gateway.constants import NS_PER_S
from gateway.noise.handshake import NO_PSK, Identity, PeerKeys, ReceivedInitiation, TransportKeys, read_static
from gateway.noise.peer import PeerHandshake
from gateway.noise.timers import Timers
from gateway.noise.timestamp import TimestampSource

START_NS = 1_000 * NS_PER_S
UNIX_NS = 1_700_000_000 * NS_PER_S
PSK = bytes(range(32))

# RFC 7748 §7 and https://cr.yp.to/ecdh.html#validate: encodings of points of order 1, 2, 4 and 8.
LOW_ORDER_POINTS = tuple(
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


def secret(name: str) -> bytes:
    """32 bytes that depend on the name alone."""
    return hashlib.sha256(name.encode()).digest()


def identity(name: str) -> Identity:
    return Identity(secret(f"static {name}"))


@dataclass
class Endpoint:
    """One side: its handshake object with fresh indices, ephemeral keys and timestamps."""

    name: str
    ours: Identity
    peer: PeerHandshake
    stamps: TimestampSource = field(default_factory=TimestampSource)
    drawn: int = 0

    def _draw(self) -> tuple[int, bytes]:
        self.drawn += 1
        ephemeral = secret(f"ephemeral {self.name} {self.drawn}")
        return int.from_bytes(ephemeral[:4], "little"), ephemeral

    def initiate(self, now_ns: int) -> bytes:
        index, ephemeral = self._draw()
        stamp = self.stamps.next(UNIX_NS + now_ns)
        return self.peer.initiate(now_ns, local_index=index, timestamp=stamp, ephemeral_private=ephemeral)

    def open(self, message: bytes) -> ReceivedInitiation:
        return read_static(self.ours, message).verify(self.peer.keys)

    def accept(self, now_ns: int, message: bytes) -> tuple[bytes, TransportKeys]:
        index, ephemeral = self._draw()
        return self.peer.accept(now_ns, self.open(message), local_index=index, ephemeral_private=ephemeral)

    def state(self) -> tuple[object, ...]:
        """Everything a refused message must leave as it was."""
        peer = self.peer
        jar = peer._jar
        jarred = () if jar is None else tuple(getattr(jar, name) for name in jar.__slots__)
        own = (peer._initiator, peer._attempt_ns, peer._sent_ns, peer._accepted_ns, peer.greatest_timestamp)
        return own + jarred


def pair(
    *, psk: bytes = NO_PSK, psk_b: bytes | None = None, timers: Timers | None = None
) -> tuple[Endpoint, Endpoint]:
    """Client a and gateway b that know each other; `psk_b` if b was given another one."""
    a, b = identity("a"), identity("b")
    timers = timers or Timers()
    keys_a = PeerKeys(a, b.public, psk)
    keys_b = PeerKeys(b, a.public, psk if psk_b is None else psk_b)
    return Endpoint("a", a, PeerHandshake(keys_a, timers)), Endpoint("b", b, PeerHandshake(keys_b, timers))


def agree(initiator: TransportKeys, responder: TransportKeys) -> bool:
    """Whether two results belong to one handshake."""
    return (
        initiator.is_initiator
        and not responder.is_initiator
        and initiator.send_key == responder.recv_key
        and initiator.recv_key == responder.send_key
        and initiator.send_key != initiator.recv_key
        and initiator.handshake_hash == responder.handshake_hash
        and (initiator.local_index, initiator.remote_index) == (responder.remote_index, responder.local_index)
    )
