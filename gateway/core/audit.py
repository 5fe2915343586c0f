# SPDX-License-Identifier: Apache-2.0
"""The audit record: canonical lines, the hash chain, and the replay that must reach the same decisions (session.md §8).

Rule: everything here is a pure function of its arguments. A journal holds what went in (CREATE, RESTORE, POLICY, INPUT,
TIMER) and what came out (events), each line naming the digest of the line before it. Feeding what went in to the
machine again must give what came out, byte for byte but for wall clock and node. Never a key, never a payload.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import hashlib
import json
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway.constants import NS_PER_S
from gateway.core import driver, inputs
from gateway.core.events import Event, StateChange
from gateway.core.policy import Policy, from_json, policy_hash, to_json
from gateway.core.session import Session, Turn
from gateway.core.states import Role

SCHEMA: Final = 1
GENESIS: Final = "0" * 64
# What a shell adds and a replay cannot know.
_ENVELOPE: Final = frozenset({"ts", "node", "seq", "prev", "hash"})
_SOURCES: Final = frozenset({"CREATE", "RESTORE", "POLICY", "INPUT", "TIMER"})
# Of JSON already.
_PLAIN: Final = frozenset({int, str, bool, type(None)})
# Said in another way by ``event_body``.
_SAID: Final = frozenset({"mono_ns", "details", "transport_from", "transport_to"})
_SORTED: Final = msgspec.json.Encoder(order="sorted")

Body = dict[str, Any]


# --- bodies ------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Any value of an event or input as JSON: enums by name, bytes as hex, dataclasses as objects."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Policy):
        return to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _names(type(value))}
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


@functools.cache
def _names(of: type[Any]) -> tuple[str, ...]:
    """The fields of a dataclass; one entry per class of the program."""
    return tuple(f.name for f in dataclasses.fields(of))


def _head(s: Session, name: str, mono_ns: int) -> Body:
    return {
        "schema": SCHEMA,
        "mono_ns": mono_ns,
        "event": name,
        "session_id": s.session_id.hex(),
        "peer": s.peer,
        "policy": policy_hash(s.policy),
    }


def event_body(s: Session, event: Event) -> Body:
    """The record of one event, without wall clock, node and chain."""
    body = _head(s, event.name, event.mono_ns)
    kind: Any = type(event)
    for name in _names(kind):
        if name not in _SAID:
            body[name] = plain(getattr(event, name))
    if hasattr(event, "transport_from"):
        ends = (getattr(event, "transport_from"), getattr(event, "transport_to"))  # noqa: B009
        body["transport_change"] = {"from": ends[0] or None, "to": ends[1] or None}
    if isinstance(event, StateChange):
        body["details"] = dict(event.details)
    return body


def input_body(s: Session, one: inputs.Input, now_ns: int) -> Body:
    """The record of one input, written before the turn it leads to."""
    body = _head(s, "INPUT", now_ns)
    body["input"] = type(one).__name__
    body["fields"] = plain(one)
    return body


def timer_body(s: Session, now_ns: int) -> Body:
    """The record of one ``timer_due``."""
    return _head(s, "TIMER", now_ns)


def create_body(s: Session, first: driver.First, now_ns: int) -> Body:
    """The record of ``driver.create``."""
    body = _head(s, "CREATE", now_ns)
    body["fields"] = {"role": s.role.name, "stock": s.stock, "first": plain(first)}
    return body


def restore_body(s: Session, record: driver.Stored, down_ns: int, audited_version: int, now_ns: int) -> Body:
    """The record of ``driver.restore``."""
    body = _head(s, "RESTORE", now_ns)
    body["fields"] = {"record": plain(record), "down_ns": down_ns, "audited_version": audited_version}
    return body


def policy_body(policy: Policy, now_ns: int) -> Body:
    """A policy snapshot, written once before the first record that names its hash."""
    return {
        "schema": SCHEMA,
        "mono_ns": now_ns,
        "event": "POLICY",
        "policy": policy_hash(policy),
        "values": to_json(policy),
    }


def turn_bodies(s: Session, turn: Turn) -> list[Body]:
    """The events of one turn, in order."""
    return [event_body(s, event) for event in turn.events]


def wall(unix_ns: int) -> str:
    """RFC 3339 UTC with microseconds, from Unix nanoseconds."""
    seconds, rest = divmod(unix_ns, NS_PER_S)
    return f"{_wall_second(seconds)}.{rest // 1000:06d}Z"


@functools.lru_cache(maxsize=2)
def _wall_second(seconds: int) -> str:
    """The records of one second share it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --- the chain ---------------------------------------------------------------------------------------------------


def canonical(body: Body) -> str:
    """The one spelling of a record: sorted keys, no spaces, ASCII; no float is ever in one."""
    try:
        text = _SORTED.encode(body).decode("ascii")
    except (TypeError, ValueError):  # not ASCII, a number of more than 64 bits
        return _canonical_of_any(body)
    return text if "\x7f" not in text else _canonical_of_any(body)


