# SPDX-License-Identifier: Apache-2.0
"""B15, B16, B18, B19, B38, B39: an attacker on the wire, beside it, or holding a peer's own keys.

          ┌─ upa ── relay A (records, copies, forges) ─┐
client ───┤                                            ├─── gateway ── backend
          └─ upb ── relay B ───────────────────────────┘
puppet: frames made by hand under the keys of a configured peer
"""

from __future__ import annotations

import os
import socket
import struct
import time

import pytest

from gateway import frames as fr
from gateway.core.reasons import Reason
from tests.e2e.sessions.bed import NS_PER_S, ONE_UPLINK, Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.puppet import Puppet
from tests.net.topology import PORT, Uplink, boot_ns

REFUSED = (
    "drop_auth",
    "drop_replay_seen",
    "drop_replay_old",
    "drop_index",
    "drop_stale_generation",
    "drop_no_key",
)
ICMP_UNREACHABLE = 3
# What the gateway sends to the real mapping is lost on the relay's side.
SWALLOW = """
add table inet cut
add chain inet cut in {{ type filter hook input priority 0; }}
add rule inet cut in iifname far udp dport {port} drop
"""


def refused(bed: Bed) -> int:
    """Datagrams that the gateway's data plane has dropped as forged, replayed or nobody's."""
    return sum(bed.gateway.daemon.counter(name) for name in REFUSED)


def puppet(bed: Bed, number: int = 1, sockets: int = 1) -> Puppet:
    """A hand-driven client with the keys of that peer, behind relay A."""
    keys, gateway = bed.gateway.peer_keys[number], bed.gateway.daemon.keys.public
    return Puppet(bed.topology.client, keys, gateway, ("10.1.0.2", PORT), sockets)


# --- B15, B16: replays and forgeries -----------------------------------------------------------------------------


