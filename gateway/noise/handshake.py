# SPDX-License-Identifier: Apache-2.0
"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as WireGuard speaks it (whitepaper §5.4.1 to §5.4.5).

Rule 1: nothing here reads a clock or draws randomness, and reading a message never changes an object that
outlives it, so a forged message cannot disturb a handshake in flight.
Rule 2: an initiation is read in two steps, `read_static` and `StaticOpened.verify`. The first needs our own
key alone and tells who claims to ask; the second needs that peer's `PeerKeys`, whose static-static secret is
computed once per peer. An unknown key therefore costs one curve operation.

Messages here end before mac1 (116 and 60 bytes); `cookie.add_macs` completes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway import crypto, wire
from gateway.constants import CONSTRUCTION, IDENTIFIER, LABEL_MAC1
from gateway.errors import AuthError, CryptoError

NO_PSK: Final = bytes(crypto.KEY_BYTES)
_CHAIN_0: Final = crypto.blake2s(CONSTRUCTION)
_HASH_0: Final = crypto.blake2s(_CHAIN_0, IDENTIFIER)

_EPHEMERAL_1: Final = slice(8, 40)
_STATIC_1: Final = slice(40, 88)
_TIMESTAMP_1: Final = slice(88, 116)
_EPHEMERAL_2: Final = slice(12, 44)
_EMPTY_2: Final = slice(44, 60)


def _key(value: bytes, what: str) -> bytes:
    if len(value) != crypto.KEY_BYTES:
        raise ValueError(f"{what} must have {crypto.KEY_BYTES} bytes, has {len(value)}")
    return value


def _dh(private: bytes, public: bytes) -> bytes:
    """X25519 with a key that the other side chose: a low-order point is an attack, not a mistake of ours."""
    try:
        return crypto.x25519(private, public)
    except CryptoError as error:
        raise AuthError("low-order public key") from error


def _body(message: bytes, head: bytes, body_bytes: int) -> bytes:
    """The message without its macs; AuthError unless type, reserved bytes and size are right."""
    if message[:4] != head or len(message) not in (body_bytes, body_bytes + wire.MACS_BYTES):
        raise AuthError("not a handshake message of the expected type and size")
    return message[:body_bytes]


class Identity:
    """Our static key pair, with what every handshake derives from it again and again."""

    __slots__ = ("initial_hash", "mac1_key", "private", "public")

    def __init__(self, private: bytes) -> None:
        self.private = _key(private, "private key")
        self.public = crypto.x25519_public(private)
        self.mac1_key = crypto.blake2s(LABEL_MAC1, self.public)
        # The hash an initiation addressed to us starts from.
        self.initial_hash = crypto.blake2s(_HASH_0, self.public)

    def __repr__(self) -> str:
        return f"Identity(public={self.public.hex()})"


class PeerKeys:
    """One remote static key. Cheap until used: curve operation and mac1 key wait for the first handshake."""

    __slots__ = ("_mac1_key", "_static_shared", "identity", "psk", "remote_public")

    def __init__(self, identity: Identity, remote_public: bytes, psk: bytes = NO_PSK) -> None:
        self.identity = identity
        self.remote_public = _key(remote_public, "public key")
        self.psk = _key(psk, "preshared key")
        self._static_shared = b""
        self._mac1_key = b""

    @property
    def static_shared(self) -> bytes:
        """X25519 of the two static keys; AuthError when the peer's key is a low-order point."""
        if not self._static_shared:
            self._static_shared = _dh(self.identity.private, self.remote_public)
        return self._static_shared

    @property
    def mac1_key(self) -> bytes:
        """Key of mac1 in messages to this peer."""
        if not self._mac1_key:
            self._mac1_key = crypto.blake2s(LABEL_MAC1, self.remote_public)
        return self._mac1_key

    def wipe(self) -> None:
        """Drop the secrets; bytes cannot be overwritten, so their memory is freed, not zeroed."""
        self._static_shared = self._mac1_key = b""
        self.psk = NO_PSK

    def __repr__(self) -> str:
        return f"PeerKeys(remote_public={self.remote_public.hex()})"


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """What a completed handshake leaves: two keys of 32 bytes and both ends' indices.

    `handshake_hash` is Noise's final h, equal at both ends, 32 bytes.
    """

    local_index: int
    remote_index: int
    send_key: bytes = field(repr=False)
    recv_key: bytes = field(repr=False)
    is_initiator: bool
    handshake_hash: bytes = field(repr=False)


