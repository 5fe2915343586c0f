# SPDX-License-Identifier: Apache-2.0
"""What a new client costs a gateway: processor time of the loop and of the threads that write store and audit journal.

A round is one group of clients; "of one" in the extra information is what a single one costs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.load.arrivals import GROUP, Newcomers, Reception
from bench.load.population import Population
from gateway.constants import INITIATION_INTERVAL_NS, NS_PER_S

ROUNDS = 20
PEOPLE = Population(seed=7, count=(ROUNDS + 1) * GROUP)
# The least of all rounds: what others do on the machine only ever adds.
cpu_time = pytest.mark.benchmark(timer=time.process_time, disable_gc=False)


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    made = Reception(PEOPLE, tmp_path)
    made.settle()
    gc.collect()
    gc.freeze()
    try:
        yield made
    finally:
        gc.unfreeze()
        made.close()


def measure(
    benchmark: BenchmarkFixture,
    reception: Reception,
    prepare: Callable[[Newcomers], None],
    check: Callable[[Newcomers], int],
) -> None:
    """`prepare` sends what `serve` is measured with; `check` counts whom it has served."""
    groups = count()
    served: list[Newcomers] = []

    def arrive() -> None:
        made = Newcomers(PEOPLE, next(groups) * GROUP, GROUP, reception.sock.getsockname())
        prepare(made)
        served.append(made)

    def serve() -> None:
        reception.serve()
        reception.settle()

    benchmark.pedantic(serve, setup=arrive, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["of_one_us"] = benchmark.stats.stats.min / GROUP * 1e6
    for made in served:
        assert check(made) == GROUP
        made.close()


@cpu_time
def test_initiation(benchmark: BenchmarkFixture, reception: Reception) -> None:
    """Admission, the Noise messages, keys, a session that is born, its records; our response."""
    measure(benchmark, reception, Newcomers.ask, Newcomers.answered)


@cpu_time
def test_hello(benchmark: BenchmarkFixture, reception: Reception) -> None:
    """The first message under these keys: the session attaches, WELCOME, store and audit."""

    def answered(made: Newcomers) -> None:
        made.ask()
        reception.serve()
        reception.settle()
        made.answered()
        made.greet()

    measure(benchmark, reception, answered, Newcomers.welcomed)


def attach(made: Newcomers, reception: Reception) -> None:
    """Up to the point where they may ask for another handshake."""
    made.ask()
    reception.serve()
    made.answered()
    made.greet()
    reception.serve()
    assert made.welcomed() == GROUP
    time.sleep(2 * INITIATION_INTERVAL_NS / NS_PER_S)  # sooner than that nobody is answered
    reception.settle()
    made.renew()


@cpu_time
def test_rekey_initiation(benchmark: BenchmarkFixture, reception: Reception) -> None:
    """Of a session that lives: the static secrets are known, nothing is born."""

    def rekeying(made: Newcomers) -> None:
        attach(made, reception)
        made.ask()

    measure(benchmark, reception, rekeying, Newcomers.answered)


@cpu_time
def test_rekey_hello(benchmark: BenchmarkFixture, reception: Reception) -> None:
    """And its HELLO: the session goes on under the new keypair."""

    def rekeyed(made: Newcomers) -> None:
        attach(made, reception)
        made.ask()
        reception.serve()
        reception.settle()
        made.answered()
        made.greet()

    measure(benchmark, reception, rekeyed, Newcomers.welcomed)
    assert len(reception.sessions) == PEOPLE.count
    assert reception.tunnel.exchange.counters["completed"] == 2 * PEOPLE.count


@cpu_time
def test_stock_client_confirms(benchmark: BenchmarkFixture, reception: Reception) -> None:
    """The same for a client that speaks no jump frames: its keepalive."""

    def answered(made: Newcomers) -> None:
        made.ask()
        reception.serve()
        reception.settle()
        made.answered()
        made.confirm()

    measure(benchmark, reception, answered, Newcomers.answered)
    assert reception.tunnel.exchange.counters["completed"] == PEOPLE.count
