# SPDX-License-Identifier: Apache-2.0
"""A Hypothesis state machine: two linked cores, failures and an attacker's acts as rules, the verifier as invariant.

The attacker copies authentic packets from his own address, replays old control, relays challenges, reorders answers. An
authenticated but lying peer (wrong epochs, huge attempt ids, rejects out of nowhere) is among the rules too. Whatever
they do in whatever order, every invariant of the log holds, no timer spins, and once the network heals the two ends are
attached and agreed, or ended and coded.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.core import Policy, Reason, Role, State, driver
from gateway.core import inputs as inp
from gateway.core.states import Evidence
from tests.sim.swarm import MS, S, Swarmer
from tests.state.invariants import Verifier, verify_pair

EVIL = "evil:1"
PATHS = st.integers(1, 2)
CLASSES = st.sampled_from(
    [Reason.PEER_REPORTED_INSTABILITY, Reason.NAT_REBIND, Reason.OPERATOR_SWITCH, Reason.BINDING_MISMATCH]
)


class Keeper(Swarmer):
    """A swarm session with two paths that keeps every control frame for the attacker."""

    def __init__(self) -> None:
        self.requests: list[inp.ReattachRequest] = []
        self.answers: list[inp.Input] = []
        super().__init__(2, Policy())
        self.loss = 0.0

    def to_gateway(self, path_id: int, one: inp.Input) -> None:
        if isinstance(one, inp.ReattachRequest):
            self.requests.append(one)
        super().to_gateway(path_id, one)

    def to_client(self, address: str, one: inp.Input) -> None:
        self.answers.append(one)
        super().to_client(address, one)


def _two_paths() -> Keeper:
    keeper = Keeper()
    for n in (2,):
        if n not in keeper.up:
            keeper.up[n], keeper.nat[n] = True, 1
            keeper.feed(Role.CLIENT, inp.PathAdded(n, f"sock{n}"))
    keeper.run(S)
    return keeper


class Hostile(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.w = _two_paths()
        self.checked = dict.fromkeys(Role, 0)
        self.verifiers = {role: Verifier() for role in Role}

    @initialize()
    def begin(self) -> None:
        assert self.w.quiet()

    # --- the world ---

    @rule(ns=st.sampled_from([MS, 20 * MS, 250 * MS, S, 4 * S, 20 * S]))
    def time_passes(self, ns: int) -> None:
        self.w.run(ns)

    @rule(path=PATHS)
    def link_down(self, path: int) -> None:
        if path not in self.w.down_links:
            self.w.down_links.add(path)
            self.w.feed(Role.CLIENT, inp.PathLost(path, Evidence.LINK_DOWN))

    @rule(path=PATHS)
    def silence(self, path: int) -> None:
        self.w.up[path] = False

    @rule(path=PATHS)
    def heal(self, path: int) -> None:
        self.w.heal(path)

    @rule(path=PATHS)
    def nat_rebind(self, path: int) -> None:
        self.w.nat[path] += 1

    @rule(role=st.sampled_from(Role), path=st.integers(0, 3))
    def operator(self, role: Role, path: int) -> None:
        self.w.feed(role, inp.OperatorSwitch(path))

    @rule(role=st.sampled_from(Role), path=PATHS, loss=st.sampled_from([0, 30_000, 200_000]))
    def measure(self, role: Role, path: int, loss: int) -> None:
        seen = inp.PathMeasured(path, 20_000, 500, 100, loss, 100, loss // 10_000, 20, 20)
        self.w.feed(role, seen)

    @rule(role=st.sampled_from(Role), path=PATHS)
    def one_end_alone_calls_it_dead(self, role: Role, path: int) -> None:
        self.w.feed(role, inp.PathLost(path, Evidence.MISSES))

    # --- the attacker: copies and replays of authentic packets ---

    @rule(path=st.integers(0, 2), copy=st.booleans())
    def copies_a_packet(self, path: int, copy: bool) -> None:
        self.w.feed(Role.GATEWAY, inp.AddressSeen(path, EVIL, "udp", copy))

    @rule(path=PATHS)
    def relays_a_challenge(self, path: int) -> None:
        self.w.feed(Role.GATEWAY, inp.ChallengeAnswered(EVIL, path, 5 * MS))

    @rule(data=st.data())
    def repeats_a_request(self, data: Any) -> None:
        if self.w.requests:
            self.w.feed(Role.GATEWAY, data.draw(st.sampled_from(self.w.requests)))

    @rule(data=st.data())
    def repeats_an_answer(self, data: Any) -> None:
        if self.w.answers:
            self.w.feed(Role.CLIENT, data.draw(st.sampled_from(self.w.answers)))

    @rule(path=PATHS, hinted=st.booleans())
    def forges_icmp(self, path: int, hinted: bool) -> None:
        self.w.feed(Role.CLIENT, inp.PathHinted(path) if hinted else inp.PathSuspected(path))

    # --- a peer that authenticates and lies ---

    @rule(path=st.integers(0, 5), epoch=st.integers(0, 9), reason=CLASSES, forced=st.booleans())
    def lies_about_the_epoch(self, path: int, epoch: int, reason: Reason, forced: bool) -> None:
        g = self.w.ends[Role.GATEWAY]
        if epoch == g.epoch or g.ended:
            return
        before = (g.state, g.version, g.epoch, g.bound_id, g.attempt_id)
        lie = inp.ReattachRequest(g.attempt_id + 1, epoch, path, reason, forced, EVIL)
        lower = g.window_end_ns and self.w.now >= g.window_end_ns
        self.w.feed(Role.GATEWAY, lie)
        assert lower or (g.state, g.version, g.epoch, g.bound_id, g.attempt_id) == before

    @rule(attempt=st.integers(0, 20))
    def rejects_out_of_nowhere(self, attempt: int) -> None:
        self.w.feed(Role.CLIENT, inp.ReattachReject(attempt, Reason.POLICY_DENIED, 0))

    # --- what always holds ---

    @invariant()
    def the_log_breaks_no_invariant(self) -> None:
        for role, verifier in self.verifiers.items():
            book = self.w.records[role]
            for body in book[self.checked[role] :]:
                verifier.feed(body)
            self.checked[role] = len(book)
            assert verifier.violations == []

    @invariant()
    def one_binding_that_exists(self) -> None:
        for s in self.w.ends.values():
            assert (s.bound_id == 0) or s.active is not None
            assert (s.state is State.ATTACHED) <= (s.bound_id != 0)
            assert s.inquiry is None or len(s.inquiry.unvalidated()) <= s.policy.unvalidated_slots
            assert len(s.paths) <= s.policy.max_candidates

    @invariant()
    def no_timer_is_overdue_for_ever(self) -> None:
        for s in self.w.ends.values():
            due = driver.next_deadline(s)
            assert due is None or due >= self.w.now - 10 * S

    def teardown(self) -> None:
        for path in (1, 2):
            self.w.heal(path)
        for _ in range(20):
            if self.w.quiet():
                break
            self.w.run(2 * S)
            for s in self.w.ends.values():
                if s.bound_id:
                    good = inp.PathMeasured(s.bound_id, 20_000, 500, 100, 0, 100, 0, 20, 20)
                    self.w.feed(s.role, good)
            self.w.run(2 * S)
        assert self.w.quiet(), [(s.state, s.epoch, s.bound_id) for s in self.w.ends.values()]
        assert verify_pair(self.w.records[Role.CLIENT], self.w.records[Role.GATEWAY]) == []


Hostile.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHostile = Hostile.TestCase
