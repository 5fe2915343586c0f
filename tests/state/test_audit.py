# SPDX-License-Identifier: Apache-2.0
"""The audit record: canonical, chained, replayable, free of secrets; a changed byte or decision is found."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import Policy, Reason, Role, audit, driver
from gateway.core import inputs as inp
from gateway.core.session import RING_ROWS
from gateway.core.states import Evidence, Tier
from tests.sim.world import S, World
from tests.state.invariants import verify
from tests.state.make import EXAMPLES, T0, attached, born, named

WORLD_SEED = 5


@pytest.fixture(scope="module")
def journal() -> list[audit.Body]:
    w = World(seed=WORLD_SEED).start()
    w.cut(1)
    w.traffic(3 * S)
    w.rebind(2)
    w.traffic(3 * S)
    w.client.feed(inp.PolicyChanged(Policy(cooldown_ns=2 * S)))
    w.client.feed(inp.OperatorTerminate())
    w.run(2 * S)
    return w.client.lines


def sealed(bodies: list[audit.Body]) -> list[str]:
    lines, prev = [], audit.GENESIS
    for seq, body in enumerate(bodies):
        line, prev = audit.seal(
            {**body, "ts": audit.wall(1_767_323_045_678_901_000), "node": "gw-1"}, seq, prev
        )
        lines.append(line)
    return lines


def test_a_whole_chain_verifies(journal: list[audit.Body]) -> None:
    assert audit.verify(sealed(journal)) is None


def test_any_altered_missing_or_reordered_line_is_found(journal: list[audit.Body]) -> None:
    lines = sealed(journal)
    n = len(lines) // 2
    altered = [*lines[:n], lines[n].replace('"event"', '"evenT"'), *lines[n + 1 :]]
    assert audit.verify(altered) == (n, "the record was altered")
    assert audit.verify(lines[:n] + lines[n + 1 :]) == (n, "a record before it is missing or altered")
    swapped = [*lines[:n], lines[n + 1], lines[n], *lines[n + 2 :]]
    assert audit.verify(swapped) is not None
    assert audit.verify([*lines[:n], "not json", *lines[n:]]) == (n, "not a record")
    assert audit.verify(lines[n:]) == (0, "a record before it is missing or altered")


def test_the_journal_replays_to_the_same_decisions_also_from_its_lines(journal: list[audit.Body]) -> None:
    assert audit.replay(journal) is None
    assert audit.replay([json.loads(line) for line in sealed(journal)]) is None


def test_a_changed_decision_or_input_is_found_by_replay(journal: list[audit.Body]) -> None:
    at = next(n for n, b in enumerate(journal) if b["event"] == "STATE_CHANGE" and b["row"] == "T4")
    forged = [*journal[:at], {**journal[at], "reason": "PREFERRED_PATH"}, *journal[at + 1 :]]
    found = audit.replay(forged)
    assert found is not None
    assert found.record == at
    without = [b for b in journal if b.get("input") != "PathLost"]
    assert audit.replay(without) is not None
    assert audit.replay([b for n, b in enumerate(journal) if n != at]) is not None


def test_every_input_survives_its_record() -> None:
    s = attached(Role.CLIENT)
    for one in EXAMPLES:
        body = json.loads(audit.canonical(audit.input_body(s, one, T0)))
        assert audit.read_input(body) == one
    added = inp.PathAdded(3, "a3", "udp", Tier.BACKUP, 7)
    assert audit.read_input(audit.input_body(s, added, T0)) == added


def test_a_state_change_has_the_fields_of_the_specification(journal: list[audit.Body]) -> None:
    body = next(b for b in journal if b["event"] == "STATE_CHANGE")
    envelope = {
        "schema",
        "mono_ns",
        "event",
        "session_id",
        "peer",
        "policy",
        "state_version",
        "binding_epoch",
    }
    assert set(body) >= envelope | {"previous_state", "new_state", "reason", "transport_change", "details"}
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", body["policy"])
    assert set(body["transport_change"]) == {"from", "to"}


def test_the_wall_clock_is_rfc_3339_with_microseconds() -> None:
    assert audit.wall(1_767_323_045_678_901_234) == "2026-01-02T03:04:05.678901Z"


def test_the_verifier_finds_what_is_wrong(journal: list[audit.Body]) -> None:
    """The verifier itself is tested: validators that pass illegal traces are one of the traps."""
    assert verify(journal) == []
    changes = [n for n, b in enumerate(journal) if b["event"] == "STATE_CHANGE"]
    wrong = {
        "I6": {"state_version": 99},
        "I9": {"previous_state": "DEGRADED"},
        "I5": {"row": "T3"},
        "I4": {"new_state": "ATTACHED", "row": "T9"},
        "I3": {"new_state": "ATTACHED", "transport_change": {"from": "x", "to": None}},
    }
    for name, change in wrong.items():
        forged = list(journal)
        forged[changes[1]] = {**forged[changes[1]], **change}
        assert any(name in v for v in verify(forged)), name
    assert any("I35" in v for v in verify([{**journal[changes[0]], "private_key": "00"}]))
    dropped = [b for n, b in enumerate(journal) if n != changes[1]]
    assert any("I6" in v for v in verify(dropped))


def test_the_verifier_counts_switches_and_gaps(journal: list[audit.Body]) -> None:
    switch = next(b for b in journal if b["event"] == "TRANSPORT_SWITCH")
    start = [b for b in journal if b["event"] in ("POLICY", "SESSION_CREATED")]
    flood = [{**switch, "mono_ns": switch["mono_ns"] + n * S} for n in range(9)]
    assert any("I13" in v for v in verify(start + flood))
    quick = [
        {**switch, "switch_class": "DISCRETIONARY", "mono_ns": switch["mono_ns"] + n * S} for n in range(2)
    ]
    assert any("I14" in v for v in verify(start + quick))


def test_the_ring_keeps_the_last_transitions_to_refill_a_gap() -> None:
    s = attached(Role.CLIENT)
    changes = []
    for n in range(6):
        now = T0 + n * 20 * S
        changes += named(driver.receive(s, inp.PathLost(1 + n % 2, Evidence.LINK_DOWN), now), "STATE_CHANGE")
        changes += named(
            driver.receive(s, inp.ReattachAck(s.attempt_id, s.epoch + 1, 2 - n % 2), now + 1), "STATE_CHANGE"
        )
        driver.receive(s, inp.LinkUp(1 + n % 2), now + 2)
        driver.timer_due(s, now + S)
    ring = s.history()
    assert len(ring) == RING_ROWS
    last = changes[-RING_ROWS:]
    assert [(p.version, p.reason, p.previous, p.new) for p in ring] == [
        (c.state_version, c.reason, c.previous_state, c.new_state) for c in last
    ]


def test_no_event_holds_anything_but_plain_values(journal: list[audit.Body]) -> None:
    for body in journal:
        assert json.loads(audit.canonical(body)) == body
        assert "key" not in body


def test_a_checkpoint_names_how_many_records_and_their_digest() -> None:
    body = audit.checkpoint_body(12, "ab", T0)
    assert (body["records"], body["head"]) == (12, "ab")


def test_a_restored_session_replays_too() -> None:
    s = attached(Role.GATEWAY)
    stored = driver.snapshot(s, T0 + S)
    fresh, turn = driver.restore(stored, Policy(), 2 * S, 7, T0 + 3 * S)
    lines = [audit.policy_body(Policy(), T0), audit.restore_body(fresh, stored, 2 * S, 7, T0 + 3 * S)]
    lines += audit.turn_bodies(fresh, turn)
    assert audit.replay(lines) is None
    assert lines[-1]["event"] == "STATE_CHANGE" or any(b["event"] == "STATE_CHANGE" for b in lines)
    assert fresh.version == 8


def test_birth_refuses_a_confirmation_from_elsewhere() -> None:
    s = born(Role.GATEWAY)
    turn = driver.receive(s, inp.Confirmed("elsewhere"), T0 + 1)
    assert named(turn, "STATE_CHANGE") == []
    assert named(turn, "SECURITY_EVENT")[0].security_class is Reason.INVALID_STATE_TRANSITION
    assert not s.paths[0].flags & 1


SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.text(alphabet='\x00\x1f\x7f"/\\a')
RECORDS = st.dictionaries(
    st.text(min_size=1),
    st.recursive(SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(), of, max_size=3)),
    max_size=8,
)


@given(RECORDS)
def test_canonical_is_what_the_standard_library_says(body: audit.Body) -> None:
    """Whatever spells it: a journal is verified with any JSON library that sorts keys and escapes as this one does."""
    assert audit.canonical(body) == json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
