# SPDX-License-Identifier: Apache-2.0
"""The text of /metrics for 5,000 silent sessions, without HTTP and without reading the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.ops.stats.metrics import Scrape, exposition
from gateway.ops.stats.series import SessionSeries
from tests.unit.ops.statshost import serving

SESSIONS = 5000


@pytest.mark.parametrize("per_session", [False, True])
def test_exposition(benchmark: BenchmarkFixture, tmp_path: Path, per_session: bool) -> None:
    loop = uvloop.new_event_loop()
    block = serving(tmp_path)
    made = loop.run_until_complete(block.__aenter__())
    for number in range(1, SESSIONS + 1):
        made.add_session(number)
    assert made.server is not None
    pages = made.server._pages
    box = loop.run_until_complete(pages._box.document())
    scrape = Scrape(made.seen, pages._watch, pages._tally, box)
    more = [SessionSeries()] if per_session else []
    benchmark.extra_info["per_round"] = SESSIONS
    text = benchmark(lambda: loop.run_until_complete(exposition(scrape, open_metrics=False, more=more)))
    assert (text.count(b"jvpn_session_state{") == SESSIONS) == per_session
    loop.run_until_complete(block.__aexit__(None, None, None))
    loop.close()
