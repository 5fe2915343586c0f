# SPDX-License-Identifier: Apache-2.0
"""Reading a journal: verify its chain and signatures, replay its decisions, find a session's records.

Rule: nothing here needs the daemon, writes, or trusts a journal. A file that is being written may end in half a line;
that is the only half line which is forgiven.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from gateway import crypto
from gateway.control.actor import ACTION_EVENT
from gateway.control.auditfile import CHECKPOINT_RECORDS, Named, journal_files
from gateway.core import audit
from gateway.core.audit import Body, Divergence
from gateway.errors import AuthError, CryptoError, NotFound, UsageError

# What goes in; everything else with a session is an event.
SOURCES: Final = frozenset({"CREATE", "RESTORE", "INPUT", "TIMER"})
PREFIX_MIN: Final = 4
_EMPTY: Final = "the file holds no record, and has never been without one: what it held is gone"
_WHERE: Final = "`jvpn sessions` lists the living ones, `jvpn events` names those that ended"

_CHECKPOINT: Final = b'"event":"CHECKPOINT"'
_VERSION: Final = re.compile(rb'"session_id":"([0-9a-f]{32})","state_version":(\d+)')
_SESSION: Final = re.compile(rb'"peer":("(?:[^"\\]|\\.)*").*"session_id":"([0-9a-f]{32})"')
_HEX: Final = re.compile(r"[0-9a-f]+\Z")


class Line(NamedTuple):
    """One line of a journal and where it stands (``number`` from 1)."""

    path: Path
    number: int
    data: bytes

    def body(self) -> Body:
        """Its record. ValueError when it is none."""
        body = msgspec.json.decode(self.data)
        if not isinstance(body, dict):
            raise ValueError("not a record")
        return body


class Fault(NamedTuple):
    """What is wrong with a journal, and where."""

    path: Path
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}" if self.line else f"{self.path}: {self.why}"


def lines(paths: Iterable[Path]) -> Iterator[Line]:
    """All whole lines of these files in order."""
    for path in paths:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if data.endswith(b"\n"):
                    yield Line(path, number, data[:-1])


def bodies(paths: Iterable[Path], needle: bytes = b"") -> Iterator[Body]:
    """The records whose line holds ``needle``. A line that is no record is passed over: ``verify`` names it."""
    for line in lines(paths):
        if needle in line.data:
            try:
                yield line.body()
            except ValueError:
                continue


def damaged(paths: Iterable[Path]) -> bool:
    """Whether a line is no record at all; whether it was altered is for ``verify``."""
    for line in lines(paths):
        try:
            if "event" not in line.body():
                return True
        except ValueError:
            return True
    return False


# --- verify ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Verdict:
    """What `audit verify` found in one chain. Whole when ``fault`` is None."""

    interface: str
    files: int = 0
    records: int = 0
    first_seq: int = 0
    checkpoints: int = 0
    unsigned: int = 0  # records after the last checkpoint
    torn_bytes: int = 0
    fault: Fault | None = None


@dataclass(slots=True)
class _Walk:
    """Where a verification stands."""

    verdict: Verdict
    public_key: bytes | None
    prev: str = ""
    seq: int = -1

    def file(self, path: Path, newest: bool) -> Fault | None:
        data = path.read_bytes().split(b"\n")
        torn = len(data.pop())
        if torn and not newest:
            return Fault(path, len(data) + 1, "the file ends in the middle of a record")
        self.verdict.torn_bytes = torn
        if not data:
            return Fault(path, 0, _EMPTY)
        if self.seq < 0:
            self._begin(data[0])
        try:
            texts = [line.decode("ascii") for line in data]
        except UnicodeDecodeError:
            return Fault(path, 0, "not a journal: it holds more than ASCII text")
        broken = audit.verify(texts, self.prev, self.seq)
        if broken is not None:
            return Fault(path, broken.line + 1, broken.why)
        fault = _began(path, data[0]) or self._checkpoints(path, data)
        self.prev, self.seq = msgspec.json.decode(data[-1])["hash"], self.seq + len(data)
        self.verdict.records += len(data)
        return fault

    def _begin(self, line: bytes) -> None:
        """The oldest file that was kept: what came before it is known by its digest only."""
        try:
            first = msgspec.json.decode(line)
            seq, prev = int(first["seq"]), str(first["prev"])
        except (ValueError, KeyError, TypeError):
            seq, prev = 0, audit.GENESIS
        self.seq, self.prev = (seq, prev) if seq > 0 else (0, audit.GENESIS)
        self.verdict.first_seq = self.seq

    def _checkpoints(self, path: Path, data: list[bytes]) -> Fault | None:
        verdict = self.verdict
        for number, line in enumerate(data, 1):
            verdict.unsigned += 1
            if _CHECKPOINT in line:
                why = _unsigned(msgspec.json.decode(line), self.public_key)
                if why:
                    return Fault(path, number, why)
                verdict.checkpoints += 1
                verdict.unsigned = 0
            elif verdict.unsigned > CHECKPOINT_RECORDS:
                return Fault(path, number, f"no signed checkpoint in {CHECKPOINT_RECORDS} records")
        return None


def _began(path: Path, line: bytes) -> Fault | None:
    """What the first record of a file says of the one before it (``auditfile``)."""
    body = msgspec.json.decode(line)
    previous = body.get("previous")
    if body.get("event") != "JOURNAL":
        return Fault(path, 1, "the first record of a file is no JOURNAL record")
    if previous == "rotated" or (previous == "none" and body["seq"] == 0):
        return None
    return Fault(path, 1, f"begun because the records before it were gone or damaged (previous: {previous})")


def _unsigned(body: Body, public_key: bytes | None) -> str:
    """Why a checkpoint does not vouch for what is before it, or empty."""
    try:
        signed = audit.checkpoint_body(body["records"], body["head"], body["mono_ns"])
        if (body["records"], body["head"]) != (body["seq"], body["prev"]):
            return "the checkpoint names other records than those before it"
        if public_key is not None:
            crypto.ed25519_verify(
                public_key, audit.canonical(signed).encode(), bytes.fromhex(body["signature"])
            )
    except AuthError:
        return "the checkpoint is not signed by this key"
    except (KeyError, TypeError, ValueError, CryptoError):
        return "not a checkpoint"
    return ""


def verify(files: Sequence[Named], public_key: bytes | None) -> list[Verdict]:
    """Chain and signatures of every interface's files. Without a key the signatures are not checked."""
    return [_verify_chain(chain, public_key) for chain in chains(files)]


