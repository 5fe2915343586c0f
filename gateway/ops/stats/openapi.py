# SPDX-License-Identifier: Apache-2.0
"""/openapi.json: the endpoint for programs. A test holds every answer against the schema that stands here."""

from __future__ import annotations

from typing import Any, Final

from gateway import __version__
from gateway.core.states import LIVE

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


_SUMMARY: Final[dict[str, Schema]] = {
    "session_id": _TEXT,
    "peer": _TEXT,
    "role": _TEXT,
    "stock": _FLAG,
    "suite": _TEXT,
    "state": {"type": "string", "enum": [state.name for state in LIVE]},
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

SCHEMAS: Final[dict[str, Schema]] = {
    "Livez": _document("livez", live=_FLAG, problems=_list(_TEXT)),
    "Readyz": _document("readyz", ready=_FLAG, phase=_TEXT, checks=_map(_FLAG)),
    "Stats": _document(
        "stats",
        version=_TEXT,
        interface=_TEXT,
        uptime_s=_NUMBER,
        phase=_TEXT,
        ready=_map(_FLAG),
        listen=_list(_TEXT),
        peers=_WHOLE,
        sessions=_map(_WHOLE),
        counters=_map(_WHOLE),
        audit=_map(_WHOLE),
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
    "Audit": _document("audit", journal=_map(_WHOLE), file=_maybe(_TEXT), records=_list({"type": "object"})),
    "Error": _document("error", error=_object(code=_TEXT, message=_TEXT)),
}


def _content(kind: str, schema: Schema) -> Schema:
    return {"content": {kind: {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _get(tells: str, answer: Schema, *parameters: Schema, **more: str) -> Schema:
    responses = {"200": {"description": tells, **answer}}
    for status, why in {
        "default": "refused",
        **{key.lstrip("_"): text for key, text in more.items()},
    }.items():
        body = _content("application/json", _ref("Error")) if status == "default" else answer
        responses[status] = {"description": why, **body}
    return {"get": {"summary": tells, "parameters": list(parameters), "responses": responses}}


def _json(name: str) -> Schema:
    return _content("application/json", _ref(name))


def _query(name: str, tells: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": tells, "schema": schema}


_LIMIT: Final = _query("limit", "how many at most", {**_WHOLE, "minimum": 1, "maximum": 500, "default": 100})
_AFTER: Final = _query("after", "the last session id of the page before", _TEXT)
_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "session id or peer",
    "schema": _TEXT,
}
_EVENTS_ONLY: Final = _query("events", "without what led to them", {**_FLAG, "default": False})
_SESSION: Final = _query("session", "of this session alone", _TEXT)
_SINCE: Final = _query("since", "those after this number that are still in memory first", _WHOLE)
_LAST: Final = {"name": "Last-Event-ID", "in": "header", "description": "go on after it", "schema": _TEXT}

DOCUMENT: Final[Schema] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Jumping VPN stats endpoint",
        "version": __version__,
        "license": {"name": "Apache-2.0"},
    },
    "paths": {
        "/livez": _get("Loop and data plane move.", _json("Livez"), _503="something does not move"),
        "/readyz": _get("Traffic may be sent here.", _json("Readyz"), _503="a check fails"),
        "/stats": _get("Counters and the box.", _json("Stats")),
        "/metrics": _get("Metrics for Prometheus.", _content("text/plain", _TEXT)),
        "/openapi.json": _get("This document.", _content("application/json", {"type": "object"})),
        "/api/v1/sessions": _get("A page of living sessions.", _json("Sessions"), _LIMIT, _AFTER),
        "/api/v1/sessions/{id}": _get("One session.", _json("Session"), _ID),
        "/api/v1/paths": _get("The paths of a page of sessions.", _json("Paths"), _LIMIT, _AFTER),
        "/api/v1/events": _get(
            "Events as they happen.", _content("text/event-stream", _TEXT), _SESSION, _SINCE, _LAST
        ),
        "/api/v1/audit": _get("The journal's newest records.", _json("Audit"), _LIMIT, _EVENTS_ONLY),
    },
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{"token": []}, {}],
}
