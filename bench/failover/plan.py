# SPDX-License-Identifier: Apache-2.0
"""What is measured: the events, how long each is watched, how many runs, and what was promised.

Rule: a promise stands here once, as data; the table and the JSON file read it from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tests.net.topology import DELAY_MS

Profile = Literal["default", "critical"]
RTT_MS: Final = 2 * DELAY_MS
# A p99 needs a hundred runs; the other figures are worst cases of thirty.
RUNS_P99: Final = 100
RUNS_OTHER: Final = 30
STOCK_RUNS: Final = 5
STOCK_CUTOFF_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Target:
    """``statistic`` (p50, p95, p99, max) of ``metric`` must be at most ``limit``."""

    metric: str
    statistic: str
    limit: float
    unit: str = "ms"


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of failure. ``observe_s`` is how long it is watched after the cut."""

    key: str
    title: str
    runs: int
    observe_s: float
    targets: tuple[Target, ...] = ()
    profile: Profile = "default"
    idle: bool = False  # no inner traffic at the moment of the cut
    # Whether a stock client, with its host's help, is expected to come out of it.
    stock_heals: bool = False
    stock: bool = True  # compared with wireguard-go at all


def _outage(limit_ms: float) -> tuple[Target, ...]:
    return (Target("outage_up_ms", "p99", limit_ms), Target("outage_down_ms", "p99", limit_ms))


EVENTS: Final = (
    Event(
        "link_down",
        "link down",
        RUNS_P99,
        0.8,
        (*_outage(20.0), Target("lost_up", "max", 5, "packets"), Target("lost_down", "max", 5, "packets")),
        stock_heals=True,
    ),
    Event("blackhole_both", "two-way blackhole", RUNS_P99, 1.0, _outage(300.0)),
    Event("blackhole_up", "one-way blackhole, up", RUNS_P99, 1.0, _outage(300.0)),
    Event("blackhole_down", "one-way blackhole, down", RUNS_P99, 1.0, _outage(300.0)),
    Event("blackhole_idle", "idle blackhole", RUNS_P99, 2.0, _outage(1200.0), idle=True),
    Event(
        "nat_rebind",
        "NAT rebind",
        RUNS_OTHER,
        0.8,
        (
            Target("outage_up_ms", "max", 1.5 * RTT_MS + 20),
            Target("outage_down_ms", "max", 1.5 * RTT_MS + 20),
        ),
        stock_heals=True,
    ),
    Event("loss_30", "30 % loss", RUNS_OTHER, 4.0, (Target("left_ms", "max", 2000.0),)),
    Event(
        "operator_switch",
        "operator switch",
        RUNS_OTHER,
        0.8,
        (Target("lost_up", "max", 0, "packets"), Target("lost_down", "max", 0, "packets")),
        stock_heals=True,
    ),
    Event(
        "blackhole_both_critical",
        "two-way blackhole, critical profile",
        RUNS_P99,
        1.0,
        _outage(200.0),
        "critical",
        stock=False,
    ),
    Event(
        "blackhole_up_critical",
        "one-way blackhole, up, critical profile",
        RUNS_P99,
        1.0,
        _outage(200.0),
        "critical",
        stock=False,
    ),
    Event(
        "blackhole_down_critical",
        "one-way blackhole, down, critical profile",
        RUNS_P99,
        1.0,
        _outage(200.0),
        "critical",
        stock=False,
    ),
)
BY_KEY: Final = {event.key: event for event in EVENTS}
# Physics: what the gateway sent before the news could reach it was on the dead path (one-way delay), and its first
# packet on the new path needs as long again.
FLOOR_NOTE: Final = (
    f"downstream, a cut on the client's side costs one round trip ({RTT_MS:.0f} ms) even with instant detection, "
    "unless the gateway was already sending on both paths"
)


def runs_of(event: Event, wanted: int | None) -> int:
    """How many runs: the event's own, or what was asked for."""
    return event.runs if wanted is None else wanted
