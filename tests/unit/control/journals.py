# SPDX-License-Identifier: Apache-2.0
"""Real turns for audit tests: a simulated life of a session, driven through the core again and into a sink."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.control.auditfile import SigningKey, journal_files
from gateway.control.auditlog import AuditLog
from gateway.control.sessions import Sink
from gateway.core import audit, driver
from gateway.core.policy import Policy, from_json
from gateway.core.session import Session
from gateway.core.states import Role, Tier
from gateway.crypto import ed25519_seed_keypair
from tests.sim.world import S, World

KEY = SigningKey(*ed25519_seed_keypair(bytes(range(32))))
Body = dict[str, Any]


@functools.cache
def lives() -> tuple[tuple[Body, ...], tuple[Body, ...]]:
    """Client's and gateway's records of one session: attached, link cut, switched, cut again, back."""
    w = World(seed=3).start()
    w.traffic(2 * S)
    w.cut(1)
    w.traffic(4 * S)
    return tuple(w.client.lines), tuple(w.gateway.lines)


def born(body: Body, policy: Policy) -> tuple[Session, Any, Any]:
    """The session a CREATE record makes, its turn, and where it began."""
    fields = body["fields"]
    first = driver.First(**{**fields["first"], "tier": Tier[fields["first"]["tier"]]})
    s, turn = driver.create(
        Role[fields["role"]],
        bytes.fromhex(body["session_id"]),
        body["peer"],
        policy,
        first,
        body["mono_ns"],
        fields["stock"],
    )
    return s, turn, first


def drive(
    sink: Sink, records: Iterable[Body], *, number: int = 0, between: Callable[[], None] = lambda: None
) -> Session:
    """Feed a life's inputs to a fresh session and everything to the sink. ``number`` makes another identity of it."""
    policies: dict[str, Policy] = {}
    s: Session | None = None
    for place, record in enumerate(records):
        body = record
        if place % 20 == 19:
            between()
        if number and "session_id" in body:
            body = {**body, "session_id": number.to_bytes(16, "big").hex(), "peer": f"peer{number}"}
        if body["event"] == "POLICY":
            policies[body["policy"]] = from_json(body["values"])
        elif body["event"] == "CREATE":
            s, turn, first = born(body, policies[body["policy"]])
            sink.created(s, first, turn)
        elif s is not None and body["event"] == "INPUT":
            one = audit.read_input(body)
            sink.received(s, one, driver.receive(s, one, body["mono_ns"]))
        elif s is not None and body["event"] == "TIMER":
            sink.timed(s, driver.timer_due(s, body["mono_ns"]))
    assert s is not None
    return s


class Clock:
    """A wall clock that moves a millisecond per look."""

    def __init__(self) -> None:
        self.unix_ns = 1_767_323_045_000_000_000

    def __call__(self) -> int:
        self.unix_ns += 1_000_000
        return self.unix_ns


def audit_log(directory: Path, **more: Any) -> AuditLog:
    options = {"interface": "jvpn0", "unix_ns": Clock(), "now_ns": lambda: 1, **more}
    return AuditLog(directory, "gw-1", KEY, **options)


def written(directory: Path) -> list[Body]:
    """Every record of a directory's journal in order."""
    from gateway.control.auditread import bodies

    return list(bodies(named.path for named in journal_files(directory)))


WRITER = """
import sys
from pathlib import Path
from tests.unit.control.journals import audit_log, drive, lives
rotates = sys.argv[3] == "rotates"
log = audit_log(Path(sys.argv[1]), **({} if rotates else {"max_bytes": 200_000}))
lives()
print("go", flush=True)
number = int(sys.argv[2])
while True:
    number += 1
    drive(log, lives()[0], number=number)
    if rotates:
        log.rotate()
"""


@contextmanager
def killed_writer(folder: Path, number: int, rotates: str = "") -> Iterator[None]:
    """A process that writes life after life, the first by this number, and ``rotates`` after each; kill -9 ends it."""
    command = [sys.executable, "-c", WRITER, str(folder), str(number), rotates]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        try:
            yield
        finally:
            child.kill()
