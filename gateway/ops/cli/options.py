# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and how a command finds the daemon it talks to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.control import statedir
from gateway.control.ctlclient import owner_pid
from gateway.errors import DaemonUnreachable, UsageError
from gateway.ops.cli import complete

F = TypeVar("F", bound=Callable[..., Any])


class _PathNumber(click.IntRange):
    """Of a path; 0 leaves the choice."""

    name = "path number, 0 to 255"


PATH_NUMBER = _PathNumber(0, 255)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON with a schema field.")
state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="JVPN_STATE_DIR",
    help="Keys and peers; default /var/lib/jvpn, or $JVPN_STATE_DIR.",
)
interface_option = click.option(
    "-i",
    "--interface",
    metavar="IFACE",
    shell_complete=complete.interfaces,
    help="The daemon of this interface.",
)
session_argument = click.argument("session", shell_complete=complete.sessions)
socket_option = click.option(
    "--socket", type=click.Path(path_type=Path), metavar="PATH", help="The daemon behind this control socket."
)


def config_option(help_text: str, *, required: bool = False) -> Callable[[F], F]:
    """``-c FILE``, passed on as ``config_path``."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        required=required,
        help=help_text,
    )


def find_socket(interface: str | None, socket: Path | None) -> Path | None:
    """The control socket named by an option, else the only one there is; ``None`` when nothing runs.

    ``UsageError`` when several daemons run and none was chosen.
    """
    if socket is not None:
        return socket
    if interface is not None:
        return statedir.control_socket(interface)
    found = _sockets()
    if len(found) > 1:
        found = [path for path in found if owner_pid(path)] or found[:1]
    if len(found) > 1:
        names = ", ".join(path.stem for path in found)
        raise UsageError(f"several daemons run here: {names}; choose one with --interface")
    return found[0] if found else None


def _sockets() -> list[Path]:
    """All control sockets; a directory that may not be read is not an empty one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            os.scandir(statedir.runtime_dir()).close()
        except PermissionError:
            raise DaemonUnreachable(
                f"{statedir.runtime_dir()}: permission denied; run this as the user the daemon runs as (root)"
            ) from None
    return statedir.control_sockets()


def require_socket(interface: str | None, socket: Path | None) -> Path:
    """``find_socket``, or ``DaemonUnreachable``."""
    path = find_socket(interface, socket)
    if socket is None and interface is not None and path is not None and not os.path.lexists(path):
        names = ", ".join(other.stem for other in _sockets())
        raise DaemonUnreachable(
            f"no gateway or client of an interface {interface} runs here"
            + (f"; there is {names}" if names else f" (no {path})")
        )
    if path is None:
        raise DaemonUnreachable(
            f"no gateway or client runs here (no control socket in {statedir.runtime_dir()}); "
            "start one with `jvpn gateway` or `jvpn connect -c FILE`"
        )
    return path
