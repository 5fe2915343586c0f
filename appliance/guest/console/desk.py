# SPDX-License-Identifier: Apache-2.0
"""What every entry of the menu works with: the terminal, the box's files, its programs, its clocks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.guest.console.terminal import Terminal
from appliance.guest.host import Run
from appliance.guest.layout import Layout

# A program that talks to the person at the terminal; its exit status.
Spawn = Callable[[Sequence[str]], int]


@dataclass(slots=True)
class Gate:
    """How often in a row the password was wrong three times."""

    failures: int = 0


@dataclass(frozen=True, slots=True)
class Desk:
    """Handed to each entry."""

    terminal: Terminal
    layout: Layout
    run: Run
    spawn: Spawn
    random_bytes: Callable[[int], bytes]
    unix_s: Callable[[], int]
    now_s: Callable[[], float]
    sleep: Callable[[float], None]
    gate: Gate = field(default_factory=Gate)


def spawn(command: Sequence[str]) -> int:
    """Run it on this terminal."""
    try:
        return subprocess.call(command)
    except FileNotFoundError:
        return 127