def test_b15_replays_are_refused_and_change_nothing(make_bed: MakeBed) -> None:
    """The same datagrams again: at once, after a switch, from another source, as a flood. 100 % refused, counted."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    active.relay.record("up", 128)
    with bed.client.stream(200.0) as stream:
        time.sleep(1.5)
        stream.stop()
    bed.client.switch(bed.client.standby().side)
    time.sleep(1.0)
    bed.client.wait_settled()
    before, counted = bed.versions(), refused(bed)
    recorded = len(active.relay.recorded("up"))
    assert recorded > 100
    for index in range(recorded):
        active.relay.replay("up", index)
        active.relay.replay("up", index, source=f"{active.attacker}:666")
    for index in range(0, recorded, 8):
        active.relay.replay("up", index, count=200)
    time.sleep(2.0)
    assert bed.versions() == before
    # A burst may be cut short by a full socket buffer; what arrived was refused.
    assert refused(bed) - counted > 2 * recorded
    assert (
        bed.gateway.journal.of("REATTACH_RESULT", "TRANSPORT_SWITCH", since_ns=boot_ns() - 2 * NS_PER_S) == []
    )
    bed.same_session()


def test_b15_old_attempts_are_never_accepted_again(make_bed: MakeBed) -> None:
    """The last accepted attempt gets the same ACK again, a lower one silence; neither changes anything."""
    bed = make_bed(peers=2)
    bed.gateway.daemon.start()
    with puppet(bed, sockets=2) as one:
        welcome = one.attach()
        one.prove(2, 1)
        one.request(7, welcome.binding_epoch, 2, socket_no=1)
        first = one.wait(fr.ReattachAck)
        assert (first.attempt_id, first.path_id, first.binding_epoch) == (7, 2, welcome.binding_epoch + 1)
        ident = one.session_id.hex()
        before = bed.gateway.session_of(ident)
        one.request(7, welcome.binding_epoch, 2, socket_no=1)
        assert one.wait(fr.ReattachAck) == first
        one.request(6, first.binding_epoch, 1)
        one.request(1, first.binding_epoch, 1)
        time.sleep(0.5)
        assert one.frames(fr.ReattachAck) == []
        after = bed.gateway.session_of(ident)
    assert (after.version, after.epoch, after.path_id) == (before.version, before.epoch, 2)


@pytest.mark.parametrize("epoch", [0, 99])
def test_b16_stale_and_future_epochs_are_refused(make_bed: MakeBed, epoch: int) -> None:
    """REJECT(STALE_EPOCH) with the current epoch; nothing changed."""
    bed = make_bed(peers=2)
    bed.gateway.daemon.start()
    with puppet(bed, sockets=2) as one:
        welcome = one.attach()
        one.prove(2, 1)
        before = bed.gateway.session_of(one.session_id.hex())
        one.request(50, epoch, 2, socket_no=1)
        no = one.wait(fr.ReattachReject)
        after = bed.gateway.session_of(one.session_id.hex())
    assert (no.reason, no.binding_epoch) == (Reason.STALE_EPOCH, welcome.binding_epoch)
    assert (after.version, after.epoch, after.path_id) == (before.version, before.epoch, before.path_id)


def test_b16_tampered_frames_and_wrong_keys_change_nothing(make_bed: MakeBed) -> None:
    """Every recorded datagram with one bit flipped, headers and bodies; a handshake with an unknown key."""
    bed = make_bed(peers=2)
    bed.start()
    active = bed.client.active()
    active.relay.record("up", 64)
    with bed.client.stream(100.0) as stream:
        time.sleep(1.5)
        stream.stop()
    before, counted = bed.versions(), refused(bed)
    injected = 0
    for datagram in active.relay.recorded("up"):
        for at in (4, 8, 12, len(datagram) // 2, len(datagram) - 1):
            if at < len(datagram):
                forged = bytearray(datagram)
                forged[at] ^= 1 << (at % 8)
                active.relay.inject("up", bytes(forged))
                injected += 1
    stranger_keys = bed.gateway.peer_keys[1]._replace(private=bed.gateway.daemon.keys.private)
    stranger = Puppet(bed.topology.client, stranger_keys, bed.gateway.daemon.keys.public, ("10.1.0.2", PORT))
    with stranger, pytest.raises(Exception, match="did not answer"):
        stranger.handshake()
    time.sleep(1.0)
    assert bed.versions() == before
    assert refused(bed) - counted >= injected * 9 // 10
    assert bed.gateway.journal.session_ids() == [bed.ident]
    bed.same_session()


# --- B18, B19: floods and races ------------------------------------------------------------------------------------


def test_b18_a_flood_on_unknown_ids_does_not_hurt_the_honest_client(make_bed: MakeBed) -> None:
    """60,000 forged type 5 datagrams for random receivers and for the real one; the stream does not notice."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    active.relay.record("up", 4)
    time.sleep(1.0)
    real = next(datagram for datagram in active.relay.recorded("up") if datagram[0] in (4, 5))
    receiver = real[4:8]
    before = bed.versions()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        began_ns = boot_ns()
        for _ in range(30):
            for index in (os.urandom(4), receiver):
                forged = bytes((5, 0, 1, 0)) + index + os.urandom(8 + 48)
                active.relay.inject("up", forged, count=1000, source=f"{active.attacker}:700")
            time.sleep(0.1)
        ended_ns = boot_ns()
        log = stream.stop()
    assert bed.versions() == before
    assert len(log.up.lost(began_ns, ended_ns)) <= 30
    assert log.tcp.alive_after(ended_ns - NS_PER_S)
    bed.same_session()


def test_b18_a_flood_of_requests_by_a_peer_hurts_nobody_else(make_bed: MakeBed) -> None:
    """A peer floods its own session with authenticated requests: rate-limited, and another peer does not notice."""
    bed = make_bed(peers=2)
    bed.start()
    before = bed.versions()
    with puppet(bed) as one, bed.client.stream() as stream:
        one.attach()
        time.sleep(1.0)
        began_ns = boot_ns()
        for number in range(5000):
            one.request(1 + number % 3, 77, 1 + number % 200)
            if number % 50 == 0:
                time.sleep(0.01)
        ended_ns = boot_ns()
        log = stream.stop()
        flooded = bed.gateway.session_of(one.session_id.hex())
    assert len(flooded.paths) <= 8
    assert bed.gateway.daemon.counter("drop_control_rate") > 1000
    assert bed.versions() == before
    assert len(log.up.lost(began_ns, ended_ns)) + len(log.down.lost(began_ns, ended_ns)) <= 20
    bed.same_session()


