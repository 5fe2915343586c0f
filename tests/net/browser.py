# SPDX-License-Identifier: Apache-2.0
"""Debian's chromium, in a namespace of the laboratory or outside, and everything a page did that it should not.

Rule: waiting is for a locator. The page's policy forbids eval, which playwright's `wait_for_function` needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tests.net.lab import Namespace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

PROGRAM: Final = "chromium"
# Makes the page tell of each violation of its policy; blocked things need not show on the console.
_TELL: Final = (
    "document.addEventListener('securitypolicyviolation',"
    " (e) => console.error('violation of ' + e.violatedDirective + ' by ' + e.blockedURI))"
)


def missing_browser() -> str | None:
    """What stands in the way of a browser here; None when nothing does."""
    if shutil.which(PROGRAM) is None:
        return f"no {PROGRAM} (apt-get install {PROGRAM})"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "no playwright"
    return None


@contextmanager
def browsing(play: Playwright, folder: Path, namespace: Namespace | None = None) -> Iterator[Browser]:
    """A browser for the time of the block. ``folder`` takes the script that starts it inside the namespace."""
    program = shutil.which(PROGRAM) or PROGRAM
    if namespace is not None:
        script = folder / f"{PROGRAM}-{namespace.name}"
        script.write_text(f'#!/bin/sh\nexec ip netns exec {namespace.name} {program} "$@"\n')
        script.chmod(0o700)
        program = str(script)
    # Root has no sandbox there.
    browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
    try:
        yield browser
    finally:
        browser.close()


@dataclass(slots=True)
class Sheet:
    """One open page and what it did: errors on its console, and the hosts that it asked."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, browser: Browser, url: str, **options: Any) -> Sheet:
        """``options`` are those of a browser's context: viewport, color_scheme, java_script_enabled ..."""
        context = browser.new_context(**options)
        context.add_init_script(_TELL)
        sheet = cls(context.new_page())
        page = sheet.page
        page.on("console", lambda told: sheet.errors.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: sheet.errors.append(str(error)))
        page.on("request", lambda request: sheet.hosts.add(urlsplit(request.url).netloc))
        page.goto(url)
        return sheet

    def close(self) -> None:
        """Its context goes with it."""
        self.page.context.close()
