# SPDX-License-Identifier: Apache-2.0
"""Longest-prefix match in random order over all prefixes: 1,024 lookups per round.

"pool" is what a gateway has, one host address of a pool for each peer; "mixed" is the hard case, random prefixes of
every length, as no gateway has them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.dataplane.routes import RouteTable

BURST = 1024
Prefix = tuple[bytes, int]


def pool(n: int, width: int, _: random.Random) -> Iterator[Prefix]:
    base = int.from_bytes((b"\x0a" if width == 4 else b"\xfd") + bytes(width - 1))
    return (((base + i).to_bytes(width), 8 * width) for i in range(1, n + 1))


def mixed(n: int, width: int, rng: random.Random) -> Iterator[Prefix]:
    return ((rng.randbytes(width), rng.randint(16, 8 * width)) for _ in range(n))


@pytest.mark.parametrize("kind", [pool, mixed], ids=["pool", "mixed"])
@pytest.mark.parametrize("prefixes", [10, 100_000])
@pytest.mark.parametrize("width", [4, 16], ids=["v4", "v6"])
def test_route_lookup(
    benchmark: BenchmarkFixture,
    width: int,
    prefixes: int,
    kind: Callable[[int, int, random.Random], Iterator[Prefix]],
) -> None:
    rng = random.Random(1)
    table = RouteTable(prefixes)
    chosen = list(kind(prefixes, width, rng))
    for slot, prefix in enumerate(chosen):
        table.insert(prefix, slot)
    # More addresses than fit the caches, a different part in each round.
    rounds = [addresses(rng.choices(chosen, k=BURST), width) for _ in range(64)]
    turn = iter(range(1 << 62))
    benchmark.extra_info["per_round"] = BURST
    assert benchmark(lambda: table.lookup_many(rounds[next(turn) % 64])) == BURST


def addresses(prefixes: list[Prefix], width: int) -> memoryview:
    return memoryview(b"".join(packed for packed, _ in prefixes)).cast("B", (len(prefixes), width))


def test_route_change(benchmark: BenchmarkFixture) -> None:
    """One peer's address taken away and given back, beside 100,000 others."""
    table = RouteTable(100_000)
    for slot, prefix in enumerate(pool(100_000, 4, random.Random(1))):
        table.insert(prefix, slot)
    prefix = (bytes((10, 0, 9, 9)), 32)
    slot = table.lookup(prefix[0])
    assert slot is not None

    def change() -> None:
        table.remove(prefix, slot)
        table.insert(prefix, slot)

    benchmark(change)
