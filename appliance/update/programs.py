# SPDX-License-Identifier: Apache-2.0
"""The few programs of the system that an update or an installation asks, behind one door."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from appliance.update.places import Places
from gateway.errors import HostError

# Making a file system on a slow disk.
TIMEOUT_S: Final = 180
_MESSAGE_MAX: Final = 500

# A command and the text it reads; what it printed. HostError when it fails.
Run = Callable[[Sequence[str], str], str]


def run(command: Sequence[str], text: str = "") -> str:
    """Run a program to its end."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise HostError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise HostError(f"{command[0]} did not end within {TIMEOUT_S} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-_MESSAGE_MAX:]
        raise HostError(f"{' '.join(command)}: {said or f'exit status {done.returncode}'}")
    return done.stdout


@contextlib.contextmanager
def mounted_esp(places: Places, run_: Run) -> Iterator[None]:
    """The boot partition, mounted for this block; left alone when it is mounted already."""
    if places.grubenv.exists():
        yield
        return
    run_(["systemctl", "start", "boot-esp.mount"], "")
    try:
        yield
    finally:
        run_(["systemctl", "stop", "boot-esp.mount"], "")


@contextlib.contextmanager
def mounted_medium(device: Path, folder: Path, run_: Run) -> Iterator[Path]:
    """A medium, read only, for this block."""
    folder.mkdir(parents=True, exist_ok=True)
    run_(["mount", "-o", "ro,nosuid,nodev,noexec", str(device), str(folder)], "")
    try:
        yield folder
    finally:
        run_(["umount", str(folder)], "")
