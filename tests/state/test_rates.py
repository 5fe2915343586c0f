# SPDX-License-Identifier: Apache-2.0
"""Token buckets: never more than the burst, never below zero, exact refill; two devices with one key cannot fight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core import Policy
from gateway.core.rates import Bucket, address_notices, comeback_ns, control_frames, takeovers
from tests.state.make import MS, T0, S


@given(st.lists(st.integers(0, 3 * S), max_size=200), st.integers(1, 5), st.integers(1, S))
def test_in_any_span_at_most_burst_plus_refill(gaps: list[int], burst: int, every: int) -> None:
    bucket, now, taken = Bucket(burst, every), T0, []
    for gap in gaps:
        now += gap
        if not bucket.take(now):
            now += bucket.retry_after_ns(now)
            assert bucket.take(now)
        taken.append(now)
    for n, start in enumerate(taken):
        assert len([t for t in taken[n:] if t - start < every]) <= burst + 1


def test_b41_takeovers_are_three_then_one_per_twenty_seconds() -> None:
    bucket = takeovers()
    assert [bucket.take(T0) for _ in range(5)] == [True, True, True, False, False]
    assert bucket.retry_after_ns(T0) == 20 * S
    assert bucket.take(T0 + 20 * S)
    assert not bucket.take(T0 + 21 * S)
    assert sum(bucket.take(T0 + 100 * S + n * S) for n in range(600)) <= 3 + 30


def test_control_frames_and_notices() -> None:
    bucket = control_frames(Policy())
    assert sum(bucket.take(T0) for _ in range(1000)) == 100
    assert bucket.retry_after_ns(T0) == 10 * MS
    notices = address_notices()
    assert sum(notices.take(T0 + n * MS) for n in range(1000)) <= 20


def test_a_displaced_client_stays_away_longer_each_time() -> None:
    assert [comeback_ns(n) // S for n in (1, 2, 3, 7, 50)] == [60, 120, 240, 3600, 3600]