class _Transcript:
    """Noise's SymmetricState: chaining key and hash. Every key seals one message, so its counter is 0."""

    __slots__ = ("chain", "hash")

    def __init__(self, chain: bytes, hash_: bytes) -> None:
        self.chain = chain
        self.hash = hash_

    def mix_hash(self, data: bytes) -> None:
        self.hash = crypto.blake2s(self.hash, data)

    def mix_chain(self, secret: bytes) -> None:
        (self.chain,) = crypto.kdf(self.chain, secret, 1)

    def mix_key(self, secret: bytes) -> bytes:
        self.chain, key = crypto.kdf(self.chain, secret, 2)
        return key

    def mix_psk(self, psk: bytes) -> bytes:
        self.chain, tau, key = crypto.kdf(self.chain, psk, 3)
        self.mix_hash(tau)
        return key

    def ephemeral(self, public: bytes) -> None:
        """Noise's "e" token in a PSK handshake: the public key goes into the hash and the chaining key."""
        self.mix_hash(public)
        self.mix_chain(public)

    def seal(self, key: bytes, plaintext: bytes) -> bytes:
        sealed = crypto.chacha20poly1305_encrypt(key, 0, plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, key: bytes, sealed: bytes) -> bytes:
        plaintext = crypto.chacha20poly1305_decrypt(key, 0, sealed, self.hash)
        self.mix_hash(sealed)
        return plaintext

    def split(self, *, local_index: int, remote_index: int, is_initiator: bool) -> TransportKeys:
        """Transport keys (§5.4.5): the first is the initiator's sending key."""
        first, second = crypto.kdf(self.chain, b"", 2)
        send, recv = (first, second) if is_initiator else (second, first)
        return TransportKeys(local_index, remote_index, send, recv, is_initiator, self.hash)


class Initiator:
    """An initiation in flight. `packet` is its 116 bytes before the macs."""

    __slots__ = ("_chain", "_ephemeral_private", "_hash", "_keys", "local_index", "packet")

    def __init__(self, keys: PeerKeys, local_index: int, ephemeral_private: bytes, packet: bytes) -> None:
        """Use `start`."""
        self._keys = keys
        self._ephemeral_private = ephemeral_private
        self._chain = self._hash = b""
        self.local_index = local_index
        self.packet = packet

    @classmethod
    def start(
        cls, peer_keys: PeerKeys, *, local_index: int, timestamp: bytes, ephemeral_private: bytes
    ) -> Initiator:
        """Build the first message (§5.4.2). AuthError when the peer's configured key is a low-order point."""
        if len(timestamp) != wire.TIMESTAMP_BYTES:
            raise ValueError("timestamp must have 12 bytes")
        remote, ours = peer_keys.remote_public, peer_keys.identity
        ephemeral = crypto.x25519_public(_key(ephemeral_private, "ephemeral key"))
        transcript = _Transcript(_CHAIN_0, crypto.blake2s(_HASH_0, remote))
        transcript.ephemeral(ephemeral)
        static = transcript.seal(transcript.mix_key(_dh(ephemeral_private, remote)), ours.public)
        stamp = transcript.seal(transcript.mix_key(peer_keys.static_shared), timestamp)
        head = wire.INITIATION_HEAD + wire.index_bytes(local_index)
        self = cls(peer_keys, local_index, ephemeral_private, head + ephemeral + static + stamp)
        self._chain, self._hash = transcript.chain, transcript.hash
        return self

    def finish(self, response: bytes) -> TransportKeys:
        """Read the second message (§5.4.3), 60 bytes or 92 with macs that the caller has checked.

        AuthError leaves everything as it was: a genuine response that comes later still works.
        """
        body = _body(response, wire.RESPONSE_HEAD, wire.RESPONSE_BODY_BYTES)
        if wire.receiver_index(body) != self.local_index:
            raise AuthError("response to another initiation")
        ephemeral = body[_EPHEMERAL_2]
        transcript = _Transcript(self._chain, self._hash)
        transcript.ephemeral(ephemeral)
        transcript.mix_chain(_dh(self._ephemeral_private, ephemeral))
        transcript.mix_chain(_dh(self._keys.identity.private, ephemeral))
        transcript.open(transcript.mix_psk(self._keys.psk), body[_EMPTY_2])
        return transcript.split(
            local_index=self.local_index, remote_index=wire.sender_index(body), is_initiator=True
        )


