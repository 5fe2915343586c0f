# SPDX-License-Identifier: Apache-2.0
"""``jvpn events``, ``timeline`` and ``why``: what happened, and by which rule.

Rule: the daemon is asked when there is one; the journal files answer the same without it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from gateway.control import ctlclient, statedir
from gateway.errors import DaemonUnreachable, NotFound, UsageError
from gateway.ops.cli import complete, eventline, output
from gateway.ops.cli.options import (
    find_socket,
    interface_option,
    json_option,
    require_socket,
    session_argument,
    socket_option,
    state_dir_option,
)

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FOLLOW_WAIT_MS: Final = 5000
# How long a follower waits before it asks a daemon again that went away for a restart.
_AGAIN_S: Final = 1.0

files_option = click.option(
    "--dir",
    "journal",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR|FILE",
    help="Read this journal; default STATE/audit when no daemon runs.",
)


def journal_paths(journal: Path | None, state_dir: Path | None, interface: str | None) -> list[Path]:
    """The files of a journal in the order of their chains. NotFound when there is none."""
    from gateway.control import auditfile, auditread

    where = journal or statedir.state_dir(state_dir) / auditfile.FOLDER
    return [named.path for named in auditread.named_files([where], interface)]


Reader = Callable[[list[Path]], dict[str, Any]]


class Sources:
    """Where an answer comes from: a journal that was named, else the daemon, else the state directory's journal."""

    def __init__(
        self, journal: Path | None, state_dir: Path | None, interface: str | None, socket: Path | None
    ) -> None:
        self.journal = journal
        self.state_dir = state_dir
        self.interface = interface
        self.socket = socket

    def ask(self, command: str, args: dict[str, Any], read: Reader) -> dict[str, Any]:
        """The daemon's document, or the one `read` makes from files."""
        path = None if self.journal is not None else find_socket(self.interface, self.socket)
        if path is not None:
            try:
                return ctlclient.call(path, command, args, timeout_s=60.0)
            except DaemonUnreachable:
                if self.socket is not None:
                    raise
        return self._from_files(read)

    def _from_files(self, read: Reader) -> dict[str, Any]:
        """What files say; where they say nothing because they are damaged, that."""
        paths = journal_paths(self.journal, self.state_dir, self.interface)
        try:
            document = read(paths)
        except NotFound as error:
            raise NotFound(f"{error}{_damage(paths)}") from None
        if not document.get("events", True) and _damage(paths):
            output.note(_damage(paths).removeprefix("; "))
        return document


def _damage(paths: list[Path]) -> str:
    from gateway.control import auditread

    return "; the journal is damaged, `jvpn audit verify` says where" if auditread.damaged(paths) else ""


# --- events ------------------------------------------------------------------------------------------------------


@click.command()
@interface_option
@socket_option
@state_dir_option
@files_option
@json_option
@click.option(
    "-s",
    "--session",
    metavar="SESSION",
    shell_complete=complete.sessions,
    help="Only this session: a peer's name or the start of an id.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens; with --json one event per line.")
@click.option(
    "-n", "--last", default=50, show_default=True, type=click.IntRange(0), help="So many; 0: all there are."
)
def events(
    interface: str | None,
    socket: Path | None,
    state_dir: Path | None,
    journal: Path | None,
    as_json: bool,
    session: str | None,
    follow: bool,
    last: int,
) -> None:
    """Show what happened to sessions, one line per event (times are UTC).

    \b
    Examples:
      jvpn events
      jvpn events --follow --session phone
      jvpn events --dir /backup/audit --json
    """
    if follow:
        if journal is not None:
            raise UsageError("--follow asks the daemon; it cannot be used with --dir")
        _follow(require_socket(interface, socket), session, as_json, last)
        return
    from gateway.control import auditread

    args = {"session": session} if session else {}
    document = Sources(journal, state_dir, interface, socket).ask(
        "events", args, lambda paths: auditread.events(paths, session, last)
    )
    shown = document["events"][-last:] if last else document["events"]
    _print_events({**document, "events": shown}, as_json)


