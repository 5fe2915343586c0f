# SPDX-License-Identifier: Apache-2.0
"""``jvpn disconnect``: ask a running client to stop, and put back what a killed one left."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

import click

from gateway.control import ctlclient, statedir
from gateway.errors import DaemonUnreachable, NotFound, Refused, TryLater, UsageError
from gateway.net.undo import UndoJournal

_DISCONNECT_WAIT_S: Final = 10.0


def disconnect(state_dir: Path, interface: str | None, socket: Path | None = None) -> int:
    """Stop the client of an interface or behind a control socket, or undo what a killed one left in `state_dir`.

    NotFound when there is neither.
    """
    name = interface or ("" if socket else _only_interface(state_dir))
    path = socket or statedir.control_socket(name)
    with contextlib.suppress(DaemonUnreachable):
        name = _ask_to_stop(path, name)
        _wait_until_gone(UndoJournal(state_dir, name), path)
        click.echo(f"{name}: disconnected")
        return 0
    return _clean_up(state_dir, name or _only_interface(state_dir))


def _clean_up(state_dir: Path, name: str) -> int:
    journal = UndoJournal(state_dir, name)
    if journal.owner() is None:
        raise NotFound(f"{name}: no client runs and nothing was left behind in {state_dir}")
    report = journal.recover()
    for step in report.undone:
        click.echo(f"{name}: removed {step}")
    for step in report.failed:
        click.echo(f"{name}: could not remove {step}")
    return 1 if report.failed else 0


def _ask_to_stop(path: Path, name: str) -> str:
    """The name of the interface that goes. Refused when it is not the one that was meant."""
    try:
        if name and ctlclient.call(path, "interface")["interface"] != name:
            raise Refused(f"{path} is the control socket of another interface than {name}")
        return str(ctlclient.call(path, "stop")["interface"])
    except UsageError:  # it does not know the command
        raise Refused(f"{name or path} is a gateway; SIGTERM or Ctrl-C ends it") from None


def _only_interface(state_dir: Path) -> str:
    left = {path.stem.removeprefix("undo-") for path in state_dir.glob("undo-*.json")}
    found = sorted(left | {path.stem for path in statedir.control_sockets()})
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no client runs and nothing was left behind in {state_dir}")
    raise UsageError(f"several interfaces are up: {', '.join(found)}; name one")


def _wait_until_gone(journal: UndoJournal, path: Path) -> None:
    """Until everything is put back (its journal is gone), and the socket of a client with another state directory."""
    deadline_s = time.monotonic() + _DISCONNECT_WAIT_S
    while journal.owner() is not None or ctlclient.owner_pid(path):
        if time.monotonic() > deadline_s:
            raise TryLater(f"{journal.interface}: still disconnecting after {_DISCONNECT_WAIT_S:.0f} s")
        time.sleep(0.05)
