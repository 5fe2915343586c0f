# SPDX-License-Identifier: Apache-2.0
"""When keys die and how they follow each other; two rings in lockstep never lose a packet."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import constants as c
from gateway.constants import NS_PER_S
from gateway.noise.keypair import (
    DEFAULT_LIMITS,
    KeyAge,
    KeyLimits,
    KeyRing,
    may_open,
    may_seal,
    rekey_on_receive,
    rekey_on_send,
)
from gateway.noise.timers import DEFAULT, Timers
from tests.unit.noise.endpoints import START_NS

MINE = KeyAge(1, True, START_NS)
THEIRS = KeyAge(2, False, START_NS)


def at(seconds: float) -> int:
    return START_NS + int(seconds * NS_PER_S)


class TestLimits:
    """Whitepaper §6.2."""

    @pytest.mark.parametrize("judge", [may_seal, may_open])
    def test_reject(self, judge: object) -> None:
        assert callable(judge)
        assert judge(DEFAULT_LIMITS, MINE, at(179.9), 0)
        assert not judge(DEFAULT_LIMITS, MINE, at(180), 0)
        assert judge(DEFAULT_LIMITS, MINE, at(0), (1 << 64) - (1 << 13) - 2)
        assert not judge(DEFAULT_LIMITS, MINE, at(0), (1 << 64) - (1 << 13) - 1)

    def test_rekey_on_send(self) -> None:
        assert not rekey_on_send(DEFAULT_LIMITS, MINE, at(119.9), 0)
        assert rekey_on_send(DEFAULT_LIMITS, MINE, at(120), 0)
        assert not rekey_on_send(DEFAULT_LIMITS, THEIRS, at(170), 0)
        assert not rekey_on_send(DEFAULT_LIMITS, THEIRS, at(0), 1 << 60)
        assert rekey_on_send(DEFAULT_LIMITS, THEIRS, at(0), (1 << 60) + 1)

    def test_rekey_on_receive(self) -> None:
        assert not rekey_on_receive(DEFAULT_LIMITS, MINE, at(164.9))
        assert rekey_on_receive(DEFAULT_LIMITS, MINE, at(165))
        assert not rekey_on_receive(DEFAULT_LIMITS, THEIRS, at(179))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"rekey_after_time_ns": 0},
            {"rekey_after_time_ns": 180 * NS_PER_S},
            {"rekey_after_messages": 0},
            {"reject_after_messages": 1 << 64},
            {"reject_after_messages": 1 << 60},
            {"rekey_on_receive_margin_ns": 180 * NS_PER_S},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_nonsense_is_refused(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=r"after|room"):
            KeyLimits(**wrong)


class TestTimers:
    """Defaults are the protocol's, and one object carries them all."""

    def test_defaults(self) -> None:
        assert DEFAULT.key_limits() == DEFAULT_LIMITS
        assert DEFAULT.new_handshake_ns == 15 * NS_PER_S
        assert DEFAULT.erase_keys_ns == 540 * NS_PER_S
        for field in fields(Timers):
            assert getattr(DEFAULT, field.name) == getattr(c, field.name.upper(), 0)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"rekey_timeout_ns": 0},
            {"rekey_attempt_time_ns": NS_PER_S},
            {"keepalive_timeout_ns": 0},
            {"cookie_refresh_time_ns": 0},
            {"persistent_keepalive_ns": -1},
            {"rekey_timeout_jitter_max_ns": -1},
            {"reject_after_time_ns": 100 * NS_PER_S},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_nonsense_is_refused(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=r"must|negative"):
            Timers(**wrong)


def key(index: int, *, initiator: bool, at_s: float = 0) -> KeyAge:
    return KeyAge(index, initiator, at(at_s))