def _print_events(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.write_json(document)
        return
    if document.get("missed"):
        output.note(f"{document['missed']} earlier events are in the journal only")
    for line in eventline.lines(document["events"]):
        click.echo(line)
    if not document["events"]:
        output.note("no events")


def _follow(path: Path, session: str | None, as_json: bool, last: int) -> None:
    try:
        stream = _stream(path, session, last)
        if as_json:
            for body in stream:
                output.write_json({**body, "schema": "jvpn.event/1"}, indent=0)
                sys.stdout.flush()
        else:
            for line in eventline.lines(stream):
                click.echo(line)
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass


def _stream(path: Path, session: str | None, last: int) -> Iterator[dict[str, Any]]:
    """Events for ever. A daemon that restarts is waited for; what memory lost meanwhile is said."""
    args: dict[str, Any] = {"session": session} if session else {}
    document = ctlclient.call(path, "events", args)
    yield from document["events"][-last:] if last else document["events"]
    while True:
        args |= {"since": document["next"], "instance": document["instance"], "wait_ms": _FOLLOW_WAIT_MS}
        try:
            document = ctlclient.call(path, "events", args)
        except DaemonUnreachable:
            time.sleep(_AGAIN_S)
            continue
        if document["missed"]:
            output.note(f"{document['missed']} events went by unseen; the journal has them")
        yield from document["events"]


# --- timeline ----------------------------------------------------------------------------------------------------


@click.command()
@session_argument
@interface_option
@socket_option
@state_dir_option
@files_option
@json_option
def timeline(
    session: str,
    interface: str | None,
    socket: Path | None,
    state_dir: Path | None,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Show the whole life of SESSION (a peer's name or the start of an id), ended ones too.

    \b
    Example:
      jvpn timeline laptop
    """
    from gateway.control import auditread

    document = Sources(journal, state_dir, interface, socket).ask(
        "timeline", {"session": session}, lambda paths: auditread.timeline(paths, session)
    )
    if as_json:
        output.write_json(document)
        return
    click.echo(f"session {document['session_id']}  peer {document['peer']}")
    for line in eventline.lines(document["events"]):
        click.echo(line)


# --- why ---------------------------------------------------------------------------------------------------------


@click.command(epilog="TIME: 2026-01-02T03:04:05Z, seconds since 1970, or 90s, 5m, 2h, 1d ago.")
@session_argument
@click.option(
    "--at", metavar="TIME", help="Explain the last transition before then; default the last switch."
)
@interface_option
@socket_option
@state_dir_option
@files_option
@json_option
def why(
    session: str,
    at: str | None,
    interface: str | None,
    socket: Path | None,
    state_dir: Path | None,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Explain what SESSION did: the transition, its row of the table, the evidence and what the limits said.

    \b
    Examples:
      jvpn why laptop
      jvpn why laptop --at 5m
    """
    from gateway.control import auditwhy

    at_unix_ns = unix_ns(at, time.time_ns()) if at else None
    args = {"session": session} | ({"at_unix_ns": at_unix_ns} if at_unix_ns is not None else {})
    document = Sources(journal, state_dir, interface, socket).ask(
        "why", args, lambda paths: auditwhy.explain(paths, session, at_unix_ns)
    )
    if as_json:
        output.write_json(document)
    else:
        click.echo("\n".join(_story(document)))


def unix_ns(text: str, now_unix_ns: int) -> int:
    """Unix nanoseconds of a time as `--at` takes it."""
    from gateway.control.auditwhy import unix_ns_of

    ago = _AGO.match(text)
    if ago:
        return now_unix_ns - int(float(ago[1]) * _SECONDS[ago[2]] * 1_000_000_000)
    try:
        return int(float(text) * 1_000_000_000)
    except ValueError:
        pass
    try:
        return unix_ns_of(text)
    except ValueError:
        raise UsageError(f"--at {text}: not a time; try 2026-01-02T03:04:05Z or 5m") from None


def _story(document: dict[str, Any]) -> Iterator[str]:
    yield f"session {document['session_id']}  peer {document['peer']}  policy {document['policy'][:19]}"
    for step in document["steps"]:
        yield ""
        yield from _step(step)


def _step(step: dict[str, Any]) -> Iterator[str]:
    for body in step["before"]:
        yield f"{body['ts'][11:23]}    before  {_input(body)}"
    yield f"{step['ts'][:10]} {step['ts'][11:23]} UTC  because  {_input(step['cause'])}"
    for move in step["transitions"]:
        rule = move["rule"]
        yield f"  {move['previous_state']} → {move['new_state']}  {move['reason']}  version {move['state_version']}"
        yield f"    row {rule['row']}: {rule['input']}; guard: {rule['guard']}"
        yield f"    binding: {eventline.binding(move)}"
    for event in step["events"]:
        yield "    " + eventline.line(event).split("  ", 2)[2]


def _input(body: dict[str, Any]) -> str:
    if body["event"] != "INPUT":
        name = str(body["event"])
        return {"TIMER": "a timer was due", "RESTORE": "the process restarted"}.get(name, name)
    values = dict(body.get("fields") or {})
    by = values.pop("by", "")
    fields = " ".join(f"{name}={value}" for name, value in values.items())
    return f"{body['input']} {fields}".rstrip() + (f"  by {by}" if by else "")
