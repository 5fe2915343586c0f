# SPDX-License-Identifier: Apache-2.0
"""B4–B6, B17, B40: paths that live but are bad.

          ┌─ upa ── relay A (loss, jitter, bursts, slow) ─┐
client ───┤                                               ├─── gateway ── backend
          └─ upb ── relay B ──────────────────────────────┘
"""

from __future__ import annotations

import time

from tests.e2e.sessions.bed import LONG_WINDOW, NS_PER_S
from tests.e2e.sessions.conftest import MakeBed
from tests.net.topology import BACKEND, SIDES, boot_ns
from tests.net.traffic import TcpServer, tcp_start

MEGABYTE = 1_000_000


def test_b4_loss_and_jitter_make_it_volatile_and_move_it_only_by_rule(make_bed: MakeBed) -> None:
    """10 % loss and jitter: VOLATILE, no drop of the session, one switch at most, with scores and verdicts."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    with bed.client.stream() as stream:
        time.sleep(1.5)
        at_ns = active.impair("both", loss=0.10, jitter_ms=5)
        time.sleep(8.0)
        calm_ns = boot_ns()
        time.sleep(2.0)
        log = stream.stop()
    seen = bed.same_session()
    mine, theirs = bed.ends()
    signals = mine.of("VOLATILITY_SIGNAL", since_ns=at_ns) + theirs.of("VOLATILITY_SIGNAL", since_ns=at_ns)
    assert "LOSS_THRESHOLD_EXCEEDED" in {body["reason"] for body in signals}
    assert "VOLATILE" in mine.states(at_ns)
    assert "TERMINATED" not in mine.states() + theirs.states()
    switches = bed.switches(at_ns)
    assert len(switches) == 1
    assert {"scores", "switches_in_window", "switch_cap", "cooldown_left_ns"} <= set(switches[0])
    assert len(switches[0]["scores"]) >= 2
    assert bed.topology.side_of(seen.path or "") != active.side
    assert (log.up.lost(calm_ns), log.down.lost(calm_ns)) == ([], [])
    assert log.tcp.alive_after(calm_ns)


def test_b4_jitter_alone_is_named_as_such(make_bed: MakeBed) -> None:
    """Jitter far above its threshold, persisting: JITTER_THRESHOLD_EXCEEDED, and the calm path is taken."""
    bed = make_bed(policy={"volatility": {"jitter_enter": "20ms"}})
    bed.start()
    active = bed.client.active()
    with bed.client.stream(200.0) as stream:
        time.sleep(1.5)
        at_ns = active.impair("both", delay_ms=120, jitter_ms=110)
        time.sleep(8.0)
        stream.stop()
    seen = bed.same_session()
    mine, theirs = bed.ends()
    reasons = {b["reason"] for end in (mine, theirs) for b in end.of("VOLATILITY_SIGNAL", since_ns=at_ns)}
    assert reasons & {"JITTER_THRESHOLD_EXCEEDED", "LATENCY_THRESHOLD_EXCEEDED"}
    assert bed.topology.side_of(seen.path or "") != active.side


def test_b5_bursts_of_loss_do_not_oscillate(make_bed: MakeBed) -> None:
    """20–40 % loss in bursts, now on one path, now on the other: switches within policy, never one per burst."""
    bed = make_bed()
    bed.start()
    began_ns = boot_ns()
    with bed.client.stream(500.0) as stream:
        time.sleep(1.0)
        for number in range(12):
            bad, good = ("a", "b") if number % 2 else ("b", "a")
            bed.topology.uplinks[good].heal()
            bed.topology.uplinks[bad].relay.set("both", ge=(0.02, 0.04, 0.9))
            time.sleep(2.5)
        for side in SIDES:
            bed.topology.uplinks[side].heal()
        time.sleep(1.0)
        log = stream.stop()
    times = [body["mono_ns"] for body in bed.switches(began_ns)]
    assert len(times) <= 8
    # Discretionary ones keep the cooldown; the trace verifier has checked every single one of them.
    assert log.tcp.error == ""
    bed.client.wait_view(lambda seen: seen.state == "ATTACHED", "ATTACHED", 30.0)
    bed.same_session()


def test_b6_every_path_lossy_is_degraded_and_still_delivers(make_bed: MakeBed) -> None:
    """15 % loss everywhere: DEGRADED, still delivering, and ATTACHED again when it is over."""
    bed = make_bed(policy={"volatility": {"to_degraded": "2s"}, "stability": {"window": "2s"}})
    bed.start()
    with bed.client.stream() as stream:
        time.sleep(1.5)
        for side in SIDES:
            at_ns = bed.topology.uplinks[side].impair("both", loss=0.15)
        time.sleep(10.0)
        healed_ns = boot_ns()
        for side in SIDES:
            bed.topology.uplinks[side].heal()
        bed.client.wait_view(lambda seen: seen.state == "ATTACHED", "ATTACHED", 25.0)
        log = stream.stop()
    mine, theirs = bed.ends()
    assert "DEGRADED" in mine.states(at_ns) + theirs.states(at_ns)
    assert "VOLATILITY_PERSISTED" in mine.reasons(at_ns) + theirs.reasons(at_ns)
    for flow in (log.up, log.down):
        sent = sum(at_ns + NS_PER_S < sent_ns < healed_ns for sent_ns in flow.sent_ns)
        lost = len(flow.lost(at_ns + NS_PER_S, healed_ns))
        assert sent > 5000
        assert lost / sent < 0.30
    bed.same_session()


def test_b17_lost_duplicated_and_reordered_control_is_idempotent(make_bed: MakeBed) -> None:
    """Control messages (type 5) lost, doubled and overtaking each other during switches: no false security event."""
    bed = make_bed(policy=LONG_WINDOW)
    bed.start()
    for uplink in bed.topology.uplinks.values():
        uplink.relay.set("both", types=[5], loss=0.03, duplicate=0.3, jitter_ms=8, reorder=0.2, delay_ms=10)
    with bed.client.stream() as stream:
        for _ in range(3):
            for side in SIDES:
                if bed.client.active().side != side:
                    began_ns = boot_ns()
                    bed.client.switch(side)
                    bed.client.journal.wait(
                        lambda body: body["event"] == "TRANSPORT_ATTACHED",
                        "the switch",
                        8.0,
                        since_ns=began_ns,
                    )
                time.sleep(2.0)
        log = stream.stop()
    mine, theirs = bed.ends()
    assert (mine.security(), theirs.security()) == ([], [])
    accepted = [body["attempt_id"] for body in theirs.of("REATTACH_RESULT") if body["accepted"]]
    assert len(accepted) == len(set(accepted))
    for uplink in bed.topology.uplinks.values():
        uplink.heal()
    assert log.tcp.error == ""
    bed.same_session()


def test_b40_a_slow_standby_stays_validated_beside_a_saturated_path(make_bed: MakeBed) -> None:
    """Standby 300 ms slower than an active path under full load: its probes are not lost, its status does not move."""
    bed = make_bed()
    bed.start()
    active, standby = bed.client.active(), bed.client.standby()
    for way in ("both",):
        standby.impair(way, delay_ms=160)
        active.impair(way, rate_mbit=40, queue_bytes=256_000)
    time.sleep(3.0)
    path_id = bed.client.path_on(standby.side).path_id
    with TcpServer(bed.topology.backend):
        began_ns = boot_ns()
        transfers = [tcp_start(bed.topology.client, way, BACKEND, 30 * MEGABYTE) for way in ("send", "recv")]
        assert all(transfer.result(60.0).ok for transfer in transfers)
    seen = bed.client.view()
    assert [path.status for path in seen.paths if path.path_id == path_id] == ["STANDBY"]
    moved = [b for b in bed.client.journal.of("PATH_CHANGE", since_ns=began_ns) if b["path_id"] == path_id]
    assert moved == []
    loss = bed.client.path_on(standby.side).loss
    assert loss is not None and loss <= 0.02
    bed.same_session()
