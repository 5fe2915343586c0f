# SPDX-License-Identifier: Apache-2.0
"""/openapi.json: the endpoint for programs. A test holds every answer against the schema that stands here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from gateway import __version__
from gateway.control.configschema import Protocol, Roaming
from gateway.core.states import LIVE, State

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_WHOLE: Final[Schema] = {"type": "integer"}
_NUMBER: Final[Schema] = {"type": "number"}
_FLAG: Final[Schema] = {"type": "boolean"}


def _maybe(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    """An object whose keys are names of things."""
    return {"type": "object", "additionalProperties": values}


def _object(**properties: Schema) -> Schema:
    """All of these, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _document(name: str, **properties: Schema) -> Schema:
    return _object(schema={"type": "string", "const": f"jvpn.{name}/1"}, **properties)


def _state(states: Iterable[State]) -> Schema:
    return {"type": "string", "enum": [state.name for state in states]}


_SUMMARY: Final[dict[str, Schema]] = {
    "session_id": _TEXT,
    "peer": _TEXT,
    "role": _TEXT,
    "stock": _FLAG,
    "suite": _TEXT,
    "state": _state(LIVE),
    "since_s": _NUMBER,
    "age_s": _NUMBER,
    "state_version": _WHOLE,
    "binding_epoch": _WHOLE,
    "path_id": _maybe(_WHOLE),
    "path": _maybe(_TEXT),
    "window_left_s": _maybe(_NUMBER),
    "reason": _maybe(_TEXT),
    "switches_last_minute": _WHOLE,
    "switches_per_minute_max": _WHOLE,
    "cooldown_left_s": _NUMBER,
    "rx_packets": _WHOLE,
    "rx_bytes": _WHOLE,
    "tx_packets": _WHOLE,
    "tx_bytes": _WHOLE,
}
_PATH: Final[dict[str, Schema]] = {
    "path_id": _WHOLE,
    "address": _TEXT,
    "carrier": _TEXT,
    "status": _TEXT,
    "tier": _TEXT,
    "cost": _WHOLE,
    "srtt_ms": _maybe(_NUMBER),
    "rttvar_ms": _maybe(_NUMBER),
    "jitter_ms": _maybe(_NUMBER),
    "loss": _maybe(_NUMBER),
    "score": _NUMBER,
    "stability": _WHOLE,
    "penalty": _NUMBER,
    "heard_s": _NUMBER,
}
_TRANSITION: Final = _object(
    ago_s=_NUMBER,
    state_version=_WHOLE,
    binding_epoch=_WHOLE,
    previous_state=_TEXT,
    new_state=_TEXT,
    reason=_TEXT,
    path_from=_maybe(_WHOLE),
    path_to=_maybe(_WHOLE),
)
_PROCESS: Final = _object(
    pid=_WHOLE,
    cpu_percent=_NUMBER,
    cpu_user_s=_NUMBER,
    cpu_system_s=_NUMBER,
    rss_bytes=_WHOLE,
    virtual_bytes=_WHOLE,
    fds=_WHOLE,
    threads=_WHOLE,
    started_unix_s=_NUMBER,
)
_NIC: Final = _object(
    rx_bytes=_WHOLE,
    tx_bytes=_WHOLE,
    rx_packets=_WHOLE,
    tx_packets=_WHOLE,
    rx_errors=_WHOLE,
    tx_errors=_WHOLE,
    rx_drops=_WHOLE,
    tx_drops=_WHOLE,
)
_BOX: Final = _object(
    cpu=_object(per_core_percent=_list(_NUMBER), load=_list(_NUMBER), uptime_s=_NUMBER),
    memory=_object(
        total_bytes=_WHOLE, available_bytes=_WHOLE, swap_total_bytes=_WHOLE, swap_used_bytes=_WHOLE
    ),
    nics=_map(_NIC),
    udp=_map(_WHOLE),
    temperatures_c=_map(_NUMBER),
    process=_PROCESS,
)

