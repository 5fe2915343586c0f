# SPDX-License-Identifier: Apache-2.0
"""Attackers on the wire (session.md §7, B38, B39) and the traps of other systems, each a test named after it.

The attacker sees and sends ciphertext only: he copies, delays, drops, replays and relays frames, from his own address.
"""

from __future__ import annotations

import pytest

from gateway.core import State
from gateway.core import inputs as inp
from gateway.core.states import Evidence
from tests.sim.check import settled
from tests.sim.world import MS, Frame, S, World

EVIL = "udp:evil:666"


class Forwarder:
    """Copies what the client sends on path 1 and puts it on the gateway's doorstep first, from his own address."""

    def __init__(
        self, world: World, relay: bool = False, swallow: bool = False, limit: int = 1 << 30
    ) -> None:
        self.world, self.relay, self.swallow, self.limit = world, relay, swallow, limit
        self.got = 0
        self.on = True
        world.tap = self.tap
        world.extra[EVIL] = self.downstream

    def tap(self, way: str, address: str, frame: Frame) -> bool:
        if way != "up" or not self.on or frame.path_id != 1 or self.limit <= 0:
            return False
        self.limit -= 1
        w = self.world
        w.at(w.now + MS, lambda: w.gateway.receive(EVIL, frame))
        return self.swallow

    def downstream(self, frame: Frame) -> None:
        self.got += 1
        if self.relay and self.on:
            w = self.world
            w.at(w.now + MS, lambda: w.client.receive(1, frame))


def bound_address(w: World) -> str:
    active = w.gateway.session.active
    return active.address if active else ""


def test_trap_wireguard_one_forwarded_copy_moves_nothing() -> None:
    """WireGuard: one copied packet made a gateway send 200 of 200 packets to the forwarder."""
    w = World(seed=1).start()
    w.traffic(S)
    versions = (w.client.session.version, w.gateway.session.version)
    evil = Forwarder(w, limit=1)
    w.traffic(5 * S)
    assert bound_address(w) == w.wires[1].address
    assert (w.client.session.version, w.gateway.session.version) == versions
    assert [f for f in w.client.data_paths[-200:] if f != 1] == []
    assert evil.got <= 8  # challenges, at most; the copies of downstream are the data plane's, within ×3
    settled(w)


