# SPDX-License-Identifier: Apache-2.0
"""/api/v1: pages, a session, events as they happen, the journal's end; every answer fits its schema, no key in any."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from gateway.control.keysfile import encode_key
from gateway.core import inputs as inp
from gateway.ops.stats.actions import ACTS
from gateway.ops.stats.api import FOLLOWERS_MAX, TAIL_BYTES, newest
from gateway.ops.stats.openapi import DOCUMENT, SCHEMAS
from tests.unit.ops.statshost import PRIVATE, PSK, Made, base, get, on_loop, serving

PAGES: Final = {
    "/livez": "Livez",
    "/readyz": "Readyz",
    "/stats": "Stats",
    "/api/v1/sessions": "Sessions",
    "/api/v1/sessions/peer1": "Session",
    "/api/v1/paths": "Paths",
    "/api/v1/audit": "Audit",
    "/nowhere": "Error",
}
KINDS: Final[dict[str, Any]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def faults(value: Any, schema: dict[str, Any], at: str = "") -> list[str]:
    """Where a value is not as the schema says; the part of JSON Schema that the document uses."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    fits = any(
        isinstance(value, KINDS[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds
    )
    if not fits or value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{at}: {value!r} is not {schema}"]
    found = []
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += faults(item, schema.get("items", {"type": list(KINDS)}), f"{at}[{number}]")
    if isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", False)
        found += [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            below = properties.get(name, rest)
            found += [f"{at}.{name} is unknown"] if below is False else faults(item, below, f"{at}.{name}")
    return found


def test_every_answer_is_as_its_schema_says(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.move(made.add_session(), 10)
            for path, name in PAGES.items():
                _, seen = await get(made, path)
                assert faults(seen, SCHEMAS[name]) == [], path

    on_loop(work)


def test_the_validator_sees_what_is_wrong() -> None:
    good = {"schema": "jvpn.livez/1", "live": True, "problems": ["a"]}
    assert faults(good, SCHEMAS["Livez"]) == []
    for wrong in ({"live": 1}, {"problems": [1]}, {"more": 1}, {"schema": "jvpn.livez/2"}):
        assert len(faults({**good, **wrong}, SCHEMAS["Livez"])) == 1
    assert len(faults({}, SCHEMAS["Livez"])) == 3


def test_the_document_names_every_address_and_no_other(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            assert made.server is not None
            pages = {(path, "get") for path in (*made.server._pages._routes, "/api/v1/sessions/{}")}
            acts = {(path, method.lower()) for path, acts in ACTS.items() for method in acts}
            told = {
                (re.sub(r"{\w+}", "{}", path), method)
                for path, one in DOCUMENT["paths"].items()
                for method in one
            }
            assert told == pages | acts
            assert (await get(made, "/openapi.json"))[1] == json.loads(json.dumps(DOCUMENT))

    on_loop(work)


def test_pages_hold_every_session_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            for number in range(1, 24):
                made.add_session(number)
            idents, after = [], ""
            while True:
                _, page = await get(made, f"/api/v1/sessions?limit=10&after={after}")
                assert len(page["sessions"]) <= 10 and page["total"] == 23
                idents += [row["session_id"] for row in page["sessions"]]
                after = idents[-1]
                if not page["more"]:
                    break
            assert len(idents) == len(set(idents)) == 23 and idents == sorted(idents)
            _, page = await get(made, "/api/v1/paths?limit=10")
            assert (len(page["paths"]), page["last"], page["more"]) == (10, idents[9], True)

    on_loop(work)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/sessions?limit=0", 400),
        ("/api/v1/sessions?limit=501", 400),
        ("/api/v1/sessions?limit=x", 400),
        ("/api/v1/sessions?limit=-1", 400),
        ("/api/v1/sessions?limit=" + "9" * 3000, 400),
        ("/api/v1/sessions?page=2", 400),
        ("/api/v1/sessions/ffffffff", 404),
        ("/api/v1/sessions/peer1/x", 404),
        ("/api/v1/sessions/", 404),
        ("/api/v1/sessions/..%2f..%2fetc", 404),
        ("/api/v1/audit?events=maybe", 400),
        ("/api/v1/events?session=nobody", 404),
        ("/api/v1/events?since=-1", 400),
        ("//livez", 404),
        ("/livez/", 404),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, path: str, status: int) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.add_session()
            found, seen = await get(made, path)
            assert (found, faults(seen, SCHEMAS["Error"])) == (status, [])

    on_loop(work)


def test_no_answer_holds_a_key(tmp_path: Path) -> None:
    secrets = [PRIVATE, PSK]

    async def work() -> None:
        async with serving(tmp_path, settings={"per_session": True}) as made:
            secrets.append(made.records.audit._journal._key.secret[:32])
            made.move(made.add_session(), 10)
            made.records.audit.hurry()
            told = []
            async with aiohttp.ClientSession() as session:
                for path in (*PAGES, "/metrics", "/openapi.json", "/api/v1/audit?limit=500"):
                    async with session.get(base(made) + path) as answer:
                        told.append(f"{dict(answer.headers)} {await answer.text()}")
            text = " ".join(told)
            assert "peer1" in text
            for secret in secrets:
                for form in (secret.hex(), encode_key(secret), base64.urlsafe_b64encode(secret).decode()):
                    assert form not in text

    on_loop(work)


# --- events --------------------------------------------------------------------------------------------------------


async def events(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, str]]:
    """The next so many events of a stream."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    while len(found) < count:
        line = (await asyncio.wait_for(answer.content.readline(), 10)).decode().rstrip("\n")
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            found.append(fields)
            fields = {}
    return found


def test_events_come_as_they_happen_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made, aiohttp.ClientSession() as session:
            live, url = made.add_session(), base(made) + "/api/v1/events"
            before = made.records.audit.last_number
            async with session.get(url) as answer:
                assert answer.content_type == "text/event-stream"
                await answer.content.readline()
                made.move(live, 10)
                first, *rest = await events(answer, made.records.audit.last_number - before)
            body = json.loads(first["data"])
            assert (first["event"], body["new_state"], body["number"]) == (
                "STATE_CHANGE",
                "VOLATILE",
                before + 1,
            )
            assert "TRANSPORT_SWITCH" in {one["event"] for one in rest}
            async with session.get(url, headers={"Last-Event-ID": first["id"]}) as answer:
                assert [one["id"] for one in await events(answer, len(rest))] == [one["id"] for one in rest]
            async with session.get(url + "?since=0") as answer:
                assert (await events(answer, 1))[0]["event"] == "SESSION_CREATED"

    on_loop(work)


def test_one_session_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made, aiohttp.ClientSession() as session:
            made.add_session(1)
            made.add_session(2)
            async with session.get(base(made) + "/api/v1/events?since=0&session=peer2") as answer:
                assert {json.loads(one["data"])["peer"] for one in await events(answer, 3)} == {"peer2"}

    on_loop(work)


def test_followers_are_bounded_outlive_the_deadline_and_do_not_delay_the_end(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, request_s=0.3) as made, aiohttp.ClientSession() as session:
            url = base(made) + "/api/v1/events"
            followers = [await session.get(url) for _ in range(FOLLOWERS_MAX)]
            async with session.get(url) as answer:
                assert answer.status == 503
            await asyncio.sleep(0.6)  # twice the deadline that others have
            made.add_session()
            for one in followers:
                assert (await events(one, 1))[0]["event"] == "SESSION_CREATED"
            followers.pop().close()
            for _ in range(100):
                answer = await session.get(url)
                if answer.status == 200:
                    break
            assert answer.status == 200
            assert made.server is not None
            began_s = time.monotonic()
            await made.server.stop()
            assert time.monotonic() - began_s < 0.9

    on_loop(work)


# --- audit ---------------------------------------------------------------------------------------------------------


def test_the_journal_s_end_with_its_chain(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            live = made.add_session()
            made.move(live, 10)
            for _ in range(200):
                made.records.audit.hurry()
                _, seen = await get(made, "/api/v1/audit?limit=500")
                if "TRANSPORT_SWITCH" in {record["event"] for record in seen["records"]}:
                    break
                await asyncio.sleep(0.02)
            records = seen["records"]
            assert [one["prev"] for one in records[1:]] == [one["hash"] for one in records[:-1]]
            _, seen = await get(made, "/api/v1/audit?limit=2&events=true")
            names = [one["event"] for one in seen["records"]]
            assert len(names) == 2 and not {"INPUT", "CREATE", "TIMER"} & set(names)

    on_loop(work)


def test_only_the_end_of_a_large_journal_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"event": "X", "number": number, "pad": "p" * 500}) for number in range(4000)]
    (tmp_path / "audit-jvpn0-000000000000.jsonl").write_text("\n".join(lines) + '\n{"torn":')
    name, records = newest(tmp_path, "jvpn0", 1 << 20, False)
    assert name is not None and records[-1]["number"] == 3999
    assert TAIL_BYTES * 0.9 < sum(len(json.dumps(one)) for one in records) <= TAIL_BYTES
    assert [one["number"] for one in newest(tmp_path, "jvpn0", 3, False)[1]] == [3997, 3998, 3999]
    assert newest(tmp_path, "other0", 3, False) == (None, [])


# --- what a page costs ---------------------------------------------------------------------------------------------


def test_a_page_of_5000_sessions_costs_twenty_milliseconds_at_most(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            for number in range(1, 5001):
                made.add_session(number)
            for path in ("/api/v1/sessions", "/api/v1/paths"):
                costs = [await cost(made, path) for _ in range(7)]
                assert statistics.median(costs) < 0.020, (path, costs)

    on_loop(work)


async def cost(made: Made, path: str) -> float:
    """CPU time of this thread, which is the endpoint's and its client's."""
    began = time.thread_time()
    status, _ = await get(made, path)
    assert status == 200
    return time.thread_time() - began


def test_a_session_that_ends_while_followed_leaves_the_stream_open(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made, aiohttp.ClientSession() as session:
            live = made.add_session()
            async with session.get(base(made) + "/api/v1/events?session=peer1") as answer:
                await answer.content.readline()
                made.sessions.feed(live.core.entered_ns + 1, live, inp.OperatorTerminate())
                names = {one["event"] for one in await events(answer, 2)}
                assert "STATE_CHANGE" in names
                for _ in range(2):
                    assert (await asyncio.wait_for(answer.content.readline(), 10)) != b""

    on_loop(work)