def _verify_chain(chain: Sequence[Named], public_key: bytes | None) -> Verdict:
    verdict = Verdict(chain[0].interface)
    walk = _Walk(verdict, public_key)
    for named in chain:
        verdict.files += 1
        verdict.fault = walk.file(named.path, named is chain[-1])
        if verdict.fault is not None:
            return verdict
    if verdict.records and not verdict.checkpoints:
        verdict.fault = Fault(chain[-1].path, 0, "there is no signed checkpoint")
    return verdict


def chains(files: Sequence[Named]) -> list[list[Named]]:
    """The files of each interface, each in the order of its chain."""
    found: dict[str, list[Named]] = {}
    for named in sorted(files):
        found.setdefault(named.interface, []).append(named)
    return list(found.values())


def named_files(paths: Sequence[Path], interface: str | None = None) -> list[Named]:
    """The journal files among these files and directories. NotFound when there is none."""
    found: list[Named] = []
    for path in paths:
        if path.is_dir():
            found += journal_files(path, interface)
        else:
            found += [one for one in journal_files(path.parent) if one.path.name == path.name]
    if not found:
        where = ", ".join(map(str, paths))
        raise NotFound(f"no audit journal in {where}; --dir or --state-dir names another place")
    return sorted(set(found))


# --- replay ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Replayed:
    """What `audit replay` did with one chain."""

    interface: str
    records: int = 0
    sessions: int = 0
    decisions: int = 0
    partial: int = 0  # sessions not replayed to their end, or from their beginning: records are missing
    fault: Fault | None = None
    written: str = ""  # the divergence: what the journal says, and what the machine decides
    replayed: str = ""


