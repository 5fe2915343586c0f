# SPDX-License-Identifier: Apache-2.0
"""The scenarios of session.md §10 at the level of the two cores: same outcome as on real sockets, in fake time.

Each scenario ends in ``settled``: the trace verifier over both journals, agreement of the two ends, and a replay.
"""

from __future__ import annotations

import pytest

from gateway.core import Reason, State, driver
from gateway.core import inputs as inp
from tests.sim.check import longest_gap, settled
from tests.sim.world import MS, Frame, S, World

# --- B1–B3: death ------------------------------------------------------------------------------------------------


def test_b1_link_down_with_a_standby_is_volatile_recovering_attached() -> None:
    w = World().start()
    w.traffic(2 * S)
    cut = w.now
    w.cut(1)
    w.traffic(4 * S)
    assert w.client.rows()[-3:] == ["T4", "T10", "T13"]
    assert w.client.states()[-3:] == ["VOLATILE", "RECOVERING", "ATTACHED"]
    assert w.gateway.rows()[-3:] == ["T7", "T10", "T13"]
    assert longest_gap(w.gateway.arrivals, cut - 100 * MS) <= 40 * MS
    settled(w)


@pytest.mark.parametrize(("up", "down"), [(True, True), (True, False), (False, True)])
def test_b1_silent_blackhole_under_traffic_is_left_in_300_ms(up: bool, down: bool) -> None:
    w = World(seed=7).start()
    w.traffic(2 * S)
    cut = w.now
    w.blackhole(1, up, down)
    w.traffic(4 * S, every_ns=5 * MS)
    assert w.client.session.bound_id == 2
    if down:
        assert longest_gap(w.client.arrivals, cut - 100 * MS) <= 400 * MS
    settled(w)


def test_b1_idle_blackhole_is_left_within_the_profile() -> None:
    w = World(seed=3).start()
    cut = w.now
    w.blackhole(1)
    assert w.run_until(lambda: w.client.session.bound_id == 2, 3 * S)
    assert w.now - cut <= 1_500 * MS
    w.run(3 * S)
    settled(w)


def test_b2_the_only_path_returns_inside_the_window() -> None:
    w = World(wires=1).start()
    w.traffic(S)
    w.cut(1)
    w.traffic(5 * S)
    assert w.client.session.state is State.DEGRADED
    w.mend(1)
    w.traffic(3 * S)
    assert "T5" in w.client.rows()
    assert w.client.rows()[-2:] == ["T11", "T13"]
    settled(w)


def test_b2_the_only_path_falls_silent_and_returns() -> None:
    w = World(wires=1, seed=5).start()
    w.traffic(S)
    w.blackhole(1)
    w.traffic(8 * S)
    assert w.client.session.bound_id == 0
    w.heal(1)
    w.traffic(4 * S)
    settled(w)


@pytest.mark.parametrize("silent", [True, False])
def test_b3_kill_all_never_back_ends_at_the_windows_end(silent: bool) -> None:
    w = World(seed=4).start()
    w.traffic(S)
    for path_id in (1, 2):
        w.blackhole(path_id)
        if not silent:
            w.cut(path_id)
    w.traffic(40 * S)
    assert w.client.session.ended
    assert w.gateway.session.ended
    last = w.client.events("STATE_CHANGE")[-1]
    lost = next(b for b in w.client.events("STATE_CHANGE") if b["row"] in ("T4", "T5", "T9", "T10", "T15"))
    assert last["row"] == "T16"
    assert last["reason"] in ("ALL_TRANSPORTS_DEAD", "RECOVERY_WINDOW_EXPIRED", "POLICY_EXHAUSTED")
    if not silent:
        assert last["mono_ns"] - lost["mono_ns"] == w.policy.transport_lost_ttl_ns
    settled(w, attached=False)


# --- B4–B6: quality ----------------------------------------------------------------------------------------------


def test_b4_loss_makes_it_volatile_and_moves_it_only_by_rule() -> None:
    w = World(seed=11).start()
    w.traffic(3 * S, every_ns=5 * MS)
    w.wires[1].loss = 0.12
    w.wires[1].jitter_ns = 5 * MS
    w.traffic(6 * S, every_ns=5 * MS)
    signals = w.client.events("VOLATILITY_SIGNAL") + w.gateway.events("VOLATILITY_SIGNAL")
    assert "LOSS_THRESHOLD_EXCEEDED" in {b["reason"] for b in signals}
    assert "T3" in w.client.rows()
    assert w.client.session.bound_id == 2
    w.traffic(10 * S, every_ns=5 * MS)
    assert len(w.client.events("TRANSPORT_SWITCH")) == 1
    settled(w)


