# SPDX-License-Identifier: Apache-2.0
"""Stock sessions: WireGuard's own death rule, the handshake as reattachment, three roaming policies."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from gateway.core import Policy, Reason, Role, Session, State, audit, driver
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.policy import Roaming
from gateway.core.states import SwitchClass
from tests.state.invariants import verify
from tests.state.make import LOSSY, MS, T0, S, attached, effects, named, rows


def stock(roaming: Roaming = Roaming.HANDSHAKE) -> Session:
    return attached(Role.GATEWAY, policy=Policy(roaming=roaming), paths=1, stock=True)


def address(s: Session) -> str:
    assert s.active is not None
    return s.active.address


def test_death_is_fifteen_seconds_of_wireguard_and_a_handshake_is_the_reattachment() -> None:
    s = stock()
    assert rows(driver.receive(s, inp.StockSilent(), T0 + 15 * S)) == ["T5"]
    assert s.window_end_ns == T0 + 195 * S
    turn = driver.receive(s, inp.StockHandshake("a1"), T0 + 60 * S)
    assert rows(turn) == ["T11", "T13"]
    assert (s.state, s.epoch) == (State.ATTACHED, 2)


def test_the_window_of_a_stock_session_is_its_own() -> None:
    s = stock()
    driver.receive(s, inp.StockSilent(), T0)
    assert rows(driver.timer_due(s, T0 + 180 * S - 1)) == []
    assert rows(driver.timer_due(s, T0 + 180 * S)) == ["T16"]


def test_volatility_is_not_measured_and_silence_of_an_idle_peer_is_not_death() -> None:
    s = stock()
    assert rows(driver.receive(s, LOSSY, T0 + S)) == []
    now = T0
    while (due := driver.next_deadline(s)) is not None and due < T0 + 7 * 3600 * S:
        assert due > now
        assert rows(driver.timer_due(s, due)) == []
        now = due
    assert s.state is State.ATTACHED


def test_handshake_roaming_one_copied_packet_moves_nothing() -> None:
    s = stock()
    turn = driver.receive(s, inp.StockAddressSeen("evil", True), T0 + S)
    assert effects(turn, fx.InitiateTo) == [fx.InitiateTo("evil")]
    assert effects(turn, fx.CopyDownstream)[0].address == "evil"
    again = driver.receive(s, inp.StockAddressSeen("evil", True), T0 + 2 * S)
    assert effects(again, fx.InitiateTo) == []
    assert len(effects(driver.receive(s, inp.StockAddressSeen("evil", True), T0 + 6 * S), fx.InitiateTo)) == 1
    assert address(s) == "a1"
    assert s.version == 1


def test_handshake_roaming_moves_where_the_handshake_completes() -> None:
    s = stock()
    turn = driver.receive(s, inp.StockHandshake("new"), T0 + S)
    assert rows(turn) == ["T7", "T10", "T13"]
    assert named(turn, "STATE_CHANGE")[0].reason is Reason.STOCK_ROAMING
    assert address(s) == "new"


def test_wireguard_roaming_costs_two_tokens_away_and_nothing_home() -> None:
    s = stock(Roaming.WIREGUARD)
    assert rows(driver.receive(s, inp.StockAddressSeen("evil", False), T0 + S)) == []
    moved = 0
    for n in range(1, 40):
        moved += bool(rows(driver.receive(s, inp.StockAddressSeen(f"evil{n}", True), T0 + n * 100 * MS)))
        back = rows(driver.receive(s, inp.StockAddressSeen("a1", True), T0 + n * 100 * MS + 1))
        assert address(s) == "a1"
        assert back == (["T7", "T10", "T13"] if moved >= n else [])
    assert moved == 2
    assert s.flood is not None
    assert Reason.SWITCH_RATE_LIMITED in s.flood


def test_never_roaming_stays() -> None:
    s = stock(Roaming.NEVER)
    assert rows(driver.receive(s, inp.StockAddressSeen("new", True), T0 + S)) == []
    turn = driver.receive(s, inp.StockHandshake("new"), T0 + 2 * S)
    assert rows(turn) == []
    assert named(turn, "SECURITY_EVENT")[0].security_class is Reason.POLICY_DENIED
    assert address(s) == "a1"


def test_a_late_hello_upgrades_in_place() -> None:
    s = stock()
    ident, version, epoch = s.session_id, s.version, s.epoch
    driver.receive(s, inp.HelloSeen(4, "a1", 0), T0 + S)
    assert (s.stock, s.session_id, s.version, s.epoch) == (False, ident, version, epoch)
    assert (s.bound_id, [p.path_id for p in s.paths]) == (4, [4])


def test_the_next_handshake_begins_five_seconds_before_a_lifetime_ends() -> None:
    """protocol.md §2, stock sessions: once a second until it completes; then the session lives to its end."""
    s = stock()
    begins = T0 + s.policy.max_lifetime_ns - 5 * S
    assert driver.next_deadline(s) == begins
    assert effects(driver.timer_due(s, begins - 1), fx.StartHandshake) == []
    for tries in range(3):
        assert len(effects(driver.timer_due(s, begins + tries * S), fx.StartHandshake)) == 1
        assert effects(driver.timer_due(s, begins + tries * S + S // 2), fx.StartHandshake) == []
    driver.receive(s, inp.StockHandshake("a1"), begins + 3 * S)
    assert effects(driver.timer_due(s, begins + 4 * S), fx.StartHandshake) == []
    assert rows(driver.timer_due(s, begins + 5 * S)) == ["T17"]


def test_nobody_is_called_for_a_next_session_who_is_lost_or_speaks_jump_frames() -> None:
    lost, jump, ours = stock(), attached(Role.GATEWAY), attached(Role.CLIENT, paths=1, stock=True)
    begins = T0 + lost.policy.max_lifetime_ns - 5 * S
    driver.receive(lost, inp.StockSilent(), begins - 10 * S)
    for s in (lost, jump, ours):
        assert effects(driver.timer_due(s, begins), fx.StartHandshake) == []


def test_what_it_has_spoken_before_and_does_not_now_is_a_downgrade() -> None:
    """protocol.md §2, `protocol`: served as plain WireGuard, and audited; nothing to audit for a real stock peer."""
    for role, spoken in itertools.product(Role, (True, False)):
        s = attached(role, paths=1, stock=role is Role.GATEWAY)
        turn = driver.receive(s, inp.PlainWireguard(spoken), T0 + 4 * S)
        assert (s.stock, s.state, s.bound_id, rows(turn)) == (True, State.ATTACHED, 1, [])
        classes = [event.security_class for event in named(turn, "SECURITY_EVENT")]
        assert classes == ([Reason.PROTOCOL_DOWNGRADE] if spoken else [])


def test_a_late_welcome_upgrades_in_place() -> None:
    s = attached(Role.CLIENT, paths=1)
    driver.receive(s, inp.PlainWireguard(spoken=True), T0 + 4 * S)
    driver.receive(s, inp.Welcomed(1, 1, 0), T0 + 34 * S)
    assert (s.stock, s.state, s.version) == (False, State.ATTACHED, 1)


def test_who_must_speak_jump_frames_is_never_served_without() -> None:
    """The gateway has the peer's authentic word and ends it; a client hears silence, which ends nothing."""
    theirs, ours = attached(Role.GATEWAY, paths=1), attached(Role.CLIENT, paths=1)
    turns = [driver.receive(s, inp.PlainWireguard(False, required=True), T0 + 8 * S) for s in (theirs, ours)]
    for turn in turns:
        assert named(turn, "SECURITY_EVENT")[0].security_class is Reason.PROTOCOL_DOWNGRADE
    assert rows(turns[0]) == ["T19"]
    assert named(turns[0], "STATE_CHANGE")[0].reason is Reason.SECURITY_VIOLATION
    assert (rows(turns[1]), ours.stock, ours.state) == ([], False, State.ATTACHED)


