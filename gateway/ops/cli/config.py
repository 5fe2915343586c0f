# SPDX-License-Identifier: Apache-2.0
"""``jvpn config``: `check` names every mistake of a file with its key and line, and applies nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from gateway.control import config as configuration
from gateway.control import peerbook
from gateway.control.peersfile import PeersFile
from gateway.errors import ConfigError, ConfigErrors
from gateway.ops.cli import configlife, output
from gateway.ops.cli.options import json_option, state_dir_option

SCHEMA: Final = "jvpn.config-check/1"


@click.group()
def config() -> None:
    """Look at configuration files, and change that of a running daemon."""


for _command in (configlife.diff, configlife.reload, configlife.rollback):
    config.add_command(_command)


@config.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@state_dir_option
@json_option
@click.pass_context
def check(ctx: click.Context, files: Sequence[Path], state_dir: Path | None, as_json: bool) -> None:
    """Check gateway and client files (TOML or wg-quick). Exit code 2 when one of them is wrong.

    With --state-dir a gateway's file is also compared with the peers in STATE/peers.toml.

    \b
    Example:
      jvpn config check /etc/jvpn/gateway.toml
    """
    reports = [_check(path, state_dir) for path in files]
    if as_json:
        output.write_json({"schema": SCHEMA, "ok": all(found["ok"] for found in reports), "files": reports})
    else:
        for found in reports:
            _print(found)
    ctx.exit(0 if all(found["ok"] for found in reports) else ConfigError.exit_code)


def _check(path: Path, state_dir: Path | None) -> dict[str, Any]:
    try:
        found = configuration.load(path, outside=True)
        if isinstance(found, configuration.GatewayConfig) and state_dir is not None:
            peerbook.check_peers_file(found, PeersFile(state_dir))
    except ConfigErrors as errors:
        mistakes = [
            {"file": error.file, "key": error.key, "line": error.line, "problem": error.problem}
            for error in errors.errors
        ]
        return {"file": str(path), "kind": "", "ok": False, "errors": mistakes, "warnings": []}
    kind = "gateway" if isinstance(found, configuration.GatewayConfig) else "client"
    return {"file": str(path), "kind": kind, "ok": True, "errors": [], "warnings": list(found.warnings)}


def _print(found: dict[str, Any]) -> None:
    for error in found["errors"]:
        click.echo(str(ConfigError(**error)), err=True)  # file:line: as compilers write it, for editors
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if found["ok"]:
        click.echo(f"{found['file']}: ok ({found['kind']})")
