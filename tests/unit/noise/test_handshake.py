# SPDX-License-Identifier: Apache-2.0
"""The Noise messages: both ends agree, and no forged byte gets through or changes anything."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway.errors import AuthError, CryptoError
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import NO_PSK, Identity, Initiator, PeerKeys, TransportKeys, read_static
from tests.unit.noise.endpoints import LOW_ORDER_POINTS, PSK, agree, identity, secret

STAMP = bytes.fromhex("400000006553f10a00000000")
KEY_PAIRS = json.loads((Path(__file__).parents[2] / "vectors" / "wireguard_keys.json").read_text())["pairs"]
A, B = identity("a"), identity("b")


def start(psk: bytes = NO_PSK, remote: bytes = B.public) -> Initiator:
    return Initiator.start(
        PeerKeys(A, remote, psk), local_index=0x11223344, timestamp=STAMP, ephemeral_private=secret("ea")
    )


def answer(packet: bytes, psk: bytes = NO_PSK) -> tuple[bytes, TransportKeys]:
    received = read_static(B, packet).verify(PeerKeys(B, A.public, psk))
    return received.respond(local_index=0x55667788, ephemeral_private=secret("eb"))


@pytest.mark.parametrize("pair", KEY_PAIRS)
def test_published_key_pairs(pair: dict[str, str]) -> None:
    assert Identity(base64.b64decode(pair["private"])).public == base64.b64decode(pair["public"])


@pytest.mark.parametrize("psk", [NO_PSK, PSK], ids=["no-psk", "psk"])
def test_both_ends_agree(psk: bytes) -> None:
    initiator = start(psk)
    assert len(initiator.packet) == wire.INITIATION_BODY_BYTES
    response, responder_keys = answer(initiator.packet, psk)
    assert len(response) == wire.RESPONSE_BODY_BYTES
    keys = initiator.finish(response)
    assert agree(keys, responder_keys)
    assert (keys.local_index, keys.remote_index) == (0x11223344, 0x55667788)


def test_messages_with_macs_read_the_same() -> None:
    initiator = start()
    response, responder_keys = answer(add_macs(initiator.packet, B.mac1_key, None))
    assert agree(initiator.finish(add_macs(response, A.mac1_key, None)), responder_keys)


def test_initiation_tells_who_and_when() -> None:
    opened = read_static(B, start().packet)
    assert opened.remote_public == A.public
    received = opened.verify(PeerKeys(B, A.public))
    assert (received.remote_public, received.timestamp) == (A.public, STAMP)
    assert received.remote_index == 0x11223344


def test_each_handshake_has_its_own_keys() -> None:
    packet = start().packet
    received = read_static(B, packet).verify(PeerKeys(B, A.public))
    _, one = received.respond(local_index=1, ephemeral_private=secret("e1"))
    _, two = received.respond(local_index=1, ephemeral_private=secret("e2"))
    assert len({one.send_key, one.recv_key, two.send_key, two.recv_key}) == 4
    assert one.handshake_hash != two.handshake_hash


def test_wrong_psk_fails_at_the_initiator() -> None:
    initiator = start(PSK)
    response, _ = answer(initiator.packet, NO_PSK)
    with pytest.raises(AuthError):
        initiator.finish(response)
    good, keys = answer(initiator.packet, PSK)
    assert agree(initiator.finish(good), keys)


def test_sealed_for_another_key() -> None:
    with pytest.raises(AuthError):
        read_static(B, start(remote=identity("c").public).packet)


def test_verify_needs_the_key_that_was_named() -> None:
    opened = read_static(B, start().packet)
    with pytest.raises(AuthError):
        opened.verify(PeerKeys(B, identity("c").public))
    assert opened.verify(PeerKeys(B, A.public)).timestamp == STAMP


def test_naming_anothers_key_is_not_enough() -> None:
    """Mallory seals Alice's public key: the first step believes it, the second does not."""
    mallory = identity("mallory")
    mallory.public = A.public
    forged = Initiator.start(
        PeerKeys(mallory, B.public), local_index=1, timestamp=STAMP, ephemeral_private=secret("em")
    )
    opened = read_static(B, forged.packet)
    assert opened.remote_public == A.public
    with pytest.raises(AuthError):
        opened.verify(PeerKeys(B, A.public))


@pytest.mark.parametrize("offset", range(wire.INITIATION_BODY_BYTES))
def test_initiation_tampered_at(offset: int) -> None:
    packet = bytearray(start().packet)
    packet[offset] ^= 0x80
    peer_keys = PeerKeys(B, A.public)
    if offset in range(4, 8):  # the sender's index is covered by mac1 and by the response's tag only
        assert read_static(B, bytes(packet)).verify(peer_keys).remote_index != 0x11223344
        return
    with pytest.raises(AuthError):
        read_static(B, bytes(packet)).verify(peer_keys)


@pytest.mark.parametrize("offset", range(wire.RESPONSE_BODY_BYTES))
def test_response_tampered_at(offset: int) -> None:
    initiator = start()
    response, responder_keys = answer(initiator.packet)
    forged = bytearray(response)
    forged[offset] ^= 0x80
    if offset in range(4, 8):  # covered by mac1 only: nothing of the peer authenticates its own index
        assert initiator.finish(bytes(forged)).remote_index != 0x55667788
    else:
        with pytest.raises(AuthError):
            initiator.finish(bytes(forged))
    assert agree(initiator.finish(response), responder_keys)


