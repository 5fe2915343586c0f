# SPDX-License-Identifier: Apache-2.0
"""The table alone: the full product of state, trigger, role and facts; each row taken and refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gateway.core.describe import document
from gateway.core.reasons import Reason
from gateway.core.states import LIVE, Role, State
from gateway.core.transitions import PRIORITY, TRANSITIONS, Facts, Rule, Trigger, decide, edges, forbidden

BOOLS = (False, True)
ALL_FACTS = [Facts(*bits) for bits in itertools.product(BOOLS, repeat=len(Facts._fields))]
ROWS = [
    (state, trigger, index) for (state, trigger), rules in TRANSITIONS.items() for index in range(len(rules))
]


def taken(state: State, role: Role, trigger: Trigger, facts: Facts) -> set[Rule]:
    known = {Reason.NONE}.union(*(rule.reasons for rule in TRANSITIONS.get((state, trigger), ())))
    found = (decide(state, role, trigger, reason, facts) for reason in known)
    return {one[0] for one in found if one is not None}


def test_every_row_of_the_specification_is_here() -> None:
    assert {rule.row for _, _, rule in edges()} == {f"T{n}" for n in range(1, 23)}


@pytest.mark.parametrize(("state", "trigger"), list(itertools.product(State, Trigger)))
def test_the_full_product_moves_only_along_rows(state: State, trigger: Trigger) -> None:
    listed = TRANSITIONS.get((state, trigger), ())
    for role, facts in itertools.product(Role, ALL_FACTS):
        for rule in taken(state, role, trigger, facts):
            assert rule in listed
            assert role.value in rule.roles
            assert rule.when(facts)
            assert not forbidden(state, rule.row, rule.to)


@pytest.mark.parametrize(("state", "trigger", "index"), ROWS)
def test_every_row_is_reachable_and_its_guard_decides(state: State, trigger: Trigger, index: int) -> None:
    rule = TRANSITIONS[state, trigger][index]
    held, refused = 0, 0
    for role, facts in itertools.product(Role, ALL_FACTS):
        if role.value not in rule.roles:
            assert rule not in taken(state, role, trigger, facts)
        elif rule.when(facts):
            held += rule in taken(state, role, trigger, facts)
        else:
            refused += 1
            assert rule not in taken(state, role, trigger, facts)
    assert held, "no facts take this row: it is dead"
    if rule.when.__name__ != "always":
        assert refused, "its guard never fails"


def test_terminated_is_absorbing_for_every_trigger_and_fact() -> None:
    for role, trigger, facts in itertools.product(Role, Trigger, (ALL_FACTS[0], ALL_FACTS[-1])):
        assert taken(State.TERMINATED, role, trigger, facts) == set()


def test_only_the_client_starts_attempts() -> None:
    for state, trigger, facts in itertools.product(
        State, (Trigger.RECOVER, Trigger.SWITCH_WANTED), ALL_FACTS
    ):
        assert taken(state, Role.GATEWAY, trigger, facts) == set()


def test_a_reason_not_listed_by_the_row_is_refused() -> None:
    facts = Facts(bound=True, proven=True)
    assert decide(State.ATTACHED, Role.CLIENT, Trigger.BREACH, Reason.OPERATOR_SWITCH, facts) is None
    assert decide(State.ATTACHED, Role.CLIENT, Trigger.COMMIT, Reason.NONE, facts) is None


def test_every_guard_says_in_words_what_it_asks() -> None:
    for _, _, rule in edges():
        assert rule.when.__doc__, rule.row
        assert rule.when.__name__ != "<lambda>"


def test_every_live_state_can_end() -> None:
    for state in LIVE:
        assert (state, Trigger.TERMINATE) in TRANSITIONS
        assert (state, Trigger.LIFETIME) in TRANSITIONS


def test_priorities_are_the_specifications_order() -> None:
    order = [Trigger.LIFETIME, Trigger.TERMINATE, Trigger.KEY_LOST, Trigger.OWNERSHIP, Trigger.WINDOW_EXPIRED,
             Trigger.ACTIVE_DEAD, Trigger.COMMIT, Trigger.BREACH, Trigger.CALM]  # fmt: skip
    assert [trigger for trigger in PRIORITY if trigger in order] == order


def test_the_document_is_generated_from_this_table() -> None:
    file = Path(__file__).resolve().parents[2] / "docs" / "state-machine.md"
    assert file.read_text(encoding="utf-8") == document(), (
        "run: python -m gateway.core.describe > docs/state-machine.md"
    )


def test_reason_codes_are_stable_and_unique() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    assert all(reason.name == reason.name.upper() for reason in Reason)
    assert (Reason.HANDSHAKE_OK, Reason.REATTACH_SUCCESS, Reason.STALE_EPOCH) == (1, 42, 89)
