# SPDX-License-Identifier: Apache-2.0
"""What operators ask and tell a running process about its sessions: documents, each with its schema, and actions.

Rule: a document reads the core and changes nothing; an action is one input of the core, audited like any other.
Handlers are plain async functions of their arguments, served by the control socket and later by HTTP. A long list
gives the loop back every few hundred sessions; journal files are read on a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control import actor, auditread, auditwhy, clock
from gateway.control.auditlog import AuditLog, Told
from gateway.control.sessions import Live, Sessions
from gateway.core import inputs as inp
from gateway.core.budget import cooldown_left_ns
from gateway.core.dampening import penalty_now
from gateway.core.path import Path as CorePath
from gateway.core.path import stability, status
from gateway.core.reasons import Reason
from gateway.core.scoring import floor_us, score_milli
from gateway.core.session import Session, Turn
from gateway.core.states import PathState, Role
from gateway.errors import JumpError, NotFound, Refused, TryLater, UsageError
from gateway.suites import TRAITS

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Ping = Callable[[Live, int, float], Awaitable[dict[str, Any]]]

SESSIONS: Final = "jvpn.sessions/1"
SESSION: Final = "jvpn.session/1"
EVENTS: Final = "jvpn.events/1"
ACTION: Final = "jvpn.action/1"
# Sessions per turn of the loop: 25 µs each.
_BATCH: Final = 200
# How long a poll for events may wait; a caller gives up after ten seconds.
_WAIT_MAX_S: Final = 5.0
_EVENTS_MAX: Final = 1000
_PING_WAIT_MS: Final = 1000
_PING_WAIT_MAX_MS: Final = 5000
_WRITTEN_WAIT_S: Final = 0.01
_WRITTEN_TRIES: Final = 100
# What a denial leaves unsaid. To an operator the policy denies a stock session's switch alone.
_DENIED: Final = {Reason.POLICY_DENIED: "; plain WireGuard moves by its own handshakes alone"}


# --- documents ---------------------------------------------------------------------------------------------------


def summary(live: Live, traffic: Mapping[str, int], now_ns: int) -> dict[str, Any]:
    """One line of the list. Durations in seconds, addresses as the core names them; ``traffic`` (``Sessions``) last."""
    s = live.core
    active, past = s.active, s.history()
    return {
        "session_id": s.session_id.hex(),
        "peer": s.peer,
        "role": s.role.name.lower(),
        "stock": s.stock,
        "suite": TRAITS[live.suite].name,
        "state": s.state.name,
        "since_s": (now_ns - s.entered_ns) / NS_PER_S,
        "age_s": (now_ns - s.born_ns) / NS_PER_S,
        "state_version": s.version,
        "binding_epoch": s.epoch,
        "path_id": s.bound_id or None,
        "path": active.address if active is not None else None,
        "window_left_s": max(0, s.window_end_ns - now_ns) / NS_PER_S if s.window_end_ns else None,
        "reason": past[-1].reason.name if past else None,
        "switches_last_minute": s.budget.used(now_ns),
        "switches_per_minute_max": s.policy.switch_cap(),
        "cooldown_left_s": cooldown_left_ns(s.budget, s.policy, now_ns) / NS_PER_S,
        **traffic,
    }


def path_document(s: Session, path: CorePath, now_ns: int) -> dict[str, Any]:
    """One path of a session with its measurement and its standing. Unmeasured values are None."""
    measured = path.srtt_us > 0
    trouble = path.trouble
    return {
        "path_id": path.path_id,
        "address": path.address,
        "carrier": path.carrier,
        "status": status(path, s.bound_id, s.policy, now_ns).name,
        "tier": path.tier.name.lower(),
        "cost": path.cost,
        "srtt_ms": path.srtt_us / 1000 if measured else None,
        "rttvar_ms": path.rttvar_us / 1000 if measured else None,
        "jitter_ms": path.jitter_us / 1000 if measured else None,
        "loss": path.loss_ppm / 1_000_000 if measured else None,
        "score": score_milli(path, floor_us(s.paths)) / 1000,
        "stability": stability(path, now_ns),
        "penalty": penalty_now(trouble, s.policy, now_ns) / 1000 if trouble is not None else 0.0,
        "heard_s": (now_ns - path.heard_ns) / NS_PER_S,
    }


def details(live: Live, traffic: Mapping[str, int], now_ns: int) -> dict[str, Any]:
    """One session, ``jvpn.session/1``: its summary, its paths and its last transitions."""
    s = live.core
    return {
        "schema": SESSION,
        **summary(live, traffic, now_ns),
        "paths": [path_document(s, path, now_ns) for path in s.paths],
        "last_transitions": [
            {
                "ago_s": (now_ns - row.mono_ns) / NS_PER_S,
                "state_version": row.version,
                "binding_epoch": row.epoch,
                "previous_state": row.previous.name,
                "new_state": row.new.name,
                "reason": row.reason.name,
                "path_from": row.path_from or None,
                "path_to": row.path_to or None,
            }
            for row in s.history()
        ],
    }


# --- arguments ---------------------------------------------------------------------------------------------------


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the argument {name!r} is missing")
    return value


def _number(args: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = args.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise UsageError(f"the argument {name!r} must be a whole number from 0 to {most}")
    return value


class SessionDocs:
    """The handlers by name (``handlers``). ``kick``: an action outside of a wakeup may have made work for the loop."""

    def __init__(
        self,
        sessions: Sessions,
        audit: AuditLog,
        journal: Path,
        *,
        interface: str,
        kick: Callable[[], None] = lambda: None,
        ping: Ping | None = None,
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        self._sessions = sessions
        self._audit = audit
        self._journal = journal
        self._interface = interface
        self._kick = kick
        self._ping = ping
        self._now_ns = now_ns
        # Numbers of events begin anew with the process; this tells a follower.
        self._instance = audit.started

    def handlers(self) -> dict[str, Handler]:
        """Commands of the control socket."""
        return {
            "sessions": self.all,
            "session": self.one,
            "timeline": self.timeline,
            "why": self.why,
            "events": self.events,
            "switch": actor.audited("switch", self.switch, self._audit.acted, self._now_ns),
            "terminate": actor.audited("terminate", self.terminate, self._audit.acted, self._now_ns),
            "ping": self.ping,
        }

    def find(self, selector: str) -> Live:
        """The living session a selector names (``auditread.choose``)."""
        prefix = selector.lower()
        fits: dict[str, Live] = {
            ident: live
            for live in self._sessions
            if (ident := live.core.session_id.hex()).startswith(prefix) or live.core.peer == selector
        }
        return fits[auditread.choose(selector, {ident: live.core.peer for ident, live in fits.items()})]

    # --- reading ----------------------------------------------------------------------------------------------

    async def all(self, args: dict[str, Any]) -> dict[str, Any]:
        """All living sessions, ``jvpn.sessions/1``; ``limit`` and ``after`` (a session id) page through many."""
        limit = _number(args, "limit", 0, 1 << 20)
        after = args.get("after", "")
        chosen, more = self.page(limit, str(after))
        rows = []
        for start in range(0, len(chosen), _BATCH):
            now_ns = self._now_ns()
            rows += [self._summary(live, now_ns) for live in chosen[start : start + _BATCH] if not live.ended]
            await asyncio.sleep(0)
        return {
            "schema": SESSIONS,
            "total": len(self._sessions),
            "more": more,
            "sessions": rows,
        }

    def page(self, limit: int, after: str) -> tuple[list[Live], bool]:
        """Up to ``limit`` (0: all) sessions whose id is above ``after``, in their order, and whether there are more."""
        found = list(self._sessions)
        if limit or after:
            found = [live for live in found if live.core.session_id.hex() > after]
            found.sort(key=lambda live: live.core.session_id)
        return (found[:limit], len(found) > limit) if limit else (found, False)

    async def one(self, args: dict[str, Any]) -> dict[str, Any]:
        """One session with its paths, ``jvpn.session/1``."""
        live = self.find(_text(args, "session"))
        return details(live, self._sessions.traffic(live), self._now_ns())

    def _summary(self, live: Live, now_ns: int) -> dict[str, Any]:
        return summary(live, self._sessions.traffic(live), now_ns)

    async def timeline(self, args: dict[str, Any]) -> dict[str, Any]:
        """Every event of a session in the journal, ``jvpn.timeline/1``; of an ended one too."""
        selector = self._selector(args)
        await self._written()
        return await asyncio.to_thread(lambda: auditread.timeline(self._paths(), selector))

    async def why(self, args: dict[str, Any]) -> dict[str, Any]:
        """Why a session did what it did, ``jvpn.why/1``. ``at_unix_ns``: else the last switch."""
        selector = self._selector(args)
        at = args.get("at_unix_ns")
        if at is not None and not isinstance(at, int):
            raise UsageError("the argument 'at_unix_ns' must be a whole number")
        await self._written()
        return await asyncio.to_thread(lambda: auditwhy.explain(self._paths(), selector, at))

    async def _written(self) -> None:
        """Until what just happened is in the files, or the disk is too slow to wait for."""
        for _ in range(_WRITTEN_TRIES):
            if not self._audit.queued:
                return
            self._audit.hurry()
            await asyncio.sleep(_WRITTEN_WAIT_S)

    def _selector(self, args: dict[str, Any]) -> str:
        """A living session is meant first; one that ended is looked for in the journal."""
        selector = _text(args, "session")
        try:
            return self.find(selector).core.session_id.hex()
        except NotFound:
            return selector

    def _paths(self) -> list[Path]:
        return [named.path for named in auditread.named_files([self._journal], self._interface)]

    async def events(self, args: dict[str, Any]) -> dict[str, Any]:
        """Events and actions after ``since`` that are still in memory, ``jvpn.events/1``; waits ``wait_ms`` for one.

        ``instance`` and ``next`` go into the following call; ``missed`` counts those that memory no longer holds. A
        call without ``since`` begins with what is there; -1 begins with what comes.
        """
        since = args.get("since", 0)
        if not isinstance(since, int) or args.get("instance", self._instance) != self._instance:
            since = 0
        since = self._audit.last_number if since < 0 else since
        wanted = self._remembered(_text(args, "session")) if args.get("session") else b""
        wait_s = min(_WAIT_MAX_S, _number(args, "wait_ms", 0, 1 << 20) / 1000)
        if wait_s and self._audit.last_number <= since:
            await self._next_event(wait_s)
        news = list(self._audit.since(since))
        missed = news[0].number - since - 1 if news else 0
        chosen = [told for told in news if not wanted or told.session_id == wanted][:_EVENTS_MAX]
        upto = chosen[-1].number if len(chosen) == _EVENTS_MAX else self._audit.last_number
        found = [self._audit.body(told) for told in chosen]
        return {"schema": EVENTS, "instance": self._instance, "next": upto, "missed": missed, "events": found}

    def _remembered(self, selector: str) -> bytes:
        """The id of a living session, or of one that ended and has events in memory. NotFound."""
        try:
            return self.find(selector).core.session_id
        except NotFound:
            known = {
                told.session_id.hex(): told.peer for told in self._audit.since(0) if told.who is not None
            }
            return bytes.fromhex(auditread.choose(selector, known))

    async def _next_event(self, wait_s: float) -> None:
        came = asyncio.Event()

        def tell(_: Told) -> None:
            came.set()

        unsubscribe = self._audit.subscribe(tell)
        try:
            await asyncio.wait_for(came.wait(), wait_s)
        except TimeoutError:
            pass
        finally:
            unsubscribe()

    # --- acting -----------------------------------------------------------------------------------------------

    async def switch(self, args: dict[str, Any]) -> dict[str, Any]:
        """Ask for a switch to ``path_id`` (0: whichever is best). Refused and TryLater say which rule denied it.

        At a gateway this advises the client; the answer is then "advised", the outcome is in the events.
        """
        live = self.find(_text(args, "session"))
        path_id = _number(args, "path_id", 0, 255)
        self._require_target(live, path_id)
        turn = self._feed(live, inp.OperatorSwitch(path_id, str(actor.current())))
        self._raise_denied(turn)
        started = any(event.name == "REATTACH_ATTEMPT" for event in turn.events)
        result = "advised" if live.core.role is Role.GATEWAY else "started" if started else "asked"
        return {"schema": ACTION, "action": "switch", "result": result, **self._summary(live, self._now_ns())}

    def _require_target(self, live: Live, path_id: int) -> None:
        path = live.core.path(path_id)
        if path_id and path is None:
            raise NotFound(
                f"session {live.core.session_id.hex()[:12]} has no path {path_id}; `jvpn paths` shows them"
            )
        if path is None:
            return
        found = status(path, live.core.bound_id, live.core.policy, self._now_ns())
        if found is PathState.ACTIVE:
            raise Refused(f"path {path_id} is the active one already")
        if found in (PathState.DEAD, PathState.REJECTED):
            raise Refused(f"path {path_id} is {found.name}")

    def _raise_denied(self, turn: Turn) -> None:
        for event in turn.events:
            if event.name == "TRANSPORT_SWITCH_DENIED":
                rule, wait_ns = getattr(event, "rule"), getattr(event, "retry_after_ns")  # noqa: B009
                text = f"the switch was denied: {rule.name}{_DENIED.get(rule, '')}"
                if wait_ns > 0:
                    raise TryLater(f"{text}; it may pass in {wait_ns // NS_PER_MS} ms")
                raise Refused(text)
            if event.name == "SECURITY_EVENT":
                raise Refused(f"the switch was refused: {getattr(event, 'detail')}")  # noqa: B009

    async def terminate(self, args: dict[str, Any]) -> dict[str, Any]:
        """End a session for good (T18)."""
        live = self.find(_text(args, "session"))
        before = self._summary(live, self._now_ns())
        self._feed(live, inp.OperatorTerminate(str(actor.current())))
        if not live.core.ended:
            raise JumpError("the session did not end")
        return {
            "schema": ACTION,
            "action": "terminate",
            "result": "terminated",
            **before,
            "state": "TERMINATED",
        }

    def _feed(self, live: Live, one: inp.Input) -> Turn:
        turn = self._sessions.feed(self._now_ns(), live, one)
        self._kick()
        return turn

    async def ping(self, args: dict[str, Any]) -> dict[str, Any]:
        """One PING on ``path_id`` (0: the bound one), ``jvpn.ping/1``; waits up to ``timeout_ms`` for its answer."""
        live = self.find(_text(args, "session"))
        path_id = _number(args, "path_id", 0, 255)
        if path_id and live.core.path(path_id) is None:
            raise NotFound(
                f"session {live.core.session_id.hex()[:12]} has no path {path_id}; `jvpn paths` shows them"
            )
        if self._ping is None or live.core.stock or not live.has_paths:
            raise Refused("the other end speaks plain WireGuard, which knows no ping; ping its inner address")
        wait_ms = _number(args, "timeout_ms", _PING_WAIT_MS, _PING_WAIT_MAX_MS)
        return await self._ping(live, path_id, wait_ms / 1000)
