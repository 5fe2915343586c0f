# SPDX-License-Identifier: Apache-2.0
"""What the demo prints: numbered steps as they happen, a table at the end. Plain text when not on a
terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Final

GREEN: Final = "\x1b[32m"
RED: Final = "\x1b[31m"
DIM: Final = "\x1b[2m"
BOLD: Final = "\x1b[1m"
OFF: Final = "\x1b[0m"
LABEL_COLUMNS: Final = 62


class Console:
    """Writes to standard output and remembers whether anything failed."""

    def __init__(self) -> None:
        self.failed = False
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._start_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start_s

    def line(self, text: str = "") -> None:
        """One line, at once."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def step(self, text: str) -> None:
        """The beginning of a part of the demo."""
        self.line()
        self.line(self._paint(BOLD, f"[{self.elapsed_s:5.1f} s] {text}"))

    def command(self, text: str) -> None:
        """A command that is being run, as a user would type it."""
        self.line(self._paint(DIM, f"    $ {text}"))

    def result(self, ok: bool, label: str, detail: str = "") -> None:
        """One thing that was checked."""
        self.failed |= not ok
        self.line(f"    {self.mark(ok)} {label:<{LABEL_COLUMNS}} {detail}".rstrip())

    def quote(self, text: str) -> None:
        """Output of a program."""
        for line in text.rstrip().splitlines():
            self.line(f"    {self._paint(DIM, '|')} {line}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as their content."""
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        for number, row in enumerate((header, *rows)):
            text = "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            painted = text.replace("✓", self.mark(True)).replace("✗", self.mark(False))
            self.line("    " + (self._paint(BOLD, text) if number == 0 else painted))

    def mark(self, ok: bool) -> str:
        """A tick or a cross."""
        return self._paint(GREEN, "✓") if ok else self._paint(RED, "✗")

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{OFF}" if self._colour else text
