# SPDX-License-Identifier: Apache-2.0
"""What stands under each address of the stats endpoint. Every JSON document names its schema; none holds a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from gateway import __version__
from gateway.constants import NS_PER_S
from gateway.control import clock
from gateway.control.actor import Actor
from gateway.control.observed import Observed, Phase
from gateway.control.status import counters
from gateway.control.watch import Histogram, Watch
from gateway.core.states import LIVE
from gateway.errors import JumpError, NotFound, Refused, TryLater, UsageError
from gateway.net import tun
from gateway.ops.dashboard.handlers import Dashboard, Sources
from gateway.ops.stats.access import READING, Denied
from gateway.ops.stats.actions import ACTS, Actions, place, refused
from gateway.ops.stats.api import Api, Hold, page_of
from gateway.ops.stats.box import Box
from gateway.ops.stats.metrics import OPENMETRICS_TYPE, TEXT_TYPE, Scrape, exposition, named_series
from gateway.ops.stats.openapi import DOCUMENT
from gateway.ops.stats.reply import Denial, document, plain
from gateway.ops.stats.tally import Tally

LIVE_SCHEMA: Final = "jvpn.livez/1"
SESSION: Final = "/api/v1/sessions/{}"
READY_SCHEMA: Final = "jvpn.readyz/1"
STATS_SCHEMA: Final = "jvpn.stats/1"

Page = Callable[[web.BaseRequest, Hold], Awaitable[web.StreamResponse]]


class Pages:
    """The documents of one gateway by address."""

    def __init__(
        self, seen: Observed, watch: Watch, *, per_session: bool, wireguard_names: bool = False
    ) -> None:
        self._seen = seen
        self._watch = watch
        self._series = named_series(per_session=per_session, wireguard_names=wireguard_names)
        self._box = Box()
        self._tally = Tally(seen.records.audit)
        self._api = api = Api(seen)
        self._actions = Actions(seen)
        self._dashboard = Dashboard(
            Sources(
                self.stats_document,
                lambda: counters(seen.tunnel),
                page_of,
                api.sessions_document,
                api.paths_document,
            )
        )
        self._routes: dict[str, Page] = {
            "/": self._dashboard.page,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/stats": self._stats,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/api/v1/sessions": api.sessions,
            "/api/v1/paths": api.paths,
            "/api/v1/events": api.events,
            "/api/v1/audit": api.audit,
        }

    def start(self) -> None:
        """Count from now on."""
        self._tally.start()
        self._seen.tunnel.exchange.on_took = self._tally.took

    def stop(self) -> None:
        """Nothing is counted and nobody followed any more."""
        self._tally.stop()
        self._api.stop()

    async def answer(self, request: web.BaseRequest, hold: Hold, who: Actor | Denied) -> web.StreamResponse:
        """The document under the request's path; ``Denial`` says why there is none. ``who`` acts, or may not."""
        address, name = place(request.rel_url.raw_path)
        page, acts = self._page(request.path, address), ACTS.get(address, {})
        allowed = (*(READING if page is not None else ()), *acts)
        if not allowed:
            raise Denial(404, "not_found", "no such address; /openapi.json lists them")
        if request.method not in allowed:
            allow = ", ".join(allowed)
            raise Denial(405, "method", f"this address knows {allow}", ("Allow", allow))
        if page is not None and request.method in READING:
            return await self._read(page, request, hold)
        if isinstance(who, Denied):
            raise refused(who)
        return await self._actions.answer(acts[request.method], name, request, who)

    def _page(self, path: str, address: str) -> Page | None:
        return (
            self._api.session if address == SESSION else self._routes.get(path) or self._dashboard.file(path)
        )

    async def _read(self, page: Page, request: web.BaseRequest, hold: Hold) -> web.StreamResponse:
        if request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers:
            raise Denial(413, "body", "who reads sends no body")
        try:
            return await page(request, hold)
        except NotFound as error:
            raise Denial(404, "not_found", str(error)) from None
        except UsageError as error:
            raise Denial(400, "usage", str(error)) from None
        except Refused as error:
            raise Denial(403, "refused", str(error)) from None
        except TryLater as error:
            raise Denial(503, "try_later", str(error)) from None
        except JumpError as error:
            raise Denial(503, "failed", str(error)) from None

    def open(self, request: web.BaseRequest) -> web.Response | None:
        """What is given to somebody without a token: nothing that is this gateway's."""
        return self._dashboard.open(request)

    # --- health -----------------------------------------------------------------------------------------------

    async def _livez(self, _request: web.BaseRequest, _hold: Hold) -> web.Response:
        """That this is answered at all says that the loop turns."""
        problems = self._watch.problems()
        body = {"schema": LIVE_SCHEMA, "live": not problems, "problems": problems}
        return document(body, 503 if problems else 200)

    def readiness(self) -> dict[str, bool]:
        """What must hold before traffic is sent here."""
        seen = self._seen
        return {
            "serving": seen.phase is Phase.SERVING,
            "device": tun.is_up(seen.interface),
            "sockets": bool(seen.tunnel.local_addresses()),
            "store": not seen.records.store.failing,
            "audit": not seen.records.audit.counters()["failing"],
            "data_plane": not self._watch.problems(),
        }

    async def _readyz(self, _request: web.BaseRequest, _hold: Hold) -> web.Response:
        checks = self.readiness()
        ready = all(checks.values())
        body = {"schema": READY_SCHEMA, "ready": ready, "phase": self._seen.phase.value, "checks": checks}
        return document(body, 200 if ready else 503)

    # --- stats ------------------------------------------------------------------------------------------------

    async def _stats(self, _request: web.BaseRequest, _hold: Hold) -> web.Response:
        return document(await self.stats_document())

    async def stats_document(self) -> dict[str, Any]:
        """``jvpn.stats/1``."""
        seen, tunnel = self._seen, self._seen.tunnel
        return {
            "schema": STATS_SCHEMA,
            "version": __version__,
            "unix_s": clock.unix_ns() / NS_PER_S,
            "interface": seen.interface,
            "uptime_s": (clock.now_ns() - seen.started_ns) / NS_PER_S,
            "phase": seen.phase.value,
            "ready": self.readiness(),
            "listen": tunnel.local_addresses(),
            "peers": len(tunnel.peers),
            "sessions": sessions_by_state(seen),
            "counters": counters(tunnel),
            "recovery": recovery_document(self._tally.recovery),
            "audit": seen.records.audit.counters(),
            "loop": seen.pauses.document(),
            "offloads": tunnel.offloads(),
            "workers": {
                "count": tunnel.workers.count,
                "native": tunnel.workers.native,
                "each": tunnel.worker_stats(),
            },
            "box": await self._box.document(),
        }

    async def _metrics(self, request: web.BaseRequest, _hold: Hold) -> web.Response:
        scrape = Scrape(self._seen, self._watch, self._tally, await self._box.document())
        wanted = "application/openmetrics-text" in request.headers.get("Accept", "")
        body = await exposition(scrape, open_metrics=wanted, more=self._series)
        return plain(body, OPENMETRICS_TYPE if wanted else TEXT_TYPE)

    async def _openapi(self, _request: web.BaseRequest, _hold: Hold) -> web.Response:
        return document(DOCUMENT)


def sessions_by_state(seen: Observed) -> dict[str, int]:
    """How many sessions stand in each state; all states are there."""
    found = {state.name: 0 for state in LIVE}
    for live in seen.sessions:
        found[live.core.state.name] += 1
    return found


def recovery_document(found: Histogram) -> dict[str, Any]:
    """How long sessions took from leaving ATTACHED until ATTACHED again: one count more than bounds, not cumulative."""
    return {"bounds_s": list(found.bounds), "counts": list(found.counts), "total_s": found.total}
