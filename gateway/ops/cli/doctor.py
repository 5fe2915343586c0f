# SPDX-License-Identifier: Apache-2.0
"""``jvpn doctor``: what this machine lacks. The checks themselves are in ``gateway.ops.doctor``."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.ops import doctor as checks
from gateway.ops.cli import output
from gateway.ops.cli.options import config_option, json_option


@click.command()
@config_option("Look at the interface, the ports and the workers of this gateway.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, config_path: Path | None, as_json: bool) -> None:
    """Find out what this machine lacks, with the remedy for each. Exit code 1 when something required does.

    \b
    Examples:
      jvpn doctor
      jvpn doctor -c /etc/jvpn/gateway.toml --json
    """
    found = checks.examine(_subject(config_path))
    if as_json:
        output.write_json(checks.document(found))
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            click.echo(
                f"{output.mark(check.status, f'{check.status:<4}')}  {check.name:<{width}}  {check.detail}"
            )
            if check.remedy and check.status != "ok":
                click.echo(f"      {'':<{width}}  -> {check.remedy}")
    ctx.exit(0 if checks.healthy(found) else 1)


def _subject(config_path: Path | None) -> checks.Subject:
    if config_path is None:
        return checks.Subject()
    from gateway.control.config import load_gateway

    config = load_gateway(config_path)
    return checks.Subject(config.interface, config.listen, config.workers)
