# SPDX-License-Identifier: Apache-2.0
"""B22–B26, B28, B31, B33, B37, B41: limits, operators, policies, sinks, restarts, keys and owners.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend        second: another machine behind both relays
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import time

import pytest

from gateway import frames as fr
from tests.e2e.sessions.bed import (
    LONG_WINDOW,
    NS_PER_S,
    ONE_UPLINK,
    SHORT_WINDOW,
    WINDOW_S,
    in_order,
)
from tests.e2e.sessions.conftest import MakeBed
from tests.net.jump import JumpGateway, Which, end, sessions
from tests.net.lab import Lab, LabError
from tests.net.puppet import Puppet
from tests.net.topology import ALLOWED, INNER_PREFIX, PORT, SIDES, Topology, boot_ns
from tests.net.wg import WgDevice, WgPeer

# --- B22: ends ---------------------------------------------------------------------------------------------------


def test_b22_lifetime_ends_a_session_under_load(make_bed: MakeBed) -> None:
    """TERMINATED with SESSION_TTL_EXPIRED at 10 s; a later reattach is refused; the next session is a new one."""
    policy = {**SHORT_WINDOW, "session": {"transport_lost_ttl": "4s", "max_lifetime": "10s"}}
    bed = make_bed(policy=policy)
    bed.start()
    with bed.client.stream():
        mine, theirs = bed.terminated(15.0)
    assert (theirs["row"], theirs["reason"]) == ("T17", "SESSION_TTL_EXPIRED")
    assert mine["reason"] in ("SESSION_TTL_EXPIRED", "PEER_TERMINATED")
    born = bed.gateway.journal.of("SESSION_CREATED")[0]["mono_ns"]
    assert 10.0 <= (theirs["mono_ns"] - born) / NS_PER_S < 10.3
    for row in sessions(bed.gateway.daemon):
        assert row.session_id != bed.ident


def test_b22_an_ended_session_is_not_resumed(make_bed: MakeBed) -> None:
    """REFUSE for its id, even with the right keys; a zero id makes a new session."""
    bed = make_bed(peers=2)
    bed.gateway.daemon.start()
    keys, gateway = bed.gateway.peer_keys[1], bed.gateway.daemon.keys.public
    with Puppet(bed.topology.client, keys, gateway, ("10.1.0.2", PORT)) as one:
        one.attach()
        first = one.session_id
        bed.gateway.daemon.call("terminate", {"session": first.hex()})
        one.wait(fr.Terminate)
        one.handshake()
        answer = one.greet(first, 1)
        assert isinstance(answer, fr.Refuse)
        assert answer.reason in (fr.RefuseReason.SESSION_NOT_FOUND, fr.RefuseReason.SESSION_EXPIRED)
        one.handshake()
        assert isinstance(one.greet(), fr.Welcome)
        assert one.session_id != first


def test_b22_the_window_expires_in_the_middle_of_an_attempt(make_bed: MakeBed) -> None:
    """A path appears just before the end and cannot be proven: the attempt does not stretch the window."""
    bed = make_bed(policy=SHORT_WINDOW)
    bed.start()
    for side in SIDES:
        bed.topology.uplinks[side].blackhole("both")
    for side in SIDES:
        cut_ns = bed.topology.set_link(side, False)
    time.sleep(WINDOW_S - 0.7)
    bed.topology.set_link("a", True)
    mine, _ = bed.terminated(WINDOW_S + 5)
    assert mine["row"] == "T16"
    assert (mine["mono_ns"] - cut_ns) / NS_PER_S < WINDOW_S + 0.4


# --- B24: operators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["client", "gateway"])
def test_b24_operator_switch_loses_nothing_and_is_audited(make_bed: MakeBed, end: Which) -> None:
    """T6, T10, T13 with OPERATOR_SWITCH; 0 packets lost, 0 transitions at a gateway that only advises."""
    bed = make_bed()
    bed.start()
    target = bed.client.standby()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        at_ns = boot_ns()
        bed.client.switch(target.side, end)
        time.sleep(2.0)
        log = stream.stop()
    seen = bed.same_session()
    assert bed.topology.side_of(seen.path or "") == target.side
    mine, theirs = bed.ends()
    assert in_order(["T6", "T10", "T13"], mine.rows(at_ns))
    assert in_order(["T7", "T10", "T13"], theirs.rows(at_ns))
    assert "OPERATOR_SWITCH" in mine.reasons(at_ns)
    assert (log.up.lost(at_ns - NS_PER_S), log.down.lost(at_ns - NS_PER_S)) == ([], [])
    assert len(bed.switches(at_ns)) == 1


@pytest.mark.parametrize("end", ["client", "gateway"])
def test_b24_operator_terminate_ends_both(make_bed: MakeBed, end: Which) -> None:
    """OPERATOR_TERMINATED here, PEER_TERMINATED there."""
    bed = make_bed()
    bed.start()
    answer = bed.client.terminate(end)
    assert (answer["result"], answer["session_id"]) == ("terminated", bed.ident)
    mine, theirs = bed.terminated(3.0)
    wanted = ["OPERATOR_TERMINATED", "PEER_TERMINATED"]
    assert [mine["reason"], theirs["reason"]] == (wanted if end == "client" else wanted[::-1])


# --- B25: policy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "blamed"),
    [
        ({"session": {"transport_lost_ttl": "5s"}}, "transport_lost_ttl"),
        ({"volatility": {"loss_enter": 0.02, "loss_exit": 0.05}}, "loss_exit"),
        ({"switching": {"max_switches_per_min": 100}}, "max_switches_per_min"),
        ({"session": {"max_lifetime": "999d"}}, "max_lifetime"),
        ({"transport": {"allowed": ["tls"]}}, "tls"),
        ({"liveness": {"profile": "eager"}}, "profile"),
    ],
)
def test_b25_an_invalid_policy_serves_nobody(
    lab: Lab, policy: dict[str, dict[str, object]], blamed: str
) -> None:
    """The daemon refuses to start and names the key, and so does `jvpn config check`."""
    gateway = JumpGateway(lab, Topology.build(lab), policy=policy)
    with pytest.raises(LabError, match=blamed):
        gateway.daemon.start()
    with pytest.raises(LabError, match=blamed):
        gateway.daemon.cli("config", "check", str(gateway.daemon.config_path))
    end(gateway.daemon)


def test_b25_the_gateways_policy_holds_for_a_client_with_another(make_bed: MakeBed) -> None:
    """What both ends must judge alike comes from the gateway: a client with other bounds takes it over, audited."""
    bed = make_bed(policy=SHORT_WINDOW, client_policy={})
    bed.start()
    assert [body["applied"] for body in bed.client.journal.of("POLICY_EVENT")] == [True]
    for side in SIDES:
        bed.topology.set_link(side, False)
    mine, theirs = bed.terminated(WINDOW_S + 5)
    assert mine["row"] == theirs["row"] == "T16"


# --- B33: keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", ["time", "packets", "bytes"])
def test_b33_a_rekey_keeps_identity_binding_and_epoch(make_bed: MakeBed, trigger: str) -> None:
    """By time, packets and bytes: a new keypair under the same session, no packet lost."""
    limits = {
        "time": {"rekey_after_time": "3s", "reject_after_time": "20s"},
        "packets": {"rekey_after_packets": 2048},
        "bytes": {"rekey_after_bytes": 500_000},
    }[trigger]
    tables, policy = ({"keys": limits}, {}) if trigger == "time" else ({}, {"keys": limits})
    bed = make_bed(policy=policy, gateway_tables=tables, client_tables=tables)
    bed.start()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        before, at_ns = bed.client.view(), boot_ns()
        time.sleep(7.0)
        log = stream.stop()
    after = bed.same_session()
    assert (after.epoch, after.path_id) == (before.epoch, before.path_id)
    mine, theirs = ([body["trigger"] for body in end.of("KEY_EVENT", since_ns=at_ns)] for end in bed.ends())
    assert trigger.upper() in mine + theirs  # both ends count, whoever looks first begins
    assert "INSTALLED" in mine
    assert "INSTALLED" in theirs
    assert (log.up.lost(at_ns), log.down.lost(at_ns)) == ([], [])


def test_b33_a_rekey_in_mid_recovery(make_bed: MakeBed) -> None:
    """The path dies while keys are due: handshake and reattach side by side, same id."""
    keys = {"rekey_after_time": "2s", "reject_after_time": "18s"}
    bed = make_bed(gateway_tables={"keys": keys}, client_tables={"keys": keys})
    bed.start()
    with bed.client.stream() as stream:
        for _ in range(3):
            time.sleep(1.9)
            bed.client.active().blackhole("both")
            time.sleep(1.5)
            for uplink in bed.topology.uplinks.values():
                uplink.heal()
        log = stream.stop()
    assert log.tcp.error == ""
    bed.same_session()


def test_b33_an_outage_that_outlives_the_keys_keeps_the_session(make_bed: MakeBed) -> None:
    """Keys reject after 17 s, the outage lasts 20 s, the window 40 s: re-handshake, then reattach, same id."""
    keys = {"rekey_after_time": "1s", "reject_after_time": "17s"}
    bed = make_bed(policy=LONG_WINDOW, gateway_tables={"keys": keys}, client_tables={"keys": keys})
    bed.start()
    with bed.client.stream(200.0) as stream:
        time.sleep(1.0)
        for side in SIDES:
            bed.topology.uplinks[side].blackhole("both")
        time.sleep(20.0)
        for side in SIDES:
            bed.topology.uplinks[side].heal()
        bed.client.wait_attached(20.0)
        healed_ns = boot_ns()
        time.sleep(2.0)
        log = stream.stop()
    bed.same_session()
    assert log.up.arrived_after(healed_ns) > 100
    assert log.tcp.error == ""


# --- B37: disagreement -------------------------------------------------------------------------------------------


def test_b37_acks_lost_until_the_episode_times_out(make_bed: MakeBed) -> None:
    """The gateway commits, the client never hears of it: agreement within 1 s of the end of the trouble, no end."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.start()
    with bed.client.stream(200.0) as stream:
        time.sleep(1.0)
        began_ns = boot_ns()
        for side in SIDES:
            bed.topology.uplinks[side].relay.set("down", types=[5], loss=1.0)
        bed.client.switch(bed.client.standby().side)
        time.sleep(3.5)
        for side in SIDES:
            healed_ns = bed.topology.uplinks[side].heal()
        bed.client.wait_same_path(3.0)  # the lost messages may still count as loss
        agreed_ns = boot_ns()
        stream.stop()
    assert agreed_ns - healed_ns < 1.5 * NS_PER_S
    bed.same_session()
    assert "TERMINATED" not in bed.client.journal.states(began_ns)


