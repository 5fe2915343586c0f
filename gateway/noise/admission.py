# SPDX-License-Identifier: Apache-2.0
"""Which handshake datagrams may cost a curve operation (whitepaper §5.3; protocol: what bad input gets).

Rule 1: the order is size and type, mac1, then under load: cookie, then the bucket of the source. Each step is
cheaper than what it guards, and a source is only counted once mac2 has shown that it is real.
Rule 2: memory is fixed at construction, whatever arrives. A verdict is counted by name and never logged.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Final

from gateway import crypto, wire
from gateway.constants import (
    NS_PER_S,
    RATE_LIMIT_BURST,
    RATE_LIMIT_PER_S,
    RATE_LIMIT_SOURCES,
    UNDER_LOAD_HANDSHAKES_PER_S,
)
from gateway.noise.cookie import CookieChecker

# Under load for at least this long (kernel WireGuard, wireguard-go: one second), so that it does not flap.
_UNDER_LOAD_HOLD_NS: Final = NS_PER_S
# A queue this full is load, whatever the rate (kernel WireGuard: an eighth).
_BACKLOG_FRACTION: Final = 1 / 8
# Rows one source may use: enough that its set is hardly ever full of other active sources.
_WAYS: Final = 4


class Verdict(IntEnum):
    """What to do with a handshake datagram."""

    ACCEPT = 0
    BAD_SIZE = 1
    BAD_TYPE = 2
    BAD_MAC1 = 3
    COOKIE_REQUIRED = 4
    RATE_LIMITED = 5


class Admission:
    """The gate before every handshake message, for initiator and responder alike; one per identity."""

    __slots__ = ("_backlogged", "_checker", "_counts", "_meter", "_sources", "_under_load_until_ns")

    def __init__(
        self,
        checker: CookieChecker,
        *,
        table_key: bytes,
        under_load_per_s: int = UNDER_LOAD_HANDSHAKES_PER_S,
        sources: int = RATE_LIMIT_SOURCES,
    ) -> None:
        """`table_key`: 32 unpredictable bytes, so that nobody can aim at the row of another source."""
        self._checker = checker
        self._sources = SourceBuckets(table_key, sources)
        self._meter = _RateMeter(under_load_per_s)
        self._counts = [0] * len(Verdict)
        self._under_load_until_ns: int | None = None
        self._backlogged = False

    def check(self, now_ns: int, msg: bytes, source: bytes, source_key: bytes) -> Verdict:
        """Judge one datagram and count the verdict.

        `source`: address and port bytes, what a cookie is bound to. `source_key`: the /32 or /64 prefix, what
        the rate limit counts. A cookie reply (type 3) is checked for size only: it costs no curve operation.
        COOKIE_REQUIRED asks the caller to send `make_reply`.
        """
        verdict = self._judge(now_ns, msg, source, source_key)
        self._counts[verdict] += 1
        return verdict

    def make_reply(self, now_ns: int, msg: bytes, source: bytes, nonce24: bytes) -> bytes:
        """The 64 bytes that answer a message with COOKIE_REQUIRED; less than any such message has."""
        return self._checker.make_reply(now_ns, msg, source, nonce24)

    def serve(self, checker: CookieChecker) -> None:
        """The identity is another one: so are mac1 and cookies. Rates and counters go on."""
        self._checker = checker

    def set_limit(self, under_load_per_s: int) -> None:
        """What is load from now on; what was counted counts on."""
        self._meter.set_limit(under_load_per_s)

    def note_backlog(self, fraction: float) -> None:
        """Tell how full the queue of waiting handshakes is, 0..1; takes effect at the next `check`."""
        self._backlogged = fraction >= _BACKLOG_FRACTION

    def under_load(self, now_ns: int) -> bool:
        """Whether cookies are asked for now."""
        return self._under_load_until_ns is not None and now_ns < self._under_load_until_ns

    @property
    def counters(self) -> dict[str, int]:
        """Verdicts by lower-case name since the start."""
        return {verdict.name.lower(): self._counts[verdict] for verdict in Verdict}

    def _judge(self, now_ns: int, msg: bytes, source: bytes, source_key: bytes) -> Verdict:
        kind = wire.message_type(msg)
        if not kind:
            return Verdict.BAD_SIZE if wire.names_handshake(msg) else Verdict.BAD_TYPE
        if kind == wire.MSG_COOKIE_REPLY:
            return Verdict.ACCEPT
        if not self._checker.mac1_valid(msg):
            return Verdict.BAD_MAC1
        if not self._loaded(now_ns):
            return Verdict.ACCEPT
        if not self._checker.mac2_valid(now_ns, msg, source):
            return Verdict.COOKIE_REQUIRED
        return Verdict.ACCEPT if self._sources.take(now_ns, source_key) else Verdict.RATE_LIMITED

    def _loaded(self, now_ns: int) -> bool:
        """Count one message that would be handled, and say whether that is too many."""
        if self._meter.add(now_ns) or self._backlogged:
            self._under_load_until_ns = now_ns + _UNDER_LOAD_HOLD_NS
        return self.under_load(now_ns)


class _RateMeter:
    """Events in the last second, from two windows of one second: the older counts by its remaining share."""

    __slots__ = ("_count", "_limit", "_previous", "_start_ns")

    def __init__(self, limit_per_s: int) -> None:
        self._limit = limit_per_s
        self._count = self._previous = self._start_ns = 0

    def set_limit(self, limit_per_s: int) -> None:
        """Another limit for the same events."""
        self._limit = limit_per_s

    def add(self, now_ns: int) -> bool:
        """Count one event; whether there were more than the limit in the last second."""
        age_ns = now_ns - self._start_ns
        if age_ns >= NS_PER_S:
            self._previous = self._count if age_ns < 2 * NS_PER_S else 0
            self._start_ns += age_ns // NS_PER_S * NS_PER_S
            age_ns %= NS_PER_S
            self._count = 0
        self._count += 1
        return self._count * NS_PER_S + self._previous * (NS_PER_S - age_ns) > self._limit * NS_PER_S


class SourceBuckets:
    """Token buckets of source prefixes in a table of fixed size: 20/s, burst 5, as WireGuard's ratelimiter.

    A bucket is one time, when it will be full again (GCRA). A row is 16 bytes: 8 of a keyed hash, 8 of time.
    A source has four rows to be in. When all are taken the one closest to full gives way: heavy senders
    keep their debt, and a flood of real sources cannot lock a newcomer out.
    """

    __slots__ = ("_full_at_ns", "_key", "_sets", "_tags")

    _COST_NS: Final = NS_PER_S // RATE_LIMIT_PER_S
    _DEBT_MAX_NS: Final = (RATE_LIMIT_BURST - 1) * _COST_NS

    def __init__(self, table_key: bytes, rows: int) -> None:
        if len(table_key) != crypto.KEY_BYTES or rows < _WAYS:
            raise ValueError(f"need a key of {crypto.KEY_BYTES} bytes and at least {_WAYS} rows")
        self._key = table_key
        self._sets = rows // _WAYS
        self._tags = array("Q", bytes(8 * self._sets * _WAYS))
        self._full_at_ns = array("q", bytes(8 * self._sets * _WAYS))

    def take(self, now_ns: int, source_key: bytes) -> bool:
        """Take a token of the source; False when it has none left."""
        row, known = self._row(source_key)
        full_at_ns = max(self._full_at_ns[row], now_ns) if known else now_ns
        if full_at_ns - now_ns > self._DEBT_MAX_NS:
            return False
        self._full_at_ns[row] = full_at_ns + self._COST_NS
        return True

    def _row(self, source_key: bytes) -> tuple[int, bool]:
        """The row of the source and whether it is there already; otherwise the row is made its own."""
        digest = int.from_bytes(crypto.blake2s_mac(self._key, source_key), "little")
        first = digest % self._sets * _WAYS
        tag = digest >> 64
        rows = range(first, first + _WAYS)
        for row in rows:
            if self._tags[row] == tag:
                return row, True
        row = min(rows, key=self._full_at_ns.__getitem__)
        self._tags[row] = tag
        return row, False
