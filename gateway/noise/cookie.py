# SPDX-License-Identifier: Apache-2.0
"""mac1, mac2 and cookie replies (whitepaper §5.3, §5.4.4, §5.4.7).

mac1 proves that the sender knows our public key, mac2 that it receives at its address. Messages here are
whole: 148 or 92 bytes, both macs included.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from gateway import crypto, wire
from gateway.constants import COOKIE_REFRESH_TIME_NS, LABEL_COOKIE, LABEL_MAC1
from gateway.errors import AuthError

_SECRET_BYTES: Final = 32
# A client has a handful of ways to its gateway; a policy allows eight by default.
_WAYS_MAX: Final = 8


def add_macs(msg_without_macs: bytes, mac1_key: bytes, cookie: bytes | None) -> bytes:
    """The message with mac1 and mac2; mac2 is zero without a cookie. `mac1_key` is the receiver's."""
    message = msg_without_macs + crypto.blake2s_mac(mac1_key, msg_without_macs)
    return message + (crypto.blake2s_mac(cookie, message) if cookie else wire.NO_MAC)


class CookieChecker:
    """The side under load. Cookies are macs of the source under a secret, so it keeps nothing per sender.

    The secret is replaced at its first use after 120 s and its predecessor is accepted until it is 240 s old:
    a cookie thus works for at least the two minutes that its receiver keeps it, never for more than four.
    """

    __slots__ = ("_born_ns", "_cookie_key", "_draw", "_mac1_key", "_previous", "_previous_born_ns", "_secret")

    def __init__(self, public: bytes, draw: Callable[[int], bytes]) -> None:
        """`public` is our own static key, `draw(n)` returns n unpredictable bytes."""
        self._mac1_key = crypto.blake2s(LABEL_MAC1, public)
        self._cookie_key = crypto.blake2s(LABEL_COOKIE, public)
        self._draw = draw
        self._secret = self._previous = b""
        self._born_ns = self._previous_born_ns = 0

    def mac1_valid(self, message: bytes) -> bool:
        """Whether the sender of an initiation or response knows our public key."""
        expected = crypto.blake2s_mac(self._mac1_key, wire.before_mac1(message))
        return crypto.constant_time_equal(expected, wire.mac1(message))

    def mac2_valid(self, now_ns: int, message: bytes, source: bytes) -> bool:
        """Whether the message carries a cookie we gave to `source` (address and port bytes)."""
        given = wire.mac2(message)
        if given == wire.NO_MAC:
            return False
        covered = wire.before_mac2(message)
        return any(
            crypto.constant_time_equal(crypto.blake2s_mac(crypto.blake2s_mac(secret, source), covered), given)
            for secret in self._secrets(now_ns)
        )

    def make_reply(self, now_ns: int, message: bytes, source: bytes, nonce24: bytes) -> bytes:
        """The 64 bytes that hand `source` its cookie; mac1 of the message is needed to open them."""
        cookie = crypto.blake2s_mac(self._secrets(now_ns)[0], source)
        sealed = crypto.xchacha20poly1305_encrypt(self._cookie_key, nonce24, cookie, wire.mac1(message))
        return wire.COOKIE_REPLY_HEAD + message[wire.SENDER] + nonce24 + sealed

    def _secrets(self, now_ns: int) -> tuple[bytes, ...]:
        """The secrets accepted now, the one for new cookies first."""
        age_ns = now_ns - self._born_ns
        if not self._secret or age_ns >= COOKIE_REFRESH_TIME_NS:
            self._previous = self._secret if age_ns < 2 * COOKIE_REFRESH_TIME_NS else b""
            self._previous_born_ns = self._born_ns
            self._secret, self._born_ns = self._draw(_SECRET_BYTES), now_ns
        if self._previous and now_ns - self._previous_born_ns >= 2 * COOKIE_REFRESH_TIME_NS:
            self._previous = b""
        return (self._secret, self._previous) if self._previous else (self._secret,)


class CookieJar:
    """The side that was told to come back with a cookie: one per peer with a recent handshake.

    A cookie is bound to the address that it was asked from. Who has several ways to the peer names the one by which
    each message leaves (`way`), and has a cookie for each of the last few.
    """

    __slots__ = ("_cookies", "_mac1", "_remote_public", "_sender_index", "_way")

    def __init__(self, remote_public: bytes) -> None:
        self._remote_public = remote_public
        self._mac1 = b""
        self._sender_index = 0
        self._way: Hashable = None
        self._cookies: dict[Hashable, tuple[bytes, int]] = {}  # with when it expires, oldest first

    def sent(self, message: bytes, way: Hashable = None) -> None:
        """Remember the whole message just sent; only a reply to the last one is believed."""
        self._mac1 = wire.mac1(message)
        self._sender_index = wire.sender_index(message)
        self._way = way

    def consume_reply(self, now_ns: int, reply: bytes, lifetime_ns: int = COOKIE_REFRESH_TIME_NS) -> None:
        """Keep the cookie of an authentic reply to the last message, once; AuthError changes nothing."""
        if wire.message_type(reply) != wire.MSG_COOKIE_REPLY:
            raise AuthError("not a cookie reply")
        if not self._mac1 or wire.receiver_index(reply) != self._sender_index:
            raise AuthError("cookie reply to a message we did not send last")
        key = crypto.blake2s(LABEL_COOKIE, self._remote_public)
        cookie = crypto.xchacha20poly1305_decrypt(key, reply[8:32], reply[32:], self._mac1)
        self._cookies.pop(self._way, None)
        if len(self._cookies) >= _WAYS_MAX:
            del self._cookies[next(iter(self._cookies))]
        self._cookies[self._way] = cookie, now_ns + lifetime_ns
        self._mac1 = b""

    @property
    def full(self) -> bool:
        """Whether it has a cookie, fresh or stale."""
        return bool(self._cookies)

    def current(self, now_ns: int, way: Hashable = None) -> bytes | None:
        """The cookie for mac2, or None when there is none younger than two minutes."""
        cookie, expires_ns = self._cookies.get(way, (None, 0))
        return cookie if now_ns < expires_ns else None

    def __repr__(self) -> str:
        return f"CookieJar(cookies={len(self._cookies)})"
