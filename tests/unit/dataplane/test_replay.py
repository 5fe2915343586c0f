# SPDX-License-Identifier: Apache-2.0
"""The window against a set that remembers every counter."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.dataplane.replay import OK, OLD, SEEN, ReplayWindow
from gateway.errors import DataplaneError

sizes = st.sampled_from([128, 256, 1024, 8192])
# Mostly small steps around the newest counter, sometimes a jump.
moves = st.lists(
    st.one_of(st.integers(-300, 300), st.integers(-20_000, 20_000), st.integers(0, 2**40)), max_size=200
)


def model_verdict(seen: set[int], highest: int, size: int, counter: int) -> int:
    if counter <= highest and highest - counter >= size:
        return OLD
    return SEEN if counter in seen else OK


@given(sizes, st.integers(0, 2**64 - 1), moves)
def test_against_a_set(bits: int, start: int, steps: list[int]) -> None:
    window, seen, highest = ReplayWindow(bits), set[int](), 0
    assert window.size == bits - 64
    for step in [0, *steps]:
        counter = min(max((highest or start) + step, 0), 2**64 - 1)
        expected = model_verdict(seen, highest, window.size, counter)
        assert window.peek(counter) == expected
        assert window.commit(counter) == expected
        if expected == OK:
            seen.add(counter)
            highest = max(highest, counter)
        assert window.highest == highest


@example(788, [300], [-961])
@given(st.integers(0, 2**63), moves, moves)
def test_growing_accepts_nothing_twice(start: int, before: list[int], after: list[int]) -> None:
    window, accepted = ReplayWindow(1024), set[int]()

    def commit(steps: list[int]) -> None:
        for step in steps:
            counter = max(max(accepted, default=start) + step, 0)
            old = counter <= window.highest and window.highest - counter >= window.size
            if window.commit(counter) == OK:
                assert counter not in accepted
                accepted.add(counter)
            else:
                assert old or counter in accepted or counter < floor

    floor = 0
    commit(before)
    # What had left the small window is refused for ever, seen or not; but for what shares a word with its oldest.
    floor = max(window.highest - window.size, 0)
    window.grow(8192)
    assert window.size == 8128
    assert not [c for c in accepted if window.peek(c) == OK]
    commit(after)


def test_sizes_refused() -> None:
    for bits in (0, 64, 1000, 2**21):
        with pytest.raises(DataplaneError):
            ReplayWindow(bits)
    window = ReplayWindow(1024)
    window.commit(7)
    for bits in (512, 1024, 3000):
        with pytest.raises(DataplaneError):
            window.grow(bits)
    assert window.peek(7) == SEEN


def test_many() -> None:
    assert ReplayWindow().commit_many(array("Q", [1, 2, 2, 5, 1])) == 3
