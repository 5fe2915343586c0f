# SPDX-License-Identifier: Apache-2.0
"""What stands under each address of the stats endpoint. Every JSON document names its schema; none holds a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway import __version__
from gateway.constants import NS_PER_S
from gateway.control import clock
from gateway.control.observed import Observed, Phase
from gateway.control.status import counters
from gateway.core.states import LIVE
from gateway.errors import JumpError, NotFound, Refused, UsageError
from gateway.net import tun
from gateway.ops.stats.access import Denied
from gateway.ops.stats.box import Box
from gateway.ops.stats.metrics import OPENMETRICS_TYPE, TEXT_TYPE, Scrape, exposition
from gateway.ops.stats.tally import Tally
from gateway.ops.stats.watch import Watch

SERVER: Final = "jvpn"
LIVE_SCHEMA: Final = "jvpn.livez/1"
READY_SCHEMA: Final = "jvpn.readyz/1"
STATS_SCHEMA: Final = "jvpn.stats/1"
ERROR_SCHEMA: Final = "jvpn.error/1"

_HEADERS: Final = {"Server": SERVER, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_MORE: Final = {401: {"WWW-Authenticate": 'Bearer realm="jvpn"'}, 405: {"Allow": "GET, HEAD"}}

Hold = Callable[[web.BaseRequest], None]
Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Denial(Exception):
    """A document that is not given."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.denied = Denied(status, code, message)


def document(body: dict[str, Any], status: int = 200, **headers: str) -> web.Response:
    """A JSON answer."""
    return plain(msgspec.json.encode(body), "application/json", status, **headers)


def plain(body: bytes, content_type: str, status: int = 200, **headers: str) -> web.Response:
    """An answer of any type."""
    return web.Response(
        body=body, status=status, headers={**_HEADERS, "Content-Type": content_type, **headers}
    )


def refusal(denied: Denied) -> web.Response:
    """An error in the words of the command line's errors."""
    error = {"code": denied.code, "message": denied.message}
    return document({"schema": ERROR_SCHEMA, "error": error}, denied.status, **_MORE.get(denied.status, {}))


class Pages:
    """The documents of one gateway by address."""

    def __init__(self, seen: Observed, watch: Watch, *, per_session: bool) -> None:
        self._seen = seen
        self._watch = watch
        self._per_session = per_session
        self._box = Box()
        self._tally = Tally(seen.records.audit)
        self._routes: dict[str, Page] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/stats": self._stats,
            "/metrics": self._metrics,
        }

    def start(self) -> None:
        """Count from now on."""
        self._tally.start()

    def stop(self) -> None:
        """Nothing is counted any more."""
        self._tally.stop()

    async def answer(self, request: web.BaseRequest, hold: Hold) -> web.StreamResponse:
        """The document under the request's path; ``Denial`` says why there is none."""
        page = self._routes.get(request.path)
        if page is None:
            raise Denial(404, "not_found", "no such address; /openapi.json lists them")
        try:
            return await page(request)
        except NotFound as error:
            raise Denial(404, "not_found", str(error)) from None
        except UsageError as error:
            raise Denial(400, "usage", str(error)) from None
        except Refused as error:
            raise Denial(403, "refused", str(error)) from None
        except JumpError as error:
            raise Denial(503, "failed", str(error)) from None

    # --- health -----------------------------------------------------------------------------------------------

    async def _livez(self, _request: web.BaseRequest) -> web.Response:
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

    async def _readyz(self, _request: web.BaseRequest) -> web.Response:
        checks = self.readiness()
        ready = all(checks.values())
        body = {"schema": READY_SCHEMA, "ready": ready, "phase": self._seen.phase.value, "checks": checks}
        return document(body, 200 if ready else 503)

    # --- stats ------------------------------------------------------------------------------------------------

    async def _stats(self, _request: web.BaseRequest) -> web.Response:
        seen, tunnel = self._seen, self._seen.tunnel
        body = {
            "schema": STATS_SCHEMA,
            "version": __version__,
            "interface": seen.interface,
            "uptime_s": (clock.now_ns() - seen.started_ns) / NS_PER_S,
            "phase": seen.phase.value,
            "ready": self.readiness(),
            "listen": tunnel.local_addresses(),
            "peers": len(tunnel.peers),
            "sessions": sessions_by_state(seen),
            "counters": counters(tunnel),
            "audit": seen.records.audit.counters(),
            "offloads": tunnel.offloads(),
            "workers": {
                "count": tunnel.workers.count,
                "native": tunnel.workers.native,
                "each": tunnel.worker_stats(),
            },
            "box": await self._box.document(),
        }
        return document(body)

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        scrape = Scrape(self._seen, self._watch, self._tally, await self._box.document())
        wanted = "application/openmetrics-text" in request.headers.get("Accept", "")
        body = await exposition(scrape, open_metrics=wanted, per_session=self._per_session)
        return plain(body, OPENMETRICS_TYPE if wanted else TEXT_TYPE)


def sessions_by_state(seen: Observed) -> dict[str, int]:
    """How many sessions stand in each state; all states are there."""
    found = {state.name: 0 for state in LIVE}
    for live in seen.sessions:
        found[live.core.state.name] += 1
    return found
