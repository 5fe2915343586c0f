# SPDX-License-Identifier: Apache-2.0
"""``jvpn-appliance``: the commands of the box itself. The gateway in it has its own, ``jvpn``.

Errors are one line each on standard error and say what to do. Exit codes are those of ``jvpn`` (gateway/errors.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.guest import commands, updatepart
from gateway import __version__
from gateway.errors import ConfigErrors, JumpError

INTERRUPTED: Final = 130
_EPILOG: Final = """\
examples:
  jvpn-appliance status
  jvpn-appliance config apply gateway.toml --keep-within 120
  jvpn-appliance backup gateway.jvpnbak
  jvpn-appliance COMMAND --help
"""


def parser(wanted: str = "") -> argparse.ArgumentParser:
    """The whole command line; without the update part when ``wanted`` is a command of ours."""
    top = argparse.ArgumentParser(
        prog="jvpn-appliance",
        description="The appliance around the gateway: first boot, console, backup, updates.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"jvpn-appliance {__version__}")
    top.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    commands.add_commands(subparsers)
    if wanted not in commands.OWN:
        with contextlib.suppress(JumpError):
            updatepart.module("commands").add_commands(subparsers)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    namespace = parser(words[0] if words else "").parse_args(words)
    try:
        return int(namespace.run(namespace))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return report(error)


def report(error: Exception) -> int:
    """Say what went wrong."""
    if os.environ.get("JVPN_DEBUG") == "1":
        traceback.print_exception(error)
    for line in _lines(error):
        sys.stderr.write(f"jvpn-appliance: {line}\n")
    return error.exit_code if isinstance(error, JumpError) else 1


def _lines(error: Exception) -> list[str]:
    if isinstance(error, ConfigErrors):
        return [str(mistake) for mistake in error.errors]
    if isinstance(error, JumpError):
        return str(error).splitlines()
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return [f"{error.filename or 'this'}: permission denied; run it as root"]
    if isinstance(error, OSError):
        return [f"{error.filename}: {error.strerror}" if error.filename else str(error)]
    return [f"internal error: {type(error).__name__}: {error} (JVPN_DEBUG=1 shows the traceback)"]


if __name__ == "__main__":
    sys.exit(main())