def _canonical_of_any(body: Body) -> str:
    """The same by the standard library, which spells everything: seven times slower."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def seal(body: Body, seq: int, prev: str) -> tuple[str, str]:
    """The journal line of a record and its digest, which the next line names as ``prev``."""
    chained = {**body, "seq": seq, "prev": prev}
    digest = hashlib.sha256(canonical(chained).encode()).hexdigest()
    return canonical({**chained, "hash": digest}), digest


class Break(NamedTuple):
    """Where a chain is broken: 0-based line and why."""

    line: int
    why: str


def verify(lines: Iterable[str], prev: str = GENESIS, seq: int = 0) -> Break | None:
    """The first line that does not follow from the one before it, or None: the chain is whole."""
    for number, line in enumerate(lines):
        why = _broken(line, prev, seq + number)
        if why:
            return Break(number, why)
        prev = json.loads(line)["hash"]
    return None


def _broken(line: str, prev: str, seq: int) -> str:
    try:
        body = json.loads(line)
        claimed = body.pop("hash")
        digest = hashlib.sha256(canonical(body).encode()).hexdigest()
    except (ValueError, KeyError, AttributeError, TypeError):
        return "not a record"
    if digest != claimed:
        return "the record was altered"
    if body.get("prev") != prev:
        return "a record before it is missing or altered"
    return "" if body.get("seq") == seq else "the sequence has a gap"


def checkpoint_body(seq: int, digest: str, mono_ns: int) -> Body:
    """What a signed checkpoint signs: so many records, ending in this digest."""
    return {"schema": SCHEMA, "mono_ns": mono_ns, "event": "CHECKPOINT", "records": seq, "head": digest}


# --- reading inputs back -----------------------------------------------------------------------------------------

_INPUTS: Final = {
    name: c for name, c in vars(inputs).items() if isinstance(c, type) and issubclass(c, inputs.Input)
}


@functools.cache
def _hints(name: str) -> dict[str, Any]:
    """Field types of an input, ``First`` or ``Stored``, by class name."""
    return typing.get_type_hints(_INPUTS.get(name) or getattr(driver, name))


def _typed(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind[value]
    if kind is Policy:
        return from_json(value)
    return bytes.fromhex(value) if kind is bytes else value


def _read(cls: type[Any], fields: Body) -> Any:
    hints = _hints(cls.__name__)
    return cls(**{name: _typed(hints[name], value) for name, value in fields.items()})


def read_input(body: Body) -> inputs.Input:
    """The input an INPUT record holds. Raises KeyError or TypeError for a record that holds none."""
    one: inputs.Input = _read(_INPUTS[body["input"]], body["fields"])
    return one


# --- replay ------------------------------------------------------------------------------------------------------


class Divergence(NamedTuple):
    """Where a replay decided otherwise: the 0-based record, what is written there and what came out instead."""

    record: int
    written: str
    replayed: str


def decision(body: Body) -> str:
    """The part of an event record that a replay must reproduce."""
    return canonical({key: value for key, value in body.items() if key not in _ENVELOPE})


class Replayer:
    """Feeds the recorded inputs of any number of sessions to fresh machines and compares what comes out."""

    def __init__(self) -> None:
        self._policies: dict[str, Policy] = {}
        self._sessions: dict[str, Session] = {}
        self._expected: dict[str, list[str]] = {}
        self.decisions = 0

    def feed(self, number: int, body: Body) -> Divergence | None:
        """One record, in journal order. Records of other kinds (checkpoints, gaps) are passed over."""
        name = body.get("event", "")
        if name == "POLICY":
            self._policies[body["policy"]] = from_json(body["values"])
        elif name in _SOURCES:
            return self._run(number, body)
        elif body.get("session_id") in self._sessions:
            return self._compare(number, body)
        return None

    def _run(self, number: int, body: Body) -> Divergence | None:
        key = body["session_id"]
        missing = self._expected.get(key)
        if missing:
            return Divergence(number, "", missing[0])
        turn = self._turn(body)
        self._expected[key] = [decision(one) for one in turn_bodies(self._sessions[key], turn)]
        return None

    def _turn(self, body: Body) -> Turn:
        key, now, name = body["session_id"], body["mono_ns"], body["event"]
        if name in ("CREATE", "RESTORE"):
            self._sessions[key], turn = self._born(body)
            return turn
        s = self._sessions[key]
        return driver.timer_due(s, now) if name == "TIMER" else driver.receive(s, read_input(body), now)

    def _born(self, body: Body) -> tuple[Session, Turn]:
        fields, policy, now = body["fields"], self._policies[body["policy"]], body["mono_ns"]
        if body["event"] == "CREATE":
            first = _read(driver.First, fields["first"])
            role, ident = Role[fields["role"]], bytes.fromhex(body["session_id"])
            return driver.create(role, ident, body["peer"], policy, first, now, fields["stock"])
        record = _read(driver.Stored, fields["record"])
        return driver.restore(record, policy, fields["down_ns"], fields["audited_version"], now)

    def _compare(self, number: int, body: Body) -> Divergence | None:
        expected, written = self._expected.get(body["session_id"], []), decision(body)
        replayed = expected.pop(0) if expected else ""
        self.decisions += 1
        return None if written == replayed else Divergence(number, written, replayed)

    def finish(self, number: int) -> Divergence | None:
        """What the last turn decided must have been written too."""
        for expected in self._expected.values():
            if expected:
                return Divergence(number, "", expected[0])
        return None


def replay(records: Sequence[Body]) -> Divergence | None:
    """The first decision that a replay of these records makes otherwise, or None: all the same."""
    machine = Replayer()
    for number, body in enumerate(records):
        found = machine.feed(number, body)
        if found is not None:
            return found
    return machine.finish(len(records))
