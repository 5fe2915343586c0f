# SPDX-License-Identifier: Apache-2.0
"""Why a session did what it did, ``jvpn.why/1``: the transition, its row of the table, and the evidence before it.

Rule: the answer is read from the journal alone, so it is the same with the daemon gone, and it is the machine's own:
the row's text comes from ``core.transitions``, scores and verdicts from the records of the very turn.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.constants import NS_PER_S
from gateway.control.auditread import SOURCES, bodies, choose, sessions
from gateway.core.audit import Body
from gateway.core.states import State
from gateway.core.transitions import edges
from gateway.errors import NotFound

SCHEMA: Final = "jvpn.why/1"
# Inputs shown before each step: what led to it, not the whole history.
_BEFORE_MAX: Final = 6
_ENVELOPE: Final = ("schema", "node", "seq", "prev", "hash", "peer", "policy", "session_id")


@dataclass(slots=True)
class Step:
    """One turn that moved the session: what went in, what came out, what had gone in since the step before."""

    cause: Body
    before: list[Body]
    events: list[Body] = field(default_factory=list)

    @property
    def moves(self) -> list[Body]:
        return [event for event in self.events if event["event"] == "STATE_CHANGE"]

    @property
    def switched(self) -> bool:
        return any(event["event"] == "TRANSPORT_SWITCH" for event in self.events)


def explain(paths: Sequence[Path], selector: str, at_unix_ns: int | None = None) -> dict[str, Any]:
    """The story of the last switch, or of the last transition at or before a time. NotFound without one."""
    known = sessions(paths)
    ident = choose(selector, known)
    policies: dict[str, Body] = {}
    steps = _steps(bodies(paths), ident, policies)
    chosen = _chosen(steps, at_unix_ns)
    if chosen is None:
        first = f"; its first is of {steps[0].cause['ts']}" if steps else ""
        raise NotFound(f"no transition of session {ident[:12]} in the journal at that time{first}")
    story = steps[_beginning(steps, chosen) : chosen + 1]
    name = story[-1].cause["policy"]
    return {
        "schema": SCHEMA,
        "session_id": ident,
        "peer": known[ident],
        "at": story[-1].cause["ts"],
        "policy": name,
        "policy_values": policies.get(name, {}).get("values", {}),
        "steps": [_document(step) for step in story],
    }


def _steps(records: Iterable[Body], ident: str, policies: dict[str, Body]) -> list[Step]:
    """Every turn of a session with a transition."""
    found: list[Step] = []
    before: deque[Body] = deque(maxlen=_BEFORE_MAX)
    open_step: Step | None = None
    for body in records:
        if body.get("event") == "POLICY":
            policies[body["policy"]] = body
        if body.get("session_id") != ident:
            continue
        if body["event"] in SOURCES:
            if open_step is not None and not open_step.moves and open_step.cause["event"] == "INPUT":
                before.append(open_step.cause)
            open_step = Step(body, [])
        elif open_step is not None:
            if body["event"] == "STATE_CHANGE" and not open_step.moves:
                open_step.before = list(before)
                before.clear()
                found.append(open_step)
            open_step.events.append(body)
    return found


def unix_ns_of(ts: str) -> int:
    """Unix nanoseconds of an RFC 3339 time. ValueError when it is none; without an offset it is UTC."""
    at = datetime.datetime.fromisoformat(ts)
    at = at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)
    since = at - datetime.datetime.fromtimestamp(0, datetime.UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _chosen(steps: list[Step], at_unix_ns: int | None) -> int | None:
    if at_unix_ns is None:
        switches = [index for index, step in enumerate(steps) if step.switched]
        return switches[-1] if switches else len(steps) - 1 if steps else None
    # A record's time is in whole microseconds.
    earlier = [
        i for i, step in enumerate(steps) if unix_ns_of(step.cause["ts"]) <= at_unix_ns + NS_PER_S // 10**6
    ]
    return earlier[-1] if earlier else None


def _beginning(steps: list[Step], chosen: int) -> int:
    """The step that left ATTACHED last: there the story of what followed begins."""
    for index in range(chosen, -1, -1):
        if steps[index].moves[0]["previous_state"] in (State.ATTACHED.name, State.BIRTH.name):
            return index
    return 0


def rule_text(move: Body) -> dict[str, str]:
    """The row of the table behind a STATE_CHANGE: what triggers it and its guard."""
    for start, trigger, rule in edges():
        if (start.name, rule.row, rule.to.name) != (move["previous_state"], move["row"], move["new_state"]):
            continue
        if move["reason"] in [reason.name for reason in rule.reasons]:
            return {
                "row": rule.row,
                "input": trigger.value,
                "guard": (rule.when.__doc__ or "-").strip(),
                "binding": rule.acts.name or "NONE",
            }
    return {"row": move["row"], "input": "unknown to this version", "guard": "-", "binding": "-"}


def _lean(body: Body) -> Body:
    return {key: value for key, value in body.items() if key not in _ENVELOPE}


def _document(step: Step) -> dict[str, Any]:
    return {
        "ts": step.cause["ts"],
        "cause": _lean(step.cause),
        "before": [_lean(body) for body in step.before],
        "transitions": [{**_lean(move), "rule": rule_text(move)} for move in step.moves],
        "events": [_lean(event) for event in step.events if event["event"] != "STATE_CHANGE"],
    }
