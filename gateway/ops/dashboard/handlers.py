# SPDX-License-Identifier: Apache-2.0
"""/ and /dashboard/: the page and its files over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from aiohttp import web

from gateway.constants import NS_PER_S
from gateway.control import clock
from gateway.ops.dashboard.files import HEADERS, File, read_all
from gateway.ops.dashboard.page import Rates, View, dropped, render, render_locked
from gateway.ops.stats.reply import plain

HTML: Final = "text/html; charset=utf-8"
# What flows is the difference of two readings this far apart: long enough for a rate, short enough to wait for.
SPAN_S: Final = 0.25

Document = dict[str, Any]
Query = Mapping[str, str]
Handler = Callable[..., Awaitable[web.StreamResponse]]


class Sources(NamedTuple):
    """The documents the page is made of, as the API gives them. ``page`` reads and checks a query."""

    stats: Callable[[], Awaitable[Document]]
    counters: Callable[[], Mapping[str, int]]
    page: Callable[[Query], tuple[int, str]]
    sessions: Callable[[int, str], Awaitable[Document]]
    paths: Callable[[int, str], Awaitable[Document]]


class Dashboard:
    """The page of one gateway."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._files = read_all()

    def file(self, path: str) -> Handler | None:
        """The handler of one of the page's files."""
        return self._file if path in self._files else None

    def open(self, request: web.BaseRequest) -> web.Response | None:
        """What may be had without a token: the empty page, and its files."""
        if request.path == "/":
            return plain(render_locked(), HTML, 200, **HEADERS)
        return self._given(request) if request.path in self._files else None

    async def page(self, request: web.BaseRequest, _hold: object) -> web.Response:
        sources = self._sources
        limit, after = sources.page(request.query)
        before, before_ns = sources.counters(), clock.now_ns()
        await asyncio.sleep(SPAN_S)
        rates = _rates(before, sources.counters(), (clock.now_ns() - before_ns) / NS_PER_S)
        stats = await sources.stats()
        listed, paths = await sources.sessions(limit, after), await sources.paths(limit, after)
        # 500 rows take 20 ms, which the loop has better uses for.
        body = await asyncio.to_thread(render, View(stats, listed, paths, rates, limit))
        return plain(body, HTML, 200, **HEADERS)

    async def _file(self, request: web.BaseRequest, _hold: object) -> web.Response:
        return self._given(request)

    def _given(self, request: web.BaseRequest) -> web.Response:
        """Asked for anew at each visit, sent anew when it changed."""
        file: File = self._files[request.path]
        known = request.headers.get("If-None-Match") == file.etag
        headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": file.etag}
        return plain(b"" if known else file.body, file.content_type, 304 if known else 200, **headers)


def _rates(before: Mapping[str, int], after: Mapping[str, int], span_s: float) -> Rates:
    def grown(name: str) -> float:
        return (after[name] - before[name]) / span_s

    drops = (sum(dropped(after).values()) - sum(dropped(before).values())) / span_s
    return Rates(grown("tun_tx_bytes"), grown("tun_rx_bytes"), drops)