_PEER: Final = _object(
    name=_TEXT,
    public_key=_TEXT,
    has_preshared_key=_FLAG,
    allowed_ips=_list(_TEXT),
    endpoint=_TEXT,
    keepalive_s=_WHOLE,
    roaming=_TEXT,
    protocol=_TEXT,
    managed=_FLAG,
)
_GATEWAY: Final = _object(
    interface=_TEXT,
    public_key=_TEXT,
    endpoint=_TEXT,
    listen=_list(_TEXT),
    mtu=_WHOLE,
    dns=_list(_TEXT),
    routes=_list(_TEXT),
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Livez": _document("livez", live=_FLAG, problems=_list(_TEXT)),
    "Readyz": _document("readyz", ready=_FLAG, phase=_TEXT, checks=_map(_FLAG)),
    "Stats": _document(
        "stats",
        version=_TEXT,
        unix_s=_NUMBER,
        interface=_TEXT,
        uptime_s=_NUMBER,
        phase=_TEXT,
        ready=_map(_FLAG),
        listen=_list(_TEXT),
        peers=_WHOLE,
        sessions=_map(_WHOLE),
        counters=_map(_WHOLE),
        recovery=_object(bounds_s=_list(_NUMBER), counts=_list(_WHOLE), total_s=_NUMBER),
        audit=_map(_WHOLE),
        loop=_object(
            longest_stall_s=_NUMBER,
            gc_longest_s=_NUMBER,
            gc_total_s=_NUMBER,
            gc_collections=_list(_WHOLE),
        ),
        offloads=_map(_FLAG),
        workers=_object(count=_WHOLE, native=_FLAG, each=_list(_map(_WHOLE))),
        box=_BOX,
    ),
    "Sessions": _document("sessions", total=_WHOLE, more=_FLAG, sessions=_list(_object(**_SUMMARY))),
    "Session": _document(
        "session", **_SUMMARY, paths=_list(_object(**_PATH)), last_transitions=_list(_TRANSITION)
    ),
    "Paths": _document(
        "paths",
        sessions=_WHOLE,
        more=_FLAG,
        last=_maybe(_TEXT),
        paths=_list(_object(session_id=_TEXT, peer=_TEXT, **_PATH)),
    ),
    "Acted": _document("action", action=_TEXT, result=_TEXT, **_SUMMARY | {"state": _state(State)}),
    "Drain": _document("drain", phase=_TEXT, sessions=_WHOLE),
    "Peer": _document("peer", peer=_PEER, gateway=_GATEWAY),
    "PeerRemoved": _document("peer-removed", peer=_PEER),
    "Audit": _document("audit", journal=_map(_WHOLE), file=_maybe(_TEXT), records=_list({"type": "object"})),
    "Error": _document("error", error=_object(code=_TEXT, message=_TEXT)),
}


