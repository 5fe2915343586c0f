# SPDX-License-Identifier: Apache-2.0
"""Our handshake against noiseprotocol, an independent implementation of the Noise framework.

WireGuard is Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s with the prologue IDENTIFIER. Message type, reserved bytes
and indices travel outside Noise, so they are put before the oracle's messages here.
"""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from gateway import wire
from gateway.constants import CONSTRUCTION, IDENTIFIER
from gateway.crypto import chacha20poly1305_decrypt, chacha20poly1305_encrypt
from gateway.noise.handshake import NO_PSK, Identity, Initiator, PeerKeys, TransportKeys, read_static
from tests.unit.noise.endpoints import PSK, secret

INITIATOR_INDEX, RESPONDER_INDEX = 0x01020304, 0xA1A2A3A4
INITIATION_HEADER = wire.INITIATION_HEAD + wire.index_bytes(INITIATOR_INDEX)
RESPONSE_HEADER = wire.RESPONSE_HEAD + wire.index_bytes(RESPONDER_INDEX) + wire.index_bytes(INITIATOR_INDEX)
STAMP = bytes.fromhex("400000006553f10a00000000")
keys32 = st.binary(min_size=32, max_size=32)


def oracle(private: bytes, psk: bytes, *, remote: bytes | None = None) -> NoiseConnection:
    """An initiator when it knows `remote`, else a responder."""
    connection = NoiseConnection.from_name(CONSTRUCTION)
    connection.set_psks(psk)
    connection.set_prologue(IDENTIFIER)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, private)
    if remote is None:
        connection.set_as_responder()
    else:
        connection.set_as_initiator()
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
    connection.start_handshake()
    return connection


def check_transport(keys: TransportKeys, other: NoiseConnection) -> None:
    """Same final hash, and packets of both directions open under WireGuard's nonces."""
    assert other.handshake_finished
    assert other.get_handshake_hash() == keys.handshake_hash
    for counter in range(3):
        plain = b"packet %d" % counter
        assert other.decrypt(chacha20poly1305_encrypt(keys.send_key, counter, plain, b"")) == plain
        assert chacha20poly1305_decrypt(keys.recv_key, counter, other.encrypt(plain), b"") == plain


def respond_to_oracle(private_i: bytes, private_r: bytes, psk: bytes, ephemeral: bytes) -> None:
    ours = Identity(private_r)
    theirs = Identity(private_i).public
    connection = oracle(private_i, psk, remote=ours.public)
    opened = read_static(ours, INITIATION_HEADER + bytes(connection.write_message(STAMP)))
    assert opened.remote_public == theirs
    received = opened.verify(PeerKeys(ours, theirs, psk))
    assert received.timestamp == STAMP
    assert received.remote_index == INITIATOR_INDEX
    response, keys = received.respond(local_index=RESPONDER_INDEX, ephemeral_private=ephemeral)
    assert response.startswith(RESPONSE_HEADER)
    assert connection.read_message(response[len(RESPONSE_HEADER) :]) == b""
    check_transport(keys, connection)


def initiate_to_oracle(private_i: bytes, private_r: bytes, psk: bytes, ephemeral: bytes) -> None:
    ours = Identity(private_i)
    connection = oracle(private_r, psk)
    initiator = Initiator.start(
        PeerKeys(ours, Identity(private_r).public, psk),
        local_index=INITIATOR_INDEX,
        timestamp=STAMP,
        ephemeral_private=ephemeral,
    )
    assert initiator.packet.startswith(INITIATION_HEADER)
    assert connection.read_message(initiator.packet[len(INITIATION_HEADER) :]) == STAMP
    keys = initiator.finish(RESPONSE_HEADER + bytes(connection.write_message(b"")))
    assert (keys.local_index, keys.remote_index) == (INITIATOR_INDEX, RESPONDER_INDEX)
    check_transport(keys, connection)


@pytest.mark.parametrize("psk", [NO_PSK, PSK], ids=["no-psk", "psk"])
def test_oracle_initiates(psk: bytes) -> None:
    respond_to_oracle(secret("i"), secret("r"), psk, secret("e"))


@pytest.mark.parametrize("psk", [NO_PSK, PSK], ids=["no-psk", "psk"])
def test_oracle_responds(psk: bytes) -> None:
    initiate_to_oracle(secret("i"), secret("r"), psk, secret("e"))


@settings(max_examples=40, deadline=None)
@given(keys32, keys32, keys32, keys32)
def test_any_keys_in_both_roles(private_i: bytes, private_r: bytes, psk: bytes, ephemeral: bytes) -> None:
    respond_to_oracle(private_i, private_r, psk, ephemeral)
    initiate_to_oracle(private_i, private_r, psk, ephemeral)


def test_oracle_refuses_another_psk() -> None:
    ours, theirs = Identity(secret("r")), Identity(secret("i"))
    connection = oracle(theirs.private, PSK, remote=ours.public)
    opened = read_static(ours, INITIATION_HEADER + bytes(connection.write_message(STAMP)))
    response, _ = opened.verify(PeerKeys(ours, theirs.public)).respond(
        local_index=RESPONDER_INDEX, ephemeral_private=secret("e")
    )
    with pytest.raises(InvalidTag):
        connection.read_message(response[len(RESPONSE_HEADER) :])
