# SPDX-License-Identifier: Apache-2.0
"""What every scenario ends with: the trace verifier over both journals, agreement of the two ends, and a replay."""

from __future__ import annotations

from itertools import pairwise

from gateway.core import State, audit
from tests.sim.world import World
from tests.state.invariants import verify, verify_pair


def settled(world: World, attached: bool = True) -> None:
    """What holds at the end of every scenario."""
    for end in (world.client, world.gateway):
        assert verify(end.lines) == []
        assert audit.replay(end.lines) is None
    assert verify_pair(world.client.lines, world.gateway.lines) == []
    if attached:
        c, g = world.client.session, world.gateway.session
        assert (c.state, g.state) == (State.ATTACHED, State.ATTACHED)
        assert (c.epoch, c.bound_id) == (g.epoch, g.bound_id)


def longest_gap(arrivals: list[int], since: int) -> int:
    times = [t for t in arrivals if t >= since]
    return max((b - a for a, b in pairwise(times)), default=0)
