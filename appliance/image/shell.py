# SPDX-License-Identifier: Apache-2.0
"""Running the builder's tools: quiet when they succeed, their last lines when they fail. Steps and their times."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LAST_LINES = 25


class BuildError(Exception):
    """A step failed; the text says which and why."""


def run(*command: str | Path, env: dict[str, str] | None = None, stdin: bytes | None = None) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(env or {})},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        tail = "\n".join(text.splitlines()[-LAST_LINES:])
        raise BuildError(f"{Path(command[0]).name} failed with {done.returncode}:\n{tail}")
    return text


def environment(epoch: int) -> dict[str, str]:
    """What makes tools give the same bytes again: one time, one time zone, one language."""
    return {
        "SOURCE_DATE_EPOCH": str(epoch),
        "E2FSPROGS_FAKE_TIME": str(epoch),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "MTOOLS_SKIP_CHECK": "1",
    }


def say(text: str) -> None:
    """One line of progress, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, and say how long it took."""
    say(f"  {title} …")
    begun = time.monotonic()
    yield
    say(f"  {title}: {time.monotonic() - begun:.0f} s")


def missing(tools: Sequence[tuple[str, str]]) -> list[str]:
    """Packages whose program is not here, of (program, package)."""
    folders = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]
    return sorted({package for tool, package in tools if not any(Path(f, tool).exists() for f in folders)})
