# SPDX-License-Identifier: Apache-2.0
"""The programs of the system that the guest asks: one door, so that tests can see what would be run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gateway.errors import HostError

# The longest is a restart of the gateway on a slow machine, its drain included.
TIMEOUT_S: Final = 180.0
_MESSAGE_MAX: Final = 500


class Done(NamedTuple):
    """How a program ended."""

    code: int
    output: str
    errors: str = ""


Run = Callable[[Sequence[str], str], Done]


def run(command: Sequence[str], text: str = "") -> Done:
    """Run a program with ``text`` as its input. One that is missing or hangs ends with 127 or 124, as in a shell."""
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        return Done(127, "", f"{command[0]}: not installed")
    except subprocess.TimeoutExpired:
        return Done(124, "", f"{command[0]}: no end within {TIMEOUT_S:.0f} s")
    return Done(done.returncode, done.stdout, done.stderr)


def require(run_: Run, command: Sequence[str], text: str = "") -> str:
    """The output of a program that must succeed; else HostError with what it said."""
    done = run_(command, text)
    if done.code:
        said = (done.errors.strip() or done.output.strip())[-_MESSAGE_MAX:]
        raise HostError(f"{' '.join(command)}: {said or f'exit status {done.code}'}")
    return done.output
