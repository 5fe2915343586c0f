# SPDX-License-Identifier: Apache-2.0
"""``jvpn drain``: the gateway takes no new sessions until it is told otherwise."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.control import ctlclient
from gateway.ops.cli import output
from gateway.ops.cli.options import interface_option, json_option, require_socket, socket_option


@click.command(epilog="A drain also ends when the gateway restarts.")
@click.option("--stop", is_flag=True, help="Take new sessions again.")
@interface_option
@socket_option
@json_option
def drain(stop: bool, interface: str | None, socket: Path | None, as_json: bool) -> None:
    """Take no new sessions: /readyz fails, sessions that are there go on.

    \b
    Examples:
      jvpn drain
      jvpn drain --stop
    """
    document = ctlclient.call(require_socket(interface, socket), "drain", {"on": not stop})
    if as_json:
        output.write_json(document)
        return
    what = "takes new sessions" if stop else "takes no new sessions; jvpn drain --stop ends that"
    click.echo(f"the gateway {what}. Sessions now: {document['sessions']}")
