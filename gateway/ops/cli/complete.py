# SPDX-License-Identifier: Apache-2.0
"""What a shell may complete from the daemons that run here: interfaces, sessions, paths and peers.

Rule: somebody waits with a finger on Tab. Each daemon is asked once and briefly, and whatever goes wrong is no answer:
nothing is ever written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from gateway.control import ctlclient, statedir
from gateway.ops.cli.eventline import short

# Longer than a daemon with 5,000 sessions needs, shorter than patience.
_ASK_S: Final = 0.5
_ITEMS_MAX: Final = 200

Items = list[CompletionItem]
Find = Callable[[click.Context, str], Iterator[CompletionItem]]
Complete = Callable[[click.Context, click.Parameter, str], Items]


def _quietly(find: Find) -> Complete:
    """``find`` as click wants it: what begins as the word does, nothing after an error."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
        chosen: dict[str, CompletionItem] = {}
        try:
            for item in find(ctx, incomplete):
                if item.value.startswith(incomplete):
                    chosen.setdefault(item.value, item)
        except Exception:
            return []  # a shell has no place for it; the command itself will say what is wrong
        return list(chosen.values())[:_ITEMS_MAX]

    return complete


def _sockets(ctx: click.Context) -> list[Path]:
    """The daemon that the line names, else all."""
    socket, interface = ctx.params.get("socket"), ctx.params.get("interface")
    if socket is not None:
        return [Path(socket)]
    return [statedir.control_socket(interface)] if interface else statedir.control_sockets()


def _ask(ctx: click.Context, command: str, args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers of those that have one: a client knows no peers, a killed daemon left only its socket."""
    for path in _sockets(ctx):
        try:
            yield ctlclient.call(path, command, args, timeout_s=_ASK_S)
        except Exception:  # noqa: S112 - see the rule above
            continue


def _interfaces(_ctx: click.Context, _incomplete: str) -> Iterator[CompletionItem]:
    for path in statedir.control_sockets():
        yield CompletionItem(path.stem)


def _sessions(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Names of peers, and ids for a word that may be the beginning of one."""
    found = [one for document in _ask(ctx, "sessions", {}) for one in document["sessions"]]
    for one in found:
        yield CompletionItem(one["peer"], help=f"{one['state']} {one['path'] or 'no path'}")
    for one in found if incomplete else ():
        yield CompletionItem(short(one["session_id"]), help=f"{one['peer']} {one['state']}")


def _paths(ctx: click.Context, _incomplete: str) -> Iterator[CompletionItem]:
    """Numbers of the paths of the session that the line names."""
    # An option that still lacks its value stops the parser before it has named the arguments.
    session = ctx.params.get("session") or next(iter(ctx.args), None)
    for document in _ask(ctx, "session", {"session": session}):
        for path in document["paths"]:
            yield CompletionItem(str(path["path_id"]), help=f"{path['status']} {path['address']}")


def _peers(ctx: click.Context, _incomplete: str) -> Iterator[CompletionItem]:
    for document in _ask(ctx, "peer.list", {}):
        for peer in document["peers"]:
            yield CompletionItem(peer["name"], help=", ".join(peer["allowed_ips"][:2]))


interfaces: Final = _quietly(_interfaces)
sessions: Final = _quietly(_sessions)
paths: Final = _quietly(_paths)
peers: Final = _quietly(_peers)