@dataclass(slots=True)
class _Replay:
    """One machine per session, so that a gap in one session ends the replay of that session only."""

    result: Replayed
    policies: dict[str, Body] = field(default_factory=dict)
    machines: dict[str, audit.Replayer] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)

    def feed(self, number: int, body: Body) -> Divergence | None:
        name, key = body.get("event", ""), body.get("session_id")
        if name == "POLICY":
            self.policies[body["policy"]] = body
        elif name == "JOURNAL":
            return self._opened(number, body["previous"])
        elif name == "AUDIT_GAP":
            self._gap(key)
        elif key is not None:
            return self._session(number, name, key, body)
        return None

    def _opened(self, number: int, previous: str) -> Divergence | None:
        """After a restart nothing goes on but what is restored. What a killed process did not write is no fault."""
        if previous == "rotated":
            return None
        found = self.finish(number) if previous == "clean" else None
        self._drop_all()
        return found

    def _gap(self, key: str | None) -> None:
        for one in (key,) if key is not None else tuple(self.machines):
            self.partial.add(one)
            self._drop(one)

    def _session(self, number: int, name: str, key: str, body: Body) -> Divergence | None:
        found = None
        if name in ("CREATE", "RESTORE"):
            found = self._end(number, key)
            self.machines[key] = self._machine(body)
            self.result.sessions += name == "CREATE"
        machine = self.machines.get(key)
        if machine is None:
            self.partial.add(key)
            return None
        return found or machine.feed(number, body)

    def _machine(self, body: Body) -> audit.Replayer:
        machine = audit.Replayer()
        machine.feed(0, self.policies[body["policy"]])
        return machine

    def _end(self, number: int, key: str) -> Divergence | None:
        machine = self.machines.get(key)
        found = machine.finish(number) if machine is not None else None
        self._drop(key)
        return found

    def _drop(self, key: str) -> None:
        machine = self.machines.pop(key, None)
        if machine is not None:
            self.result.decisions += machine.decisions

    def _drop_all(self) -> None:
        for key in tuple(self.machines):
            self._drop(key)

    def finish(self, number: int) -> Divergence | None:
        """Every decision of the machines must have been written."""
        for key in tuple(self.machines):
            found = self._end(number, key)
            if found is not None:
                return found
        return None


def replay(files: Sequence[Named]) -> list[Replayed]:
    """Feed the recorded inputs to the pure machine; a fault names the first decision it makes otherwise."""
    return [_replay_chain(chain) for chain in chains(files)]


def _replay_chain(chain: Sequence[Named]) -> Replayed:
    result = Replayed(chain[0].interface)
    work, last = _Replay(result), None
    for line in lines(named.path for named in chain):
        last = line
        result.records += 1
        try:
            found = work.feed(result.records - 1, line.body())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            result.fault = Fault(line.path, line.number, f"this record cannot be replayed: {error!r}")
            return result
        if found is not None:
            return _diverged(result, line, found)
    # The newest file may be in the middle of a turn: only a chain that was closed must be complete.
    if last is not None and last.body().get("final") is True:
        found = work.finish(result.records)
        if found is not None:
            return _diverged(result, last, found)
    work._drop_all()
    result.partial = len(work.partial)
    return result


def _diverged(result: Replayed, line: Line, found: Divergence) -> Replayed:
    result.fault = Fault(line.path, line.number, "the machine decides otherwise")
    result.written, result.replayed = found.written, found.replayed
    return result


# --- sessions ----------------------------------------------------------------------------------------------------