def test_b19_of_concurrent_requests_exactly_one_is_accepted(make_bed: MakeBed) -> None:
    """Two proven paths ask at one epoch in the same instant."""
    bed = make_bed(peers=2)
    bed.gateway.daemon.start()
    with puppet(bed, sockets=3) as one:
        welcome = one.attach()
        one.prove(2, 1)
        one.prove(3, 2)
        one.request(5, welcome.binding_epoch, 2, socket_no=1)
        one.request(6, welcome.binding_epoch, 3, socket_no=2)
        # Soon: a puppet answers no probes, so its paths die within a second.
        time.sleep(0.2)
        acks, rejects = one.frames(fr.ReattachAck), one.frames(fr.ReattachReject)
        seen = bed.gateway.session_of(one.session_id.hex())
    assert len({ack.attempt_id for ack in acks}) == 1
    assert seen.epoch == welcome.binding_epoch + 1
    assert seen.path_id == acks[0].path_id
    assert {no.reason for no in rejects} <= {Reason.STALE_EPOCH}
    accepted = [b for b in bed.gateway.journal.of("REATTACH_RESULT") if b["accepted"]]
    assert len(accepted) == 1


# --- B38: copy-and-forward -------------------------------------------------------------------------------------------


def stays(bed: Bed, uplink: Uplink, seconds: float) -> None:
    """The gateway goes on sending to the real address, and no version moves at either end."""
    before, real = bed.versions(), uplink.mapping()
    mine = bed.client.view().version
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        assert bed.gateway_sends_to() == real
        time.sleep(0.1)
    assert bed.versions() == before
    assert bed.client.view().version == mine