@pytest.mark.parametrize("relay", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_b38_every_packet_copied_faster_the_real_path_stays(relay: bool, seed: int) -> None:
    """Every copy wins the race, so the originals are replays; with ``relay`` he also brings our challenges home."""
    w = World(seed=seed).start()
    w.traffic(S)
    versions = (w.client.session.version, w.gateway.session.version)
    Forwarder(w, relay=relay)
    w.traffic(10 * S)
    assert bound_address(w) == w.wires[1].address
    assert (w.client.session.version, w.gateway.session.version) == versions
    if relay:
        classes = {b["security_class"] for b in w.gateway.events("SECURITY_EVENT")}
        assert "PATH_VALIDATION_FAILED" in classes
    settled(w)


def test_b38_a_full_relay_is_left_when_the_real_path_answers_again() -> None:
    """The direct way is cut and all goes through him: that cannot be told from routing. Then the direct way is back."""
    w = World(seed=4, wires=1).start()
    w.traffic(S)
    real = w.wires[1].address
    evil = Forwarder(w, relay=True, swallow=True)
    w.wires[1].down = False
    assert w.run_until(lambda: bound_address(w) == EVIL, 4 * S)
    assert w.gateway.events("TRANSPORT_SWITCH")[-1]["reason"] == "NAT_REBIND"
    evil.swallow = False
    w.wires[1].down = True
    w.traffic(12 * S)
    assert bound_address(w) == real
    settled(w)


def test_b38_with_the_old_address_dead_a_one_way_forwarder_gains_nothing() -> None:
    w = World(seed=5).start()
    w.traffic(S)
    Forwarder(w, swallow=True)
    w.wires[1].down = False
    w.traffic(6 * S)
    assert EVIL not in [b["transport_change"]["to"] for b in w.gateway.events("TRANSPORT_SWITCH")]
    assert w.gateway.session.bound_id == 2
    settled(w)


def test_b38_requests_and_responses_are_copied_too() -> None:
    """He copies the real NAT rebind's control frames as well; the real new address still wins."""
    for seed in range(6):
        w = World(seed=seed).start()
        w.traffic(S)
        Forwarder(w)
        w.traffic(500 * MS)
        w.rebind(1)
        w.traffic(12 * S)
        assert w.gateway.session.state is State.ATTACHED
        assert bound_address(w) in (w.wires[1].address, w.wires[2].address)
        settled(w)


def test_b39_a_forged_icmp_moves_nothing() -> None:
    w = World(seed=2).start()
    w.traffic(S)
    version = w.client.session.version
    for _ in range(100):
        w.client.feed(inp.PathHinted(1))
        w.traffic(20 * MS)
    assert w.client.session.version == version
    settled(w)


def test_trap_mud_slots_are_bounded_and_only_for_authenticated_packets() -> None:
    """mud: 40 junk datagrams filled 32 of 32 path slots. Junk is no input here, authentic hints are bounded."""
    w = World(seed=2).start()
    for n in range(40):
        w.gateway.feed(inp.AddressSeen(0, f"udp:nowhere:{n}"))
    inquiry = w.gateway.session.inquiry
    assert inquiry is not None
    assert len(inquiry.unvalidated()) <= w.policy.unvalidated_slots
    w.run(20 * S)
    assert w.gateway.session.inquiry is None
    settled(w)


def test_trap_nebula_traffic_on_another_path_keeps_no_dead_path_alive() -> None:
    w = World(seed=2).start()
    w.traffic(S)
    w.blackhole(2)
    w.traffic(5 * S)
    path = w.client.session.path(2)
    assert path is not None
    assert w.client.session.bound_id == 1
    changes = [(b["path_id"], b["new_status"]) for b in w.client.events("PATH_CHANGE")]
    assert (2, "CANDIDATE") in changes
    w.heal(2)
    w.run(3 * S)
    settled(w)


def test_trap_mlvpn_packets_of_another_path_are_no_loss_of_this_one() -> None:
    """MLVPN: a global sequence made every path look 50 % lossy."""
    w = World(seed=2).start()
    for n in range(400):
        w.client.feed(inp.PathAnswered(1 + n % 2))
        w.traffic(10 * MS)
    for path in w.client.session.paths:
        assert path.loss_ppm == 0
    assert w.client.events("VOLATILITY_SIGNAL") == []


def test_trap_openmptcprouter_a_recovered_preferred_link_resets_nothing() -> None:
    """Its promotion code bypasses the limiter, and the recovery of the preferred link resets every session."""
    w = World(seed=2).start()
    w.cut(1)
    w.traffic(2 * S)
    version = w.client.session.version
    w.mend(1)
    w.traffic(30 * S, every_ns=50 * MS)
    assert w.client.session.bound_id == 2
    assert w.client.session.version == version
    settled(w)


def test_trap_iroh_a_lost_pong_does_not_outvote_acknowledged_data() -> None:
    w = World(seed=2).start()

    dropped = iter(range(1000))

    def lose_every_fourth_answer(way: str, address: str, frame: Frame) -> bool:
        del address
        return way == "down" and frame.what[0] == "answer" and next(dropped) % 4 == 0

    w.tap = lose_every_fourth_answer
    w.traffic(20 * S)
    assert w.client.events("TRANSPORT_DEAD") == []
    assert w.client.session.bound_id == 1


def test_trap_preview_a_long_offline_client_is_not_locked_out() -> None:
    """Version matching and a nonce gap locked a client out; here versions are private, attempt ids only grow."""
    w = World(seed=2).start()
    w.traffic(S)
    w.client.feed(inp.Welcomed(1, 1, 5_000_000))  # its counter runs far ahead of what the gateway has seen
    for _ in range(9):
        w.client.feed(
            inp.PathMeasured(1, 20_000, 100, 0)
        )  # private versions and inputs differ between the ends
    w.blackhole(1)
    w.blackhole(2)
    w.run(12 * S)
    w.heal(1)
    w.heal(2)
    w.traffic(6 * S)
    assert w.gateway.session.attempt_id > 5_000_000
    settled(w)


def test_trap_preview_wall_clock_jumps_do_not_exist_for_the_core() -> None:
    """Time is one argument; the same inputs shifted by a year of nanoseconds give the same rows."""
    rows = []
    for shift in (0, 365 * 24 * 3600 * S):
        w = World(seed=3)
        w.now += shift
        w.start()
        w.cut(1)
        w.traffic(3 * S)
        rows.append((w.client.rows(), w.gateway.rows()))
    assert rows[0] == rows[1]


def test_trap_openvpn_an_address_collision_hurts_no_other_session() -> None:
    """I34: two sessions behind one address; one ends, the other does not notice."""
    one, two = World(seed=2).start(), World(seed=2).start()
    one.gateway.feed(inp.AddressSeen(0, two.wires[1].address))
    one.gateway.feed(inp.OperatorTerminate())
    before = two.gateway.session.version
    two.traffic(2 * S)
    assert two.gateway.session.version == before
    settled(two)


def test_a_local_error_on_a_path_of_no_session_is_ignored() -> None:
    w = World(seed=2).start()
    version = w.client.session.version
    w.client.feed(inp.PathLost(77, Evidence.LINK_DOWN))
    assert w.client.session.version == version