class StaticOpened:
    """An initiation whose sender key has been decrypted. It proves nothing yet: anyone can name any key."""

    __slots__ = ("_body", "_transcript", "remote_public")

    def __init__(self, body: bytes, transcript: _Transcript, remote_public: bytes) -> None:
        self._body = body
        self._transcript = transcript
        self.remote_public = remote_public

    def verify(self, peer_keys: PeerKeys) -> ReceivedInitiation:
        """Check that the sender holds the key it named. AuthError otherwise; the object may be used again."""
        if peer_keys.remote_public != self.remote_public:
            raise AuthError("initiation of another peer")
        transcript = _Transcript(self._transcript.chain, self._transcript.hash)
        timestamp = transcript.open(transcript.mix_key(peer_keys.static_shared), self._body[_TIMESTAMP_1])
        return ReceivedInitiation(self._body, timestamp, peer_keys, transcript)


class ReceivedInitiation:
    """An authentic initiation, possibly a replay: compare `timestamp` (12 bytes) with the greatest seen."""

    __slots__ = ("_ephemeral", "_keys", "_transcript", "remote_index", "remote_public", "timestamp")

    def __init__(self, body: bytes, timestamp: bytes, keys: PeerKeys, transcript: _Transcript) -> None:
        self.remote_public = keys.remote_public
        self.timestamp = timestamp
        self.remote_index = wire.sender_index(body)
        self._ephemeral = body[_EPHEMERAL_1]
        self._keys = keys
        self._transcript = transcript

    def respond(self, *, local_index: int, ephemeral_private: bytes) -> tuple[bytes, TransportKeys]:
        """The second message (§5.4.3), 60 bytes before the macs, and the keys it leads to."""
        ephemeral = crypto.x25519_public(_key(ephemeral_private, "ephemeral key"))
        transcript = _Transcript(self._transcript.chain, self._transcript.hash)
        transcript.ephemeral(ephemeral)
        transcript.mix_chain(_dh(ephemeral_private, self._ephemeral))
        transcript.mix_chain(_dh(ephemeral_private, self.remote_public))
        empty = transcript.seal(transcript.mix_psk(self._keys.psk), b"")
        head = wire.RESPONSE_HEAD + wire.index_bytes(local_index) + wire.index_bytes(self.remote_index)
        keys = transcript.split(local_index=local_index, remote_index=self.remote_index, is_initiator=False)
        return head + ephemeral + empty, keys


def read_static(identity: Identity, packet: bytes) -> StaticOpened:
    """Decrypt the sender's public key of an initiation.

    116 bytes, or 148 with macs that the caller has checked. AuthError when malformed or not sealed for us.
    """
    body = _body(packet, wire.INITIATION_HEAD, wire.INITIATION_BODY_BYTES)
    ephemeral = body[_EPHEMERAL_1]
    transcript = _Transcript(_CHAIN_0, identity.initial_hash)
    transcript.ephemeral(ephemeral)
    key = transcript.mix_key(_dh(identity.private, ephemeral))
    return StaticOpened(body, transcript, transcript.open(key, body[_STATIC_1]))
