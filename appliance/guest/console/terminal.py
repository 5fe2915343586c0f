# SPDX-License-Identifier: Apache-2.0
"""A dialogue of lines: it works on a serial line of 80 by 24, through a pipe, and on a screen alike.

Rule: the terminal stays in its ordinary mode, so its own line editing works and nothing has to be put back after a
crash; only a password switches the echo off for a line.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"
ROWS, COLUMNS = 24, 80
# Nobody types so much on a line; who pastes a file is asked for it line by line.
_LINE_MAX_BYTES: Final = 16384
# A menu that was left open closes itself.
IDLE_S: Final = 600.0


class Closed(Exception):
    """The other end is gone, or said so (Ctrl-D)."""


class Idle(Exception):
    """Nobody has typed anything for long."""


class Cancelled(Exception):
    """The dialogue was left by an empty answer where one was needed."""


class Terminal:
    """Lines in, text out, on two descriptors."""

    def __init__(
        self, reader: int, writer: int, now_s: Callable[[], float] = time.monotonic, idle_s: float = IDLE_S
    ) -> None:
        self._reader, self._writer, self._now_s, self._idle_s = reader, writer, now_s, idle_s
        self._waiting = b""

    def write(self, text: str) -> None:
        """As it is; a terminal turns line ends into its own."""
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._writer, data) :]
        except OSError:  # EIO: hung up
            raise Closed from None

    def say(self, text: str = "") -> None:
        """A line."""
        self.write(f"{text}\n")

    def size(self) -> tuple[int, int]:
        """Rows and columns; a serial line does not say."""
        try:
            found = os.get_terminal_size(self._writer)
        except OSError:
            return ROWS, COLUMNS
        return (found.lines, found.columns) if found.lines and found.columns else (ROWS, COLUMNS)

    def poll_line(self, wait_s: float) -> str | None:
        """The next line if one comes within so many seconds."""
        until_s = self._now_s() + wait_s
        while b"\n" not in self._waiting:
            left_s = until_s - self._now_s()
            ready, _, _ = select.select([self._reader], [], [], max(0.0, left_s))
            if not ready:
                return None
            self._read()
        line, _, self._waiting = self._waiting.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    def _read(self) -> None:
        try:
            data = os.read(self._reader, 4096)
        except OSError:  # EIO: a terminal that was hung up
            raise Closed from None
        if not data:
            raise Closed
        # A line without an end is cut, not kept: whatever sends it for ever gets no memory.
        self._waiting = (self._waiting + data)[-_LINE_MAX_BYTES:]

    def line(self, prompt: str) -> str:
        """Ask for a line."""
        self.write(prompt)
        found = self.poll_line(self._idle_s)
        if found is None:
            raise Idle
        return found

    def secret(self, prompt: str) -> str:
        """Ask for a line that is not shown."""
        with self._without_echo():
            found = self.line(prompt)
        self.say()
        return found

    @contextlib.contextmanager
    def _without_echo(self) -> Iterator[None]:
        if not os.isatty(self._reader):
            yield
            return
        before = termios.tcgetattr(self._reader)
        quiet = [*before]
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(self._reader, termios.TCSAFLUSH, quiet)
        try:
            yield
        finally:
            termios.tcsetattr(self._reader, termios.TCSADRAIN, before)

    # --- questions ------------------------------------------------------------------------------------------------

    def ask(self, prompt: str, check: Callable[[str], T], default: str = "") -> T:
        """Ask until ``check`` takes the answer; its ``ValueError`` is shown. Enter takes the default, or cancels."""
        shown = f"{prompt} [{default}]: " if default else f"{prompt}: "
        while True:
            answer = self.line(shown).strip() or default
            if not answer:
                raise Cancelled
            try:
                return check(answer)
            except ValueError as error:
                self.say(f"  {error}")

    def yes(self, question: str) -> bool:
        """True only for a whole "yes"."""
        return self.line(f"{question} Type yes: ").strip().lower() == "yes"

    def choose(self, title: str, entries: Sequence[tuple[str, str]]) -> str:
        """A menu: (key, text) each; the key that was chosen, '' for Enter alone."""
        self.say(f"\n{title}\n")
        for key, text in entries:
            self.say(f"  {key:>2}  {text}")
        keys = {key for key, _ in entries}
        while True:
            answer = self.line("\nChoose, Enter goes back: ").strip().lower()
            if not answer or answer in keys:
                return answer
            self.say(f"  {answer[:20]!r} is none of these")

    def pages(self, text: str) -> None:
        """A long text, a screen at a time."""
        rows, columns = self.size()
        lines = [line[:columns] for line in text.splitlines()]
        for start in range(0, len(lines), rows - 2):
            self.say("\n".join(lines[start : start + rows - 2]))
            if start + rows - 2 < len(lines) and self.line("-- Enter: more, q: enough -- ").strip() == "q":
                return

    def pause(self) -> None:
        """Wait for Enter, so that what was said can be read."""
        self.line("\nEnter goes on. ")
