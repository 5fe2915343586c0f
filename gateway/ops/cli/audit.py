# SPDX-License-Identifier: Apache-2.0
"""``jvpn audit verify|replay|export|rotate``: is the journal whole, and were its decisions the machine's own?

Rule: all but ``rotate`` read files and nothing else; they give the same answer on another machine, long after the
daemon is gone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.control import ctlclient, statedir
from gateway.errors import NotFound, UsageError
from gateway.ops.cli import complete, output
from gateway.ops.cli.options import (
    interface_option,
    json_option,
    require_socket,
    socket_option,
    state_dir_option,
)

if TYPE_CHECKING:
    from gateway.control.auditfile import Named
    from gateway.control.auditread import Replayed, Verdict

_FILES = click.argument(
    "files", nargs=-1, metavar="[FILE|DIR]...", type=click.Path(exists=True, path_type=Path)
)
_DIR = click.option(
    "--dir", "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
    help="The journal's directory; default STATE/audit.",
)  # fmt: skip


@click.group()
def audit() -> None:
    """Check, replay and export the audit journal. No daemon is needed, but to rotate it.

    \b
    Examples:
      jvpn audit verify
      jvpn audit replay --dir /backup/audit
      jvpn audit export --session phone > phone.jsonl
    """


def _named(
    files: tuple[Path, ...], directory: Path | None, state_dir: Path | None, interface: str | None
) -> list[Named]:
    from gateway.control import auditfile, auditread

    if directory is not None and files:
        raise UsageError("give --dir or files, not both")
    where = list(files) or [directory or statedir.state_dir(state_dir) / auditfile.FOLDER]
    return auditread.named_files(where, interface)


# --- verify ------------------------------------------------------------------------------------------------------


@audit.command()
@_FILES
@_DIR
@state_dir_option
@interface_option
@json_option
@click.option("--public-key", metavar="KEY|FILE", help="Who signed; default STATE/audit.pub.")
@click.option(
    "--chain-only", is_flag=True, help="Do not check signatures: whoever wrote the files could forge them."
)
@click.pass_context
def verify(
    ctx: click.Context,
    files: tuple[Path, ...],
    directory: Path | None,
    state_dir: Path | None,
    interface: str | None,
    as_json: bool,
    public_key: str | None,
    chain_only: bool,
) -> None:
    """Check that no record was altered, removed or inserted, across rotated files.

    Exit code 1 names the file, the line and what is wrong there.
    """
    from gateway.control import auditread

    named = _named(files, directory, state_dir, interface)
    key = None if chain_only else _public_key(public_key, named[0].path.parent, state_dir)
    verdicts = auditread.verify(named, key)
    whole = all(verdict.fault is None for verdict in verdicts)
    if as_json:
        chains = [_chain(verdict, key is not None) for verdict in verdicts]
        output.write_json({"schema": "jvpn.audit.verify/1", "ok": whole, "chains": chains})
    else:
        for verdict in verdicts:
            _say_verdict(verdict, key is not None)
    ctx.exit(0 if whole else 1)


def _public_key(given: str | None, journal: Path, state_dir: Path | None) -> bytes:
    """The key that was named, else the one beside the journal or in the state directory."""
    from gateway.control import auditfile, keysfile

    if given is not None and not Path(given).exists():
        try:
            return keysfile.decode_key(given)
        except ValueError as error:
            raise UsageError(f"--public-key: neither a file nor a key ({error})") from None
    beside = [journal.parent / auditfile.PUBLIC_FILE, statedir.state_dir(state_dir) / auditfile.PUBLIC_FILE]
    for path in [Path(given)] if given is not None else beside:
        if path.exists():
            return keysfile.read_key_file(path).key
    raise NotFound("no audit.pub here to check signatures with; give --public-key KEY, or --chain-only")


def _chain(verdict: Verdict, signatures: bool) -> dict[str, Any]:
    document = dataclasses.asdict(verdict)
    fault = verdict.fault
    document["fault"] = {"file": str(fault.path), "line": fault.line, "why": fault.why} if fault else None
    return {**document, "signatures": "checked" if signatures else "not checked"}


def _say_verdict(verdict: Verdict, signatures: bool) -> None:
    if verdict.fault is not None:
        click.echo(f"{verdict.interface}: broken", err=True)
        click.echo(str(verdict.fault), err=True)
        return
    signed = f"{verdict.checkpoints} checkpoints" + (
        " signed by this key" if signatures else ", signatures not checked"
    )
    click.echo(f"{verdict.interface}: whole. {verdict.records} records in {verdict.files} files, {signed}")
    if verdict.first_seq:
        output.note(
            f"{verdict.interface}: begins at record {verdict.first_seq}; older files were rotated away"
        )
    if verdict.unsigned:
        output.note(f"{verdict.interface}: the last {verdict.unsigned} records are not signed yet")
    if verdict.torn_bytes:
        output.note(f"{verdict.interface}: half a record at the end, being written or torn by a crash")


# --- rotate ---------------------------------------------------------------------------------------------------------


@audit.command()
@interface_option
@socket_option
@json_option
def rotate(interface: str | None, socket: Path | None, as_json: bool) -> None:
    """Begin a new file of a running daemon's journal; the others are complete then, to be copied away.

    The new file goes on with the chain of the last one: `jvpn audit verify` reads all of them.
    """
    document = ctlclient.call(require_socket(interface, socket), "audit.rotate")
    output.write_json(document) if as_json else click.echo(f"{document['complete']} is complete")


# --- replay ------------------------------------------------------------------------------------------------------


@audit.command()
@_FILES
@_DIR
@state_dir_option
@interface_option
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    files: tuple[Path, ...],
    directory: Path | None,
    state_dir: Path | None,
    interface: str | None,
    as_json: bool,
) -> None:
    """Feed the recorded inputs to the state machine: it must decide the same again.

    Exit code 1 names the first decision that differs.
    """
    from gateway.control import auditread

    results = auditread.replay(_named(files, directory, state_dir, interface))
    same = all(result.fault is None for result in results)
    if as_json:
        chains = [_replayed(result) for result in results]
        output.write_json({"schema": "jvpn.audit.replay/1", "ok": same, "chains": chains})
    else:
        for result in results:
            _say_replayed(result)
    ctx.exit(0 if same else 1)


def _replayed(result: Replayed) -> dict[str, Any]:
    fault = result.fault
    where = {"file": str(fault.path), "line": fault.line, "why": fault.why} if fault else None
    return {**dataclasses.asdict(result), "fault": where}


def _say_replayed(result: Replayed) -> None:
    if result.fault is not None:
        click.echo(str(result.fault), err=True)
        click.echo(f"  written:  {result.written or '(nothing)'}", err=True)
        click.echo(f"  replayed: {result.replayed or '(nothing)'}", err=True)
        return
    click.echo(
        f"{result.interface}: the same {result.decisions} decisions from {result.records} records"
        f" of {result.sessions} sessions"
    )
    if result.partial:
        output.note(
            f"{result.interface}: {result.partial} sessions only in part: records of them are missing"
        )


# --- export ------------------------------------------------------------------------------------------------------


@audit.command()
@_FILES
@_DIR
@state_dir_option
@interface_option
@click.option(
    "-s",
    "--session",
    metavar="SESSION",
    shell_complete=complete.sessions,
    help="Only this session: a peer's name or the start of an id.",
)
@click.option("--since", metavar="TIME", help="2026-01-02T03:04:05Z, or 5m, 2h, 1d ago.")
@click.option("--until", metavar="TIME", help="As --since.")
@click.option("--events-only", is_flag=True, help="Without inputs and timers.")
def export(
    files: tuple[Path, ...],
    directory: Path | None,
    state_dir: Path | None,
    interface: str | None,
    session: str | None,
    since: str | None,
    until: str | None,
    events_only: bool,
) -> None:
    """Write records to stdout as they are, one JSON object per line (each has its own `schema`).

    All of them, in order, are a journal again; with a choice they are not a whole chain any more.
    """
    import time

    from gateway.control import auditread
    from gateway.ops.cli.events import unix_ns

    paths = [named.path for named in _named(files, directory, state_dir, interface)]
    ident = auditread.choose(session, auditread.sessions(paths)) if session else None
    now = time.time_ns()
    first, last = (unix_ns(text, now) if text else None for text in (since, until))
    for line in auditread.select(paths, ident, first, last, events_only):
        click.echo(line)
