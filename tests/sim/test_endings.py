# SPDX-License-Identifier: Apache-2.0
"""The scenarios of session.md §10 about ends, operators, policy, restarts, keys and disagreement; and the figures.

The two cores in fake time, as in ``test_scenarios``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core import Policy, Reason, State, audit
from gateway.core import inputs as inp
from gateway.core.policy import Profile
from gateway.core.states import Evidence, Tier
from tests.sim.check import longest_gap, settled
from tests.sim.world import MS, Frame, S, Wire, World

# --- B22–B25: ends, operators, policy ----------------------------------------------------------------------------


def test_b22_lifetime_ends_a_session_under_load() -> None:
    w = World(policy=Policy(max_lifetime_ns=40 * S)).start()
    w.traffic(45 * S, every_ns=50 * MS)
    assert w.client.session.ended
    assert w.gateway.session.ended
    assert w.client.reasons()[-1] in ("SESSION_TTL_EXPIRED", "PEER_TERMINATED")
    assert w.gateway.reasons()[-1] == "SESSION_TTL_EXPIRED"
    before = w.gateway.session.version
    w.gateway.feed(inp.ReattachRequest(99, 1, 1, Reason.OPERATOR_SWITCH, True, "udp:nat1:1"))
    assert w.gateway.session.version == before
    assert w.gateway.events("SECURITY_EVENT")[-1]["security_class"] == "INVALID_STATE_TRANSITION"
    settled(w, attached=False)


def test_b22_the_window_expires_in_the_middle_of_an_attempt() -> None:
    w = World(seed=6).start()
    w.traffic(S)
    w.blackhole(1)
    w.blackhole(2)
    assert w.run_until(lambda: w.client.session.bound_id == 0, 5 * S)
    c = w.client.session
    end = c.window_end_ns
    w.run(end - w.now - 50 * MS)
    # A path appears with the window almost over: an attempt starts and the window wins.
    w.wires[9] = Wire(9, up=False, down=False)
    w.client.feed(inp.PathAdded(9, "udp:sock9"))
    assert c.state is State.RECOVERING
    w.run(100 * MS)
    assert c.ended
    assert w.client.events("STATE_CHANGE")[-1]["row"] == "T16"
    settled(w, attached=False)


def test_b24_operator_switch_at_the_client_loses_nothing() -> None:
    w = World(seed=3).start()
    w.traffic(3 * S)
    sent = w.gateway.data_in
    w.client.feed(inp.OperatorSwitch(2))
    w.traffic(2 * S)
    assert w.client.rows()[-3:] == ["T6", "T10", "T13"]
    assert w.client.reasons()[-3] == "OPERATOR_SWITCH"
    assert w.client.session.bound_id == 2
    assert w.gateway.data_in - sent >= 198
    settled(w)


def test_b24_operator_switch_at_the_gateway_is_advice_and_a_request() -> None:
    w = World(seed=3).start()
    w.traffic(3 * S)
    before = w.gateway.session.version
    w.gateway.feed(inp.OperatorSwitch(2))
    assert w.gateway.session.version == before
    w.traffic(S)
    assert w.gateway.rows()[-3:] == ["T7", "T10", "T13"]
    assert w.gateway.reasons()[-3] == "OPERATOR_SWITCH"
    settled(w)


def test_b24_unanswered_advice_is_denied_without_a_transition() -> None:
    w = World(seed=3, wires=1).start()
    before = w.gateway.session.version
    w.gateway.feed(inp.OperatorSwitch(7))
    w.run(4 * S)
    assert w.gateway.session.version == before
    assert w.gateway.events("TRANSPORT_SWITCH_DENIED")[-1]["rule"] == "REATTACH_TIMEOUT"
    assert w.client.events("TRANSPORT_SWITCH_DENIED")[-1]["rule"] == "NO_CANDIDATE_TRANSPORT"


@pytest.mark.parametrize("side", ["client", "gateway"])
def test_b24_operator_terminate_ends_both(side: str) -> None:
    w = World().start()
    getattr(w, side).feed(inp.OperatorTerminate())
    w.run(S)
    assert w.client.session.ended
    assert w.gateway.session.ended
    assert {w.client.reasons()[-1], w.gateway.reasons()[-1]} == {"OPERATOR_TERMINATED", "PEER_TERMINATED"}
    settled(w, attached=False)


def test_b25_an_invalid_policy_keeps_the_old_one_a_valid_one_holds_at_once() -> None:
    w = World().start()
    w.client.feed(inp.PolicyChanged(Policy(reserved=0)))
    refused = w.client.events("POLICY_EVENT")[-1]
    assert not refused["applied"]
    assert any("reserved" in p for p in refused["problems"])
    assert w.client.session.policy == Policy()
    w.client.feed(inp.PolicyChanged(Policy(max_switches_per_min=0)))
    w.client.feed(inp.OperatorSwitch(2))
    assert w.client.events("TRANSPORT_SWITCH_DENIED")[-1]["rule"] == "SWITCH_RATE_LIMITED"
    w.cut(1)
    w.run(2 * S)
    assert w.client.session.bound_id == 2  # forced recovery still has the reserved tokens
    settled(w)


# --- B28: determinism --------------------------------------------------------------------------------------------


def _story(seed: int) -> list[str]:
    w = World(seed=seed, wires=3).start()
    for step in range(8):
        path_id = 1 + w.random.randrange(3)
        act = w.random.choice(["cut", "blackhole", "rebind", "loss"])
        if act == "cut":
            w.cut(path_id)
        elif act == "blackhole":
            w.blackhole(path_id)
        elif act == "rebind":
            w.rebind(path_id)
        else:
            w.wires[path_id].loss = 0.3
        w.traffic((1 + step % 3) * S, every_ns=20 * MS)
        w.mend(path_id)
        w.heal(path_id)
    settled(w, attached=False)
    return [audit.canonical(body) for body in w.client.lines + w.gateway.lines]


@pytest.mark.parametrize("seed", range(4))
def test_b28_the_same_seed_gives_a_byte_identical_decision_log(seed: int) -> None:
    assert _story(seed) == _story(seed)


# --- B31, B33: restarts and keys ---------------------------------------------------------------------------------


def test_b31_a_killed_gateway_resumes_the_session() -> None:
    w = World(seed=2).start()
    w.traffic(2 * S)
    w.gateway.kill()
    w.run(3 * S)
    w.gateway.restart(w.policy)
    w.traffic(6 * S)
    assert "T22" in w.gateway.rows()
    assert w.gateway.rows()[-2:] == ["T11", "T13"]
    settled(w)


@pytest.mark.parametrize("trigger", ["time", "packets", "bytes", "recovery"])
def test_b33_a_rekey_keeps_identity_binding_and_epoch(trigger: str) -> None:
    policy = Policy(rekey_after_packets=1 << 12, rekey_after_bytes=1 << 20)
    w = World(policy=policy).start()
    before = (w.client.session.epoch, w.client.session.bound_id, w.client.session.session_id)
    if trigger == "time":
        w.run(125 * S)
    elif trigger == "packets":
        w.client.feed(inp.KeyUsage(1 << 12, 0))
    elif trigger == "bytes":
        w.client.feed(inp.KeyUsage(1, 1 << 20))
    else:
        w.cut(1)
        w.client.feed(inp.KeyUsage(1 << 12, 0))
        w.run(2 * S)
        assert w.client.session.bound_id == 2
    w.run(2 * S)
    if trigger != "recovery":
        assert (w.client.session.epoch, w.client.session.bound_id, w.client.session.session_id) == before
        assert w.client.events("KEY_EVENT")[-1]["trigger"] == "INSTALLED"
        assert w.client.events("KEY_EVENT")[-2]["trigger"] == trigger.upper()
    settled(w)


def test_b33_an_outage_that_outlives_the_keys_keeps_the_session() -> None:
    policy = Policy(transport_lost_ttl_ns=600 * S)
    w = World(seed=4, wires=1, policy=policy).start()
    w.traffic(S)
    w.blackhole(1)
    w.run(300 * S)
    assert not w.client.session.ended
    w.gateway.keypair = -7  # its keys are gone: only a handshake helps
    w.heal(1)
    w.run(8 * S)
    assert w.client.events("KEY_EVENT")[-1]["trigger"] == "INSTALLED"
    settled(w)


def test_b33_no_usable_keypair_while_bound_is_an_explicit_end() -> None:
    w = World().start()
    c = w.client.session
    w.client.effect = lambda effect: None  # type: ignore[method-assign]
    w.run(250 * S)
    assert c.ended
    assert w.client.reasons()[-1] in ("KEY_EXPIRED", "PEER_TERMINATED")


# --- B37: disagreement -------------------------------------------------------------------------------------------


def test_b37_one_end_alone_declares_the_path_dead_for_a_moment() -> None:
    for side in ("client", "gateway"):
        w = World(seed=5).start()
        w.traffic(S)
        end = getattr(w, side)
        end.feed(inp.PathLost(1, Evidence.MISSES))
        at = w.now
        w.traffic(S)
        c, g = w.client.session, w.gateway.session
        assert (c.epoch, c.bound_id) == (g.epoch, g.bound_id), side
        assert c.bound_id
        assert w.now - at <= S
        w.traffic(4 * S)
        settled(w)


def test_b37_acks_lost_until_the_episode_times_out() -> None:
    w = World(seed=5).start()
    w.traffic(S)

    def no_acks(way: str, address: str, frame: Frame) -> bool:
        del address
        return way == "down" and frame.what[0] == "input" and isinstance(frame.what[1], inp.ReattachAck)

    w.tap = no_acks
    w.cut(1)
    w.traffic(7 * S)
    assert "T14" in w.client.rows()
    w.tap = None
    assert w.run_until(lambda: w.client.session.state is State.ATTACHED, 4 * S)
    w.traffic(3 * S)
    assert not w.client.session.ended
    settled(w)


# --- B41: two devices, stock takeover ----------------------------------------------------------------------------


def test_b41_a_superseded_session_ends_coded_and_says_so() -> None:
    w = World().start()
    w.gateway.feed(inp.Superseded())
    w.run(S)
    assert w.gateway.reasons()[-1] == "SUPERSEDED"
    assert w.client.reasons()[-1] == "PEER_TERMINATED"
    settled(w, attached=False)


# --- what users ask for ------------------------------------------------------------------------------------------


def test_a_better_path_is_taken_only_after_the_whole_window() -> None:
    w = World(seed=6)
    w.wires[1].delay_ns = 60 * MS
    w.start()
    assert w.client.session.bound_id == 1
    w.run(5 * S)
    assert w.client.session.bound_id == 2
    assert w.client.reasons()[-3] == "PREFERRED_PATH"
    settled(w)


def test_a_backup_path_is_not_taken_for_a_better_score() -> None:
    w = World(seed=6)
    w.wires[1].delay_ns = 80 * MS
    wires = list(w.wires.values())
    w.gateway.start(w.policy, wires[0])
    w.client.start(w.policy, wires[:1])
    w.client.add(wires[1], tier=Tier.BACKUP)
    w.run(20 * S)
    assert w.client.session.bound_id == 1
    w.cut(1)
    w.run(2 * S)
    assert w.client.session.bound_id == 2
    settled(w)


def test_the_critical_profile_leaves_an_idle_blackhole_faster() -> None:
    w = World(seed=6, policy=replace(Policy(), profile=Profile.CRITICAL)).start()
    w.blackhole(1)
    at = w.now
    assert w.run_until(lambda: w.client.session.bound_id == 2, 2 * S)
    assert w.now - at <= 600 * MS


@pytest.mark.parametrize(
    ("what", "upstream_ms", "downstream_ms"),
    [
        ("link down", 10, 30),
        ("blackhole", 300, 300),
        ("upstream blackhole", 300, 300),
        ("downstream blackhole", 300, 300),
        ("nat rebind", 50, 50),
    ],
)
def test_outages_stay_inside_the_published_targets(what: str, upstream_ms: int, downstream_ms: int) -> None:
    """The cores' own share of each outage, two paths of 10 ms one way, a packet every 5 ms in each direction."""
    for seed in range(8):
        w = World(seed=seed).start()
        w.traffic(2 * S + seed * 37 * MS, every_ns=5 * MS)
        cut = w.now
        if what == "link down":
            w.cut(1)
        elif what == "nat rebind":
            w.rebind(1)
        else:
            w.blackhole(1, up=not what.startswith("down"), down=not what.startswith("up"))
        w.traffic(3 * S, every_ns=5 * MS)
        assert longest_gap(w.gateway.arrivals, cut - 50 * MS) <= upstream_ms * MS, f"seed {seed} upstream"
        assert longest_gap(w.client.arrivals, cut - 50 * MS) <= downstream_ms * MS, f"seed {seed} downstream"
        settled(w)