def test_a_jump_request_on_a_stock_session_is_refused() -> None:
    s = stock()
    turn = driver.receive(s, inp.ReattachRequest(1, 1, 1, Reason.NAT_REBIND, False, "x"), T0)
    assert rows(turn) == []
    assert named(turn, "SECURITY_EVENT")


def test_b41_a_stock_client_takes_over_the_key() -> None:
    s = attached(Role.GATEWAY)
    turn = driver.receive(s, inp.Superseded(), T0)
    assert rows(turn) == ["T18"]
    assert len(effects(turn, fx.SendTerminate)) == 1


def test_stock_rekeys_are_not_the_cores_business() -> None:
    s = stock()
    turn = driver.timer_due(s, T0 + 400 * S)
    assert effects(turn, fx.StartRekey) == []
    assert s.state is State.ATTACHED


def test_an_operator_cannot_switch_a_stock_session() -> None:
    s = stock()
    turn = driver.receive(s, inp.OperatorSwitch(2), T0)
    assert named(turn, "TRANSPORT_SWITCH_DENIED")[0].rule is Reason.POLICY_DENIED


# --- a client at a stock gateway ---------------------------------------------------------------------------------


def restarted(s: Session, down_ns: int = 2 * S) -> Session:
    """What the next run of its process makes of it, two seconds later."""
    fresh, turn = driver.restore(driver.snapshot(s, T0 + S), s.policy, down_ns, 0, T0 + S + down_ns)
    assert rows(turn) == ["T22"]
    return fresh


def test_a_restarted_client_is_attached_by_its_first_handshake() -> None:
    old = attached(Role.CLIENT, paths=1, stock=True)
    s = restarted(old)
    assert (s.state, s.bound_id, s.window_end_ns) == (State.DEGRADED, 0, T0 + 183 * S)
    turn = driver.receive(s, inp.StockHandshake("a1", 1), T0 + 4 * S)
    assert rows(turn) == ["T11", "T13"]
    assert effects(turn, fx.SwitchBinding) == [fx.SwitchBinding(1, "a1", 2)]
    assert (s.state, s.session_id, s.epoch, s.window_end_ns) == (State.ATTACHED, old.session_id, 2, 0)
    assert rows(driver.timer_due(s, T0 + 200 * S)) == []


