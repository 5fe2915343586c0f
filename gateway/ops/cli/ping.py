# SPDX-License-Identifier: Apache-2.0
"""``jvpn ping``: is the other end of a session there, by which path, and how far away."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from gateway.control import ctlclient
from gateway.errors import UsageError
from gateway.ops.cli import complete, output
from gateway.ops.cli.eventline import short
from gateway.ops.cli.options import PATH_NUMBER, json_option, require_socket, session_argument, socket_option

SCHEMA: Final = "jvpn.pings/1"
# A hundred a second: the control rate's default.
_INTERVAL_MIN_S: Final = 0.01
_INTERVAL_MAX_S: Final = 3600.0
_WAIT_MIN_S: Final = 0.05
_WAIT_MAX_S: Final = 5.0

Document = dict[str, Any]


@click.command(
    epilog="Exit status 1 when nothing came back. The pings keep to the session's control rate, "
    "and change nothing about it."
)
@session_argument
@click.option(
    "-c",
    "--count",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="How many; 0: until Ctrl-C.",
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(_INTERVAL_MIN_S, _INTERVAL_MAX_S),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="From one to the next.",
)
@click.option(
    "-W",
    "--wait",
    type=click.FloatRange(_WAIT_MIN_S, _WAIT_MAX_S),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="For each answer.",
)
@click.option(
    "--path",
    "path_id",
    type=PATH_NUMBER,
    default=0,
    metavar="PATH",
    shell_complete=complete.paths,
    help="By this path, a number that `jvpn paths SESSION` shows; else by the one in use.",
)
@click.option(
    "--interface",
    metavar="IFACE",
    shell_complete=complete.interfaces,
    help="The daemon of this interface.",
)
@socket_option
@json_option
@click.pass_context
def ping(
    ctx: click.Context,
    session: str,
    count: int,
    interval: float,
    wait: float,
    path_id: int,
    interface: str | None,
    socket: Path | None,
    as_json: bool,
) -> None:
    """Measure the round trip of SESSION (a peer's name or the start of its id), from either end.

    \b
    Examples:
      jvpn ping laptop
      jvpn ping laptop -c 10 -i 0.2
      jvpn ping 3fa9 --path 2 --json
    """
    if as_json and not count:
        raise UsageError("--json needs an end: give -c a number above 0")
    args = {"session": session, "path_id": path_id, "timeout_ms": round(wait * 1000)}
    tally, found = Tally(), []
    try:
        for one in _each(require_socket(interface, socket), args, count, interval):
            tally.add(one)
            if as_json:
                found.append(one)
            else:
                click.echo(line(tally.sent, one, wait))
    except KeyboardInterrupt:
        if not tally.sent:
            raise
    if as_json:
        output.write_json({**tally.document(), "pings": found})
    else:
        click.echo(tally.text())
    ctx.exit(0 if tally.answered else 1)


def _each(socket: Path, args: dict[str, Any], count: int, interval_s: float) -> Iterator[Document]:
    """The answers, one per interval. From the second on the session is meant by its id, not by a name."""
    due_s, sent = time.monotonic(), 0
    while not count or sent < count:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = max(due_s, time.monotonic() - interval_s) + interval_s
        document = ctlclient.call(socket, "ping", args)
        args = {**args, "session": document["session_id"]}
        sent += 1
        yield document


@dataclass(slots=True)
class Tally:
    """How many were sent and answered, and their round trips in ms. It stays small however long the run."""

    session_id: str = ""
    peer: str = ""
    sent: int = 0
    answered: int = 0
    min_ms: float = math.inf
    max_ms: float = 0.0
    total_ms: float = 0.0

    def add(self, one: Document) -> None:
        """Count one answer, or its absence."""
        self.session_id, self.peer = one["session_id"], one["peer"]
        self.sent += 1
        rtt_ms = one["rtt_ms"]
        if rtt_ms is not None:
            self.answered += 1
            self.min_ms, self.max_ms = min(self.min_ms, rtt_ms), max(self.max_ms, rtt_ms)
            self.total_ms += rtt_ms

    def document(self) -> Document:
        """``jvpn.pings/1`` without its list."""
        avg_ms = self.total_ms / self.answered if self.answered else 0.0
        rtt = {"min": self.min_ms, "avg": avg_ms, "max": self.max_ms} if self.answered else None
        return {
            "schema": SCHEMA,
            "session_id": self.session_id,
            "peer": self.peer,
            "sent": self.sent,
            "answered": self.answered,
            "rtt_ms": rtt,
        }

    def text(self) -> str:
        """The last lines for a person."""
        lost = 100 * (self.sent - self.answered) / self.sent
        text = f"session {short(self.session_id)} of {self.peer}: "
        text += f"{self.sent} sent, {self.answered} answered, {lost:.0f} % lost"
        if not self.answered:
            return text
        avg_ms = self.total_ms / self.answered
        return f"{text}\nmin/avg/max {self.min_ms:.2f}/{avg_ms:.2f}/{self.max_ms:.2f} ms"


def line(number: int, one: Document, wait_s: float) -> str:
    """One ping as text."""
    if one["path_id"] is None:
        return f"{number}: no path is in use"
    through = f"path {one['path_id']} {one['address']}"
    if one["rtt_ms"] is None:
        return f"{number}: {through}: no answer in {wait_s:g} s"
    return f"{number}: {through}: {one['rtt_ms']:.2f} ms"
