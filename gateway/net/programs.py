# SPDX-License-Identifier: Apache-2.0
"""Runs the system's own tools: found also where an ordinary user's PATH does not look, never through a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from gateway.errors import HostError
from gateway.net.remedy import NEEDS_ADMIN, refused

# These tools answer in milliseconds; ten seconds are a hang.
TIMEOUT_S: Final = 10
MESSAGE_MAX: Final = 500


def find(name: str) -> str:
    """The program's path, "" when it is not installed."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin") or ""


def run(command: Sequence[str], text: str = "") -> str:
    """Its output, given ``text``. HostError with the program's own message when it fails."""
    program = find(command[0])
    if not program:
        raise HostError(f"{command[0]} was not found; install it")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise refused(f"cannot run {program}", error) from error
    except subprocess.TimeoutExpired:
        raise HostError(f"{command[0]} did not answer within {TIMEOUT_S} s") from None
    if done.returncode:
        raise HostError(f"{' '.join(command)}: {_message(done)}")
    return done.stdout


def _message(done: subprocess.CompletedProcess[str]) -> str:
    lines = (line.strip() for line in (done.stderr or done.stdout).splitlines())
    message = " ".join(line for line in lines if line)[:MESSAGE_MAX] or f"exit status {done.returncode}"
    return f"{message}; {NEEDS_ADMIN}" if "not permitted" in message else message
