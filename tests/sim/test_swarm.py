# SPDX-License-Identifier: Apache-2.0
"""10,000 sessions × random failures: no invariant broken, every one ends attached and agreed, or ended and coded."""

from __future__ import annotations

import pytest

from gateway.core import Policy, Role
from tests.sim.swarm import Swarmer
from tests.state.invariants import verify, verify_pair

SESSIONS = 10_000
BATCHES = 10


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_invariant_breaks_in_ten_thousand_lives(batch: int) -> None:
    policy = Policy()
    size = SESSIONS // BATCHES
    for seed in range(batch * size, (batch + 1) * size):
        one = Swarmer(seed, policy)
        one.live()
        for role in Role:
            assert verify(one.records[role]) == [], f"seed {seed} {role}"
        assert verify_pair(one.records[Role.CLIENT], one.records[Role.GATEWAY]) == [], f"seed {seed}"
        assert one.quiet(), f"seed {seed}: {[s.state for s in one.ends.values()]}"