@pytest.mark.parametrize("ways", ["up", "down"])
def test_b37_one_end_alone_believes_the_path_dead_for_a_moment(make_bed: MakeBed, ways: str) -> None:
    """A one-way hole of 1.2 s on an idle session: whoever noticed, both agree again within 1 s."""
    bed = make_bed()
    bed.start()
    time.sleep(1.0)
    active = bed.client.active()
    active.blackhole(ways)  # type: ignore[arg-type]
    time.sleep(1.2)
    healed_ns = active.heal()
    bed.client.wait_attached(5.0)
    assert boot_ns() - healed_ns < 1.5 * NS_PER_S
    bed.same_session()


# --- B41: one key, two devices -----------------------------------------------------------------------------------


def test_b41_two_devices_with_one_key_do_not_fight(make_bed: MakeBed) -> None:
    """The second one takes the session over, coded; the first does not come back by itself; takeovers are bounded."""
    bed = make_bed(second_client=True)
    bed.start()
    assert bed.topology.second is not None
    other = bed.another_client(0, namespace=bed.topology.second)
    began_ns = boot_ns()
    other.daemon.start()
    time.sleep(15.0)
    created = [body for body in bed.gateway.journal.of("SESSION_CREATED") if body["mono_ns"] > began_ns]
    assert 1 <= len(created) <= 3
    ended = [b for b in bed.gateway.journal.changes(began_ns) if b["new_state"] == "TERMINATED"]
    assert {body["reason"] for body in ended} <= {"SUPERSEDED"}
    assert [row.session_id for row in sessions(bed.gateway.daemon)] == [created[-1]["session_id"]]


