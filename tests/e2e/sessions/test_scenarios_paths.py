# SPDX-License-Identifier: Apache-2.0
"""B1–B3, B10, B13: paths that die, return, move and flap.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.sessions.bed import (
    NS_PER_MS,
    NS_PER_S,
    ONE_UPLINK,
    SHORT_WINDOW,
    WINDOW_S,
    Bed,
    in_order,
    outage_ms,
)
from tests.e2e.sessions.conftest import MakeBed
from tests.e2e.sessions.flapping import Flapping
from tests.net.stream import StreamLog
from tests.net.topology import Side, boot_ns

KILLS = ("link", "cable", "address", "firewall", "blackhole_both", "blackhole_up", "blackhole_down")
# The kernel may tell of a lost carrier up to a second late: silence can be noticed first.
LOCAL = ("link", "address", "firewall")
FIREWALL = """
add table inet cut
add chain inet cut out {{ type filter hook output priority 0; }}
add rule inet cut out oifname {device} udp dport 51820 drop
"""


def kill(bed: Bed, how: str, side: Side) -> int:
    """End a path in one of the ways in which paths end; when, on CLOCK_BOOTTIME."""
    uplink = bed.topology.uplinks[side]
    if how == "link":
        return bed.topology.set_link(side, False)
    if how == "cable":
        return bed.topology.pull_cable(side)
    if how.startswith("blackhole"):
        return uplink.blackhole(how.removeprefix("blackhole_"))  # type: ignore[arg-type]
    at_ns = boot_ns()
    if how == "address":
        bed.topology.client.ip("address", "del", f"10.{uplink.number}.0.1/24", "dev", uplink.device)
    else:
        bed.topology.client.run(["nft", "-f", "-"], stdin=FIREWALL.format(device=uplink.device))
    return at_ns


def run_through(bed: Bed, act: Callable[[], int], observe_s: float = 3.0) -> tuple[int, StreamLog]:
    """A stream around something that happens; when it happened, and what the stream saw."""
    with bed.client.stream() as stream:
        time.sleep(1.0)
        at_ns = act()
        time.sleep(observe_s)
        return at_ns, stream.stop()


@pytest.mark.parametrize("how", KILLS)
def test_b1_the_active_path_dies_and_a_standby_takes_over(make_bed: MakeBed, how: str) -> None:
    """VOLATILE, RECOVERING, ATTACHED; same id; TCP through the tunnel lives."""
    bed = make_bed()
    bed.start()
    side = bed.client.active().side
    cut_ns, log = run_through(bed, lambda: kill(bed, how, side))
    seen = bed.same_session()
    assert bed.topology.side_of(seen.path or "") != side
    mine, theirs = bed.ends()
    assert in_order(["VOLATILE", "RECOVERING", "ATTACHED"], mine.states(cut_ns))
    assert in_order(["VOLATILE", "RECOVERING", "ATTACHED"], theirs.states(cut_ns))
    assert len(bed.switches(cut_ns)) == 1
    # What only fell silent may be left before it is declared dead.
    assert bed.switches(cut_ns)[0]["switch_class"] == "FORCED" or how not in LOCAL
    assert log.tcp.alive_after(cut_ns + NS_PER_S), log.tcp
    # Loose enough for a loud machine; the figures are the benchmark's.
    assert max(outage_ms(log, cut_ns, cut_ns + 2 * NS_PER_S)) < (300 if how in LOCAL else 900)
    if how in LOCAL:
        dead = mine.of("TRANSPORT_DEAD", since_ns=cut_ns)[0]
        assert dead["was_bound"]
        assert dead["evidence"] in ("LINK_DOWN", "ADDRESS_REMOVED", "ROUTE_GONE", "LOCAL_ERROR")
        assert dead["mono_ns"] - cut_ns < 500 * NS_PER_MS


def test_b1_an_idle_session_leaves_a_blackhole_too(make_bed: MakeBed) -> None:
    """Without traffic only probes can tell: off the path within the profile's interval × misses and an RTT or two."""
    bed = make_bed()
    bed.start()
    time.sleep(2.0)
    cut_ns = bed.client.active().blackhole("both")
    bound = bed.client.journal.wait(
        lambda body: body["event"] == "TRANSPORT_ATTACHED", "a new binding", 5.0, since_ns=cut_ns
    )
    assert bound["mono_ns"] - cut_ns < 2 * NS_PER_S
    bed.same_session()


@pytest.mark.parametrize("how", ["link", "cable", "blackhole_both"])
def test_b2_the_only_path_returns_inside_the_window(make_bed: MakeBed, how: str) -> None:
    """DEGRADED … ATTACHED, same id."""
    bed = make_bed(endpoints=ONE_UPLINK)
    bed.start(settled=False)

    def out_and_back() -> int:
        at_ns = kill(bed, how, "a")
        time.sleep(4.0)
        if how == "link":
            bed.topology.set_link("a", True)
        elif how == "cable":
            bed.topology.pull_cable("a", out=False)
        else:
            bed.topology.a.heal()
        return at_ns

    cut_ns, log = run_through(bed, out_and_back, observe_s=5.0)
    bed.same_session()
    mine, theirs = bed.ends()
    assert in_order(["DEGRADED", "RECOVERING", "ATTACHED"], mine.states(cut_ns))
    assert in_order(["DEGRADED", "ATTACHED"], theirs.states(cut_ns))
    assert "TRANSPORT_DEAD" in mine.reasons(cut_ns)
    assert not log.tcp.error
    assert log.up.arrived_after(boot_ns() - 2 * NS_PER_S) > 100
    assert log.down.arrived_after(boot_ns() - 2 * NS_PER_S) > 100


