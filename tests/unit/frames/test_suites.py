# SPDX-License-Identifier: Apache-2.0
"""Suite numbers, derived keys, session ids and the type 5 header."""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from pathlib import Path

import pytest

from gateway import crypto, suites
from gateway.errors import CryptoError
from gateway.suites import Suite

KEY = bytes(range(32))
AEAD_H = Path(__file__).resolve().parents[3] / "csrc" / "include" / "jv" / "aead.h"


def reference_kdf1(key: bytes, data: bytes) -> bytes:
    """HKDF (RFC 5869) over HMAC-BLAKE2s, one output, by the standard library alone."""
    extracted = hmac.digest(key, data, "blake2s")
    return hmac.digest(extracted, b"\1", "blake2s")


@pytest.mark.parametrize("suite", [Suite.CONTROL, Suite.AES_256_GCM, Suite.AEGIS_128L])
def test_derived_keys(suite: Suite) -> None:
    name = {0: b"control", 2: b"aes-256-gcm", 3: b"aegis-128l"}[suite]
    assert suites.traffic_key(KEY, suite) == reference_kdf1(KEY, b"jvpn1 " + name)


def test_no_key_serves_two_suites() -> None:
    assert len({suites.traffic_key(KEY, suite) for suite in Suite}) == len(Suite)
    assert suites.traffic_key(KEY, Suite.CHACHA20_POLY1305) == KEY  # type 4 is WireGuard, byte for byte


def test_a_key_of_the_wrong_size() -> None:
    for suite in Suite:
        with pytest.raises(CryptoError):
            suites.traffic_key(KEY[:31], suite)


def test_session_id() -> None:
    digest = hashlib.blake2s(b"jvpn1 session" + KEY).digest()
    assert suites.session_id(KEY) == digest[:16]


def test_traits() -> None:
    traits = {suite.name: suites.TRAITS[suite] for suite in Suite}
    assert [t.tag_bytes for t in traits.values()] == [16, 16, 16, 32]
    assert [t.packet_limit for t in traits.values()] == [1 << 60, 1 << 60, 1 << 26, 1 << 60]
    assert [t.message_type for t in traits.values()] == [5, 4, 5, 5]
    assert suites.BY_NAME["aegis-128l"] is Suite.AEGIS_128L and "control" not in suites.BY_NAME


def test_csrc_has_the_same_numbers() -> None:
    theirs = dict(re.findall(r"JV_SUITE_(\w+) = (\d+)", AEAD_H.read_text()))
    ours = {suite.name.replace("_", ""): str(suite.value) for suite in Suite if suite}
    assert {name.replace("_", ""): value for name, value in theirs.items()} == ours


def test_nonces() -> None:
    assert suites.nonce(Suite.AES_256_GCM, 0x0102) == bytes(4) + b"\2\1" + bytes(6)
    assert suites.nonce(Suite.AEGIS_128L, 1) == bytes(8) + b"\1" + bytes(7)
    with pytest.raises(OverflowError):
        suites.nonce(Suite.CONTROL, 1 << 64)


def test_header() -> None:
    header = suites.header(Suite.AEGIS_128L, 7, 1, 0x11223344, 0x0102030405060708)
    assert header.hex() == "0503070144332211" + "0807060504030201"
    assert suites.read_header(header + b"x") == (3, 7, 1, 0x11223344, 0x0102030405060708)
    for size in range(16):
        assert suites.read_header(header[:size]) is None
    assert suites.read_header(b"\4" + header[1:]) is None
    with pytest.raises(struct.error):
        suites.header(Suite.CONTROL, 256, 0, 0, 0)


def test_choice_follows_the_offer() -> None:
    everything = tuple(Suite)
    assert suites.choose([3, 2, 1], everything) is Suite.AEGIS_128L
    assert suites.choose([1, 3], everything) is Suite.CHACHA20_POLY1305
    assert suites.choose([77, 2], everything) is Suite.AES_256_GCM
    assert suites.choose([3, 2], [Suite.CHACHA20_POLY1305]) is None
    assert suites.choose([0, 77], everything) is None


def test_what_a_host_offers() -> None:
    def features(aes: bool, aegis: bool) -> crypto.SodiumFeatures:
        return crypto.SodiumFeatures("1.0.20", "", aes256gcm=aes, aegis128l=aegis, aegis256=aegis)

    assert suites.available(features(True, True)) == suites.PREFERENCE
    assert suites.available(features(False, True)) == (Suite.CHACHA20_POLY1305,)
    assert suites.available(features(True, False)) == (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)


def test_the_largest_tag() -> None:
    assert suites.max_tag_bytes(suites.PREFERENCE) == 32
    assert suites.max_tag_bytes([Suite.CHACHA20_POLY1305]) == 16
