# SPDX-License-Identifier: Apache-2.0
"""The audit journal of a daemon as tests read it: live while it is written, and judged as a whole afterwards.

Rule: what a test expects of a decision it reads here, from what the daemon itself has audited; what `problems` finds in
a journal is a failure of the product, whatever the test was about.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.control import auditread
from gateway.control.keysfile import decode_key
from gateway.errors import NotFound
from tests.net.proc import LabError
from tests.state import invariants

Body = dict[str, Any]
FOLDER: Final = "audit"
PUBLIC_KEY: Final = "audit.pub"
SOURCES: Final = frozenset({"CREATE", "RESTORE", "POLICY", "INPUT", "TIMER"})
POLL_S: Final = 0.01


class Journal:
    """The records of one daemon, read on as they are written (files in the order of their names, then rotation)."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.records: list[Body] = []
        self._offsets: dict[Path, int] = {}

    def poll(self) -> list[Body]:
        """What was written since the last call."""
        fresh: list[Body] = []
        for path in sorted((self.state_dir / FOLDER).glob("audit-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
            whole = data.rfind(b"\n") + 1
            self._offsets[path] = self._offsets.get(path, 0) + whole
            fresh += [json.loads(line) for line in data[:whole].splitlines()]
        self.records += fresh
        return fresh

    def forget(self) -> None:
        """Drop what was read; reading goes on where it stands. For journals of many sessions."""
        self.poll()
        self.records.clear()

    def wait(
        self, wanted: Callable[[Body], bool], what: str, timeout_s: float = 10.0, since_ns: int = 0
    ) -> Body:
        """The first record (old or new) from ``since_ns`` on that is wanted; LabError after ``timeout_s``."""
        deadline_s, seen = time.monotonic() + timeout_s, 0
        while True:
            self.poll()
            for body in self.records[seen:]:
                if body["mono_ns"] >= since_ns and wanted(body):
                    return body
            seen = len(self.records)
            if time.monotonic() > deadline_s:
                tail = "\n".join(brief(body) for body in events(self.records)[-15:])
                raise LabError(f"not audited within {timeout_s} s: {what}\n{tail}")
            time.sleep(POLL_S)

    # --- questions ------------------------------------------------------------------------------------------------

    def of(self, *names: str, since_ns: int = 0, session_id: str | None = None) -> list[Body]:
        """Events of these names, in order."""
        self.poll()
        return [
            body
            for body in self.records
            if body["event"] in names
            and body["mono_ns"] >= since_ns
            and session_id in (None, body.get("session_id"))
        ]

    def changes(self, since_ns: int = 0) -> list[Body]:
        """The transitions."""
        return self.of("STATE_CHANGE", since_ns=since_ns)

    def rows(self, since_ns: int = 0) -> list[str]:
        """The rows of the table that were taken."""
        return [body["row"] for body in self.changes(since_ns)]

    def states(self, since_ns: int = 0) -> list[str]:
        """The states that were entered."""
        return [body["new_state"] for body in self.changes(since_ns)]

    def reasons(self, since_ns: int = 0) -> list[str]:
        """The reasons of the transitions."""
        return [body["reason"] for body in self.changes(since_ns)]

    def session_ids(self) -> list[str]:
        """Every session that was created here, in order."""
        return [body["session_id"] for body in self.of("SESSION_CREATED")]

    def security(self, since_ns: int = 0) -> list[str]:
        """Classes of the security events."""
        return [body["security_class"] for body in self.of("SECURITY_EVENT", since_ns=since_ns)]


def events(records: Iterable[Body]) -> list[Body]:
    """Records that say what happened, without the inputs that led to it."""
    return [body for body in records if body["event"] not in SOURCES and "session_id" in body]


def brief(body: Body) -> str:
    """One record in one line, for messages."""
    words = [f"{body['mono_ns'] / 1e9:.3f}", body["event"]]
    for key in (
        "row",
        "previous_state",
        "new_state",
        "reason",
        "path_id",
        "path_to",
        "evidence",
        "rule",
        "security_class",
    ):
        if key in body:
            words.append(f"{key}={body[key]}")
    return " ".join(words)


# --- judging a whole journal ----------------------------------------------------------------------------------------


def problems(state_dir: Path, meant: str = "", rebooted: bool = False) -> list[str]:
    """What is wrong with a journal: chain and signatures, invariants (I1–I39), replay. Empty when all holds.

    ``meant``: words of the one fault of the chain that a test has made itself. ``rebooted``: the machine was, so its
    clock began anew.
    """
    try:
        files = auditread.named_files([state_dir / FOLDER])
    except NotFound as error:
        return [str(error)]
    public = decode_key((state_dir / PUBLIC_KEY).read_text().strip())
    faults = [str(verdict.fault) for verdict in auditread.verify(files, public) if verdict.fault]
    found = [f"chain: {fault}" for fault in faults if not meant or meant not in fault]
    for replayed in auditread.replay(files):
        if replayed.fault:
            found.append(
                f"replay: {replayed.fault}\n  written:  {replayed.written}\n  replayed: {replayed.replayed}"
            )
    records = list(auditread.bodies([named.path for named in files]))
    return found + [f"invariant: {text}" for text in invariants.verify(with_beginning(records), rebooted)]


def with_beginning(records: Sequence[Body]) -> list[Body]:
    """Without sessions that do not begin here: somebody has taken the files before away. A gap is a beginning."""
    first: dict[str, str] = {}
    for body in records:
        if "session_id" in body:
            first.setdefault(body["session_id"], body["event"])
    headless = {ident for ident, event in first.items() if event not in ("CREATE", "RESTORE", "AUDIT_GAP")}
    return [body for body in records if body.get("session_id") not in headless]


def without_gaps(records: Sequence[Body]) -> list[Body]:
    """Without the sessions of which records are missing: two ends can be compared only where both are whole."""
    gaps = [body for body in records if body["event"] == "AUDIT_GAP"]
    if any("session_id" not in body for body in gaps):
        return []
    holed = {body["session_id"] for body in gaps}
    return [body for body in with_beginning(records) if body.get("session_id") not in holed]


def pair_problems(client_dir: Path, gateway_dir: Path) -> list[str]:
    """Where the two ends of a session disagree (I21, I38)."""
    ends = []
    for state_dir in (client_dir, gateway_dir):
        files = auditread.named_files([state_dir / FOLDER])
        ends.append(without_gaps(list(auditread.bodies([named.path for named in files]))))
    found = []
    for ident in {body["session_id"] for body in ends[0] if "session_id" in body}:
        mine, theirs = ([b for b in end if b.get("session_id") == ident] for end in ends)
        if mine and theirs:
            found += [f"both ends: {text}" for text in invariants.verify_pair(mine, theirs)]
    return found
