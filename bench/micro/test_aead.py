# SPDX-License-Identifier: Apache-2.0
"""Seal and open, every suite offered here, 16 bytes of associated data: 1,024 packets per round."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.dataplane.aead import AeadKey, suites

BURST = 1024
NAMES = suites()
sizes = pytest.mark.parametrize("size_bytes", [64, 256, 1420])
every_suite = pytest.mark.parametrize("suite", sorted(NAMES), ids=lambda n: NAMES[n])


@sizes
@every_suite
def test_seal(benchmark: BenchmarkFixture, suite: int, size_bytes: int) -> None:
    key = AeadKey(suite, bytes(range(32)))
    src, dst = bytes(size_bytes), bytearray(size_bytes + key.tag_bytes)
    benchmark.extra_info["per_round"] = BURST
    benchmark(key.seal_many, 0, BURST, src, dst)


@sizes
@every_suite
def test_open(benchmark: BenchmarkFixture, suite: int, size_bytes: int) -> None:
    key = AeadKey(suite, bytes(range(32)))
    sealed = bytearray(size_bytes + key.tag_bytes)
    key.seal(7, bytes(size_bytes), sealed, bytes(16))
    benchmark.extra_info["per_round"] = BURST
    assert benchmark(key.open_many, 7, BURST, sealed, bytearray(len(sealed))) == BURST
