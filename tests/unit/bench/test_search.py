# SPDX-License-Identifier: Apache-2.0
"""The search for the highest rate, against links whose capacity is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.tunnel.search import (
    CONFIRMATIONS,
    DOUBLINGS,
    MOST_LOSS,
    RESOLUTION,
    Trial,
    confirmed,
    highest_rate,
)

START = 25_000.0
SECONDS = 0.3
# Doublings, then halvings of a factor of two down to the resolution.
TRIALS_MAX = DOUBLINGS + 5


class Link:
    """Carries so many packets a second and drops the rest; its sender reaches so many at most."""

    def __init__(self, capacity: float, sender: float = 1e9) -> None:
        self.capacity, self.sender = capacity, sender
        self.planned: list[float] = []

    def __call__(self, rate: float) -> Trial:
        self.planned.append(rate)
        sent = min(rate, self.sender)
        return Trial(round(sent * SECONDS), round(min(sent, self.capacity) * SECONDS), SECONDS)


@pytest.mark.parametrize("capacity", [700, 4_000, 24_999, 25_001, 131_000, 1_900_000])
def test_it_finds_the_capacity(capacity: float) -> None:
    link = Link(capacity)
    found = highest_rate(link, START)
    assert found is not None
    assert found <= capacity / (1 - MOST_LOSS) * 1.001
    assert found >= capacity / RESOLUTION / 1.001
    assert len(link.planned) <= TRIALS_MAX


@pytest.mark.parametrize("capacity", [60_000, 5e6])
def test_a_slow_sender_is_the_limit_itself(capacity: float) -> None:
    """Plans beyond what the sender does are not believed, whether the link is the tighter one or not."""
    link = Link(capacity, sender=80_000)
    found = highest_rate(link, START)
    assert found is not None
    assert found <= min(capacity, 80_000) * 1.02
    assert found >= min(capacity, 80_000) * 0.93
    assert len(link.planned) <= TRIALS_MAX


def test_a_dead_link_ends_the_search() -> None:
    link = Link(0)
    assert highest_rate(link, START) is None
    assert len(link.planned) == DOUBLINGS


def test_what_sent_nothing_has_lost_everything() -> None:
    assert not Trial(0, 0, 1.0).passes
    assert Trial(1000, 991, 2.0).passes
    assert not Trial(1000, 990, 2.0).passes
    assert (Trial(1000, 990, 2.0).sent_per_s, Trial(1000, 990, 2.0).received_per_s) == (500, 495)


def flaky(passes_from: int) -> Callable[[float], Trial]:
    """Loses half until its n-th trial."""
    count = iter(range(100))

    def attempt(rate: float) -> Trial:
        share = 1.0 if next(count) >= passes_from else 0.5
        return Trial(int(rate), int(rate * share), 1.0)

    return attempt


def test_a_rate_is_shown_again_or_lowered() -> None:
    first = confirmed(flaky(0), 10_000)
    assert first is not None
    assert first.received == 10_000
    third = confirmed(flaky(2), 10_000)
    assert third is not None
    assert third.received == 6_400
    link = Link(9_000)
    found = confirmed(link, 10_000)
    assert found is not None
    assert link.planned == [10_000, 9_000]
    assert confirmed(flaky(CONFIRMATIONS), 10_000) is None
