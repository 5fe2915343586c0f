# SPDX-License-Identifier: Apache-2.0
"""Check and update of the replay window: 1,024 counters per round."""

from __future__ import annotations

import random
from array import array
from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.dataplane.replay import ReplayWindow

BURST = 1024


def in_order(first: int) -> list[int]:
    return list(range(first, first + BURST))


def reordered(first: int) -> list[int]:
    """Neighbours up to 32 places apart, as two paths of different delay deliver them."""
    rng = random.Random(first)
    return sorted(in_order(first), key=lambda counter: counter + rng.randrange(32))


@pytest.mark.parametrize("arrange", [in_order, reordered], ids=["in order", "reordered"])
@pytest.mark.parametrize("bits", [1024, 8192, 65536])
def test_replay_check(benchmark: BenchmarkFixture, bits: int, arrange) -> None:
    window, step = ReplayWindow(bits), count()

    def fresh() -> tuple[tuple[array[int]], dict[str, object]]:
        return (array("Q", arrange(next(step) * BURST)),), {}

    benchmark.extra_info["per_round"] = BURST
    assert benchmark.pedantic(window.commit_many, setup=fresh, rounds=200) == BURST


def test_replay_refused(benchmark: BenchmarkFixture) -> None:
    window, counters = ReplayWindow(), array("Q", in_order(0))
    window.commit_many(counters)
    benchmark.extra_info["per_round"] = BURST
    assert benchmark(window.commit_many, counters) == 0
