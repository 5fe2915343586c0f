# SPDX-License-Identifier: Apache-2.0
"""Suites against other implementations: OpenSSL (through cryptography) for two, libsodium called directly for AEGIS."""

from __future__ import annotations

import ctypes

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane import aead
from gateway.errors import AuthError, DataplaneError

KEY = bytes(range(32))
SUITES = sorted(aead.suites())
counters = st.integers(0, 2**64 - 1)
messages = st.binary(max_size=300)


def sealed(suite: int, counter: int, message: bytes, ad: bytes) -> bytes:
    key = aead.AeadKey(suite, KEY)
    out = bytearray(len(message) + key.tag_bytes)
    assert key.seal(counter, message, out, ad) == len(out)
    return bytes(out)


def opened(suite: int, counter: int, message: bytes, ad: bytes) -> bytes:
    out = bytearray(len(message))
    return bytes(out[: aead.AeadKey(suite, KEY).open(counter, message, out, ad)])


def openssl(suite: int, counter: int, message: bytes, ad: bytes) -> bytes:
    cipher = {aead.CHACHA20POLY1305: ChaCha20Poly1305, aead.AES256GCM: AESGCM}[suite](KEY)
    return cipher.encrypt(bytes(4) + counter.to_bytes(8, "little"), message, ad)


def sodium_aegis(counter: int, message: bytes, ad: bytes) -> bytes:
    library = ctypes.CDLL(aead.sodium_path())
    out = ctypes.create_string_buffer(len(message) + 32)
    nonce = bytes(8) + counter.to_bytes(8, "little")
    size, ad_size = ctypes.c_ulonglong(len(message)), ctypes.c_ulonglong(len(ad))
    library.crypto_aead_aegis128l_encrypt(out, None, message, size, ad, ad_size, None, nonce, KEY[:16])
    return out.raw


@given(counters, messages, messages)
def test_chacha_is_what_openssl_makes(counter: int, message: bytes, ad: bytes) -> None:
    suite = aead.CHACHA20POLY1305
    assert sealed(suite, counter, message, ad) == openssl(suite, counter, message, ad)


@pytest.mark.skipif(aead.AES256GCM not in SUITES, reason="this CPU has no AES instructions")
@given(counters, messages, messages)
def test_gcm_is_what_openssl_makes(counter: int, message: bytes, ad: bytes) -> None:
    suite = aead.AES256GCM
    assert sealed(suite, counter, message, ad) == openssl(suite, counter, message, ad)


@pytest.mark.skipif(aead.AEGIS128L not in SUITES, reason="libsodium before 1.0.19, or no AES instructions")
@given(counters, messages, messages)
def test_aegis_nonce_and_key_are_placed_as_the_protocol_says(counter: int, message: bytes, ad: bytes) -> None:
    assert sealed(aead.AEGIS128L, counter, message, ad) == sodium_aegis(counter, message, ad)


@pytest.mark.parametrize("suite", SUITES)
@given(counters, messages, messages, st.data())
def test_opens_to_itself_and_to_nothing_else(
    suite: int, counter: int, message: bytes, ad: bytes, data: st.DataObject
) -> None:
    box = sealed(suite, counter, message, ad)
    assert opened(suite, counter, box, ad) == message
    at, flip = data.draw(st.integers(0, len(box) - 1)), data.draw(st.integers(1, 255))
    forged = box[:at] + bytes([box[at] ^ flip]) + box[at + 1 :]
    for bad in (
        (counter, forged, ad),
        (counter ^ flip, box, ad),
        (counter, box, ad + b"x"),
        (counter, box[:-1], ad),
    ):
        with pytest.raises(AuthError):
            opened(suite, *bad)


@pytest.mark.parametrize("suite", SUITES)
def test_in_place(suite: int) -> None:
    key = aead.AeadKey(suite, KEY)
    buffer = bytearray(b"inner packet" + bytes(key.tag_bytes))
    key.seal(1, memoryview(buffer)[:12], buffer)
    assert bytes(buffer) == sealed(suite, 1, b"inner packet", b"")
    assert key.open(1, buffer, buffer) == 12
    assert buffer[:12] == b"inner packet"


def test_wrong_arguments() -> None:
    with pytest.raises(DataplaneError):
        aead.AeadKey(0, KEY)
    with pytest.raises(DataplaneError):
        aead.AeadKey(aead.CHACHA20POLY1305, KEY[:16])
    key = aead.AeadKey(aead.CHACHA20POLY1305, KEY)
    with pytest.raises(ValueError, match="no room"):
        key.seal(0, b"1234", bytearray(19))
    with pytest.raises(ValueError, match="no room"):
        key.open(0, bytes(20), bytearray(3))
    with pytest.raises(AuthError):
        key.open(0, bytes(15), bytearray(15))
    with pytest.raises((TypeError, BufferError)):
        key.seal(0, b"1234", bytes(20))  # type: ignore[arg-type]


def test_the_key_is_not_printed() -> None:
    assert KEY.hex() not in repr(aead.AeadKey(aead.CHACHA20POLY1305, KEY))


def test_many() -> None:
    key = aead.AeadKey(aead.CHACHA20POLY1305, KEY)
    box = bytearray(80)
    key.seal_many(5, 3, bytes(64), box)
    assert bytes(box) == sealed(aead.CHACHA20POLY1305, 7, bytes(64), bytes(16))
    assert key.open_many(7, 4, box, bytearray(80)) == 4
    assert key.open_many(8, 4, box, bytearray(80)) == 0


def test_library_is_named() -> None:
    assert "sodium" in aead.sodium_path()
    assert aead.sodium_version().startswith("1.0.")
