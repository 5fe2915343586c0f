# SPDX-License-Identifier: Apache-2.0
"""`jvpn ping`: a PING inside a session, from either end, and the time until its PONG.

Rule: an operator's ping is one input of the core like every other action, and its answer moves nothing. What it sends
keeps to the control rate, because the other end drops what comes faster; what waits for an answer is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from gateway import frames as fr
from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control import clock
from gateway.control.sessions import Live, RandomBytes, Sessions
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core import rates
from gateway.errors import Refused, TryLater

SCHEMA: Final = "jvpn.ping/1"
# As many as there can be control connections.
WAITING_MAX: Final = 32


class Waiting(NamedTuple):
    """A PING on its way; `answer` gets the time its PONG came in, ns."""

    live: Live
    answer: asyncio.Future[int]


class Pinger:
    """The pings of one process."""

    def __init__(
        self,
        sessions: Sessions,
        random_bytes: RandomBytes,
        *,
        kick: Callable[[], None] = lambda: None,
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        self._sessions = sessions
        self._random = random_bytes
        self._kick = kick
        self._now_ns = now_ns
        self._waiting: dict[bytes, Waiting] = {}
        sessions.on_pong = self.answered

    async def ping(self, live: Live, path_id: int, timeout_s: float) -> dict[str, Any]:
        """One PING on a path (0: the bound one), ``jvpn.ping/1``; ``rtt_ms`` is None when nothing came in time.

        TryLater beyond the control rate, Refused where nothing may be sent.
        """
        path = live.core.path(path_id or live.core.bound_id)
        if path is None:
            return _document(live, 0, "", None)
        self._admit(live)
        token = self._random(fr.TOKEN_BYTES)
        waiting = self._waiting[token] = Waiting(live, asyncio.get_running_loop().create_future())
        try:
            sent_ns = self._send(live, path.path_id, token)
            came_ns = await asyncio.wait_for(waiting.answer, timeout_s)
        except TimeoutError:
            return _document(live, path.path_id, path.address, None)
        finally:
            del self._waiting[token]
        return _document(live, path.path_id, path.address, came_ns - sent_ns)

    def answered(self, now_ns: int, live: Live, token: bytes) -> None:
        """A PONG of the session; one that nobody waits for says nothing."""
        waiting = self._waiting.get(token)
        if waiting is not None and waiting.live is live and not waiting.answer.done():
            waiting.answer.set_result(now_ns)

    def _admit(self, live: Live) -> None:
        if len(self._waiting) >= WAITING_MAX:
            raise TryLater(f"{WAITING_MAX} pings wait for their answers already")
        if live.pings is None:
            live.pings = rates.control_frames(live.core.policy)
        now_ns = self._now_ns()
        if not live.pings.take(now_ns):
            wait_ms = -(-live.pings.retry_after_ns(now_ns) // NS_PER_MS)
            rate = live.core.policy.control_rate
            raise TryLater(f"faster than the control rate of {rate} per second; again in {wait_ms} ms")

    def _send(self, live: Live, path_id: int, token: bytes) -> int:
        sent_ns = self._now_ns()
        live.ping_token = token
        turn = self._sessions.feed(sent_ns, live, inp.OperatorPing(path_id))
        live.ping_token = b""
        self._kick()
        if not any(isinstance(effect, fx.SendPing) for effect in turn.effects):
            raise Refused(f"nothing is sent on path {path_id} now: it is down, or not proven yet")
        return sent_ns


def _document(live: Live, path_id: int, address: str, rtt_ns: int | None) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "session_id": live.core.session_id.hex(),
        "peer": live.core.peer,
        "path_id": path_id or None,
        "address": address or None,
        "rtt_ms": rtt_ns * 1000 / NS_PER_S if rtt_ns is not None else None,
    }
