# SPDX-License-Identifier: Apache-2.0
"""How full the tables are: what /metrics says follows what is there, and nothing is beyond its limit."""

from __future__ import annotations

from pathlib import Path

from gateway.control import clock
from gateway.core.inputs import OperatorTerminate
from gateway.ops.stats.tables import fills
from tests.unit.ops.statshost import get, on_loop, serving
from tests.unit.ops.test_stats_metrics import samples

SESSIONS = 40


def test_tables_follow_what_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            before = fills(made.seen)
            assert set(before) > {
                "peers",
                "sessions",
                "session_timers",
                "handshakes_waiting",
                "store_changes",
            }
            lives = [made.add_session(number) for number in range(SESSIONS)]
            full = fills(made.seen)
            assert full["peers"].entries == full["sessions"].entries == SESSIONS
            assert full["session_timers"].entries >= SESSIONS
            for live in lives:
                made.sessions.feed(clock.now_ns(), live, OperatorTerminate())
            assert fills(made.seen)["sessions"].entries == 0
            assert all(0 <= fill.entries <= fill.limit for fill in fills(made.seen).values())

    on_loop(work)


def test_metrics_have_both_figures_of_each(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.add_session()
            found = await samples(made)
            for name, fill in fills(made.seen).items():
                assert found["jvpn_table_limit", name] == fill.limit > 0
                assert found["jvpn_table_entries", name] <= fill.limit
            assert found["jvpn_table_entries", "peers"] == 1
            assert (await get(made, "/metrics"))[0] == 200

    on_loop(work)
