# SPDX-License-Identifier: Apache-2.0
"""One long measurement after the other, in the time that there is.

Rule: what does not fit the time, or fails, is named, and the others are kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from bench.keeping import first_line, say
from tests.net.lab import LabError

ERROR_CHARS: Final = 2000


class Turns:
    """By name, with what each takes, in seconds, and for how many minutes there is time."""

    def __init__(self, takes_s: Mapping[str, float], minutes: float) -> None:
        self._takes_s, self._minutes, self._start_s = takes_s, minutes, time.monotonic()
        self.failed: list[str] = []

    def each(self) -> Iterator[str]:
        """Those that there is time for; the others have failed."""
        planned_s = sum(self._takes_s.values())
        say(f"{', '.join(self._takes_s)}: about {planned_s / 60:.0f} minutes, at most {self._minutes:g}")
        for name, takes_s in self._takes_s.items():
            left_s = 60 * self._minutes - (time.monotonic() - self._start_s)
            if takes_s > left_s:
                self.fail(name, f"takes about {takes_s:.0f} s, and {left_s:.0f} s are left")
                continue
            yield name

    def note(self, name: str, text: str) -> None:
        """How it goes."""
        names = list(self._takes_s)
        left_s = sum(self._takes_s[one] for one in names[names.index(name) :])
        elapsed_s = time.monotonic() - self._start_s
        say(f"[{elapsed_s:5.0f} s, about {left_s:5.0f} s for this one and those to come] {name}: {text}")

    def fail(self, name: str, problem: str) -> None:
        """It could not be measured."""
        self.failed.append(f"{name}: {problem[:ERROR_CHARS]}")
        self.note(name, f"could not be measured: {first_line(LabError(problem))}")
