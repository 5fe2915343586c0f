# SPDX-License-Identifier: Apache-2.0
"""``jvpn status --watch``: one screen that is drawn anew, or one JSON document per line.

Rule: a daemon that goes away, for a restart, is waited for; only its user ends the watch. What does not fit into the
window is cut off and said to be.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from gateway.control import ctlclient
from gateway.errors import DaemonUnreachable
from gateway.ops.cli import output

_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
_WHOLE_SCREEN, _FORMER_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
# A window smaller than this shows nothing of use; a stream that has no size is taken for 80 by 24.
_ROWS_MIN: Final = 4
_ROWS, _COLUMNS = 24, 80
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)


def stream(path: Path, first: Mapping[str, Any], interval_s: float) -> None:
    """Documents for ever, one per line."""
    document: Mapping[str, Any] | None = first
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            if document is not None:
                output.write_json(document, indent=0)
                sys.stdout.flush()
            time.sleep(interval_s)
            document = _again(path, said=document is None)


def _again(path: Path, *, said: bool) -> Mapping[str, Any] | None:
    """The next document, None while nobody answers; that is said once."""
    try:
        return ctlclient.call(path, "status")
    except DaemonUnreachable as error:
        if not said:
            output.note(f"{error}; waiting for it")
        return None


def screen(draw: Callable[[int], str], interval_s: float) -> None:
    """Show what `draw` makes of the number of rows until Ctrl-C or SIGTERM; the terminal is then as it was."""
    with contextlib.suppress(KeyboardInterrupt), _whole_screen():
        while True:
            rows, columns = _size()
            shown = fitted(draw(rows), rows, columns)
            click.echo(_HOME + "\n".join(f"{line}{_CLEAR_LINE}" for line in shown) + _CLEAR_REST, nl=False)
            sys.stdout.flush()
            signal.sigtimedwait((signal.SIGWINCH,), interval_s)  # a new size is drawn at once


@contextlib.contextmanager
def _whole_screen() -> Iterator[None]:
    """The terminal's second screen, without a cursor."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in _ENDS}
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGWINCH,))
    try:
        click.echo(_WHOLE_SCREEN, nl=False)
        yield
    finally:
        with contextlib.suppress(OSError):  # the terminal itself may be gone
            click.echo(_FORMER_SCREEN, nl=False)
            sys.stdout.flush()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGWINCH,))
        for number, handler in before.items():
            signal.signal(number, handler)


def _size() -> tuple[int, int]:
    """Rows and columns of the window."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return _ROWS, _COLUMNS
    return (
        (max(_ROWS_MIN, found.lines), found.columns) if found.lines and found.columns else (_ROWS, _COLUMNS)
    )


def fitted(text: str, rows: int, columns: int) -> list[str]:
    """The lines that a window shows; the last one says how many it does not."""
    lines = text.splitlines()
    if len(lines) > rows:
        lines[rows - 1 :] = [f"({len(lines) - rows + 1} more lines; a taller window shows them)"]
    return [line[:columns] for line in lines]
