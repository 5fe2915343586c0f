# SPDX-License-Identifier: Apache-2.0
"""The highest rate that still arrives: doubled until it does not, then halved between the two.

Rule: pure. What a trial does is the caller's; every search ends after a bounded number of trials, and what it returns
has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MOST_LOSS: Final = 0.01
# A sender that falls this far behind its plan is the limit: faster plans would be the same trial.
KEEPS_UP: Final = 0.9
DOUBLINGS: Final = 10
# Two bounds this close are the answer: repetitions differ by as much.
RESOLUTION: Final = 1.06
# A rate found by short trials is shown by a long one. A failure lowers it to what arrived, within these steps: one bad
# moment is not the capacity, and a tunnel that collapses under a little too much needs a larger step.
STEP_LEAST: Final = 0.94
STEP_MOST: Final = 0.8
CONFIRMATIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Trial:
    """What one stream sent and what arrived of it."""

    sent: int
    received: int
    seconds: float

    @property
    def loss(self) -> float:
        """Share that did not arrive; a stream that sent nothing lost everything."""
        return 1 - self.received / self.sent if self.sent else 1.0

    @property
    def passes(self) -> bool:
        """Less was lost than allowed."""
        return self.loss < MOST_LOSS

    @property
    def sent_per_s(self) -> float:
        """The rate that was really offered."""
        return self.sent / self.seconds

    @property
    def received_per_s(self) -> float:
        """The rate that arrived."""
        return self.received / self.seconds


def highest_rate(attempt: Callable[[float], Trial], start: float) -> float | None:
    """The highest planned rate that passes, within `RESOLUTION`; None when none does."""
    low, high = _bracket(attempt, start)
    if low is None or high is None:
        return low
    while high / low > RESOLUTION:
        middle = (low * high) ** 0.5
        trial = attempt(middle)
        if trial.passes and trial.sent_per_s < KEEPS_UP * middle:
            return min(middle, max(low, trial.sent_per_s))
        low, high = (middle, high) if trial.passes else (low, middle)
    return low


def _bracket(attempt: Callable[[float], Trial], rate: float) -> tuple[float | None, float | None]:
    """A rate that passes and a higher one that does not; without the second, the sender itself is the limit."""
    low = high = None
    for _ in range(DOUBLINGS):
        trial = attempt(rate)
        if not trial.passes:
            high = rate
        elif trial.sent_per_s < KEEPS_UP * rate:
            return max(low or 0.0, trial.sent_per_s), None
        else:
            low = rate
        if low is not None and high is not None:
            break
        rate = rate * 2 if high is None else rate / 2
    return low, high


def confirmed(attempt: Callable[[float], Trial], rate: float) -> Trial | None:
    """The first long trial that passes, each slower than the one before."""
    for _ in range(CONFIRMATIONS):
        trial = attempt(rate)
        if trial.passes:
            return trial
        rate = min(rate * STEP_LEAST, max(rate * STEP_MOST, trial.received_per_s))
    return None
