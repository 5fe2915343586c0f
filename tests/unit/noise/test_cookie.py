# SPDX-License-Identifier: Apache-2.0
"""mac1, mac2 and cookies: computed independently here with hashlib and pysodium, then their life in time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway._sodium import pysodium
from gateway.constants import NS_PER_S
from gateway.errors import AuthError
from gateway.noise.cookie import CookieChecker, CookieJar, add_macs
from tests.unit.noise.endpoints import START_NS, identity, pair, secret

SOURCE = bytes((192, 0, 2, 1)) + (51820).to_bytes(2, "big")
NONCE = secret("nonce")[:24]
B = identity("b")


def drawer() -> Callable[[int], bytes]:
    drawn = 0

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return secret(f"cookie secret {drawn}")[:size]

    return draw


def checker() -> CookieChecker:
    return CookieChecker(B.public, drawer())


def initiation() -> bytes:
    return pair()[0].initiate(START_NS)


def test_macs_by_the_whitepapers_formulas() -> None:
    body = bytes(range(116))
    key = hashlib.blake2s(b"mac1----" + B.public).digest()
    mac1 = hashlib.blake2s(body, digest_size=16, key=key).digest()
    assert add_macs(body, B.mac1_key, None) == body + mac1 + bytes(16)
    cookie = secret("cookie")[:16]
    mac2 = hashlib.blake2s(body + mac1, digest_size=16, key=cookie).digest()
    assert add_macs(body, B.mac1_key, cookie) == body + mac1 + mac2


def test_reply_by_the_whitepapers_formulas() -> None:
    message = initiation()
    reply = checker().make_reply(START_NS, message, SOURCE, NONCE)
    assert len(reply) == wire.COOKIE_REPLY_BYTES
    assert reply[:4] == bytes((3, 0, 0, 0))
    assert reply[4:8] == message[4:8]
    assert reply[8:32] == NONCE
    key = hashlib.blake2s(b"cookie--" + B.public).digest()
    cookie = pysodium.crypto_aead_xchacha20poly1305_ietf_decrypt(reply[32:], message[116:132], NONCE, key)
    assert cookie == hashlib.blake2s(SOURCE, digest_size=16, key=secret("cookie secret 1")).digest()


@pytest.mark.parametrize("offset", range(132))
def test_mac1_covers_every_byte(offset: int) -> None:
    message = bytearray(initiation())
    assert checker().mac1_valid(bytes(message))
    message[offset] ^= 1
    assert not checker().mac1_valid(bytes(message))


def with_cookie(gate: CookieChecker, now_ns: int, source: bytes = SOURCE) -> bytes:
    """An initiation that carries the cookie which `gate` gives at `now_ns`."""
    client, _ = pair()
    message = client.initiate(START_NS)
    client.peer.receive_cookie(START_NS, gate.make_reply(now_ns, message, source, NONCE))
    return client.initiate(START_NS + 5 * NS_PER_S)


def test_cookie_round_trip() -> None:
    gate = checker()
    message = with_cookie(gate, START_NS)
    assert gate.mac1_valid(message)
    assert gate.mac2_valid(START_NS, message, SOURCE)


def test_no_cookie_is_no_mac2() -> None:
    assert not checker().mac2_valid(START_NS, initiation(), SOURCE)


@pytest.mark.parametrize("source", [SOURCE[:5] + b"\0", b"\0" + SOURCE[1:], b"", bytes(18)])
def test_cookie_is_bound_to_address_and_port(source: bytes) -> None:
    gate = checker()
    assert not gate.mac2_valid(START_NS, with_cookie(gate, START_NS), source)


@pytest.mark.parametrize("offset", range(148))
def test_mac2_covers_every_byte(offset: int) -> None:
    gate = checker()
    message = bytearray(with_cookie(gate, START_NS))
    message[offset] ^= 1
    assert not gate.mac2_valid(START_NS, bytes(message), SOURCE)


@pytest.mark.parametrize(
    ("given_s", "valid_s", "invalid_s"),
    [
        (0, 239, 240),  # given when the secret was new: accepted as previous until the secret is 240 s old
        (119, 239, 240),  # given when it was about to go: two minutes all the same
    ],
)
def test_secret_rotation(given_s: int, valid_s: int, invalid_s: int) -> None:
    gate = checker()
    gate.mac2_valid(START_NS, with_cookie(gate, START_NS), SOURCE)
    message = with_cookie(gate, START_NS + given_s * NS_PER_S)
    assert gate.mac2_valid(START_NS + 121 * NS_PER_S, message, SOURCE)
    assert gate.mac2_valid(START_NS + valid_s * NS_PER_S, message, SOURCE)
    assert not gate.mac2_valid(START_NS + invalid_s * NS_PER_S, message, SOURCE)


def test_new_cookies_use_the_new_secret() -> None:
    gate = checker()
    message = initiation()
    early = gate.make_reply(START_NS, message, SOURCE, NONCE)
    assert gate.make_reply(START_NS + 119 * NS_PER_S, message, SOURCE, NONCE) == early
    assert gate.make_reply(START_NS + 120 * NS_PER_S, message, SOURCE, NONCE) != early


def test_a_long_pause_drops_both_secrets() -> None:
    gate = checker()
    message = with_cookie(gate, START_NS)
    assert not gate.mac2_valid(START_NS + 3600 * NS_PER_S, message, SOURCE)


class TestJar:
    """The initiator's side."""

    def jar(self) -> tuple[CookieJar, bytes, bytes]:
        message = initiation()
        jar = CookieJar(B.public)
        jar.sent(message)
        return jar, message, checker().make_reply(START_NS, message, SOURCE, NONCE)

    def test_kept_for_two_minutes(self) -> None:
        jar, _, reply = self.jar()
        assert jar.current(START_NS) is None
        jar.consume_reply(START_NS, reply)
        assert jar.current(START_NS + 120 * NS_PER_S - 1)
        assert jar.current(START_NS + 120 * NS_PER_S) is None

    @pytest.mark.parametrize("offset", range(64))
    def test_tampered_reply(self, offset: int) -> None:
        jar, _, reply = self.jar()
        forged = bytearray(reply)
        forged[offset] ^= 1
        with pytest.raises(AuthError):
            jar.consume_reply(START_NS, bytes(forged))
        assert jar.current(START_NS) is None
        jar.consume_reply(START_NS, reply)
        assert jar.current(START_NS)

    def test_one_reply_per_message(self) -> None:
        jar, _, reply = self.jar()
        jar.consume_reply(START_NS, reply)
        with pytest.raises(AuthError):
            jar.consume_reply(START_NS, reply)

    def test_reply_to_an_earlier_message(self) -> None:
        jar, _, reply = self.jar()
        jar.sent(pair()[1].initiate(START_NS))
        with pytest.raises(AuthError):
            jar.consume_reply(START_NS, reply)

    def test_nothing_sent(self) -> None:
        _, _, reply = self.jar()
        with pytest.raises(AuthError):
            CookieJar(B.public).consume_reply(START_NS, reply)

    @given(st.one_of(st.binary(max_size=100), st.binary(min_size=64, max_size=64)))
    def test_garbage(self, garbage: bytes) -> None:
        jar, message, _ = self.jar()
        for reply in (garbage, wire.COOKIE_REPLY_HEAD + message[4:8] + garbage[8:]):
            with pytest.raises(AuthError):
                jar.consume_reply(START_NS, reply)
        assert jar.current(START_NS) is None

    def test_cookie_is_not_in_the_repr(self) -> None:
        jar, _, reply = self.jar()
        jar.consume_reply(START_NS, reply)
        cookie = jar.current(START_NS)
        assert cookie is not None
        assert repr(cookie)[2:-1] not in repr(jar)
