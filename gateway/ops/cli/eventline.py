# SPDX-License-Identifier: Apache-2.0
"""One event, one line that can be read at 3 a.m.: time, session, what, from → to, reason, key evidence.

Rule: a line is made from the record alone, so a journal and a live daemon print the same. An event of a kind this
version does not know is printed with its fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

Body = Mapping[str, Any]

SHORT: Final = 8
_IDENT: Final = re.compile(r"[0-9a-f]{32}")
_HEAD: Final = frozenset(
    (
        "schema",
        "ts",
        "mono_ns",
        "event",
        "session_id",
        "peer",
        "node",
        "policy",
        "seq",
        "prev",
        "hash",
        "number",
    )
)


def short(session_id: str) -> str:
    """As much of an id as a person needs."""
    return session_id[:SHORT]


def span(ns: int) -> str:
    """``12 ms``, ``1.5 s``, ``3 min``."""
    if ns < 1_000_000_000:
        return f"{ns / 1_000_000:.0f} ms"
    if ns < 120_000_000_000:
        return f"{ns / 1_000_000_000:.1f} s"
    return f"{ns // 60_000_000_000} min"


def lines(bodies: Iterator[Body] | list[Body]) -> Iterator[str]:
    """The lines of these events, with a line for each new day (UTC)."""
    day = ""
    for body in bodies:
        if body.get("ts", "")[:10] != day:
            day = body.get("ts", "")[:10]
            yield f"--- {day} UTC"
        yield line(body)


def line(body: Body) -> str:
    """One event. The time of day is UTC."""
    name = str(body.get("event", "?"))
    what = _TEXTS.get(name, _unknown)(body)
    session = short(_session(body)) or "-" * SHORT
    return f"{body.get('ts', '')[11:23]}  {session}  {_NAMES.get(name, name):<11}  {what}".rstrip()


def _session(body: Body) -> str:
    """The session it happened to; the journal's record of an action has it as its target."""
    found, target = str(body.get("session_id", "")), str(body.get("target", ""))
    return found or (target if _IDENT.fullmatch(target) else "")


def _end(value: Any) -> str:
    return str(value) if value else "none"


def binding(body: Body) -> str:
    """The binding before and after, or the one that stayed."""
    change = body.get("transport_change") or {}
    before, after = change.get("from"), change.get("to")
    return f"{_end(before)} → {_end(after)}" if before != after else _end(after)


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(values.items()))


def _state(body: Body) -> str:
    move = f"{body.get('previous_state')} → {body.get('new_state')}"
    version = f"{body.get('row')} v{body.get('state_version')} e{body.get('binding_epoch')}"
    parts = [
        f"{move:<24}",
        f"{body.get('reason'):<22}",
        version,
        binding(body),
        _pairs(body.get("details") or {}),
    ]
    return "  ".join(filter(None, parts))


def scores(body: Body) -> str:
    """Every candidate of a switch, in path order."""
    found = []
    for one in body.get("scores") or ():
        text = f"{one.get('path_id')}:{one.get('score_milli', 0) / 1000:.1f}"
        text += " in breach" if one.get("in_breach") else ""
        text += f" penalty {one['penalty_milli'] / 1000:.1f}" if one.get("penalty_milli") else ""
        found.append(f"{text} {str(one.get('status', '')).lower()}".strip())
    return ", ".join(found)


def _switch(body: Body) -> str:
    move = f"path {body.get('path_from')} → {body.get('path_to')}"
    limits = f"{body.get('switches_in_window')}/{body.get('switch_cap')} this minute"
    klass = str(body.get("switch_class", "")).lower()
    return f"{move}  {body.get('reason')}  {klass}  {binding(body)}  {limits}  scores {scores(body)}"


def _denied(body: Body) -> str:
    again = body.get("retry_after_ns", 0)
    text = f"path {body.get('path_to') or '?'}  {body.get('reason')}  denied by {body.get('rule')}"
    return text + (f", again in {span(again)}" if again else "")


def _dead(body: Body) -> str:
    text = f"path {body.get('path_id')}  {body.get('evidence')}"
    if body.get("misses"):
        text += f"  {body['misses']} misses in {span(body.get('span_ns', 0))}"
    return text + f"  {body.get('transport', '')}" + ("  was bound" if body.get("was_bound") else "")


def _signal(body: Body) -> str:
    return (
        f"path {body.get('path_id')}  {body.get('reason')}  rtt {body.get('srtt_us', 0) / 1000:.1f} ms"
        f"  jitter {body.get('jitter_us', 0) / 1000:.1f} ms  loss {body.get('loss_ppm', 0) / 10_000:.1f} %"
    )