def last_versions(directory: Path, interface: str) -> dict[bytes, int]:
    """The highest ``state_version`` of every session in the journal: a restored session goes on above it."""
    found: dict[bytes, int] = {}
    for named in journal_files(directory, interface):
        for match in _VERSION.finditer(named.path.read_bytes()):
            ident, version = bytes.fromhex(match[1].decode()), int(match[2])
            found[ident] = max(version, found.get(ident, 0))
    return found


def sessions(paths: Iterable[Path]) -> dict[str, str]:
    """Session id to peer name, the one with the latest record last."""
    found: dict[str, str] = {}
    for line in lines(paths):
        match = _SESSION.search(line.data)
        if match is None:
            continue
        ident = match[2].decode()
        peer = found.pop(ident, None)
        found[ident] = peer if peer is not None else str(msgspec.json.decode(match[1]))
    return found


def choose(selector: str, known: dict[str, str]) -> str:
    """The session id that a selector names: a peer's name (its latest session), or a unique prefix of the id.

    NotFound when there is none, UsageError when a prefix is too short or fits several.
    """
    of_peer = [ident for ident, peer in known.items() if peer == selector]
    if of_peer:
        return of_peer[-1]
    prefix = selector.lower()
    if not _HEX.match(prefix):
        raise NotFound(f"no session of a peer named {selector}; {_WHERE}")
    if len(prefix) < PREFIX_MIN:
        raise UsageError(f"{selector}: give at least {PREFIX_MIN} digits of a session id")
    found = [ident for ident in known if ident.startswith(prefix)]
    if len(found) > 1:
        raise UsageError(f"{selector} fits several sessions: " + ", ".join(ident[:12] for ident in found))
    if not found:
        raise NotFound(f"no session {selector}; {_WHERE}")
    return found[0]


def timeline(paths: Sequence[Path], selector: str) -> dict[str, Any]:
    """Every event of a session and what was done to it, ``jvpn.timeline/1``; the log alone tells it."""
    known = sessions(paths)
    ident = choose(selector, known)
    events = [body for body in bodies(paths, ident.encode()) if _is_event(body) and _concerns(body, ident)]
    return {"schema": "jvpn.timeline/1", "session_id": ident, "peer": known[ident], "events": events}


def _is_event(body: Body) -> bool:
    """Something that happened to a session, or was done by an operator."""
    name = body.get("event")
    return name == ACTION_EVENT or ("session_id" in body and name not in SOURCES)


def _concerns(body: Body, ident: str) -> bool:
    """Whether it happened to this session, or was done to it."""
    return body.get("session_id", body.get("target")) == ident


def events(paths: Sequence[Path], selector: str | None, limit: int) -> dict[str, Any]:
    """The latest events of all sessions or one, and what was done to them, ``jvpn.events/1``."""
    ident = choose(selector, sessions(paths)) if selector else ""
    found: list[Body] = []
    for body in bodies(paths, ident.encode()):
        if _is_event(body) and (not ident or _concerns(body, ident)):
            found.append(body)
            if len(found) > 2 * limit:
                del found[:limit]
    return {"schema": "jvpn.events/1", "events": found[-limit:] if limit else found}


def select(
    paths: Sequence[Path],
    ident: str | None,
    first_unix_ns: int | None,
    last_unix_ns: int | None,
    events_only: bool,
) -> Iterator[bytes]:
    """The lines of a session, of a span of time, or without what went in; as they stand in the files."""
    earliest = audit.wall(first_unix_ns) if first_unix_ns is not None else ""
    latest = audit.wall(last_unix_ns) if last_unix_ns is not None else "~"
    for line in lines(paths):
        if ident is None and not events_only and not earliest and latest == "~":
            yield line.data
            continue
        body = line.body()
        wanted = ident is None or body.get("session_id") == ident
        if wanted and earliest <= body["ts"] <= latest and not (events_only and body["event"] in SOURCES):
            yield line.data
