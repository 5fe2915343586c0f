# SPDX-License-Identifier: Apache-2.0
"""The console: the status page, drawn anew only when something on it changed, and the way from it into the menu.

Rule: the menu opens for who knows the administrator's password. Before there is one, the first person at the console
sets the box up: who can reach its screen and keyboard could take its disk as well.
"""

from __future__ import annotations

import secrets
import sys
import time
from typing import Final

from appliance.guest import host, password, status
from appliance.guest.console import menu, page, wizard
from appliance.guest.console.desk import Desk, spawn
from appliance.guest.console.terminal import CLEAR, Cancelled, Closed, Idle, Terminal
from appliance.guest.layout import Layout
from gateway.errors import JumpError

REFRESH_S: Final = 3.0
TRIES: Final = 3
# After three wrong passwords, doubled up to the last: no use in trying many by hand or by a serial line.
PENALTY_S, PENALTY_MAX_S = 5.0, 60.0


def run(layout: Layout) -> int:
    """On standard input and output, for ever; ends when the terminal goes away."""
    desk = Desk(
        terminal=Terminal(sys.stdin.fileno(), sys.stdout.fileno()),
        layout=layout,
        run=host.run,
        spawn=spawn,
        random_bytes=secrets.token_bytes,
        unix_s=lambda: int(time.time()),
        now_s=time.monotonic,
        sleep=time.sleep,
    )
    try:
        while True:
            turn(desk)
    except Closed:
        return 0


def turn(desk: Desk) -> None:
    """Once from the page into the menu and back."""
    try:
        wait_for_somebody(desk)
        serve(desk)
    except (Idle, Cancelled, KeyboardInterrupt):
        pass
    except JumpError as error:
        desk.terminal.say(f"\n{error}")
        desk.sleep(2.0)


def wait_for_somebody(desk: Desk) -> None:
    """Show the page until Enter is pressed."""
    shown = ""
    while True:
        rows, columns = desk.terminal.size()
        now = page.screen(status.collect(desk.layout), rows, columns)
        if now != shown:
            desk.terminal.write(CLEAR + now)
            shown = now
        if desk.terminal.poll_line(REFRESH_S) is not None:
            return


def serve(desk: Desk) -> None:
    """Whoever is there: the wizard, or the menu behind the password."""
    if not password.stored(desk.layout.admin_hash):
        wizard.run(desk)
    elif login(desk):
        menu.run(desk)


def login(desk: Desk) -> bool:
    """Ask for the password; False after too many wrong ones, and a wait that grows."""
    hash_ = password.stored(desk.layout.admin_hash)
    for _ in range(TRIES):
        word = desk.terminal.secret("\nPassword of the administrator (Enter goes back): ")
        if not word:
            return False
        if password.verify(hash_, word):
            desk.gate.failures = 0
            return True
        desk.terminal.say("That is not it.")
    wait_s = min(PENALTY_MAX_S, PENALTY_S * 2**desk.gate.failures)
    desk.gate.failures = min(desk.gate.failures + 1, 8)
    desk.terminal.say(f"Wait for {wait_s:.0f} seconds.")
    desk.sleep(wait_s)
    return False
