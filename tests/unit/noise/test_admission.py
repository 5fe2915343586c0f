# SPDX-License-Identifier: Apache-2.0
"""What a flood may cost: mac1, then cookies, then buckets, in constant memory."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway.constants import NS_PER_S
from gateway.noise.admission import Admission, SourceBuckets, Verdict
from gateway.noise.cookie import CookieChecker
from tests.unit.noise.endpoints import START_NS, identity, pair, secret

B = identity("b")
NONCE = bytes(24)
SOURCE = bytes((192, 0, 2, 1, 0xCA, 0x6C))
PREFIX = SOURCE[:4]


def gate(limit: int = 10, sources: int = 64) -> Admission:
    checker = CookieChecker(B.public, lambda size: secret("gate")[:size])
    return Admission(checker, table_key=secret("table"), under_load_per_s=limit, sources=sources)


def check(admission: Admission, message: bytes, now_ns: int = START_NS) -> Verdict:
    return admission.check(now_ns, message, SOURCE, PREFIX)


@pytest.fixture(name="initiation", scope="module")
def fixture_initiation() -> bytes:
    return pair()[0].initiate(START_NS)


@pytest.fixture(name="response", scope="module")
def fixture_response() -> bytes:
    """A response of a to b: the gateway is the one that receives it."""
    a, b = pair()
    return a.accept(START_NS, b.initiate(START_NS))[0]


@pytest.fixture(name="with_cookie", scope="module")
def fixture_with_cookie() -> bytes:
    a, _ = pair()
    reply = gate().make_reply(START_NS, a.initiate(START_NS), SOURCE, NONCE)
    a.peer.receive_cookie(START_NS, reply)
    return a.initiate(START_NS + 5 * NS_PER_S)


def loaded(limit: int = 10, sources: int = 64) -> Admission:
    admission = gate(limit, sources)
    admission.note_backlog(1.0)
    return admission


def test_calm_gateway_accepts(initiation: bytes, response: bytes) -> None:
    admission = gate()
    assert check(admission, initiation) is Verdict.ACCEPT
    assert check(admission, response) is Verdict.ACCEPT
    assert not admission.under_load(START_NS)


def test_shape_comes_first(initiation: bytes) -> None:
    admission = gate()
    assert check(admission, initiation[:-1]) is Verdict.BAD_SIZE
    assert check(admission, initiation + b"\0") is Verdict.BAD_SIZE
    assert check(admission, b"") is Verdict.BAD_TYPE
    assert check(admission, bytes((4, 0, 0, 0)) + bytes(28)) is Verdict.BAD_TYPE
    assert check(admission, bytes((1, 0, 0, 1)) + initiation[4:]) is Verdict.BAD_TYPE


@given(st.binary(max_size=200))
def test_garbage_is_never_accepted(garbage: bytes) -> None:
    refused = check(gate(), garbage) in (Verdict.BAD_SIZE, Verdict.BAD_TYPE, Verdict.BAD_MAC1)
    assert refused or wire.message_type(garbage) == wire.MSG_COOKIE_REPLY


def test_bad_mac1_is_not_load(initiation: bytes) -> None:
    admission = gate(limit=10)
    forged = initiation[:116] + bytes(32)
    assert {check(admission, forged) for _ in range(1000)} == {Verdict.BAD_MAC1}
    assert not admission.under_load(START_NS)


def test_cookie_reply_needs_no_mac() -> None:
    assert check(loaded(), wire.COOKIE_REPLY_HEAD + bytes(60)) is Verdict.ACCEPT


@pytest.mark.parametrize("kind", ["initiation", "response"])
def test_load_asks_for_cookies(kind: str, request: pytest.FixtureRequest) -> None:
    admission = gate(limit=10)
    message = request.getfixturevalue(kind)
    verdicts = [check(admission, message) for _ in range(12)]
    assert verdicts == [Verdict.ACCEPT] * 10 + [Verdict.COOKIE_REQUIRED] * 2
    reply = admission.make_reply(START_NS, message, SOURCE, NONCE)
    assert len(reply) == wire.COOKIE_REPLY_BYTES < len(message)


def test_load_ends_a_second_after_the_last_reason(initiation: bytes) -> None:
    admission = gate(limit=10)
    for _ in range(12):
        check(admission, initiation)
    assert admission.under_load(START_NS + NS_PER_S - 1)
    assert not admission.under_load(START_NS + NS_PER_S)
    assert check(admission, initiation, START_NS + 3 * NS_PER_S) is Verdict.ACCEPT


def test_a_burst_across_two_windows_is_load(initiation: bytes) -> None:
    admission = gate(limit=10)
    for part in (START_NS + 990_000_000, START_NS + 1_010_000_000):
        verdicts = [check(admission, initiation, part) for _ in range(6)]
    assert verdicts[-1] is Verdict.COOKIE_REQUIRED


def test_a_steady_rate_below_the_limit_is_no_load(initiation: bytes) -> None:
    admission = gate(limit=10)
    verdicts = {check(admission, initiation, START_NS + i * NS_PER_S // 8) for i in range(100)}
    assert verdicts == {Verdict.ACCEPT}


def test_backlog_is_load(initiation: bytes) -> None:
    admission = gate()
    admission.note_backlog(0.1)
    assert check(admission, initiation) is Verdict.ACCEPT
    admission.note_backlog(0.125)
    assert check(admission, initiation) is Verdict.COOKIE_REQUIRED
    admission.note_backlog(0.0)
    assert check(admission, initiation, START_NS + NS_PER_S // 2) is Verdict.COOKIE_REQUIRED
    assert check(admission, initiation, START_NS + 2 * NS_PER_S) is Verdict.ACCEPT


def test_valid_cookie_then_the_bucket(with_cookie: bytes) -> None:
    admission = loaded()
    verdicts = [check(admission, with_cookie) for _ in range(8)]
    assert verdicts == [Verdict.ACCEPT] * 5 + [Verdict.RATE_LIMITED] * 3
    assert check(admission, with_cookie, START_NS + NS_PER_S // 20) is Verdict.ACCEPT
    assert check(admission, with_cookie, START_NS + NS_PER_S // 20) is Verdict.RATE_LIMITED


def test_cookie_of_another_source(with_cookie: bytes) -> None:
    assert loaded().check(START_NS, with_cookie, SOURCE[:5] + b"\0", PREFIX) is Verdict.COOKIE_REQUIRED


def test_counters(initiation: bytes, with_cookie: bytes) -> None:
    admission = loaded()
    for _ in range(6):
        check(admission, with_cookie)
    check(admission, initiation)
    check(admission, b"")
    check(admission, initiation[:50])
    check(admission, initiation[:116] + bytes(32))
    assert admission.counters == {
        "accept": 5,
        "bad_size": 1,
        "bad_type": 1,
        "bad_mac1": 1,
        "cookie_required": 1,
        "rate_limited": 1,
    }


class TestBuckets:
    """20 a second, burst 5, per prefix, in a table of fixed size."""

    def test_long_run_rate(self) -> None:
        buckets = SourceBuckets(secret("k"), 64)
        taken = sum(buckets.take(START_NS + i * NS_PER_S // 1000, b"source") for i in range(10_000))
        assert taken == 5 + 199

    def test_sources_do_not_share(self) -> None:
        buckets = SourceBuckets(secret("k"), 16_384)
        assert [buckets.take(START_NS, b"heavy") for _ in range(6)] == [True] * 5 + [False]
        assert buckets.take(START_NS, b"other")

    def test_memory_is_constant_and_newcomers_get_in(self) -> None:
        buckets = SourceBuckets(secret("k"), 64)
        before = sys.getsizeof(buckets._tags), sys.getsizeof(buckets._full_at_ns)
        taken = [buckets.take(START_NS + i, i.to_bytes(4, "big")) for i in range(5_000)]
        assert all(taken)
        assert before == (sys.getsizeof(buckets._tags), sys.getsizeof(buckets._full_at_ns))

    def test_a_flood_of_sources_does_not_clear_a_heavy_one(self) -> None:
        """Newcomers push out those who are closest to full, so the debt of the heavy sender stays."""
        buckets = SourceBuckets(secret("k"), 64)
        for _ in range(5):
            buckets.take(START_NS, b"heavy")
        for i in range(1_000):
            buckets.take(START_NS + i, i.to_bytes(4, "big"))
        assert not buckets.take(START_NS + 1_000, b"heavy")

    def test_placement_depends_on_the_key(self) -> None:
        names = [i.to_bytes(4, "big") for i in range(64)]
        first, second = (SourceBuckets(secret(key), 4096) for key in ("one", "two"))
        assert [first._row(name)[0] for name in names] != [second._row(name)[0] for name in names]

    @pytest.mark.parametrize(("key", "rows"), [(bytes(31), 64), (bytes(32), 3)])
    def test_arguments(self, key: bytes, rows: int) -> None:
        with pytest.raises(ValueError, match="rows"):
            SourceBuckets(key, rows)