# 32 bytes in base64: the last sign has two bits that are 0.
_KEY: Final = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
# What an action is told.
REQUESTS: Final[dict[str, Schema]] = {
    "Switch": _object(path={**_WHOLE, "minimum": 0, "maximum": 255}),
    "DrainWanted": _object(on=_FLAG),
    "NewPeer": {
        **_object(
            name={**_TEXT, "pattern": r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$"},
            public_key={**_TEXT, "pattern": f"^{_KEY}$"},
            preshared_key={**_TEXT, "pattern": f"^({_KEY})?$"},
            allowed_ips=_list(_TEXT),
            endpoint=_TEXT,
            keepalive={**_TEXT, "pattern": r"^[0-9]{1,4}s$"},
            roaming={"type": "string", "enum": list(get_args(Roaming))},
            protocol={"type": "string", "enum": list(get_args(Protocol))},
        ),
        "required": ["name", "public_key"],
    },
    "Nothing": _object(),
}


# --- operations --------------------------------------------------------------------------------------------------


def _content(kind: str, schema: Schema) -> Schema:
    return {"content": {kind: {"schema": schema}}}


def _json(name: str) -> Schema:
    return _content("application/json", {"$ref": f"#/components/schemas/{name}"})


def _parameter(name: str, where: str, tells: str, schema: Schema = _TEXT) -> Schema:
    return {"name": name, "in": where, "description": tells, "schema": schema, "required": where == "path"}


def _operation(tells: str, answers: Mapping[str, tuple[str, Schema]], *parameters: Schema) -> Schema:
    responses = {status: {"description": why, **content} for status, (why, content) in answers.items()}
    responses["default"] = {"description": "refused", **_json("Error")}
    return {"summary": tells, "parameters": list(parameters), "responses": responses}


def _get(tells: str, answer: Schema, *parameters: Schema, unwell: str = "") -> Schema:
    """What is read; ``unwell``: what the same document means under 503."""
    answers = {"200": (tells, answer)} | ({"503": (unwell, answer)} if unwell else {})
    return {"get": _operation(tells, answers, *parameters)}


def _act(
    method: str, tells: str, answer: str, *parameters: Schema, body: str = "", status: str = "200"
) -> Schema:
    """What an operator does: the errors that are a matter of the request."""
    answers = {status: (tells, _json(answer))} | {
        code: (why, _json("Error")) for code, why in _REFUSALS.items() if body or code not in _OF_BODIES
    }
    operation = {**_operation(tells, answers, *parameters), "security": [{"token": []}, {"certificate": []}]}
    if body:
        operation["requestBody"] = {"required": body != "Nothing", **_json(body)}
    return {method: operation}


_OF_BODIES: Final = frozenset({"400", "411", "413", "415"})
_REFUSALS: Final = {
    "400": "the body is no JSON",
    "401": "no operator's token or certificate",
    "403": "whoever this is may not act, or another site asks",
    "404": "there is no such session, path or peer",
    "409": "a policy or what is there already does not allow it",
    "411": "the body has no Content-Length",
    "413": "the body is too large",
    "415": "the body is not application/json",
    "422": "the body is JSON and makes no sense",
    "429": "too soon: Retry-After says when",
}
_LIMIT: Final = _parameter(
    "limit", "query", "how many at most", {**_WHOLE, "minimum": 1, "maximum": 500, "default": 100}
)
_AFTER: Final = _parameter("after", "query", "the last session id of the page before")
_ID: Final = _parameter("id", "path", "session id or peer")
_NAME: Final = _parameter("name", "path", "name or public key of a peer")
_EVENTS_ONLY: Final = _parameter("events", "query", "without what led to them", {**_FLAG, "default": False})
_SESSION: Final = _parameter("session", "query", "of this session alone")
_SINCE: Final = _parameter(
    "since", "query", "those after this number that are still in memory first", {**_WHOLE, "minimum": 0}
)
_LAST: Final = _parameter("Last-Event-ID", "header", "go on after it")

DOCUMENT: Final[Schema] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Jumping VPN stats endpoint",
        "version": __version__,
        "license": {"name": "Apache-2.0"},
    },
    "paths": {
        "/": _get("The dashboard.", _content("text/html", _TEXT), _LIMIT, _AFTER),
        "/livez": _get("Loop and data plane move.", _json("Livez"), unwell="something does not move"),
        "/readyz": _get("Traffic may be sent here.", _json("Readyz"), unwell="a check fails"),
        "/stats": _get("Counters and the box.", _json("Stats")),
        "/metrics": _get("Metrics for Prometheus.", _content("text/plain", _TEXT)),
        "/openapi.json": _get("This document.", _content("application/json", {"type": "object"})),
        "/api/v1/sessions": _get("A page of living sessions.", _json("Sessions"), _LIMIT, _AFTER),
        "/api/v1/sessions/{id}": _get("One session.", _json("Session"), _ID),
        "/api/v1/sessions/{id}/switch": _act(
            "post",
            "Ask for a switch to a path, 0: the best. To the path that is active already: 409.",
            "Acted",
            _ID,
            body="Switch",
        ),
        "/api/v1/sessions/{id}/terminate": _act(
            "post",
            "End a session for good. Once more: 404, or, by the name of a peer who came back, its next session.",
            "Acted",
            _ID,
            body="Nothing",
        ),
        "/api/v1/paths": _get("The paths of a page of sessions.", _json("Paths"), _LIMIT, _AFTER),
        "/api/v1/events": _get(
            "Events as they happen.", _content("text/event-stream", _TEXT), _SESSION, _SINCE, _LAST
        ),
        "/api/v1/audit": _get("The journal's newest records.", _json("Audit"), _LIMIT, _EVENTS_ONLY),
        "/api/v1/drain": _act(
            "post",
            "Take no new sessions, or take them again. The same again changes nothing.",
            "Drain",
            body="DrainWanted",
        ),
        "/api/v1/peers": _act(
            "post",
            "Add a peer by its public key; without allowed_ips the pool gives some. Once more: 409.",
            "Peer",
            body="NewPeer",
            status="201",
        ),
        "/api/v1/peers/{name}": _act(
            "delete", "Remove a peer; its session ends. Once more: 404.", "PeerRemoved", _NAME
        ),
    },
    "components": {
        "schemas": SCHEMAS | REQUESTS,
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"},
            "certificate": {"type": "mutualTLS"},
        },
    },
    "security": [{"token": []}, {"certificate": []}, {}],
}