def _gap(body: Body) -> str:
    text = str(body.get("cause", ""))
    if body.get("last_version"):
        text += f"  versions {body.get('first_version')}..{body['last_version']}"
        text += f", {len(body.get('history') or ())} of them remembered"
    return text + (f"  {body['lost']} records lost" if body.get("lost") else "")


def _attempt(body: Body) -> str:
    klass = str(body.get("switch_class", "")).lower()
    return f"path {body.get('path_id')}  {body.get('reason')}  {klass}  attempt {body.get('attempt_id')}"


def _result(body: Body) -> str:
    verdict = "accepted" if body.get("accepted") else "refused"
    return f"path {body.get('path_id')}  {verdict}  {body.get('reason')}  attempt {body.get('attempt_id')}"


def _path(body: Body) -> str:
    move = f"{body.get('previous_status')} → {body.get('new_status')}"
    return f"path {body.get('path_id')}  {move}  {body.get('transport', '')}"


def _mtu(body: Body) -> str:
    limited = "" if body.get("limited") else ", as much as the tunnel"
    return f"path {body.get('path_id')}  carries {body.get('inner_bytes')} bytes{limited}  {body.get('transport', '')}"


def _created(body: Body) -> str:
    kind = "stock" if body.get("stock") else "jump"
    return f"peer {body.get('peer')}  {kind}  as {str(body.get('role', '')).lower()}  {body.get('transport', '')}"


def _security(body: Body) -> str:
    count = f"{body['count']} times  " if body.get("count", 1) > 1 else ""
    return f"{body.get('security_class')}  {count}{body.get('detail', '')}"


def _policy(body: Body) -> str:
    verdict = "applied" if body.get("applied") else "refused: " + "; ".join(body.get("problems") or ())
    return f"{verdict}  {str(body.get('policy_hash', ''))[:19]}"


def _action(body: Body) -> str:
    """What of it is an operator's own text may be anything: what cannot be printed is left out."""
    whom = "" if _session(body) else str(body.get("target", ""))
    by = f"by {body.get('by')} via {body.get('via')}" if body.get("by") else "by the process itself"
    text = "  ".join(filter(None, [f"{body.get('action')} {whom}".strip(), str(body.get("outcome", "")), by]))
    return "".join(sign for sign in text if sign.isprintable())


def _unknown(body: Body) -> str:
    return _pairs({name: value for name, value in body.items() if name not in _HEAD})


_NAMES: Final = {
    "STATE_CHANGE": "STATE",
    "SESSION_CREATED": "CREATED",
    "TRANSPORT_ATTACHED": "BOUND",
    "TRANSPORT_SWITCH": "SWITCH",
    "TRANSPORT_SWITCH_DENIED": "DENIED",
    "TRANSPORT_DEAD": "PATH DEAD",
    "PATH_CHANGE": "PATH",
    "PATH_MTU": "PATH MTU",
    "VOLATILITY_SIGNAL": "SIGNAL",
    "REATTACH_ATTEMPT": "ATTEMPT",
    "REATTACH_RESULT": "RESULT",
    "SECURITY_EVENT": "SECURITY",
    "POLICY_EVENT": "POLICY",
    "KEY_EVENT": "KEYS",
    "OWNERSHIP_EVENT": "OWNER",
    "TERMINATION_EVENT": "ENDED",
    "AUDIT_GAP": "AUDIT GAP",
    "OPERATOR_ACTION": "OPERATOR",
}
_TEXTS: Final[Mapping[str, Callable[[Body], str]]] = {
    "STATE_CHANGE": _state,
    "SESSION_CREATED": _created,
    "TRANSPORT_ATTACHED": lambda body: f"path {body.get('path_id')}  {body.get('transport', '')}",
    "TRANSPORT_SWITCH": _switch,
    "TRANSPORT_SWITCH_DENIED": _denied,
    "TRANSPORT_DEAD": _dead,
    "PATH_CHANGE": _path,
    "PATH_MTU": _mtu,
    "VOLATILITY_SIGNAL": _signal,
    "REATTACH_ATTEMPT": _attempt,
    "REATTACH_RESULT": _result,
    "SECURITY_EVENT": _security,
    "POLICY_EVENT": _policy,
    "KEY_EVENT": lambda body: str(body.get("trigger", "")),
    "OWNERSHIP_EVENT": lambda body: f"{body.get('reason')}  owner epoch {body.get('owner_epoch')}",
    "TERMINATION_EVENT": lambda body: f"{body.get('reason')}  after {span(body.get('age_ns', 0))}",
    "AUDIT_GAP": _gap,
    "OPERATOR_ACTION": _action,
}
