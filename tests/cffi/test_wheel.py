# SPDX-License-Identifier: Apache-2.0
"""The timing wheel against a plain dictionary of deadlines."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.cffi.build import load

ffi, lib = load().ffi, load().lib
TICK_NS = lib.JV_WHEEL_TICK_NS
NEVER = 2**64 - 1
TIMERS = 12
timers = st.integers(0, TIMERS - 1)
delays = st.one_of(
    st.integers(0, 10**8), st.integers(0, 10**12), st.integers(0, 2**60), st.sampled_from([0, TICK_NS])
)


@ffi.def_extern()
def on_fire(ctx, timer) -> None:
    ffi.from_handle(ctx).fire(timer)


class WheelMachine(RuleBasedStateMachine):
    """A timer fires once per arming, never before its deadline, and at the first advance a tick after it."""

    @initialize(now=st.integers(0, 2**60))
    def start(self, now: int) -> None:
        self.now = now
        self.wheel = ffi.new("struct jv_wheel *")
        self.timers = ffi.new("struct jv_timer[]", TIMERS)
        self.deadlines: dict[int, int] = {}
        self.fired: list[int] = []
        self.handle = ffi.new_handle(self)
        lib.jv_wheel_init(self.wheel, now)

    def fire(self, timer) -> None:
        self.fired.append(timer - self.timers)

    @rule(which=timers, delay=delays)
    def arm(self, which: int, delay: int) -> None:
        self.deadlines[which] = self.now + delay
        lib.jv_wheel_arm(self.wheel, self.timers + which, self.now + delay)

    @rule(which=timers)
    def disarm(self, which: int) -> None:
        self.deadlines.pop(which, None)
        lib.jv_wheel_disarm(self.wheel, self.timers + which)

    def advance(self, limit: int) -> list[int]:
        self.fired = []
        count = lib.jv_wheel_advance(self.wheel, self.now, limit, lib.on_fire, self.handle)
        assert count == len(self.fired) <= limit
        for which in self.fired:
            assert self.deadlines.pop(which) <= self.now
        return self.fired

    @rule(step=delays, limit=st.integers(1, 5))
    def advance_a_little(self, step: int, limit: int) -> None:
        self.now += step
        self.advance(limit)

    @rule(step=delays)
    def advance_fully(self, step: int) -> None:
        self.now += step
        self.advance(2**32 - 1)
        assert all(deadline > self.now - self.now % TICK_NS for deadline in self.deadlines.values())

    @rule()
    def sleep_until_next(self) -> None:
        following = lib.jv_wheel_next_deadline(self.wheel)
        if following != NEVER:
            self.now = max(self.now, following)
            self.advance(2**32 - 1)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "wheel"):
            return
        assert lib.jv_wheel_armed(self.wheel) == len(self.deadlines)
        for which in range(TIMERS):
            assert lib.jv_timer_armed(self.timers + which) == (which in self.deadlines)
        following = lib.jv_wheel_next_deadline(self.wheel)
        if self.deadlines:
            assert following < min(self.deadlines.values()) + TICK_NS
        else:
            assert following == NEVER


TestWheelMachine = WheelMachine.TestCase
