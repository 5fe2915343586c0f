# SPDX-License-Identifier: Apache-2.0
"""``jvpn status``: the daemon's ``jvpn.status/1`` document, for a person or as it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from gateway.constants import NS_PER_S
from gateway.control import ctlclient
from gateway.errors import DaemonUnreachable, JumpError
from gateway.ops.cli import output, watching
from gateway.ops.cli.options import interface_option, json_option, require_socket, socket_option
from gateway.ops.cli.sessions import render_list, render_paths

_HEADER: Final = ("PEER", "STATE", "ENDPOINT", "ALLOWED IPS", "HANDSHAKE", "RECEIVED", "SENT", "SUITE")
_RIGHT: Final = frozenset((4, 5, 6))
_WORKERS_HEADER: Final = ("WORKER", "WAKEUPS", "DATAGRAMS IN", "DATAGRAMS OUT", "CPU")
# A peer with many prefixes must not push the other columns out of sight; --json has them all.
_PREFIXES_SHOWN: Final = 2


@click.command()
@interface_option
@socket_option
@json_option
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Refresh until Ctrl-C; with --json one document per line. Without a terminal it shows once.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="For --watch.",
)
def status(interface: str | None, socket: Path | None, as_json: bool, watch: bool, interval: float) -> None:
    """Show the running gateway or client: peers, traffic, faults.

    \b
    Examples:
      jvpn status
      jvpn status -i jvpn0 --json
      jvpn status --watch
    """
    path = require_socket(interface, socket)
    document = ctlclient.call(path, "status")
    if watch and as_json:
        watching.stream(path, document, interval)
    elif watch and output.screen(sys.stdout):
        watching.screen(lambda rows: _page(path, rows), interval)
    else:
        output.write_json(document) if as_json else click.echo(render(document))


# --- watching ----------------------------------------------------------------------------------------------------


def _page(path: Path, rows: int) -> str:
    """What `--watch` shows. A daemon that is away for a moment, for a restart, does not end it."""
    at = time.strftime("%H:%M:%S")
    try:
        document = ctlclient.call(path, "status")
    except DaemonUnreachable as error:
        return f"{at}  {error}\n\nwaiting for it; Ctrl-C ends"
    return f"{at}  Ctrl-C ends\n\n{render(document, _living(path, rows // 2))}"


def _living(path: Path, rows: int) -> str:
    """So many sessions; of the only one its paths as well."""
    try:
        found = ctlclient.call(path, "sessions", {"limit": rows})
        if len(found["sessions"]) != 1:
            return render_list(found)
        one = ctlclient.call(path, "session", {"session": found["sessions"][0]["session_id"]})
    except JumpError:
        return ""  # it ended or went away between two questions; the next refresh says so
    return f"{render_list(found)}\n\n{render_paths(one['paths'])}"


# --- text --------------------------------------------------------------------------------------------------------


def render(document: Mapping[str, Any], sessions: str = "") -> str:
    """A status document as text, with what else is known of its sessions. What it does not hold is left out."""
    blocks = [
        _head(document),
        sessions,
        _peers(document.get("peers", ())),
        _workers(document.get("workers", {}).get("each", ())),
        *(_told(key, one) for key, one in document.get("told", {}).items()),
        _faults(document.get("counters", {})),
    ]
    return "\n\n".join(filter(None, blocks))


def _head(document: Mapping[str, Any]) -> str:
    sodium, offloads = document.get("libsodium", {}), document.get("offloads", {})
    rows = [
        ("interface", str(document.get("interface", ""))),
        ("public key", str(document.get("public_key", ""))),
        ("listening", ", ".join(document.get("listen", ()))),
        ("uptime", output.age(document.get("uptime_s")) if "uptime_s" in document else ""),
        ("libsodium", str(sodium.get("version", ""))),
        ("offloads", _flags(offloads)),
        ("workers", _kind(document.get("workers", {}))),
    ]
    title = f"{document.get('role', 'daemon')} {document.get('interface', '')}".strip()
    return "\n".join([title, *(f"  {name:<11} {value}" for name, value in rows[1:] if value)])


def _flags(offloads: Mapping[str, Any]) -> str:
    on = [name for name, value in offloads.items() if value is True]
    return ", ".join(on) if on or not offloads else "none"


def _kind(workers: Mapping[str, Any]) -> str:
    if not workers:
        return ""
    return f"{workers['count']} native" if workers["native"] else "the event loop"


def _workers(each: Any) -> str:
    """What every native worker has done."""
    rows = [
        (
            str(number),
            str(worker.get("wakeups", 0)),
            str(worker.get("rx_datagrams", 0)),
            str(worker.get("tx_datagrams", 0)),
            f"{worker.get('cpu_ns', 0) / NS_PER_S:.2f}s",
        )
        for number, worker in enumerate(each)
    ]
    return output.table(_WORKERS_HEADER, rows, frozenset(range(len(_WORKERS_HEADER)))) if rows else ""


def _peers(peers: Any) -> str:
    if not peers:
        return "no peers; add one with `jvpn peer add NAME`"
    return output.table(_HEADER, [_peer_row(peer) for peer in peers], _RIGHT)


def _peer_row(peer: Mapping[str, Any]) -> tuple[str, ...]:
    handshake = peer.get("latest_handshake_s")
    return (
        str(peer.get("name") or peer.get("public_key", "")),
        str(peer.get("state", "")),
        str(peer.get("endpoint") or "-"),
        prefixes(peer.get("allowed_ips", ())),
        "never" if handshake is None else f"{output.age(handshake)} ago",
        output.size(peer.get("rx_bytes", 0)),
        output.size(peer.get("tx_bytes", 0)),
        str(peer.get("suite") or "-"),
    )


def prefixes(networks: Any) -> str:
    """The first prefixes of a peer and how many more there are."""
    shown = ", ".join(networks[:_PREFIXES_SHOWN])
    more = len(networks) - _PREFIXES_SHOWN
    return f"{shown} +{more}" if more > 0 else shown or "-"


def _told(key: str, told: Mapping[str, Any]) -> str:
    """What a gateway says of itself and of us."""
    rows = [
        ("our addresses", ", ".join(told.get("inner_addresses", ()))),
        ("further ways", ", ".join(told.get("endpoints", ()))),
        ("it sees us at", str(told.get("observed", ""))),
    ]
    return "\n".join([f"gateway {key}", *(f"  {name:<13} {value}" for name, value in rows if value)])


def _faults(counters: Mapping[str, Any]) -> str:
    """Counters that are not zero, by name."""
    found = {name: value for name, value in counters.items() if value}
    if not found:
        return ""
    width = max(map(len, found))
    return "\n".join(["counters", *(f"  {name:<{width}}  {value}" for name, value in sorted(found.items()))])
