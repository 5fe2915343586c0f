# SPDX-License-Identifier: Apache-2.0
"""``jvpn config diff|reload|rollback``: the configuration of a running daemon."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from gateway.control import ctlclient
from gateway.control.configreport import read_text
from gateway.errors import ConfigError, ConfigErrors
from gateway.ops.cli import output
from gateway.ops.cli.options import interface_option, json_option, require_socket, socket_option

# A request may have 64 KiB; what is longer is read by the daemon itself.
_TEXT_MAX_BYTES: Final = 48 * 1024
# A file of thousands of peers takes seconds to read, and each of them is told.
_WAIT_S: Final = 120.0


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@interface_option
@socket_option
@json_option
@click.pass_context
def diff(
    ctx: click.Context, file: Path | None, interface: str | None, socket: Path | None, as_json: bool
) -> None:
    """Compare a file with what the running daemon uses; without FILE, the daemon's own file.

    Each key that differs is named, and whether a reload applies it or only a restart. Secrets are compared and never
    shown. Exit code 2 when the file is wrong.

    \b
    Examples:
      jvpn config diff
      jvpn config diff /etc/jvpn/gateway.toml.new
    """
    document = ctlclient.call(require_socket(interface, socket), "config.diff", _question(file), _WAIT_S)
    _answer(ctx, document, as_json, _differences(document))


@click.command()
@interface_option
@socket_option
@json_option
@click.pass_context
def reload(ctx: click.Context, interface: str | None, socket: Path | None, as_json: bool) -> None:
    """Let the running daemon read its file again, as SIGHUP does.

    What can be applied while it runs is applied, everything else is named and waits for a restart. A file with a
    mistake changes nothing: exit code 2.

    \b
    Example:
      jvpn config reload
    """
    document = ctlclient.call(require_socket(interface, socket), "config.reload", timeout_s=_WAIT_S)
    _answer(ctx, document, as_json, _outcome(document))


@click.command()
@click.option("--keep-file", is_flag=True, help="Leave the configuration file as it is.")
@interface_option
@socket_option
@json_option
@click.pass_context
def rollback(
    ctx: click.Context, keep_file: bool, interface: str | None, socket: Path | None, as_json: bool
) -> None:
    """Go back to the configuration that was in force before this one.

    The file is put back as well, unless it was edited since or --keep-file is given. What it said is kept in the state
    directory. Exit code 4 when no earlier configuration was kept: files that hold a key themselves are not.

    \b
    Example:
      jvpn config rollback
    """
    document = ctlclient.call(require_socket(interface, socket), "config.rollback", timeout_s=_WAIT_S)
    problem = "kept as it is" if keep_file else _put_back(document)
    shown = {**document, "file_written": not problem, "file_problem": problem}
    _answer(ctx, shown, as_json, _outcome(document) + _fate_of_file(shown))


def _question(file: Path | None) -> dict[str, Any]:
    """The text goes along: the daemon may not be able to see the file. Its keys it looks for beside it all the same."""
    if file is None:
        return {}
    question = {"file": str(file.absolute())}
    text = read_text(file)
    fits = len(msgspec.json.encode(text)) <= _TEXT_MAX_BYTES
    return question | ({"text": text} if fits else {})


def _put_back(document: Mapping[str, Any]) -> str:
    """Write what holds now into the file; '' or why not. A file that says something else again is its editor's."""
    file = Path(document["file"])
    try:
        if read_text(file) != read_text(Path(document["undone"])):
            return "edited since it was applied"
        _replace(file, read_text(Path(document["restored"])))
    except ConfigErrors as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _replace(file: Path, text: str) -> None:
    """Whole and at once, with the owner and the mode it had; a link stays one."""
    target = file.resolve()
    old = target.stat()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
            os.fchown(out.fileno(), old.st_uid, old.st_gid)
            os.fchmod(out.fileno(), stat.S_IMODE(old.st_mode))
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


# --- text --------------------------------------------------------------------------------------------------------


def _answer(ctx: click.Context, document: Mapping[str, Any], as_json: bool, lines: list[str]) -> None:
    if as_json:
        output.write_json(document)
    else:
        for error in document["errors"]:
            click.echo(str(ConfigError(**error)), err=True)
        for warning in document.get("warnings", ()):
            click.echo(f"warning: {warning}", err=True)
        for line in lines:
            click.echo(line)
    ctx.exit(0 if document["ok"] else ConfigError.exit_code)


def _differences(document: Mapping[str, Any]) -> list[str]:
    if not document["ok"]:
        return []
    if not document["changes"]:
        return [f"{document['file']}: nothing differs from what {document['interface']} uses"]
    return [_difference(change) for change in document["changes"]]


def _difference(change: Mapping[str, Any]) -> str:
    how = "reload" if change["live"] else "restart"
    return f"{how:<8} {change['key']}: {_value(change['running'])} -> {_value(change['file'])}"


def _value(value: Any) -> str:
    return "-" if value is None else msgspec.json.encode(value).decode()


def _outcome(document: Mapping[str, Any]) -> list[str]:
    if not document["ok"]:
        return [f"{document['interface']}: refused, nothing has changed"]
    lines = [f"applied  {key}" for key in document["applied"]]
    lines += [f"restart  {key}" for key in document["needs_restart"]]
    lines = lines or [f"{document['interface']}: nothing had changed"]
    if not document["kept"]:
        lines.append(
            "no copy was kept for a rollback: the file holds a key itself, or STATE cannot be written"
        )
    return lines


def _fate_of_file(document: Mapping[str, Any]) -> list[str]:
    file = document["file"]
    if document["file_written"]:
        return [f"{file}: put back; what it said is in {document['undone']}"]
    return [f"{file}: not written ({document['file_problem']}); the next start or reload reads it"]
