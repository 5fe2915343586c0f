# SPDX-License-Identifier: Apache-2.0
"""Receiver index to session row, in random order over all sessions: 1,024 lookups per round."""

from __future__ import annotations

import random
from array import array

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.dataplane.engine import Engine
from gateway.noise.timers import Timers

BURST = 1024


@pytest.mark.parametrize("sessions", [1_000, 100_000])
def test_session_lookup(benchmark: BenchmarkFixture, sessions: int) -> None:
    engine = Engine(
        sessions=sessions,
        prefixes=16,
        window_bits=2048,
        index_seed=bytes(range(32)),
        limits=Timers(),
        now_ns=1,
    )
    indices = [engine.new_index(engine.add_session()) for _ in range(sessions)]
    burst = array("I", random.Random(1).choices(indices, k=BURST))
    slots = array("I", bytes(4 * BURST))
    benchmark.extra_info["per_round"] = BURST
    assert benchmark(engine.slots_of, burst, slots) == BURST
