# SPDX-License-Identifier: Apache-2.0
"""What every long benchmark does: say each result at once, keep what it has in a file that is readable at any moment,
and show that however it ends.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from tests.net.lab import missing_requirements

INTERRUPTED: Final = 130
Document = dict[str, Any]


class Timeout(Exception):
    """The time for all of it is over."""


class Measuring(Protocol):
    """A benchmark; ``failed`` says in words what could not be measured."""

    failed: list[str]

    def run(self) -> None: ...
    def document(self, complete: bool) -> Document: ...
    def save(self, complete: bool) -> None: ...


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def first_line(error: Exception) -> str:
    """What it says, for one line of output."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def replace_file(out: Path, document: Document) -> None:
    """As a whole, so that a reader never meets a half."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_suffix(".partial")
    fresh.write_text(json.dumps(document, indent=1) + "\n")
    fresh.replace(out)


def to_its_end(bench: Measuring, tables: Callable[[Document], str], minutes: float = 0.0) -> int:
    """Run it until it is done or stopped, and print its tables; the exit status. ``minutes``: after which it stops."""
    complete, status = False, 0
    try:
        bench.run()
        complete = True
    except Timeout:
        say(f"\nstopped after {minutes:g} minutes; what was measured is kept")
        status = 1
    except (KeyboardInterrupt, SystemExit):
        say("\ninterrupted; what was measured is kept")
        status = INTERRUPTED
    bench.save(complete)
    say("\n" + tables(bench.document(complete)))
    return status or int(bool(bench.failed))


def show_or_run(
    given: argparse.Namespace,
    make: Callable[[], Measuring],
    tables: Callable[[Document], str],
    out: Path,
    minutes: float = 0.0,
) -> int:
    """The tables of ``--table FILE``, or all of it anew; the exit status. ``out``: where the document will lie."""
    if given.table:
        say(tables(json.loads(given.table.read_text())))
        return 0
    if problem := missing_requirements():
        sys.exit(f"{out.stem}: {problem}")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = to_its_end(make(), tables, minutes)
    say(f"\n{out}")
    return status
