# SPDX-License-Identifier: Apache-2.0
"""The trace verifier and AUDIT_GAP: a gap explains the versions of its range, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.state.invariants import verify
from tests.unit.control.journals import lives

Body = dict[str, Any]


def life() -> list[Body]:
    """A client's records: ATTACHED (1), the link is cut, VOLATILE (2), RECOVERING (3), ATTACHED (4) again."""
    return [dict(body) for body in lives()[0]]


def change(records: list[Body], version: int) -> Body:
    """The transition to a version."""
    return next(b for b in records if b["event"] == "STATE_CHANGE" and b["state_version"] == version)


def gap(records: list[Body], first: int, last: int, history: bool = True) -> Body:
    """What the audit log writes in place of what it could not write."""
    at = change(records, last) if last else change(records, 1)
    rows = [change(records, version) for version in range(first, last + 1) if version]
    return {
        "event": "AUDIT_GAP",
        "session_id": at["session_id"],
        "peer": at["peer"],
        "policy": at["policy"],
        "mono_ns": at["mono_ns"],
        "state_version": at["state_version"],
        "binding_epoch": at["binding_epoch"],
        "first_version": first,
        "last_version": last,
        "lost": 1,
        "cause": "NOT_WRITTEN",
        "history": [
            {"version": row["state_version"], "previous": row["previous_state"], "new": row["new_state"]}
            for row in rows
            if history
        ],
    }


def without(records: list[Body], first: int, last: int, note: Body | None) -> list[Body]:
    """The records of these versions replaced by a note; what came between them went with them."""
    begin, end = (records.index(change(records, version)) for version in (first, last))
    return [*records[:begin], *([note] if note else []), *records[end + 1 :]]


def missing(found: list[str]) -> list[str]:
    """Violations about versions."""
    return [text for text in found if text.startswith("I6")]


def test_the_life_itself_is_sound() -> None:
    assert verify(life()) == []


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 2), (2, 3), (1, 3)])
def test_without_a_gap_a_missing_version_is_a_violation(first: int, last: int) -> None:
    assert missing(verify(without(life(), first, last, None)))


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 2), (2, 3), (1, 3), (1, 4), (4, 4)])
def test_a_gap_explains_its_range(first: int, last: int, history: bool) -> None:
    records = life()
    assert verify(without(records, first, last, gap(records, first, last, history))) == []


@pytest.mark.parametrize(
    ("first", "last", "says"),
    [
        (1, 3, (2, 3)),  # one more is missing before it
        (1, 2, (1, 1)),  # and behind it
        (2, 3, (2, 2)),
        (2, 2, (1, 2)),  # it claims one that is there
        (2, 2, (2, 3)),
        (3, 3, (0, 0)),  # inputs only, it says
        (2, 3, (3, 2)),
    ],
)
def test_a_gap_explains_nothing_else(first: int, last: int, says: tuple[int, int]) -> None:
    records = life()
    note = {**gap(records, first, last, history=False), "first_version": says[0], "last_version": says[1]}
    assert missing(verify(without(records, first, last, note)))


def test_a_version_missing_elsewhere_stays_a_violation() -> None:
    """A gap earlier in the same session, or in another one, excuses nothing."""
    records = life()
    note = gap(records, 1, 1)
    holed = without(records, 1, 1, note)
    holed.remove(change(holed, 3))
    assert len(missing(verify(holed))) == 1
    stranger = {**gap(records, 3, 3), "session_id": "ff" * 16}
    assert missing(verify(without(records, 3, 3, stranger)))


def test_what_a_gap_remembers_is_checked_too() -> None:
    records = life()
    for spoil in (
        lambda rows: rows[0].update(version=3),
        lambda rows: rows[0].update(previous="DEGRADED"),
        lambda rows: rows[1].update(new="BIRTH"),
        lambda rows: rows[1].update(previous="ATTACHED"),
    ):
        note = gap(records, 2, 3)
        spoil(note["history"])
        assert verify(without(records, 2, 3, note)) != []


def test_after_a_gap_the_state_it_remembers_holds() -> None:
    records = life()
    holed = without(records, 2, 3, gap(records, 2, 3))
    after = change(holed, 4)
    holed[holed.index(after)] = {
        **after,
        "previous_state": "DEGRADED",
        "row": "T12",
        "reason": "STABILITY_RESTORED",
    }
    assert any(text.startswith("I9") for text in verify(holed))


def test_a_gap_of_all_sessions_leaves_only_the_order_to_judge() -> None:
    """Its range is not known; versions still never go back."""
    records = life()
    note = {"event": "AUDIT_GAP", "mono_ns": change(records, 2)["mono_ns"], "cause": "NOT_WRITTEN", "lost": 9}
    holed = without(records, 2, 3, note)
    assert verify(holed) == []
    again = change(records, 1)
    at = holed.index(note) + 1
    assert missing(verify([*holed[:at], {**again, "mono_ns": note["mono_ns"]}, *holed[at:]]))


def restart(records: list[Body], version: int) -> Body:
    """The store brings the session back at this version, as an unbound one whose window is open."""
    last = change(records, 4)
    record = {
        "role": "CLIENT", "session_id": last["session_id"], "peer": last["peer"], "state": "DEGRADED",
        "version": version, "epoch": last["binding_epoch"], "bound_id": 0, "attempt_id": 1, "age_ns": 10**9,
        "window_left_ns": 10**9, "stock": False, "home": "", "accepted_epoch": 0, "accepted_path_id": 0,
    }  # fmt: skip
    head = {key: last[key] for key in ("session_id", "peer", "policy")}
    fields = {"record": record, "down_ns": 0, "audited_version": 4}
    return {"event": "RESTORE", "mono_ns": last["mono_ns"], **head, "fields": fields}


def test_versions_that_died_with_the_process_need_their_gap() -> None:
    records = life()
    upto = records[: records.index(change(records, 4)) + 1]
    lost = {**gap(records, 4, 4), "first_version": 5, "last_version": 6, "state_version": 6, "history": []}
    assert verify([*upto, lost, restart(records, 6)]) == []
    assert missing(verify([*upto, restart(records, 6)]))
    assert verify([*upto, restart(records, 4)]) == []