def test_b41_a_stock_client_takes_over_the_key_of_a_jump_client(make_bed: MakeBed) -> None:
    """No HELLO for 8 s: the jump session ends as SUPERSEDED by a stock session; nothing silent about it."""
    bed = make_bed(second_client=True)
    bed.start()
    assert bed.topology.second is not None
    bed.client.daemon.kill()
    began_ns = boot_ns()
    peer = WgPeer(bed.gateway.daemon.keys.public, ALLOWED, f"10.1.0.2:{PORT}", keepalive_s=1)
    keys, host = bed.gateway.peer_keys[0], f"{bed.client.host}/{INNER_PREFIX}"
    stock = WgDevice(bed.lab, bed.topology.second, keys, [host], [peer]).start()
    ended = bed.gateway.journal.wait(
        lambda body: body["event"] == "STATE_CHANGE" and body["new_state"] == "TERMINATED",
        "the end",
        20.0,
        began_ns,
    )
    assert ended["reason"] == "SUPERSEDED"
    assert ended["session_id"] == bed.ident
    fresh = sessions(bed.gateway.daemon)
    assert [row.stock for row in fresh] == [True]
    stock.stop()


def test_b41_where_policy_says_jump_a_stock_client_is_refused(make_bed: MakeBed) -> None:
    """protocol = "jump": the live session stays as it was."""
    bed = make_bed(second_client=True, endpoints=ONE_UPLINK, peer_options={"protocol": "jump"})
    bed.start(settled=False)
    assert bed.topology.second is not None
    before = bed.versions()
    peer = WgPeer(bed.gateway.daemon.keys.public, ALLOWED, f"10.1.0.2:{PORT}", keepalive_s=1)
    keys, host = bed.gateway.peer_keys[0], f"{bed.client.host}/{INNER_PREFIX}"
    stock = WgDevice(bed.lab, bed.topology.second, keys, [host], [peer]).start()
    time.sleep(12.0)
    assert bed.gateway.journal.session_ids() == [bed.ident]
    assert bed.versions()[1:] == before[1:]
    stock.stop()
    bed.same_session()
