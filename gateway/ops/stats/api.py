# SPDX-License-Identifier: Apache-2.0
"""/api/v1: the documents of the command line over HTTP, in pages, and events as they happen.

Rule: what one request may cost is bounded: sessions per page, followers of events, bytes of the journal that are read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.control import clock
from gateway.control.auditfile import journal_files
from gateway.control.auditread import SOURCES
from gateway.control.observed import Observed
from gateway.control.sessiondocs import path_document
from gateway.errors import TryLater, UsageError
from gateway.ops.stats.reply import HEADERS, document

PATHS: Final = "jvpn.paths/1"
AUDIT: Final = "jvpn.audit/1"
PAGE: Final = 100
PAGE_MAX: Final = 500
FOLLOWERS_MAX: Final = 16
# One poll of events, and so the longest silence before a line that keeps proxies from giving up.
POLL_MS: Final = 5000
# Events come in turns of several: what a turn brings is written together.
GATHER_S: Final = 0.02
# A follower that does not take what is written for it within this time is cut off.
TAKE_S: Final = 10.0
TAIL_BYTES: Final = 1 << 20
# Sessions per turn of the loop: up to 16 paths each, 10 µs a path.
_BATCH: Final = 50

Hold = Callable[[web.BaseRequest], None]


def _whole(query: Mapping[str, str], name: str, default: int, lowest: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not lowest <= int(text) <= most:
        raise UsageError(f"{name} must be a whole number from {lowest} to {most}")
    return int(text)


def page_of(query: Mapping[str, str]) -> tuple[int, str]:
    """How many sessions, and after which."""
    _known(query, "limit", "after")
    return _whole(query, "limit", PAGE, 1, PAGE_MAX), query.get("after", "").lower()


def _known(query: Mapping[str, str], *names: str) -> None:
    for name in query:
        if name not in names:
            raise UsageError(f"unknown parameter; there is {', '.join(names) or 'none'}")


class Api:
    """The handlers. Each gets the request and what lifts its deadline."""

    def __init__(self, seen: Observed) -> None:
        self._seen = seen
        self._followers: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Followers would keep the gateway from stopping."""
        self._stopped = True
        for task in tuple(self._followers):
            task.cancel()

    # --- sessions ---------------------------------------------------------------------------------------------

    async def sessions(self, request: web.BaseRequest, _hold: Hold) -> web.StreamResponse:
        """A page of sessions."""
        return document(await self.sessions_document(*page_of(request.query)))

    async def sessions_document(self, limit: int, after: str) -> dict[str, Any]:
        """The same as a document."""
        return await self._seen.docs.all({"limit": limit, "after": after})

    async def session(self, request: web.BaseRequest, _hold: Hold) -> web.StreamResponse:
        """One session; the last part of the path names it."""
        _known(request.query)
        return document(await self._seen.docs.one({"session": request.rel_url.name}))

    async def paths(self, request: web.BaseRequest, _hold: Hold) -> web.StreamResponse:
        """The paths of a page of sessions."""
        return document(await self.paths_document(*page_of(request.query)))

    async def paths_document(self, limit: int, after: str) -> dict[str, Any]:
        """The same as a document."""
        lives, more = self._seen.docs.page(limit, after)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(lives), _BATCH):
            now_ns = clock.now_ns()
            for live in lives[start : start + _BATCH]:
                s, named = live.core, {"session_id": live.core.session_id.hex(), "peer": live.core.peer}
                rows += [{**named, **path_document(s, path, now_ns)} for path in s.paths]
            await asyncio.sleep(0)
        last = lives[-1].core.session_id.hex() if lives else None
        total = len(self._seen.sessions)
        return {"schema": PATHS, "sessions": total, "more": more, "last": last, "paths": rows}

    # --- events -----------------------------------------------------------------------------------------------

    async def events(self, request: web.BaseRequest, hold: Hold) -> web.StreamResponse:
        """Server-sent events until one end has enough."""
        _known(request.query, "session", "since")
        audit, session = self._seen.records.audit, request.query.get("session")
        instance, since = _place(request)
        args: dict[str, Any] = {
            "wait_ms": POLL_MS,
            "instance": instance or audit.started,
            "since": audit.last_number if since < 0 else since,
        }
        if session:
            args["session"] = self._seen.docs.find(session).core.session_id.hex()
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        if request.method == "HEAD":
            return response
        with self._follower():
            hold(request)
            await response.prepare(request)
            try:
                await self._follow(response, args)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
        return response

    @contextmanager
    def _follower(self) -> Iterator[None]:
        task = asyncio.current_task()
        if len(self._followers) >= FOLLOWERS_MAX or task is None:
            raise TryLater(f"{FOLLOWERS_MAX} others follow events already")
        self._followers.add(task)
        try:
            yield
        finally:
            self._followers.discard(task)

    async def _follow(self, response: web.StreamResponse, args: dict[str, Any]) -> None:
        await self._write(response, b": events\n\n")
        while not self._stopped:
            news = await self._seen.docs.events(args)
            args["since"], args["instance"] = news["next"], news["instance"]
            data = b"".join(_lines(news)) or b": nothing yet\n\n"
            await self._write(response, data)
            await asyncio.sleep(GATHER_S)

    @staticmethod
    async def _write(response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(TAKE_S):
            await response.write(data)

    # --- audit ------------------------------------------------------------------------------------------------

    async def audit(self, request: web.BaseRequest, _hold: Hold) -> web.StreamResponse:
        """The journal's newest records."""
        query, seen = request.query, self._seen
        _known(query, "limit", "events")
        limit = _whole(query, "limit", PAGE, 1, PAGE_MAX)
        events_only = query.get("events", "false")
        if events_only not in ("true", "false"):
            raise UsageError("events must be true or false")
        folder, interface = seen.records.journal, seen.interface
        file, records = await asyncio.to_thread(newest, folder, interface, limit, events_only == "true")
        counters = seen.records.audit.counters()
        return document({"schema": AUDIT, "journal": counters, "file": file, "records": records})


def _place(request: web.BaseRequest) -> tuple[int, int]:
    """Which run's events were read, 0 for any, and up to which number; -1 begins with what comes."""
    instance, dash, number = request.headers.get("Last-Event-ID", "").partition("-")
    if dash and all(part.isascii() and part.isdigit() and len(part) < 20 for part in (instance, number)):
        return int(instance), int(number)
    since = _whole(request.query, "since", 0, 0, 1 << 53) if "since" in request.query else -1
    return 0, since


def _lines(news: dict[str, Any]) -> list[bytes]:
    """Events in the form of a stream; JSON has no line breaks."""
    found = []
    if news["missed"]:
        found.append(b'event: MISSED\ndata: {"missed":%d}\n\n' % news["missed"])
    for event in news["events"]:
        place = f"{news['instance']}-{event['number']}"
        found.append(
            f"id: {place}\nevent: {event['event']}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
        )
    return found


def newest(folder: Path, interface: str, limit: int, events_only: bool) -> tuple[str | None, list[Any]]:
    """The last records of the newest journal file, oldest first. Reads a MiB at most; blocks."""
    files = journal_files(folder, interface)
    if not files:
        return None, []
    path = max(files).path
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - TAIL_BYTES))
        data = file.read(TAIL_BYTES)
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    if size > TAIL_BYTES:
        del lines[:1]  # its beginning was not read
    found: list[Any] = []
    for line in reversed(lines):
        body = msgspec.json.decode(line)
        if not events_only or body.get("event") not in SOURCES:
            found.append(body)
        if len(found) == limit:
            break
    return path.name, found[::-1]
