# SPDX-License-Identifier: Apache-2.0
"""The switch budget: sliding minute, reserved and spaced tokens, cooldown, and the rebind limit (session.md §4, §5).

Rule: a verdict is pure and spends nothing; ``spend`` is called once, when the binding was replaced. Forced switches
may spend the whole budget, but each one of the last ``reserved`` waits for 60 s / (reserved + 1) since the switch
before it. Then, one gap after ``cap`` switches, the last unreserved of them is a minute old, so no forced switch ever
waits longer than the gap: the limit cannot outlast the recovery window.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from gateway.constants import NS_PER_S
from gateway.core.policy import MINUTE_NS, Policy
from gateway.core.reasons import Reason
from gateway.core.states import SwitchClass

# Beyond the rebind limit one per 3 s, never none: a phone behind a bad NAT must not lose its session.
REBIND_SLOW_NS: Final = 3 * NS_PER_S
# What the gateway forgives: the client's clock of a switch is half a round trip behind the gateway's.
GATEWAY_GRACE_NS: Final = NS_PER_S
_STAMP: Final = struct.Struct("<Q")


class Verdict(NamedTuple):
    """Whether a switch may happen now; if not the control that denies it and when to ask again (ns)."""

    allowed: bool
    rule: Reason
    retry_ns: int


YES: Final = Verdict(True, Reason.NONE, 0)


def _times(packed: bytes) -> list[int]:
    return [value for (value,) in _STAMP.iter_unpack(packed)]


def _pushed(packed: bytes, now_ns: int) -> bytes:
    """Stamps of the last minute and now: bounded, since nothing is spent beyond the cap."""
    kept = [t for t in _times(packed) if t > now_ns - MINUTE_NS] + [now_ns]
    return b"".join(map(_STAMP.pack, kept))


class Budget:
    """The switches and rebinds of the last minute, packed, and when the last ones were."""

    __slots__ = ("rebinds", "switches")

    def __init__(self) -> None:
        self.switches = b""
        self.rebinds = b""

    @property
    def last_ns(self) -> int:
        """When the binding was last switched, 0 = never. The last stamp is kept however old it is."""
        return int.from_bytes(self.switches[-_STAMP.size :], "little")

    def used(self, now_ns: int) -> int:
        """Switches in the sliding minute that ends now."""
        return sum(t > now_ns - MINUTE_NS for t in _times(self.switches))

    def spend(self, switch_class: SwitchClass, now_ns: int) -> None:
        """The binding was replaced."""
        if switch_class is SwitchClass.REBIND:
            self.rebinds = _pushed(self.rebinds, now_ns)
        else:
            self.switches = _pushed(self.switches, now_ns)


def cooldown_left_ns(budget: Budget, policy: Policy, now_ns: int) -> int:
    """How long a discretionary switch still waits after the last switch of either kind."""
    return max(0, budget.last_ns + policy.cooldown_ns - now_ns) if budget.last_ns else 0


def judge(
    budget: Budget, policy: Policy, switch_class: SwitchClass, now_ns: int, grace_ns: int = 0
) -> Verdict:
    """The verdict for one switch at this time. ``grace_ns``: judged as if that much later (the gateway's 1 s)."""
    at_ns = now_ns + grace_ns
    if switch_class is SwitchClass.REBIND:
        return _judge_rebind(budget, policy, at_ns)
    if switch_class is SwitchClass.FORCED:
        return _judge_forced(budget, policy, at_ns)
    return _judge_discretionary(budget, policy, at_ns)


def _judge_discretionary(budget: Budget, policy: Policy, at_ns: int) -> Verdict:
    free = policy.max_switches_per_min - policy.reserved
    recent = [t for t in _times(budget.switches) if t > at_ns - MINUTE_NS]
    if len(recent) >= free:
        retry = recent[len(recent) - free] + MINUTE_NS if free > 0 else at_ns + MINUTE_NS
        return Verdict(False, Reason.SWITCH_RATE_LIMITED, retry)
    left = cooldown_left_ns(budget, policy, at_ns)
    return Verdict(False, Reason.COOLDOWN_ACTIVE, at_ns + left) if left else YES


def _judge_forced(budget: Budget, policy: Policy, at_ns: int) -> Verdict:
    cap = policy.switch_cap()
    recent = [t for t in _times(budget.switches) if t > at_ns - MINUTE_NS]
    if len(recent) < cap - policy.reserved:
        return YES
    if not recent:
        return YES
    retry = recent[-1] + policy.reserve_gap_ns()
    if len(recent) >= cap:
        retry = max(retry, recent[len(recent) - cap] + MINUTE_NS)
    return YES if retry <= at_ns else Verdict(False, Reason.SWITCH_RATE_LIMITED, retry)


def _judge_rebind(budget: Budget, policy: Policy, at_ns: int) -> Verdict:
    recent = [t for t in _times(budget.rebinds) if t > at_ns - MINUTE_NS]
    if len(recent) < policy.max_rebinds_per_min:
        return YES
    retry = recent[-1] + REBIND_SLOW_NS
    return YES if retry <= at_ns else Verdict(False, Reason.SWITCH_RATE_LIMITED, retry)
