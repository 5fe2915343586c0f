# SPDX-License-Identifier: Apache-2.0
"""``jvpn gateway``, ``connect`` and ``disconnect``: the daemons in the foreground. Only here is their code imported."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.control import statedir
from gateway.errors import UsageError
from gateway.ops.cli import complete
from gateway.ops.cli.options import config_option, interface_option, socket_option, state_dir_option


@click.command(
    epilog="SIGTERM and Ctrl-C stop it in order. Options live in the configuration; `jvpn config check` reads it."
)
@config_option("Configuration; without it STATE/gateway.toml, made with fresh keys on the first start.")
@state_dir_option
@click.pass_context
def gateway(ctx: click.Context, config_path: Path | None, state_dir: Path | None) -> None:
    """Run a gateway in the foreground.

    \b
    Examples:
      jvpn gateway
      jvpn gateway -c /etc/jvpn/gateway.toml --state-dir /var/lib/jvpn
    """
    from gateway.control import gateway as daemon
    from gateway.ops.stats.server import make

    ctx.exit(daemon.run(config_path, statedir.state_dir(state_dir), make))


@click.command(epilog="Addresses, routes and DNS are put back as they were when it ends.")
@config_option("The client's file: TOML, or one made for wg-quick (its hooks are refused).", required=True)
@state_dir_option
@click.pass_context
def connect(ctx: click.Context, config_path: Path, state_dir: Path | None) -> None:
    """Connect this machine to a gateway and stay in the foreground.

    \b
    Examples:
      jvpn connect -c vpn.toml
      jvpn connect -c wg0.conf
    """
    from gateway.control import client as daemon

    ctx.exit(daemon.run(config_path, statedir.state_dir(state_dir)))


@click.command(epilog="What a killed client left stands in its state directory: name the one it ran with.")
@click.argument("name", metavar="[INTERFACE]", required=False, shell_complete=complete.interfaces)
@interface_option
@socket_option
@state_dir_option
@click.pass_context
def disconnect(
    ctx: click.Context,
    name: str | None,
    interface: str | None,
    socket: Path | None,
    state_dir: Path | None,
) -> None:
    """Stop the client of INTERFACE, or clean up what a killed one left behind.

    Without INTERFACE it acts on the only client there is.

    \b
    Examples:
      jvpn disconnect
      jvpn disconnect office
      jvpn disconnect --socket /run/office/control.sock
    """
    from gateway.control.disconnect import disconnect as stop

    if name and interface and name != interface:
        raise UsageError(f"two interfaces are named: {name} and {interface}")
    ctx.exit(stop(statedir.state_dir(state_dir), name or interface, socket))