class TestRing:
    """The rules of kernel WireGuard's add_new_keypair and received_with_keypair."""

    def test_initiator_uses_the_new_key_at_once(self) -> None:
        ring = KeyRing()
        one, two, three = (key(i, initiator=True) for i in (1, 2, 3))
        assert ring.install(one) == ()
        assert ring.install(two) == ()
        assert (ring.current, ring.previous) == (two, one)
        assert ring.install(three) == (one,)
        assert (ring.current, ring.previous, ring.next) == (three, two, None)

    def test_responder_waits_for_the_first_packet(self) -> None:
        ring = KeyRing()
        one, two = (key(i, initiator=False) for i in (1, 2))
        assert ring.install(one) == ()
        assert (ring.current, ring.next) == (None, one)
        assert ring.confirm(1) == ()
        assert ring.install(two) == ()
        assert (ring.current, ring.next) == (one, two)
        assert ring.confirm(1) == ()
        assert ring.current == one
        assert ring.confirm(2) == ()
        assert (ring.previous, ring.current, ring.next) == (one, two, None)

    def test_unconfirmed_next_is_replaced(self) -> None:
        ring = KeyRing()
        for new in (key(1, initiator=False), key(2, initiator=False)):
            retired = ring.install(new)
        assert retired == (key(1, initiator=False),)

    def test_responder_install_retires_nothing(self) -> None:
        ring = KeyRing()
        one, two, three = key(1, initiator=True), key(2, initiator=True), key(3, initiator=False)
        ring.install(one)
        ring.install(two)
        assert ring.install(three) == ()
        assert ring.held() == (one, two, three)
        assert ring.confirm(3) == (one,)

    def test_crossing_keeps_both_that_the_peer_may_seal_with(self) -> None:
        """Both began at once: the peer may already use `next`, and until it does goes on with what it had."""
        ring = KeyRing()
        oldest, old = key(1, initiator=True), key(2, initiator=True)
        theirs, mine = key(3, initiator=False), key(4, initiator=True)
        for each in (oldest, old, theirs):
            ring.install(each)
        assert ring.install(mine) == (oldest,)
        assert (ring.older, ring.previous, ring.current, ring.next) == (old, theirs, mine, None)

    def test_rings_that_diverged_survive_the_next_rekey(self) -> None:
        """Each end seals under its own; the next handshake, of either side, leaves what the other seals with."""
        for initiator in (True, False):
            ring = KeyRing()
            theirs, mine = key(1, initiator=False), key(2, initiator=True)
            ring.install(theirs)
            ring.install(mine)
            ring.confirm(1)
            assert (ring.previous, ring.current) == (theirs, mine)
            ring.install(key(3, initiator=initiator))
            ring.confirm(3)
            assert (ring.older, ring.previous, ring.current) == (theirs, mine, key(3, initiator=initiator))
            assert ring.install(key(4, initiator=True)) == (theirs, mine)
            assert ring.older is None

    def test_they_survive_another_crossing(self) -> None:
        ring = KeyRing()
        theirs, mine = key(1, initiator=False), key(2, initiator=True)
        ring.install(theirs)
        ring.install(mine)
        ring.confirm(1)
        ring.install(key(3, initiator=False))
        assert ring.install(key(4, initiator=True)) == (mine,)
        assert (ring.older, ring.previous) == (theirs, key(3, initiator=False))

    def test_expire(self) -> None:
        ring = KeyRing()
        old, new = key(1, initiator=True), key(2, initiator=True, at_s=100)
        ring.install(old)
        ring.install(new)
        assert ring.expire(DEFAULT_LIMITS, at(179)) == ()
        assert ring.expire(DEFAULT_LIMITS, at(180)) == (old,)
        assert ring.held() == (new,)
        assert ring.expire(DEFAULT_LIMITS, at(280)) == (new,)
        assert ring.held() == ()

    @given(st.lists(st.one_of(st.booleans(), st.integers(min_value=1, max_value=40)), max_size=40))
    def test_every_key_is_held_or_was_retired_once(self, acts: list[bool | int]) -> None:
        ring, installed, retired = KeyRing(), [], []
        for act in acts:
            if isinstance(act, bool):
                installed.append(key(len(installed) + 1, initiator=act))
                retired += ring.install(installed[-1])
            else:
                retired += ring.confirm(act)
        assert sorted([*ring.held(), *retired]) == installed
        assert len(set(retired)) == len(retired)


def opens(sender: KeyRing, receiver: KeyRing) -> bool:
    """Deliver a packet under the sender's current key, if it has one."""
    current = sender.current
    if current is None:
        return True
    held = {each.local_index for each in receiver.held()}
    receiver.confirm(current.local_index)
    return current.local_index in held


@given(st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 1), max_size=4)), max_size=12))
def test_a_rekey_loses_nothing(rounds: list[tuple[int, list[int]]]) -> None:
    """At every point of any series of rekeys from either side, what one end seals the other can open.

    Handshakes follow each other: the initiator's first packet arrives before the next one starts.
    """
    rings = KeyRing(), KeyRing()
    for number, (side, senders) in enumerate(rounds, start=1):
        initiator, responder = rings[side], rings[1 - side]
        responder.install(key(number, initiator=False))
        assert opens(responder, initiator)
        assert opens(initiator, responder)
        initiator.install(key(number, initiator=True))
        assert opens(responder, initiator)
        assert opens(initiator, responder)
        assert all(opens(rings[sender], rings[1 - sender]) for sender in senders)


class Wire:
    """Two rings and what is on its way between them, each way in order. No tie-break: every initiation is answered."""

    def __init__(self) -> None:
        self.rings = KeyRing(), KeyRing()
        self.under_way: tuple[list[tuple[str, int]], ...] = [], []  # towards each end
        self.number = 0

    def initiate(self, side: int) -> None:
        self.number += 1
        self.under_way[1 - side].append(("initiation", self.number))

    def send(self, side: int) -> None:
        """One packet under the current key, if there is one."""
        current = self.rings[side].current
        if current is not None:
            self.under_way[1 - side].append(("data", current.local_index))

    def deliver(self, side: int) -> None:
        """The next message towards `side`; a data packet must be openable."""
        if not self.under_way[side]:
            return
        kind, number = self.under_way[side].pop(0)
        ring = self.rings[side]
        if kind == "initiation":
            ring.install(key(number, initiator=False))
            self.under_way[1 - side].append(("response", number))
        elif kind == "response":
            ring.install(key(number, initiator=True))
            self.send(side)
        else:
            assert number in {each.local_index for each in ring.held()}
            ring.confirm(number)

    def drain(self) -> None:
        while any(self.under_way):
            for side in (0, 1):
                self.deliver(side)


ACTS = st.lists(st.tuples(st.sampled_from(["send", "deliver"]), st.integers(0, 1)), max_size=16)


@given(st.lists(st.tuples(st.sampled_from([(0,), (1,), (0, 1), (1, 0)]), ACTS), max_size=6))
def test_crossing_handshakes_lose_nothing(
    rounds: list[tuple[tuple[int, ...], list[tuple[str, int]]]],
) -> None:
    """One or both ends begin, packets and messages pass in any order; when all has arrived, the next ones begin."""
    wire = Wire()
    wire.initiate(0)
    wire.drain()
    for beginners, acts in rounds:
        for side in beginners:
            wire.initiate(side)
        for act, side in acts:
            getattr(wire, act)(side)
        wire.drain()
