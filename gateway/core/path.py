# SPDX-License-Identifier: Apache-2.0
"""A path: one replaceable binding a session may use, with its last measurement and its own limits.

Rule: what state a path is in is decided by ``status`` and stored nowhere. The facts it is decided from are flags and
times; raw measurements live in the data plane, here is only what the last report said.
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core.dampening import Trouble
from gateway.core.policy import Policy
from gateway.core.states import PathState, Tier

# --- facts about a path, as bits of ``flags`` ---
VALIDATED: Final = 1  # C: answered our own probe. G: the right RESPONSE from its address
PROBING: Final = 2  # a challenge or a first probe is out
DEAD: Final = 4  # silence proved it dead; it is still probed and comes back with an answer
DOWN: Final = 8  # the host itself says it cannot carry anything
SUSPECT: Final = 16
UNCALM: Final = 32  # the last report was above an exit threshold
LOSSY: Final = 64  # in breach of an enter threshold until below the exit one
SLOW: Final = 128
JITTERY: Final = 256
SILENT: Final = 512  # two misses in a row
WARNED: Final = 1024  # suppression was audited

BREACH: Final = LOSSY | SLOW | JITTERY | SILENT

PTO_MIN_NS: Final = 20 * NS_PER_MS
PTO_UNKNOWN_NS: Final = 200 * NS_PER_MS
# A link coming up must hold this long before it is believed (session.md §6).
LINK_HOLD_NS: Final = 200 * NS_PER_MS
STABILITY_CAP: Final = 100


class Path:
    """One path. ``address`` is an opaque name for audit lines and the shell; times are ns, 0 = never."""

    __slots__ = (
        "address",
        "base_ns",
        "base_prev_us",
        "base_us",
        "carrier",
        "clean_ns",
        "cost",
        "flags",
        "heard_ns",
        "jitter_over_ns",
        "jitter_us",
        "loss_ppm",
        "path_id",
        "retire_ns",
        "rttvar_us",
        "slow_over_ns",
        "srtt_us",
        "tier",
        "trouble",
        "up_ns",
    )

    def __init__(
        self, path_id: int, address: str, carrier: str, tier: Tier, cost: int, now_ns: int, flags: int = 0
    ) -> None:
        self.path_id = path_id
        self.address = address
        self.carrier = carrier
        self.tier = tier
        self.cost = cost
        self.flags = flags
        self.heard_ns = now_ns  # last positive evidence of this very path, at first its creation
        self.clean_ns = now_ns  # no breach and no failure since
        self.retire_ns = 0  # receive only until then
        self.up_ns = 0  # its link came up then and is not believed yet
        self.srtt_us = 0  # 0 = not measured
        self.rttvar_us = 0
        self.jitter_us = 0
        self.loss_ppm = 0
        self.base_us = 0  # lowest SRTT of this half of the baseline's ten minutes, and of the half before
        self.base_prev_us = 0
        self.base_ns = 0
        self.slow_over_ns = 0  # above the enter threshold since
        self.jitter_over_ns = 0
        self.trouble: Trouble | None = None

    def has(self, flag: int) -> bool:
        return bool(self.flags & flag)

    def set(self, flag: int) -> None:
        self.flags |= flag

    def clear(self, flag: int) -> None:
        self.flags &= ~flag

    def troubled(self) -> Trouble:
        """The record of failures, made when the first one happens."""
        if self.trouble is None:
            self.trouble = Trouble()
        return self.trouble


def status(path: Path, bound_id: int, policy: Policy, now_ns: int) -> PathState:
    """The one place that says what state a path is in, most binding fact first."""
    if path.tier is Tier.NEVER or path.carrier not in policy.allowed:
        return PathState.REJECTED
    if path.flags & (DEAD | DOWN):
        return PathState.DEAD
    if path.path_id == bound_id:
        return PathState.ACTIVE
    if path.retire_ns > now_ns:
        return PathState.RETIRING
    if path.trouble is not None and path.trouble.suppressed:
        return PathState.SUPPRESSED
    if path.flags & VALIDATED:
        return PathState.STANDBY
    return PathState.PROBING if path.flags & PROBING else PathState.CANDIDATE


def pto_ns(path: Path | None) -> int:
    """SRTT + 4·RTTVAR, at least 20 ms; 200 ms while unknown (session.md §1)."""
    if path is None or path.srtt_us == 0:
        return PTO_UNKNOWN_NS
    return max(PTO_MIN_NS, (path.srtt_us + 4 * path.rttvar_us) * 1000)


def drain_ns(path: Path, policy: Policy) -> int:
    """How long a path that was left still receives: 3·RTT, at least the policy's drain."""
    return max(policy.drain_ns, 3 * path.srtt_us * 1000)


def baseline_us(path: Path) -> int:
    """The lowest SRTT of its last ten minutes, 0 while unknown."""
    known = [value for value in (path.base_us, path.base_prev_us) if value]
    return min(known) if known else 0


def stability(path: Path, now_ns: int) -> int:
    """0..100: a point per clean second since the last breach, on top of what was kept then."""
    kept = path.trouble.base if path.trouble is not None else 0
    return min(STABILITY_CAP, kept + (now_ns - path.clean_ns) // NS_PER_S)


def soil(path: Path, now_ns: int, halve: bool) -> None:
    """A breach starts the clean time anew; a failure also halves the stability reached."""
    points = stability(path, now_ns)
    path.troubled().base = points // 2 if halve else points
    path.clean_ns = now_ns
