# SPDX-License-Identifier: Apache-2.0
"""Who acts, and what is written down of it: every changing command, however it ends, and no other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.control.actor import CHANGING, NOBODY, Actor, acting, audit_changes, audited, current, recorded
from gateway.errors import ConfigError, JumpError, NotFound, Refused, TryLater, UsageError

ALICE = Actor("token:alice", "http")


class Records:
    """Keeps what is written, at a time of its own."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def write(self, body: dict[str, Any]) -> None:
        self.all.append(body)

    @staticmethod
    def now_ns() -> int:
        return 7


async def works(args: dict[str, Any]) -> dict[str, Any]:
    return {"peer": {"name": args.get("name", "")}, "by": str(current())}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotFound("x"), "not_found"),
        (Refused("x"), "refused"),
        (TryLater("x"), "try_later"),
        (JumpError("x"), "failed"),
        (ConfigError("f", "k", 1, "x"), "failed"),
        (UsageError("x"), None),
    ],
)
def test_how_it_ended_is_written_and_what_makes_no_sense_is_not(
    error: JumpError, outcome: str | None
) -> None:
    async def fails(_args: dict[str, Any]) -> dict[str, Any]:
        raise error

    records = Records()
    handler = audited("switch", fails, records.write, records.now_ns)
    with acting(ALICE), pytest.raises(type(error)):
        asyncio.run(handler({"session": "phone"}))
    assert [
        (one["outcome"], one["target"], one["by"], one["via"], one["mono_ns"]) for one in records.all
    ] == ([(outcome, "phone", "token:alice", "http", 7)] if outcome else [])


def test_a_request_does_not_say_who_acts() -> None:
    records = Records()
    handler = audited("peer.add", works, records.write, records.now_ns)
    with acting(ALICE):
        done = asyncio.run(handler({"name": "phone" * 100, "by": "token:bob", "via": "control"}))
    assert done["by"] == "token:alice via http" and current() is NOBODY
    (one,) = records.all
    assert (one["by"], one["via"], one["target"]) == ("token:alice", "http", ("phone" * 100)[:64])


def test_two_at_a_time_stay_apart() -> None:
    async def slow(args: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return await works(args)

    async def one(name: str) -> str:
        with acting(Actor(name, "http")):
            return str((await slow({}))["by"])

    async def both() -> list[str]:
        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(both()) == ["a via http", "b via http"]


def test_changing_commands_are_wrapped_and_reading_ones_are_not() -> None:
    records = Records()
    handlers = dict.fromkeys((*CHANGING, "status", "peer.list"), works)
    audit_changes(handlers, records.write, records.now_ns)
    for name, handler in handlers.items():
        assert (handler is works) is (name not in CHANGING)
        asyncio.run(handler({}))
    assert [one["action"] for one in records.all] == list(CHANGING)
    assert {(one["by"], one["via"]) for one in records.all} == {("", "")}  # the process itself


def test_a_block_is_an_action_too() -> None:
    records = Records()
    with recorded("peer.set", "phone", records.write, records.now_ns):
        pass
    with pytest.raises(Refused), recorded("peer.set", "phone", records.write, records.now_ns):
        raise Refused("no")
    assert [(one["target"], one["outcome"]) for one in records.all] == [
        ("phone", "done"),
        ("phone", "refused"),
    ]
