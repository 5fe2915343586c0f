# SPDX-License-Identifier: Apache-2.0
"""How the command line writes: results on stdout, remarks and errors on stderr, colour only on a terminal.

NO_COLOR and TERM=dumb switch colour off; nothing but text ever goes into a pipe.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO

import click
import msgspec

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def write_json(document: Mapping[str, Any], *, indent: int = 2) -> None:
    """One JSON document on stdout; ``indent`` 0 puts it on one line."""
    data = msgspec.json.encode(document)
    click.echo(msgspec.json.format(data, indent=indent).decode() if indent else data.decode())


def note(text: str) -> None:
    """A remark for a person, on stderr."""
    click.echo(f"jvpn: {text}", err=True)


def screen(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that moves its cursor."""
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` shows colour and is meant to."""
    return not os.environ.get("NO_COLOR") and screen(stream)


def mark(status: str, text: str = "") -> str:
    """``text`` in the colour of ok, warn or fail."""
    text = text or status
    return click.style(text, fg=_COLOURS[status]) if coloured(sys.stdout) else text


def size(size_bytes: int) -> str:
    """``1.5 MiB``; four significant places at most."""
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size_bytes} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def age(seconds: float | None) -> str:
    """``12s``, ``3m 5s``, ``2h 10m``, ``4d 3h``; ``never`` for None."""
    if seconds is None:
        return "never"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600}h"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Aligned columns, two blanks apart; the columns in ``right`` are flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(_row(cells, widths, right) for cells in (header, *rows))


def _row(cells: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    padded = (
        cell.rjust(width) if position in right else cell.ljust(width)
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()
