# SPDX-License-Identifier: Apache-2.0
"""The queue of deadlines: in order, whoever is armed anew; and no longer than what is armed deserves."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from gateway.control.duequeue import DueQueue


class Item:
    """Waits."""

    __slots__ = ("__weakref__", "deadline_ns")

    def __init__(self) -> None:
        self.deadline_ns: int | None = None


# Which item, and its new deadline; None: it waits for nothing any more.
ACTS = st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(1, 50)), max_size=80)


@given(ACTS)
def test_they_come_in_the_order_of_their_deadlines(acts: list[tuple[int, int | None]]) -> None:
    items, queue = [Item() for _ in range(10)], DueQueue[Item]()
    for number, at_ns in acts:
        if at_ns is None:
            items[number].deadline_ns = None
        else:
            queue.arm(items[number], at_ns)
        armed = [item.deadline_ns for item in items if item.deadline_ns is not None]
        assert queue.next_ns == min(armed, default=None)
    expected = sorted(item.deadline_ns for item in items if item.deadline_ns is not None)
    found = []
    while (at_ns := queue.next_ns) is not None:
        assert queue.pop().deadline_ns is None
        found.append(at_ns)
    assert found == expected


def test_of_one_time_the_first_armed_comes_first() -> None:
    items, queue = [Item() for _ in range(20)], DueQueue[Item]()
    for item in items:
        queue.arm(item, 7)
    assert [queue.pop() for _ in items] == items


def test_what_was_armed_again_and_again_takes_no_room() -> None:
    items, queue = [Item() for _ in range(100)], DueQueue[Item]()
    for turn in range(100):
        for item in items:
            queue.arm(item, 1_000_000 - turn)
    assert len(queue) <= 3 * len(items)


def test_what_has_ended_is_let_go_long_before_its_time() -> None:
    """Sessions come and go while the earliest deadline stands: with the old entries they would all stay."""
    queue = DueQueue[Item]()
    steady = [Item() for _ in range(50)]
    for item in steady:
        queue.arm(item, 1)
    gone: list[weakref.ref[Item]] = []
    for _ in range(2000):
        one = Item()
        queue.arm(one, 10**12)
        one.deadline_ns = None
        gone.append(weakref.ref(one))
        del one
    gc.collect()
    assert len(queue) < 200
    assert sum(ref() is not None for ref in gone) < 200
