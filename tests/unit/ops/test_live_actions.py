# SPDX-License-Identifier: Apache-2.0
"""What operators do, among the events: on the stream, in `jvpn events`, from memory and from the journal alike."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from gateway.control.actor import Actor, acting, audited
from gateway.control.configlife import BY_SIGNAL
from gateway.ops.cli import eventline
from tests.unit.control.samples import public
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import serving as on_socket
from tests.unit.ops.sessionhost import GW_ID, Host, host
from tests.unit.ops.statshost import Made, base, on_loop, serving
from tests.unit.ops.test_stats_api import events

ALICE: Final = Actor("token:alice", "http")
FIELDS: Final = ("action", "target", "outcome", "by", "via", "session_id", "peer")


async def told(made: Made, count: int, query: str = "since=0") -> list[dict[str, Any]]:
    """The next so many actions of the stream."""
    found: list[dict[str, Any]] = []
    url = f"{base(made)}/api/v1/events?{query}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        while len(found) < count:
            (one,) = await events(answer, 1)
            if one["event"] == "OPERATOR_ACTION":
                found.append(json.loads(one["data"]))
    return found


def test_every_action_is_on_the_stream_with_who_did_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            live, commands = made.add_session(), made.seen.commands
            waiting = asyncio.ensure_future(told(made, 6))
            with acting(ALICE):
                await commands["drain"]({"on": True})
                await commands["peer.add"]({"name": "phone", "public_key": public(3)})
                await commands["peer.remove"]({"name": "phone"})
                with pytest.raises(Exception, match="active"):
                    await commands["switch"]({"session": "peer1", "path_id": 1})
                await commands["terminate"]({"session": "peer1"})
            with acting(BY_SIGNAL):
                await audited("config.reload", _nothing, made.records.audit.acted, lambda: 1)({})
            found = await asyncio.wait_for(waiting, 10)
            ident = live.core.session_id.hex()
            who = ("token:alice", "http")
            assert [tuple(one[name] for name in FIELDS) for one in found] == [
                ("drain", "", "done", *who, "", ""),
                ("peer.add", "phone", "done", *who, "", ""),
                ("peer.remove", "phone", "done", *who, "", ""),
                ("switch", "peer1", "refused", *who, "", ""),
                ("terminate", ident, "done", *who, ident, "peer1"),
                ("config.reload", "", "done", *BY_SIGNAL, "", ""),
            ]
            numbers = [one["number"] for one in found]
            assert numbers == sorted(set(numbers)) and numbers[-1] == made.records.audit.last_number

    on_loop(work)


async def _nothing(_args: dict[str, Any]) -> dict[str, Any]:
    return {}


def test_the_stream_of_a_session_has_what_was_done_to_it_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            first, _ = made.add_session(1), made.add_session(2)
            waiting = asyncio.ensure_future(told(made, 1, "since=0&session=peer1"))
            assert made.server is not None
            while not made.server._pages._api._followers:  # else there is nobody of that name when it asks
                await asyncio.sleep(0.001)
            await made.seen.commands["drain"]({"on": True})
            await made.seen.commands["terminate"]({"session": "peer2"})
            await made.seen.commands["terminate"]({"session": "peer1"})
            (only,) = await asyncio.wait_for(waiting, 10)
            assert only["target"] == first.core.session_id.hex()

    on_loop(work)


def test_actions_are_no_events_of_sessions_in_the_metrics(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.add_session()
            audit = made.records.audit
            before, number = audit.counters()["events"], audit.last_number
            await made.seen.commands["drain"]({"on": True})
            assert audit.counters()["events"] == before
            assert audit.last_number == number + 1

    on_loop(work)


def lines_of(jvpn: Jvpn, *words: str | Path) -> list[str]:
    return [line for line in jvpn("events", "-n", "0", *words).stdout.splitlines() if "  OPERATOR  " in line]


def test_a_person_reads_the_same_from_memory_and_from_the_journal(jvpn: Jvpn, places: Path) -> None:
    def act(at: Host) -> None:
        at.cut()
        jvpn("switch", "gw", "1")
        jvpn("terminate", "phone", "-y")

    with host(places / "state") as at, on_socket(places / "run/jvpn0.sock", at.docs.handlers()):
        act(at)
        live, alone = lines_of(jvpn), lines_of(jvpn, "--session", "phone")
        timeline = jvpn("timeline", "phone").stdout
    me = f"by uid:{os.geteuid()} via control"
    assert [line[14:] for line in live] == [
        f"--------  OPERATOR     switch gw  refused  {me}",
        f"a1b2c3ff  OPERATOR     terminate  done  {me}",
    ]
    assert lines_of(jvpn) == live
    assert lines_of(jvpn, "--session", "phone") == alone == live[1:]
    assert live[1] in timeline.splitlines()


def test_what_an_operator_wrote_cannot_write_on_a_terminal() -> None:
    body = {
        "event": "OPERATOR_ACTION",
        "action": "switch",
        "target": "\x1b]0;x\x07\n\u202ey",
        "outcome": "not_found",
    }
    line = eventline.line({**body, "by": "uid:0", "via": "control", "ts": "2026-01-02T03:04:05.000000Z"})
    assert line.isprintable() and line.endswith("switch ]0;xy  not_found  by uid:0 via control")
    assert eventline.line({**body, "target": GW_ID.hex(), "by": ""}).endswith(
        "switch  not_found  by the process itself"
    )
