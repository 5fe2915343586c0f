# SPDX-License-Identifier: Apache-2.0
"""``jvpn sessions``, ``paths``, ``switch`` and ``terminate``: who is attached through what, and the operator's word."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from gateway.control import ctlclient
from gateway.errors import UsageError
from gateway.ops.cli import complete, output
from gateway.ops.cli.eventline import short
from gateway.ops.cli.options import (
    PATH_NUMBER,
    interface_option,
    json_option,
    require_socket,
    session_argument,
    socket_option,
)

_SESSIONS: Final = ("SESSION", "PEER", "STATE", "SINCE", "PATH", "THROUGH", "REASON", "SWITCHES")
_SESSIONS_RIGHT: Final = frozenset((3, 4, 7))
_PATHS: Final = (
    "PATH",
    "STATUS",
    "RTT",
    "JITTER",
    "LOSS",
    "SCORE",
    "STABILITY",
    "PENALTY",
    "TIER",
    "HEARD",
    "ADDRESS",
)
_PATHS_RIGHT: Final = frozenset((0, 2, 3, 4, 5, 6, 7, 9))
# The colour a state has on a terminal.
_MARKS: Final = {
    "ATTACHED": "ok",
    "VOLATILE": "warn",
    "DEGRADED": "warn",
    "RECOVERING": "warn",
    "TERMINATED": "fail",
}


@click.command()
@click.argument("session", required=False, shell_complete=complete.sessions)
@interface_option
@socket_option
@json_option
def sessions(session: str | None, interface: str | None, socket: Path | None, as_json: bool) -> None:
    """List the living sessions, or show SESSION (a peer's name or the start of its id) in full.

    \b
    Examples:
      jvpn sessions
      jvpn sessions phone
      jvpn sessions 3fa9 --json
    """
    path = require_socket(interface, socket)
    if session is None:
        document = ctlclient.call(path, "sessions")
        output.write_json(document) if as_json else click.echo(render_list(document))
        return
    document = ctlclient.call(path, "session", {"session": session})
    output.write_json(document) if as_json else click.echo(render(document))


@click.command()
@session_argument
@interface_option
@socket_option
@json_option
def paths(session: str, interface: str | None, socket: Path | None, as_json: bool) -> None:
    """Show the paths of SESSION: status, round trip, loss, score.

    \b
    Example:
      jvpn paths laptop
    """
    document = ctlclient.call(require_socket(interface, socket), "session", {"session": session})
    if as_json:
        chosen = {name: document[name] for name in ("session_id", "peer", "suite", "path_id", "paths")}
        output.write_json({"schema": "jvpn.session-paths/1", **chosen})
    else:
        click.echo(f"{render_paths(document['paths'])}\n\ndata under {document['suite']}")


@click.command(epilog="The switch keeps to budget and cooldown; at a gateway it is advice to the client.")
@session_argument
@click.argument("path_id", metavar="PATH", type=PATH_NUMBER, shell_complete=complete.paths)
@interface_option
@socket_option
@json_option
def switch(session: str, path_id: int, interface: str | None, socket: Path | None, as_json: bool) -> None:
    """Move SESSION to PATH, a number that `jvpn paths SESSION` shows; 0: to the best one.

    \b
    Examples:
      jvpn switch laptop 2
      jvpn switch laptop 0
    """
    args = {"session": session, "path_id": path_id}
    document = ctlclient.call(require_socket(interface, socket), "switch", args)
    if as_json:
        output.write_json(document)
        return
    what = {"started": "switch started", "advised": "the client was asked to switch"}
    click.echo(
        f"{_name(document)}: {what.get(document['result'], 'switch asked for')}; `jvpn events` shows how it ends"
    )


@click.command()
@session_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@interface_option
@socket_option
@json_option
def terminate(session: str, yes: bool, interface: str | None, socket: Path | None, as_json: bool) -> None:
    """End SESSION for good: its keys are erased, its identity never comes back.

    \b
    Example:
      jvpn terminate laptop --yes
    """
    path = require_socket(interface, socket)
    found = ctlclient.call(path, "session", {"session": session})
    if not yes:
        _agree(f"End {_name(found)}?")
    # By its id: a new session of the same peer must not be hit.
    document = ctlclient.call(path, "terminate", {"session": found["session_id"]})
    output.write_json(document) if as_json else click.echo(f"{_name(document)}: terminated")


def _agree(question: str) -> None:
    """Go on only after a yes. UsageError where nobody can say it."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as error:
        if sys.stdin.isatty() or not isinstance(error.__context__, EOFError):
            raise
        raise UsageError("nobody answers here; --yes does it without asking") from None
    if not agreed:
        raise click.Abort


def _name(document: Mapping[str, Any]) -> str:
    return f"session {short(document['session_id'])} of {document['peer']}"


# --- text --------------------------------------------------------------------------------------------------------


def render_list(document: Mapping[str, Any]) -> str:
    """A sessions document as text."""
    rows = [
        _row(one) for one in sorted(document["sessions"], key=lambda one: (one["peer"], one["session_id"]))
    ]
    if not rows:
        return "no sessions"
    text = output.table(_SESSIONS, rows, _SESSIONS_RIGHT)
    return text + ("\nthere are more; --json has them all" if document.get("more") else "")


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    state = one["state"] + (" (stock)" if one["stock"] else "")
    return (
        short(one["session_id"]),
        one["peer"],
        state,
        output.age(one["since_s"]),
        str(one["path_id"] or "-"),
        _through(one),
        one["reason"] or "-",
        f"{one['switches_last_minute']}/{one['switches_per_minute_max']}",
    )


def _through(one: Mapping[str, Any]) -> str:
    if one["path"]:
        return str(one["path"])
    left = one["window_left_s"]
    return f"nothing, {left:.0f} s left" if left is not None else "nothing"


def render(document: Mapping[str, Any]) -> str:
    """A session document as text."""
    state = document["state"]
    cooldown = document["cooldown_left_s"]
    rows = [
        ("session", document["session_id"]),
        ("peer", document["peer"] + (", a stock WireGuard peer" if document["stock"] else "")),
        ("state", f"{output.mark(_MARKS.get(state, 'warn'), state)} for {output.age(document['since_s'])}"),
        ("because", document["reason"] or "-"),
        (
            "through",
            f"{_through(document)}" + (f" (path {document['path_id']})" if document["path_id"] else ""),
        ),
        ("age", output.age(document["age_s"])),
        (
            "traffic",
            f"{output.size(document['rx_bytes'])} received, {output.size(document['tx_bytes'])} sent",
        ),
        ("version", f"{document['state_version']}, binding epoch {document['binding_epoch']}"),
        (
            "switches",
            f"{_row(document)[-1]} in the last minute" + (f", cooldown {cooldown:.1f} s" if cooldown else ""),
        ),
    ]
    head = "\n".join(f"{name:<9} {value}" for name, value in rows)
    moves = "\n".join(_move(one) for one in document["last_transitions"])
    return "\n\n".join(filter(None, [head, render_paths(document["paths"]), moves]))


def _move(one: Mapping[str, Any]) -> str:
    change = (
        f"path {one['path_from'] or '-'} → {one['path_to'] or '-'}"
        if one["path_from"] != one["path_to"]
        else ""
    )
    states = f"{one['previous_state']} → {one['new_state']}"
    when = f"{output.age(one['ago_s']):>8} ago  v{one['state_version']}"
    return f"{when}  {states:<24}  {one['reason']}  {change}".rstrip()


def render_paths(found: Any) -> str:
    """The paths of a session as a table."""
    if not found:
        return "no paths"
    return output.table(_PATHS, [_path_row(path) for path in found], _PATHS_RIGHT)


def _path_row(path: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(path["path_id"]),
        path["status"],
        _ms(path["srtt_ms"]),
        _ms(path["jitter_ms"]),
        "-" if path["loss"] is None else f"{100 * path['loss']:.1f} %",
        f"{path['score']:.1f}",
        str(path["stability"]),
        f"{path['penalty']:.1f}",
        path["tier"],
        f"{output.age(path['heard_s'])} ago",
        path["address"],
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