@pytest.mark.parametrize("how", ["link", "blackhole_both"])
def test_b3_all_paths_dead_for_good_ends_at_the_windows_end(make_bed: MakeBed, how: str) -> None:
    """TERMINATED at the window's end, coded; retries never restarted the window."""
    bed = make_bed(policy=SHORT_WINDOW)
    bed.start()
    for side in ("b", "a"):
        cut_ns = kill(bed, how, side)
    last = bed.terminated(WINDOW_S + 6)
    for one, end in zip(bed.ends(), last, strict=True):
        assert end["row"] == "T16"
        assert end["reason"] in ("ALL_TRANSPORTS_DEAD", "RECOVERY_WINDOW_EXPIRED", "POLICY_EXHAUSTED")
        lost = [
            b
            for b in one.changes(cut_ns)
            if b["transport_change"]["from"] and not b["transport_change"]["to"]
        ]
        window_s = (end["mono_ns"] - lost[-1]["mono_ns"]) / NS_PER_S
        assert WINDOW_S <= window_s < WINDOW_S + 0.3
        assert len(one.of("TERMINATION_EVENT")) == 1


@pytest.mark.parametrize("what", ["port", "address"])
def test_b10_nat_rebinds_are_revalidated_each_time(make_bed: MakeBed, what: str) -> None:
    """Every 5 s a new mapping: revalidated each time, 0 identity resets, no switch of path."""
    bed = make_bed(endpoints=ONE_UPLINK)
    bed.start(settled=False)
    uplink = bed.topology.a
    with bed.client.stream() as stream:
        time.sleep(1.0)
        for number in range(4):
            at_ns = uplink.rebind_port() if what == "port" else uplink.rebind_address()
            moved = bed.gateway.journal.wait(
                lambda body: body["event"] == "TRANSPORT_SWITCH", f"rebind {number}", 5.0, since_ns=at_ns
            )
            assert (moved["switch_class"], moved["reason"]) == ("REBIND", "NAT_REBIND")
            time.sleep(5.0)
            assert bed.gateway_sends_to() == uplink.mapping()
        log = stream.stop()
    bed.same_session()
    assert len(bed.gateway.journal.of("TRANSPORT_SWITCH")) == 4
    assert log.tcp.alive_after(at_ns + NS_PER_S)
    assert len(log.up.lost()) + len(log.down.lost(log.down.sent_ns[200])) < 400


def test_b10_a_standbys_rebind_moves_no_state(make_bed: MakeBed) -> None:
    """A standby's address is replaced by validation alone."""
    bed = make_bed()
    bed.start()
    standby = bed.client.standby()
    before = bed.versions()
    standby.rebind_port()
    time.sleep(4.0)
    assert bed.versions() == before
    addresses = [path.address for path in bed.gateway.session_of(bed.ident).paths]
    assert any(standby.mapping() in address for address in addresses), addresses
    bed.client.wait_settled()


def test_b13_a_link_flapping_at_1_hz_for_two_minutes_is_capped_then_quiet(flapping: Flapping) -> None:
    """Rate cap, cooldown and dampening fire; then the session stays on the stable path."""
    log = flapping.result()
    bed, policy_max = flapping.bed, 8
    seen = bed.same_session()
    assert bed.topology.side_of(seen.path or "") != flapping.side
    times = [body["mono_ns"] for body in bed.switches(flapping.began_ns)]
    for at_ns in times:
        assert sum(at_ns <= other < at_ns + 60 * NS_PER_S for other in times) <= policy_max
    # The second minute is quiet: the flapping path earns no more switches.
    assert [at for at in times if at > flapping.began_ns + 60 * NS_PER_S] == []
    statuses = {body["new_status"] for body in bed.client.journal.of("PATH_CHANGE")}
    assert "SUPPRESSED" in statuses
    assert log.tcp.alive_after(flapping.flapped_ns), log.tcp
    bed.close()
    assert bed.problems() == []


def test_b13_both_links_flapping_meet_the_rate_limit_and_live(make_bed: MakeBed) -> None:
    """The limiter fires (in two well-known systems it is never reached), and the session outlives the flapping."""
    bed = make_bed(
        policy={
            "switching": {"max_switches_per_min": 4, "reserved": 2},
            "session": {"transport_lost_ttl": "40s"},
        }
    )
    bed.start()
    began_ns = boot_ns()
    for _ in range(12):
        for side in ("a", "b"):
            bed.topology.set_link(side, False)
            time.sleep(0.6)
            bed.topology.set_link(side, True)
            time.sleep(0.4)
    denied = bed.client.journal.of("TRANSPORT_SWITCH_DENIED", since_ns=began_ns)
    assert "SWITCH_RATE_LIMITED" in {body["rule"] for body in denied}
    assert len(bed.switches(began_ns)) <= 4
    bed.same_session(45.0)
