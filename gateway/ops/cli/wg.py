# SPDX-License-Identifier: Apache-2.0
"""``jvpn wg``: a userspace implementation of WireGuard for `wg` and wg-quick; goes to the background when ready."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

import click

# What other implementations take; without it errors only. Nothing here is ever logged as critical.
LEVELS: Final = {
    "silent": logging.CRITICAL,
    "error": logging.ERROR,
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
}
_READY: Final = b"ready"


@click.command(
    epilog="LOG_LEVEL is silent, error or verbose. It ends when the interface or its socket is removed, or on SIGTERM."
)
@click.argument("interface")
@click.option(
    "-f",
    "--foreground",
    is_flag=True,
    envvar="WG_PROCESS_FOREGROUND",
    help="Stay in the foreground (also WG_PROCESS_FOREGROUND=1).",
)
@click.pass_context
def wg(ctx: click.Context, interface: str, foreground: bool) -> None:
    """Make the WireGuard interface INTERFACE, to be set up with `wg`.

    It has no address, route, key or peer at first. wg-quick names its program by one word: `jvpn-wg` is this command.

    \b
    Examples:
      jvpn wg wg0 && wg setconf wg0 wg0.conf && ip link set wg0 up
      WG_QUICK_USERSPACE_IMPLEMENTATION=jvpn-wg wg-quick up wg0
    """
    level = log_level(os.environ)
    if foreground:
        ctx.exit(_serve(interface, level, lambda: None))
    ctx.exit(_in_background(interface, level))


def log_level(environ: Mapping[str, str]) -> int:
    """What LOG_LEVEL asks for; an unknown word means the default."""
    return LEVELS.get(environ.get("LOG_LEVEL", "").lower(), logging.ERROR)


def _serve(interface: str, level: int, on_ready: Callable[[], None]) -> int:
    from gateway.control import wgdaemon

    return wgdaemon.run(interface, level, on_ready)


def _in_background(interface: str, level: int) -> int:
    """The status of the start: the parent waits for it. Nothing has started a thread yet."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        os.chdir("/")
        return _serve(interface, level, lambda: _detach(writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        if said.read() == _READY:
            return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _detach(writing: int) -> None:
    """Let the parent go. What is logged goes where the caller's output went, if the caller asked for a level."""
    silent = os.open(os.devnull, os.O_RDWR)
    keeps = os.environ.get("LOG_LEVEL", "") not in ("", "silent")
    for stream in (sys.stdin, *(() if keeps else (sys.stdout, sys.stderr))):
        os.dup2(silent, stream.fileno())
    os.close(silent)
    os.write(writing, _READY)
    os.close(writing)