def test_ignored_bit_of_an_ephemeral_still_authenticates() -> None:
    """Bit 255 does not change the curve point (RFC 7748 §5), but the transcript covers it."""
    packet = bytearray(start().packet)
    packet[39] ^= 0x80
    with pytest.raises(AuthError):
        read_static(B, bytes(packet))


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_low_order_points_are_refused_everywhere(point: bytes) -> None:
    initiator = start()
    packet = initiator.packet
    with pytest.raises(AuthError, match="low-order"):
        read_static(B, packet[:8] + point + packet[40:])
    response, responder_keys = answer(packet)
    with pytest.raises(AuthError, match="low-order"):
        initiator.finish(response[:12] + point + response[44:])
    assert agree(initiator.finish(response), responder_keys)
    with pytest.raises(AuthError, match="low-order"):
        start(remote=point)


def test_low_order_static_key_in_an_initiation() -> None:
    mallory = identity("mallory")
    mallory.public = LOW_ORDER_POINTS[0]
    packet = Initiator.start(
        PeerKeys(mallory, B.public), local_index=1, timestamp=STAMP, ephemeral_private=secret("em")
    ).packet
    opened = read_static(B, packet)
    with pytest.raises(AuthError, match="low-order"):
        opened.verify(PeerKeys(B, LOW_ORDER_POINTS[0]))


@given(st.binary(max_size=200))
def test_garbage_initiation(garbage: bytes) -> None:
    with pytest.raises(AuthError):
        read_static(B, garbage)


@given(st.binary(min_size=112, max_size=112), st.sampled_from([b"", bytes(32)]))
def test_garbage_body_of_the_right_size(garbage: bytes, macs: bytes) -> None:
    with pytest.raises(AuthError):
        read_static(B, wire.INITIATION_HEAD + garbage + macs)


@given(st.one_of(st.binary(max_size=100), st.binary(min_size=48, max_size=48)))
def test_garbage_response(garbage: bytes) -> None:
    initiator = start()
    head = wire.RESPONSE_HEAD + bytes(4) + wire.index_bytes(initiator.local_index)
    for message in (garbage, head + garbage):
        with pytest.raises(AuthError):
            initiator.finish(message)


@pytest.mark.parametrize("size", [0, 3, 4, 59, 61, 91, 93, 116, 148])
def test_response_of_a_wrong_size(size: int) -> None:
    with pytest.raises(AuthError):
        start().finish((wire.RESPONSE_HEAD + bytes(200))[:size])


@pytest.mark.parametrize("size", [0, 31, 33])
def test_arguments_are_checked(size: int) -> None:
    wrong = bytes(size)
    with pytest.raises(ValueError, match="private key"):
        Identity(wrong)
    with pytest.raises(ValueError, match="public key"):
        PeerKeys(A, wrong)
    with pytest.raises(ValueError, match="preshared"):
        PeerKeys(A, B.public, wrong)
    with pytest.raises(ValueError, match="ephemeral"):
        Initiator.start(PeerKeys(A, B.public), local_index=1, timestamp=STAMP, ephemeral_private=wrong)
    with pytest.raises(ValueError, match="timestamp"):
        Initiator.start(PeerKeys(A, B.public), local_index=1, timestamp=wrong, ephemeral_private=secret("e"))


def test_index_must_fit() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        read_static(B, start().packet).verify(PeerKeys(B, A.public)).respond(
            local_index=1 << 32, ephemeral_private=secret("e")
        )


def test_wipe_forgets_the_psk() -> None:
    keys = PeerKeys(A, B.public, PSK)
    assert keys.static_shared
    keys.wipe()
    assert keys.psk == NO_PSK
    assert not keys._static_shared


def test_secrets_are_not_in_reprs() -> None:
    keys = PeerKeys(A, B.public, PSK)
    initiator = Initiator.start(keys, local_index=1, timestamp=STAMP, ephemeral_private=secret("ea"))
    received = read_static(B, initiator.packet).verify(PeerKeys(B, A.public, PSK))
    _, transport = received.respond(local_index=2, ephemeral_private=secret("eb"))
    shown = " ".join(repr(thing) for thing in (A, keys, initiator, received, transport))
    hidden = (A.private, PSK, keys.static_shared, secret("ea"), transport.send_key, transport.recv_key)
    for value in (*hidden, transport.handshake_hash):
        assert value.hex() not in shown
        assert repr(value)[2:-1] not in shown


def test_errors_are_crypto_errors() -> None:
    assert issubclass(AuthError, CryptoError)


def test_configured_peer_is_small_until_it_speaks() -> None:
    """100,000 of them: at most 200 bytes beside the peer's 65-byte public key, and no curve operation."""
    keys = PeerKeys(A, B.public)
    own = sys.getsizeof(keys)
    shared = (keys.identity is A, keys.psk is NO_PSK, keys._static_shared == b"", keys._mac1_key == b"")
    assert all(shared)
    assert own <= 200
