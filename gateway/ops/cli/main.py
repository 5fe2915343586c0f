# SPDX-License-Identifier: Apache-2.0
"""The entry point ``jvpn``: which command lives in which module, and how every error ends the program.

Errors are one line (or one per mistake) on stderr, beginning with "jvpn: ", without a traceback unless
JVPN_DEBUG=1.
Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon unreachable, 4 not found, 5 refused, 75 try later, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from errno import EACCES, ENOSPC
from importlib import import_module
from typing import Any, Final

import click

from gateway import __version__
from gateway.errors import ConfigErrors, JumpError

INTERRUPTED: Final = 130
_COMMANDS: Final = {
    "gateway": "gateway.ops.cli.daemons:gateway",
    "connect": "gateway.ops.cli.daemons:connect",
    "disconnect": "gateway.ops.cli.daemons:disconnect",
    "status": "gateway.ops.cli.status:status",
    "sessions": "gateway.ops.cli.sessions:sessions",
    "paths": "gateway.ops.cli.sessions:paths",
    "switch": "gateway.ops.cli.sessions:switch",
    "ping": "gateway.ops.cli.ping:ping",
    "terminate": "gateway.ops.cli.sessions:terminate",
    "drain": "gateway.ops.cli.drain:drain",
    "events": "gateway.ops.cli.events:events",
    "timeline": "gateway.ops.cli.events:timeline",
    "why": "gateway.ops.cli.events:why",
    "audit": "gateway.ops.cli.audit:audit",
    "peer": "gateway.ops.cli.peer:peer",
    "keys": "gateway.ops.cli.keys:keys",
    "config": "gateway.ops.cli.config:config",
    "wg": "gateway.ops.cli.wg:wg",
    "doctor": "gateway.ops.cli.doctor:doctor",
    "completion": "gateway.ops.cli.completion:completion",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is named; every error leaves through ``main``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, which would look for what was meant among commands that are imported already."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            if near:
                text = f"No such command {args[0]!r}. Did you mean {near[0]!r}?"
                raise click.UsageError(text, ctx) from None
            raise

    def main(  # type: ignore[override]  # click has overloads for standalone_mode, which this ignores
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> None:
        """Run and exit."""
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name or "jvpn", **extra)
        except BaseException as error:
            code = report(error)
        sys.exit(code if isinstance(code, int) else 0)


def report(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if os.environ.get("JVPN_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the interpreter's flush fails again
        return 1
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)  # a whole page, not a mistake
        return error.exit_code
    for line in _lines(error):
        remedy = _remedy(line)
        click.echo(f"jvpn: {line.rstrip('.') if remedy else line}{remedy}", err=True)
    return _exit_code(error)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, JumpError | click.ClickException):
        return error.exit_code
    return 1


def _lines(error: BaseException) -> list[str]:
    if isinstance(error, ConfigErrors):
        return [str(mistake) for mistake in error.errors]
    if isinstance(error, JumpError):
        return [str(error)]
    if isinstance(error, click.UsageError):
        return [error.format_message(), *_usage_hint(error)]
    if isinstance(error, click.ClickException):
        return [error.format_message()]
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else "cannot write: " if error.errno == ENOSPC else ""
        return [what + (error.strerror or str(error))]
    return [f"internal error: {type(error).__name__}: {error} (JVPN_DEBUG=1 shows the traceback)"]


def _remedy(line: str) -> str:
    """What helps against the two refusals that any command may meet."""
    if os.strerror(ENOSPC) in line:
        return "; make room there and try again"
    refused = os.strerror(EACCES) in line or "is not readable" in line
    return "; run this as root" if refused and os.geteuid() != 0 and "run " not in line else ""


def _usage_hint(error: click.UsageError) -> list[str]:
    return [f"`{error.ctx.command_path} --help` explains"] if error.ctx is not None else []


@click.group(
    "jvpn", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="jvpn", message="%(prog)s %(version)s")
def cli() -> None:
    """A VPN whose session stays while its transports come and go. Speaks the WireGuard protocol.

    \b
    A gateway, and a phone on it:
      jvpn gateway                        run a gateway; the first start makes keys and a configuration
      jvpn peer add phone --qr            scan this with a WireGuard app
      jvpn status --watch                 who is there

    \b
    A client:
      jvpn connect -c vpn.toml            our own file, or one made for wg-quick
      jvpn disconnect

    \b
    Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 daemon unreachable, 4 not found,
    5 refused, 75 try later.
    """


def main() -> None:
    """The console script."""
    cli.main()


def drop_in() -> None:
    """The console script ``jvpn-wg``: wg-quick names a userspace implementation by one word."""
    cli.main(["wg", *sys.argv[1:]])