@pytest.mark.parametrize("types", [None, [5]], ids=["everything", "control"])
@pytest.mark.parametrize("back", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("count", [1, None], ids=["one-copy", "every-copy"])
def test_b38_a_forwarder_who_wins_every_race_moves_nothing(
    make_bed: MakeBed, count: int | None, back: bool, types: list[int] | None
) -> None:
    """Copies from another address come first, the originals are replays; old address alive: it stays the real one."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    with bed.client.stream(500.0) as stream:
        time.sleep(1.0)
        active.relay.attack("up", active.attacker, count=count, back=back, types=types)
        began_ns = boot_ns()
        stays(bed, active, 6.0)
        active.relay.attack_off("up")
        log = stream.stop()
    assert len(log.down.lost(began_ns)) == 0
    if back and count is None:
        assert "PATH_VALIDATION_FAILED" in bed.gateway.journal.security(began_ns)
    bed.same_session()


def test_b38_a_full_relay_is_left_when_the_real_path_answers_again(make_bed: MakeBed) -> None:
    """The direct way is swallowed and he carries all, both ways: that cannot be told from routing. Then it is back."""
    bed = make_bed(endpoints=ONE_UPLINK)
    bed.start(settled=False)
    active = bed.topology.a
    real = active.mapping()
    with bed.client.stream(500.0) as stream:
        time.sleep(1.0)
        began_ns = boot_ns()
        swallow = SWALLOW.format(port=real.split(":")[1])
        active.router.run(["nft", "-f", "-"], stdin=swallow)
        active.relay.attack("up", f"{active.attacker}:4444", only=True, back=True)
        bed.gateway.journal.wait(
            lambda body: body["event"] == "TRANSPORT_SWITCH", "the relay's address is believed", 8.0, began_ns
        )
        assert f"{active.attacker}:4444" in bed.versions()[3]
        active.relay.attack_off("up")
        active.router.run(["nft", "delete", "table", "inet", "cut"])
        time.sleep(12.0)
        log = stream.stop()
    assert real in bed.versions()[3]
    assert log.tcp.error == ""
    bed.same_session()


def test_b38_with_the_old_address_dead_a_one_way_forwarder_gains_nothing(make_bed: MakeBed) -> None:
    """He swallows the originals and cannot bring challenges home: the session moves to the other uplink, not to him."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    began_ns = boot_ns()
    with bed.client.stream(500.0) as stream:
        time.sleep(1.0)
        active.relay.attack("up", active.attacker, only=True)
        active.relay.blackhole("down")
        time.sleep(5.0)
        stream.stop()
    seen = bed.same_session()
    assert bed.topology.side_of(seen.path or "") != active.side
    moved = [
        b["transport_change"]["to"] or ""
        for b in bed.gateway.journal.of("TRANSPORT_SWITCH", since_ns=began_ns)
    ]
    assert not any(active.attacker in to for to in moved)


def test_b38_a_real_rebind_is_followed_although_he_copies_requests_and_responses(make_bed: MakeBed) -> None:
    """A true NAT rebind while every datagram is copied: the real new address wins."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    with bed.client.stream(500.0) as stream:
        time.sleep(1.0)
        active.relay.attack("up", active.attacker)
        time.sleep(0.5)
        active.rebind_port()
        time.sleep(10.0)
        log = stream.stop()
    assert bed.gateway_sends_to() in (active.mapping(), bed.topology.other(active.side).mapping())
    assert log.tcp.error == ""
    bed.same_session()


# --- B39: spoofing beside the path -----------------------------------------------------------------------------------


def icmp_unreachable(quoted: bytes, code: int) -> bytes:
    """ICMP destination unreachable that quotes the beginning of one of our packets (RFC 792)."""
    body = struct.pack("!BBHI", ICMP_UNREACHABLE, code, 0, 0) + quoted
    padded = body + bytes(len(body) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]


def quoted_packet(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """IPv4 and UDP headers as they would have left."""
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 128, 1, 0x4000, 64, 17, 0)
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    return ip + addresses + struct.pack("!HHHH", source[1], destination[1], 108, 0)


def outer_port(bed: Bed, uplink: Uplink) -> int:
    """The client's own port on that uplink."""
    text = bed.topology.client.run(["ss", "-Hun", "-a"]).stdout
    for line in text.splitlines():
        local = line.split()[3]
        if local.startswith(f"10.{uplink.number}.0.1"):
            return int(local.rsplit(":", 1)[1])
    raise AssertionError(text)


@pytest.mark.parametrize("code", [0, 1, 3, 4, 13])
def test_b39_forged_icmp_moves_nothing(make_bed: MakeBed, code: int) -> None:
    """Network, host, port unreachable, fragmentation needed, prohibited: a hint to probe, never evidence."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    source = (f"10.{active.number}.0.1", outer_port(bed, active))
    message = icmp_unreachable(quoted_packet(source, (f"10.{active.number}.0.2", PORT)), code)
    with bed.client.stream() as stream:
        time.sleep(1.0)
        began_ns, before = boot_ns(), bed.client.view().version
        with active.router.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            for _ in range(200):
                raw.sendto(message, (source[0], 0))
                time.sleep(0.01)
        assert bed.client.view().version == before
        log = stream.stop()
    mine, theirs = bed.ends()
    assert mine.changes(began_ns) + theirs.changes(began_ns) == []
    assert len(log.up.lost(began_ns)) <= 5
    bed.same_session()


def test_b39_junk_from_spoofed_sources_moves_nothing(make_bed: MakeBed) -> None:
    """Unauthenticated datagrams from the client's own address and from others: no slot, no answer, no transition."""
    bed = make_bed()
    bed.start()
    active = bed.client.active()
    host, port = active.mapping().split(":")
    before, paths = bed.versions(), len(bed.gateway.session_of(bed.ident).paths)
    back = active.relay.stats()["down"]["back"]
    with bed.client.stream() as stream:
        time.sleep(0.5)
        began_ns = boot_ns()
        for number in range(100):
            junk = bytes((4, 0, 0, 0)) + os.urandom(60)
            active.relay.inject("up", junk, source=f"{active.attacker}:{7000 + number % 4}")
            active.relay.inject("up", bytes((5, 0, 1, 0)) + os.urandom(44))
        log = stream.stop()
    assert host and int(port)
    assert bed.versions() == before
    assert len(bed.gateway.session_of(bed.ident).paths) == paths
    assert active.relay.stats()["down"]["back"] == back
    assert log.up.lost(began_ns) == []
    bed.same_session()
