# SPDX-License-Identifier: Apache-2.0
"""TAI64N known answers, and a source that only goes up."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.constants import INITIATION_INTERVAL_NS, NS_PER_S
from gateway.noise.timestamp import GRAIN_NS, TimestampSource, tai64n, unix_ns_of
from tests.unit.noise.endpoints import UNIX_NS

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "tai64n.json").read_text())["labels"]
times = st.integers(min_value=0, max_value=4_000_000_000 * NS_PER_S)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["label"])
def test_published_labels(vector: dict[str, Any]) -> None:
    unix_ns = (vector["unix_s"] + vector["leap_s"]) * NS_PER_S + vector["ns"]
    assert tai64n(unix_ns).hex() == vector["label"]
    assert unix_ns_of(bytes.fromhex(vector["label"])) == unix_ns


@given(times, times)
def test_labels_sort_like_times(first: int, second: int) -> None:
    assert (first < second) == (tai64n(first) < tai64n(second))
    assert unix_ns_of(tai64n(first)) == first


@given(st.lists(times, min_size=1, max_size=30), st.integers(min_value=0, max_value=30))
def test_never_back_nor_twice_over_steps_and_restart(clock: list[int], restart_at: int) -> None:
    source, stamps = TimestampSource(), []
    for i, now in enumerate(clock):
        if i == restart_at:
            source = TimestampSource(source.last)
        stamps.append(source.next(now))
    assert all(a < b for a, b in pairwise(stamps))
    assert all(len(stamp) == 12 for stamp in stamps)


@given(times)
def test_precise_time_is_hidden(now: int) -> None:
    stamp = TimestampSource().next(now)
    nanoseconds = int.from_bytes(stamp[8:], "big")
    assert nanoseconds % GRAIN_NS == 0
    assert 0 <= now - unix_ns_of(stamp) < GRAIN_NS
    assert GRAIN_NS <= INITIATION_INTERVAL_NS


def test_same_instant_many_times_crosses_the_second() -> None:
    source = TimestampSource()
    stamps = [source.next(UNIX_NS) for _ in range(200)]
    assert stamps == sorted(set(stamps))
    assert all(int.from_bytes(stamp[8:], "big") < NS_PER_S for stamp in stamps)


def test_continues_after_a_foreign_unrounded_stamp() -> None:
    last = tai64n(UNIX_NS + 999_999_999)
    assert TimestampSource(last).next(UNIX_NS) > last


@pytest.mark.parametrize("last", [b"\0" * 11, b"\xff" * 12, bytes.fromhex("400000000000000a3b9aca00")])
def test_bad_stored_stamp_is_refused(last: bytes) -> None:
    with pytest.raises(ValueError, match="TAI64N"):
        TimestampSource(last)


def test_time_outside_the_format() -> None:
    with pytest.raises(ValueError, match="range"):
        tai64n((1 << 62) * NS_PER_S)
    with pytest.raises(ValueError, match="range"):
        tai64n(-(1 << 63) * NS_PER_S)
