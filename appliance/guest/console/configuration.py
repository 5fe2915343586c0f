# SPDX-License-Identifier: Apache-2.0
"""gateway.toml on the console: looked at, edited with a check and a diff before anything happens, applied with a way
back, or told one key at a time.
"""

from __future__ import annotations

import difflib
import shutil
import tempfile
from pathlib import Path
from typing import Final

from appliance.guest import change, files, firstboot, gatewayfile, status
from appliance.guest.console import network
from appliance.guest.console.desk import Desk
from gateway.constants import DEFAULT_PORT
from gateway.control import configfields
from gateway.errors import ConfigErrors

KEEP_WITHIN_S: Final = 120
_EDITORS: Final = ("nano", "vim.tiny", "vi")
_ENDPOINT: Final = "endpoint"


def entry(desk: Desk) -> None:
    """The menu's entry."""
    while True:
        chosen = desk.terminal.choose(
            "Configuration of the gateway (gateway.toml)",
            [
                ("1", "Show it"),
                ("2", "Edit it"),
                ("3", "Paste a whole new one"),
                ("4", "Set where clients find this box (endpoint)"),
            ],
        )
        if not chosen:
            return
        if chosen == "1":
            desk.terminal.pages(files.read_text(desk.layout.gateway_file))
            continue
        text = {"2": edited, "3": pasted, "4": with_endpoint}[chosen](desk)
        if text is not None:
            offer(desk, text)


def edited(desk: Desk) -> str | None:
    """The file after an editor, and again until it holds no mistake or is given up."""
    editor = next((name for name in _EDITORS if shutil.which(name)), None)
    if editor is None:
        desk.terminal.say("There is no editor here; paste a whole file instead.")
        return None
    with tempfile.TemporaryDirectory(dir=desk.layout.runtime) as folder:
        path = Path(folder, "gateway.toml")
        path.write_bytes(files.read(desk.layout.gateway_file) or b"")
        while True:
            desk.spawn([editor, str(path)])
            text = path.read_text(encoding="utf-8", errors="replace")
            if checked(desk, text):
                return text
            if desk.terminal.line("\nEnter edits it again, q gives up: ").strip() == "q":
                return None


def pasted(desk: Desk) -> str | None:
    """Lines up to one that is a single full stop."""
    desk.terminal.say("Paste the whole file. A line with nothing but a full stop ends it.")
    lines: list[str] = []
    while (line := desk.terminal.line("")) != ".":
        lines.append(line)
    text = "\n".join(lines) + "\n"
    return text if checked(desk, text) else None


def with_endpoint(desk: Desk) -> str | None:
    """The file with the endpoint that somebody types."""

    chosen = desk.terminal.ask("Name or address, and the port if it is not 51820", endpoint)
    text = (files.read(desk.layout.gateway_file) or b"").decode("utf-8", "replace")
    text = gatewayfile.with_key(text, "gateway", f'{_ENDPOINT} = "{chosen}"')
    return text if checked(desk, text) else None


def endpoint(text: str) -> str:
    """HOST:PORT of a name or an address, with or without a port."""
    try:
        return str(configfields.Endpoint(str(configfields.address(text)), DEFAULT_PORT))
    except ValueError:
        return str(configfields.endpoint(text if ":" in text else f"{text}:{DEFAULT_PORT}"))


def checked(desk: Desk, text: str) -> bool:
    """Show every mistake of a text."""
    try:
        found = gatewayfile.check(text, "gateway.toml", desk.layout.config, desk.layout.state)
    except ConfigErrors as errors:
        for error in errors.errors[: firstboot.SHOWN_MAX]:
            desk.terminal.say(f"  {error}")
        return False
    for warning in gatewayfile.warnings(found):
        desk.terminal.say(f"  warning: {warning}")
    return True


def difference(before: str, after: str) -> str:
    """The lines that differ."""
    rows = difflib.unified_diff(before.splitlines(), after.splitlines(), "in force", "new", lineterm="", n=1)
    return "\n".join(rows)


def offer(desk: Desk, text: str) -> None:
    """Show what a checked text would change, apply it if wanted, and keep it only if somebody says so in time."""
    shown = difference((files.read(desk.layout.gateway_file) or b"").decode("utf-8", "replace"), text)
    if not shown:
        desk.terminal.say("Nothing differs.")
        return
    desk.terminal.pages(shown)
    if desk.terminal.yes("\nApply this?"):
        put_in_force(desk, text)
        network.keep_or_revert(desk, KEEP_WITHIN_S)


def put_in_force(desk: Desk, text: str, keep_within_s: int = KEEP_WITHIN_S) -> None:
    """Apply a text that was checked; JumpError when the gateway does not serve with it, it is taken back then."""
    desk.terminal.say("Applying…")
    said = change.commit(
        desk.layout,
        desk.run,
        change.GATEWAY,
        text,
        keep_within_s=keep_within_s,
        healthy=lambda: status.wait_serving(desk.layout, within_s=60.0, now_s=desk.now_s, sleep=desk.sleep),
    )
    for line in said:
        desk.terminal.say(f"  {line}")