def test_thirty_percent_loss_is_left_within_two_seconds() -> None:
    w = World(seed=2).start()
    w.traffic(3 * S, every_ns=2 * MS)
    at = w.now
    w.wires[1].loss = 0.30
    done = False
    while not done and w.now - at < 5 * S:
        w.traffic(20 * MS, every_ns=2 * MS)
        done = w.client.session.bound_id == 2
    assert done
    assert w.now - at <= 2 * S


def test_b5_bursts_of_loss_on_both_paths_do_not_oscillate() -> None:
    w = World(seed=21).start()
    for second in range(60):
        bad = 1 + (second // 2) % 2
        w.wires[bad].loss, w.wires[3 - bad].loss = 0.35, 0.0
        w.traffic(S, every_ns=10 * MS)
    switches = w.client.events("TRANSPORT_SWITCH")
    assert len(switches) <= w.policy.max_switches_per_min
    for path_id in (1, 2):
        w.heal(path_id)
    w.traffic(25 * S, every_ns=20 * MS)
    settled(w)


def test_b6_every_path_lossy_is_degraded_and_still_delivers() -> None:
    w = World(seed=31).start()
    w.traffic(3 * S, every_ns=5 * MS)
    for wire in w.wires.values():
        wire.loss = 0.15
    w.traffic(12 * S, every_ns=5 * MS)
    assert State.DEGRADED in (w.client.session.state, w.gateway.session.state)
    assert "VOLATILITY_PERSISTED" in w.client.reasons() + w.gateway.reasons()
    before = w.gateway.data_in
    w.traffic(S, every_ns=5 * MS)
    assert w.gateway.data_in - before > 100
    for path_id in (1, 2):
        w.heal(path_id)
    w.traffic(25 * S, every_ns=5 * MS)
    settled(w)


# --- B10: NAT rebinding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every_s", [5, 17])
def test_b10_nat_rebinds_are_revalidated_each_time(every_s: int) -> None:
    w = World(seed=9, wires=1).start()
    w.traffic(2 * S)
    for _ in range(6):
        at = w.now
        w.rebind(1)
        w.traffic(every_s * S)
        # The path is the same, so the client never lost it.
        gap = longest_gap(w.client.arrivals, at - 50 * MS)
        assert gap <= 400 * MS, gap
    assert len(w.gateway.events("TRANSPORT_SWITCH")) == 6
    assert {b["reason"] for b in w.gateway.events("TRANSPORT_SWITCH")} == {"NAT_REBIND"}
    assert w.gateway.session.active is not None
    assert w.gateway.session.active.address == w.wires[1].address
    settled(w)


def test_b10_a_standbys_rebind_moves_no_state() -> None:
    w = World(seed=9).start()
    version = w.gateway.session.version
    w.rebind(2)
    w.traffic(5 * S)
    path = w.gateway.session.path(2)
    assert path is not None
    assert path.address == w.wires[2].address
    assert w.gateway.session.version == version
    settled(w)


# --- B13: flapping -----------------------------------------------------------------------------------------------


def test_b13_a_link_flapping_at_1_hz_is_capped_then_quiet() -> None:
    w = World(seed=13).start()
    w.traffic(2 * S)
    for _ in range(120):
        w.cut(1)
        w.traffic(500 * MS, every_ns=50 * MS)
        w.mend(1)
        w.traffic(500 * MS, every_ns=50 * MS)
    switches = w.client.events("TRANSPORT_SWITCH")
    assert len(switches) <= 2 * w.policy.max_switches_per_min
    assert w.client.session.bound_id == 2
    late = [b for b in switches if b["mono_ns"] > w.now - 60 * S]
    assert late == []
    statuses = [b["new_status"] for b in w.client.events("PATH_CHANGE")]
    assert "SUPPRESSED" in statuses
    settled(w)


def test_b13_both_links_flapping_hits_the_rate_limit_and_survives() -> None:
    w = World(seed=17).start()
    w.traffic(2 * S)
    for _ in range(40):
        for path_id in (1, 2):
            w.cut(path_id)
            w.traffic(700 * MS, every_ns=50 * MS)
            w.mend(path_id)
            w.traffic(400 * MS, every_ns=50 * MS)
    denied = w.client.events("TRANSPORT_SWITCH_DENIED")
    assert {b["rule"] for b in denied} >= {"SWITCH_RATE_LIMITED"}
    w.traffic(20 * S, every_ns=50 * MS)
    settled(w)


# --- B15–B19: hostile and broken control -------------------------------------------------------------------------


def test_b15_replayed_datagrams_change_nothing() -> None:
    w = World(seed=1)
    kept: list[tuple[str, Frame]] = []
    w.tap = lambda way, address, frame: bool(way == "up" and kept.append((address, frame)))
    w.start()
    w.traffic(S)
    w.cut(1)
    w.traffic(2 * S)
    w.tap = None
    before = (w.gateway.session.version, w.gateway.session.epoch, w.gateway.session.bound_id)
    slots = w.gateway.session.inquiry
    for address, frame in kept:
        w.gateway.receive(address, frame)
        w.gateway.receive("udp:attacker:1", frame)
    assert (w.gateway.session.version, w.gateway.session.epoch, w.gateway.session.bound_id) == before
    assert slots is None
    w.run(20 * S)
    assert w.gateway.session.version == before[0]
    settled(w)


@pytest.mark.parametrize("epoch", [0, 1, 3, 99])
def test_b16_stale_and_future_epochs_are_refused(epoch: int) -> None:
    w = World().start()
    w.cut(1)
    w.traffic(S)
    g = w.gateway.session
    assert g.epoch == 2
    before = (g.state, g.version, g.epoch, g.bound_id, g.attempt_id)
    turn = driver.receive(
        g, inp.ReattachRequest(50, epoch, 2, Reason.PEER_REPORTED_INSTABILITY, True, "udp:nat2:1"), w.now
    )
    assert (g.state, g.version, g.epoch, g.bound_id, g.attempt_id) == before
    assert [getattr(e, "reason", None) for e in turn.effects] == [Reason.STALE_EPOCH]


def test_b17_lost_duplicated_and_reordered_control_is_idempotent() -> None:
    for seed in range(12):
        w = World(seed=seed).start()
        w.traffic(2 * S)
        for wire in w.wires.values():
            wire.dup, wire.loss, wire.jitter_ns = 0.3, 0.03, 8 * MS
        for path_id in (1, 2, 1):
            w.cut(path_id)
            w.traffic(2 * S, every_ns=20 * MS)
            w.mend(path_id)
            w.traffic(4 * S, every_ns=20 * MS)
        for path_id in (1, 2):
            w.heal(path_id)
        w.traffic(22 * S, every_ns=20 * MS)
        assert w.client.events("SECURITY_EVENT") == []
        assert w.gateway.events("SECURITY_EVENT") == []
        settled(w)


def test_b18_a_flood_of_requests_does_not_hurt_the_honest_client() -> None:
    w = World(seed=8).start()
    w.traffic(S)
    g = w.gateway.session
    before = g.version
    for n in range(2_000):
        w.gateway.feed(
            inp.ReattachRequest(n % 3, 77, 1 + n % 200, Reason.OPERATOR_SWITCH, True, f"udp:evil:{n}")
        )
    assert g.version == before
    assert len(g.paths) <= w.policy.max_candidates
    w.cut(1)
    w.traffic(3 * S)
    settled(w)


def test_b19_of_concurrent_attempts_exactly_one_is_accepted() -> None:
    w = World(wires=3).start()
    g, now = w.gateway.session, w.now
    many = [
        inp.ReattachRequest(n, 1, path_id, Reason.PEER_REPORTED_INSTABILITY, True, f"udp:nat{path_id}:1")
        for n, path_id in ((5, 2), (6, 3), (7, 2))
    ]
    turn = driver.receive_all(g, list(many), now)
    accepted = [e for e in turn.events if e.name == "REATTACH_RESULT" and e.accepted]  # type: ignore[attr-defined]
    assert len(accepted) == 1
    assert g.epoch == 2