def test_it_comes_back_on_whichever_transport_the_handshake_went() -> None:
    """Under that transport's own number, so that a gateway that wakes up later finds it under the same."""
    s = restarted(attached(Role.CLIENT, paths=1, stock=True))
    turn = driver.receive(s, inp.StockHandshake("a2", 2), T0 + 4 * S)
    assert rows(turn) == ["T11", "T13"]
    assert (s.bound_id, address(s), [p.path_id for p in s.paths]) == (2, "a2", [2])
    assert rows(driver.receive(s, inp.StockHandshake("a2", 2), T0 + 124 * S)) == []
    turn = driver.receive(s, inp.StockHandshake("a3", 3), T0 + 244 * S)
    assert rows(turn) == ["T7", "T10", "T13"]
    assert named(turn, "STATE_CHANGE")[0].reason is Reason.STOCK_ROAMING
    assert (s.bound_id, address(s)) == (3, "a3")


def test_a_lost_stock_session_of_a_client_asks_nothing() -> None:
    """No request that a stock gateway cannot answer, and the handshake's own timers call it."""
    s = restarted(attached(Role.CLIENT, paths=1, stock=True))
    seen = [driver.receive(s, inp.OperatorSwitch(0), T0 + 3 * S)]
    while (due := driver.next_deadline(s)) is not None and not s.ended:
        seen.append(driver.timer_due(s, due))
    for kind in (fx.SendReattachRequest, fx.StartHandshake):
        assert [one for turn in seen for one in effects(turn, kind)] == []
    assert [row for turn in seen for row in rows(turn)] == ["T16"]


def test_a_resumed_session_waits_for_the_verdict_when_nobody_had_answered_its_hello() -> None:
    """Restarted before the first verdict: not known as a stock session, and without any path until then."""
    s = restarted(attached(Role.CLIENT, paths=1))
    assert (s.stock, s.paths) == (False, ())
    driver.receive(s, inp.KeyInstalled(), T0 + 4 * S)
    driver.receive(s, inp.PlainWireguard(spoken=False), T0 + 8 * S)
    turn = driver.receive(s, inp.StockHandshake("a2", 2), T0 + 8 * S)
    assert rows(turn) == ["T11", "T13"]
    assert (s.stock, s.state, s.bound_id, address(s)) == (True, State.ATTACHED, 2, "a2")


def test_a_jump_session_is_not_attached_by_a_handshake() -> None:
    """That takes a REATTACH (protocol.md §2)."""
    s = restarted(attached(Role.CLIENT, paths=1))
    assert rows(driver.receive(s, inp.StockHandshake("a1", 1), T0 + 4 * S)) == []
    assert (s.state, s.bound_id) == (State.DEGRADED, 0)


@pytest.mark.parametrize("known", [True, False], ids=["configured", "found-out"])
def test_a_restarted_clients_life_verifies_and_replays(known: bool) -> None:
    policy, first = Policy(), driver.First(1, "a1")
    s, turn = driver.create(Role.CLIENT, bytes(16), "gateway", policy, first, T0, stock=known)
    lines = [audit.policy_body(policy, T0), audit.create_body(s, first, T0), *audit.turn_bodies(s, turn)]
    verdict = [] if known else [inp.PlainWireguard(spoken=False)]
    acts = [inp.Confirmed("a1"), *verdict, None, inp.KeyInstalled(), inp.StockHandshake("a1", 1),
            inp.StockHandshake("a2", 2), inp.OperatorTerminate()]  # fmt: skip
    for n, one in enumerate(acts):
        now = T0 + n * S
        if one is None:
            record = driver.snapshot(s, now)
            s, turn = driver.restore(record, policy, S, 0, now)
            lines.append(audit.restore_body(s, record, S, 0, now))
        else:
            lines.append(audit.input_body(s, one, now))
            turn = driver.receive(s, one, now)
        lines += audit.turn_bodies(s, turn)
    assert audit.replay(lines) is None
    assert verify(lines) == []


def test_a_stock_life_verifies_and_replays() -> None:
    policy = Policy(roaming=Roaming.WIREGUARD)
    first = driver.First(1, "a1")
    s, turn = driver.create(Role.GATEWAY, bytes(16), "phone", policy, first, T0, stock=True)
    lines = [audit.policy_body(policy, T0), audit.create_body(s, first, T0), *audit.turn_bodies(s, turn)]
    acts = [inp.Confirmed("a1"), inp.StockAddressSeen("b", True), inp.StockHandshake("c"), inp.StockSilent(),
            inp.StockHandshake("d"), inp.OperatorTerminate()]  # fmt: skip
    for n, one in enumerate(acts):
        now = T0 + n * 20 * S
        lines.append(audit.input_body(s, one, now))
        lines += audit.turn_bodies(s, driver.receive(s, one, now))
    assert audit.replay(lines) is None
    assert verify(lines) == []
    assert replace(policy, roaming=Roaming.NEVER) != policy
    assert SwitchClass.REBIND.name in {b.get("switch_class") for b in lines}
