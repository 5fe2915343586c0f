# SPDX-License-Identifier: Apache-2.0
"""What a session has carried, in its documents: since it began, whatever its peer carried before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.control import clock
from gateway.control.sessions import Live
from gateway.core import inputs as inp
from gateway.core.driver import First
from gateway.core.policy import Policy
from gateway.core.states import Role
from tests.unit.ops.statshost import Made, get, on_loop, serving
from tests.unit.ops.test_stats_series import add_jump_session, install

NAMES = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")


async def carried(made: Made, live: Live) -> list[int]:
    """As the page says it; the session's own document says the same."""
    ident = live.core.session_id.hex()
    page: dict[str, Any] = (await get(made, "/api/v1/sessions"))[1]
    one: dict[str, Any] = (await get(made, f"/api/v1/sessions/{ident}"))[1]
    row = next(row for row in page["sessions"] if row["session_id"] == ident)
    assert [row[name] for name in NAMES] == [one[name] for name in NAMES]
    return [row[name] for name in NAMES]


def test_sessions_of_both_protocols_count_what_they_carry(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            for live in (made.add_session(1), add_jump_session(made, 2)):
                assert await carried(made, live) == [0, 0, 0, 0]
                install(made, live.slot)  # a keepalive confirms it
                stats = made.tunnel.engine.stats(live.slot)
                assert await carried(made, live) == [0, 0, 1, stats["tx_bytes"]]
                assert stats["tx_bytes"] > 0

    on_loop(work)


def test_the_next_session_of_a_peer_begins_with_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            before = made.add_session(1)
            install(made, before.slot)
            address = before.core.paths[0].address
            at = before.at(address)
            assert at is not None
            made.sessions.feed(clock.now_ns(), before, inp.OperatorTerminate())
            after = made.sessions.create(
                clock.now_ns(),
                before.peer,
                Role.GATEWAY,
                b"\x02" * 16,
                Policy(),
                First(1, address),
                at,
                stock=True,
            )
            assert made.tunnel.engine.stats(after.slot)["tx_packets"] == 1
            assert await carried(made, after) == [0, 0, 0, 0]
            install(made, after.slot)
            assert (await carried(made, after))[2] == 1

    on_loop(work)


def test_an_action_s_answer_counts_too(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            live = made.add_session(1)
            install(made, live.slot)
            answer = await made.seen.commands["terminate"]({"session": "peer1"})
            assert answer["tx_packets"] == 1 and answer["state"] == "TERMINATED"

    on_loop(work)
