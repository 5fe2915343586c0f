# SPDX-License-Identifier: Apache-2.0
"""Engine, exchange and noise together on loopback: one test per promise of protocol.md §1 and §5."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator

import pytest

from gateway.noise.timers import Timers
from tests.integration.pair import End, Pair, ipv4_packet, ipv6_packet, make_pair

A_TO_B = ipv4_packet("10.0.0.2", "10.0.0.1", b"ping")
B_TO_A = ipv4_packet("10.0.0.1", "10.0.0.2", b"pong")


@pytest.fixture
def pairs() -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(*args: object, **kwargs: object) -> Pair:
        made.append(make_pair(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pair in made:
        pair.close()


def connected(make: Callable[..., Pair], **options: object) -> Pair:
    pair = make(**options)
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]
    return pair


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_first_packet_waits_for_the_handshake_and_arrives(pairs, host) -> None:
    pair = pairs(host)
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]
    pair.b.inner.send(B_TO_A)
    pair.settle()
    assert pair.a.inner_packets() == [B_TO_A]
    stats = pair.a.engine.stats(pair.a_peer.slot)
    assert stats["has_current"]
    assert not stats["has_next"]
    assert stats["staged"] == 0


def test_ipv6_inside(pairs) -> None:
    pair = connected(pairs)
    packet = ipv6_packet("fd00::2", "fd00::1", b"six" * 100)
    pair.a.inner.send(packet)
    pair.settle()
    assert pair.b.inner_packets() == [packet]


def test_preshared_key(pairs) -> None:
    connected(pairs, psk=secrets.token_bytes(32))


def test_bursts_of_all_sizes_arrive_in_order(pairs) -> None:
    pair = connected(pairs)
    packets = [ipv4_packet("10.0.0.2", "10.0.0.1", bytes([i & 255]) * (i * 7 % 1400)) for i in range(200)]
    arrived = []
    for i in range(0, 200, 8):
        for packet in packets[i : i + 8]:
            pair.a.inner.send(packet)
        pair.settle()
        arrived += pair.b.inner_packets()
    assert arrived == packets


def test_equal_packets_leave_as_one_train(pairs) -> None:
    pair = connected(pairs)
    before = pair.a.engine.counters()
    packets = [ipv4_packet("10.0.0.2", "10.0.0.1", bytes([i]) * 1000) for i in range(8)]
    for packet in packets:
        pair.a.inner.send(packet)
    pair.settle()
    after = pair.a.engine.counters()
    assert pair.b.inner_packets() == packets
    assert after["tx_datagrams"] - before["tx_datagrams"] == 8
    assert after["tx_calls"] - before["tx_calls"] == 1


def test_a_foreign_source_is_dropped_and_counted(pairs) -> None:
    pair = connected(pairs)
    pair.a.inner.send(ipv4_packet("10.0.0.99", "10.0.0.1", b"spoofed"))
    pair.settle()
    assert pair.b.inner_packets() == []
    assert pair.b.engine.counters()["drop_source"] == 1


def test_no_route_is_answered_with_host_unreachable(pairs) -> None:
    pair = connected(pairs)
    pair.b.inner.send(ipv4_packet("10.0.0.1", "203.0.113.9", b"where to?"))
    pair.settle()
    (answer,) = pair.b.inner_packets()
    assert answer[9] == 1  # ICMP
    assert answer[20:22] == bytes((3, 1))
    assert answer[12:16] == bytes((203, 0, 113, 9))  # the host would refuse its own address
    assert pair.b.engine.counters()["drop_no_route"] == 1


class Tap:
    """Sits between the two ends and sees every datagram of the client."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(1)
        endpoint = type(pair.a.endpoint_of(pair.b)).of(*self.sock.getsockname(), pair.a.socket_id)
        pair.a.engine.set_endpoint(pair.a_peer.slot, endpoint, pair.a.now_ns)

    def take(self) -> bytes:
        return self.sock.recv(65536)

    def give(self, end: End, datagram: bytes) -> None:
        self.sock.sendto(datagram, end.address)


def transport_datagram(pair: Pair) -> tuple[Tap, bytes]:
    tap = Tap(pair)
    pair.a.inner.send(A_TO_B)
    pair.a.crank()
    datagram = tap.take()
    assert datagram[0] == 4
    return tap, datagram


def test_a_replay_is_refused_and_counted(pairs) -> None:
    pair = connected(pairs)
    tap, datagram = transport_datagram(pair)
    for _ in range(3):
        tap.give(pair.b, datagram)
        pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]
    assert pair.b.engine.counters()["drop_replay_seen"] == 2
    tap.sock.close()


def test_tampering_at_every_byte_is_refused(pairs) -> None:
    pair = connected(pairs)
    tap, datagram = transport_datagram(pair)
    for i in range(len(datagram)):
        forged = bytearray(datagram)
        forged[i] ^= 0x40
        tap.give(pair.b, bytes(forged))
    pair.settle()
    assert pair.b.inner_packets() == []
    counters = pair.b.engine.counters()
    named = (
        "drop_type",
        "drop_index",
        "drop_stale_generation",
        "drop_auth",
        "drop_length",
        "drop_key_expired",
    )
    assert sum(counters[name] for name in named) == len(datagram)
    tap.give(pair.b, datagram)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B], "the genuine one still counts"
    tap.sock.close()


def test_garbage_changes_nothing(pairs) -> None:
    pair = connected(pairs)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    before = pair.b.engine.stats(pair.b_peer.slot)
    for size in [*range(200), 1000, 9000]:
        sock.sendto(secrets.token_bytes(size), pair.b.address)
        sock.sendto(b"\4\0\0\0" + secrets.token_bytes(size), pair.b.address)
        pair.b.crank()
    sock.close()
    pair.settle()
    assert pair.b.engine.stats(pair.b_peer.slot) == before
    assert pair.b.inner_packets() == []


def test_rekey_by_age_loses_nothing(pairs) -> None:
    pair = connected(pairs)
    first_key = pair.a.engine.stats(pair.a_peer.slot)["key_birth_ns"]
    for i in range(300):
        pair.advance(1)
        packet = ipv4_packet("10.0.0.2", "10.0.0.1", i.to_bytes(2, "big"))
        pair.a.inner.send(packet)
        pair.settle()
        assert pair.b.inner_packets() == [packet]
    assert pair.a.engine.stats(pair.a_peer.slot)["key_birth_ns"] > first_key
    assert pair.a.exchange.counters["completed"] == 3  # at 0, 120 and 240 s


def test_a_lost_response_is_asked_for_again(pairs) -> None:
    pair = pairs()
    tap = Tap(pair)
    pair.a.inner.send(A_TO_B)
    pair.a.crank()
    assert tap.take()[0] == 1  # and is lost
    pair.a.engine.set_endpoint(pair.a_peer.slot, pair.a.endpoint_of(pair.b), pair.a.now_ns)
    pair.advance(4.9)
    pair.settle()
    assert pair.b.inner_packets() == []
    pair.advance(0.5)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]
    tap.sock.close()


def test_an_attempt_ends_after_90_s_and_traffic_starts_another(pairs) -> None:
    pair = pairs()
    tap = Tap(pair)
    pair.a.inner.send(A_TO_B)
    for _ in range(200):
        pair.a.crank()
        pair.advance(0.5)
    assert pair.a.exchange.counters["gave_up"] == 1
    assert pair.a.engine.counters()["drop_no_key"] == 1
    assert 16 <= pair.a.exchange.counters["initiations_sent"] <= 18
    pair.a.engine.set_endpoint(pair.a_peer.slot, pair.a.endpoint_of(pair.b), pair.a.now_ns)
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]
    tap.sock.close()


def test_silence_after_data_starts_a_handshake(pairs) -> None:
    pair = connected(pairs)
    tap = Tap(pair)
    pair.advance(20)
    pair.a.inner.send(A_TO_B)
    pair.a.crank()
    assert tap.take()[0] == 4
    pair.advance(15.1)
    pair.a.crank()
    assert tap.take()[0] == 1
    tap.sock.close()


def test_received_data_is_answered_by_a_keepalive_after_10_s(pairs) -> None:
    pair = connected(pairs)
    before = pair.a.engine.counters()["rx_keepalive"]
    pair.run(9.9)
    assert pair.a.engine.counters()["rx_keepalive"] == before
    pair.run(0.2)
    assert pair.a.engine.counters()["rx_keepalive"] == before + 1
    pair.run(60)
    assert pair.a.engine.counters()["rx_keepalive"] == before + 1, "silence afterwards"


def test_persistent_keepalive(pairs) -> None:
    pair = connected(pairs)
    pair.a.engine.set_keepalive(pair.a_peer.slot, 25, pair.a.now_ns)
    before = pair.b.engine.counters()["rx_keepalive"]
    pair.run(101)
    assert (
        pair.b.engine.counters()["rx_keepalive"] - before == 4
    )  # at 0; the answer at 10 s restarts it: 35, 60, 85


def test_keys_are_erased_after_540_s(pairs) -> None:
    pair = connected(pairs)
    pair.run(539)
    assert pair.a.engine.stats(pair.a_peer.slot)["has_current"]
    pair.run(2)
    for end, peer in ((pair.a, pair.a_peer), (pair.b, pair.b_peer)):
        stats = end.engine.stats(peer.slot)
        assert not any(stats[f"has_{place}"] for place in ("current", "next", "previous", "older"))


def test_an_expired_key_opens_nothing(pairs) -> None:
    pair = connected(pairs)
    tap, datagram = transport_datagram(pair)
    pair.b.now_ns += 181 * 10**9
    tap.give(pair.b, datagram)
    pair.settle()
    assert pair.b.inner_packets() == []
    assert pair.b.engine.counters()["drop_key_expired"] == 1
    tap.sock.close()


def roam(pair: Pair) -> None:
    """The client goes on from another port, as behind a NAT that has forgotten it."""
    pair.a.engine.remove_socket(pair.a.socket_id)
    pair.a.udp.close()
    from gateway.net.udp import open_udp

    pair.a.udp = open_udp("127.0.0.1", 0)
    pair.a.socket_id = pair.a.engine.add_socket(pair.a.udp.fileno())
    pair.a.engine.set_endpoint(pair.a_peer.slot, pair.a.endpoint_of(pair.b), pair.a.now_ns)


@pytest.mark.parametrize(("roaming", "arrives"), [("handshake", True), ("wireguard", True), ("never", False)])
def test_roaming_policies(pairs, roaming, arrives) -> None:
    pair = connected(pairs, roaming=roaming)
    pair.advance(10)
    pair.settle()
    roam(pair)
    big = ipv4_packet("10.0.0.2", "10.0.0.1", bytes(100))
    pair.a.inner.send(big)
    pair.settle()
    assert pair.b.inner_packets() == [big], "receiving goes by key, whatever the policy"
    pair.b.inner.send(B_TO_A)
    pair.settle()
    assert pair.a.inner_packets() == ([B_TO_A] if arrives else [])


def test_one_forwarded_copy_moves_nothing(pairs) -> None:
    """A forwarder sends the client's packet on from his own address: downstream must not go to him."""
    pair = connected(pairs)
    tap, datagram = transport_datagram(pair)
    tap.give(pair.b, datagram)
    pair.settle()
    bound = pair.b.engine.endpoint(pair.b_peer.slot)
    assert bound is not None
    assert bound.port == pair.a.address[1]
    tap.sock.close()


def test_cookies_under_load_let_the_honest_client_in(pairs) -> None:
    pair = pairs(gateway_under_load=True)
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.a.exchange.counters["cookies_received"] == 1
    assert pair.b.inner_packets() == []
    pair.advance(5.4)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]


def test_staging_is_bounded_and_drops_the_oldest(pairs) -> None:
    pair = pairs()
    tap = Tap(pair)
    packets = [ipv4_packet("10.0.0.2", "10.0.0.1", i.to_bytes(2, "big")) for i in range(100)]
    for packet in packets:
        pair.a.inner.send(packet)
        pair.a.crank()
    assert pair.a.engine.stats(pair.a_peer.slot)["staged"] == 64
    assert pair.a.engine.counters()["drop_staging_full"] == 36
    pair.a.engine.set_endpoint(pair.a_peer.slot, pair.a.endpoint_of(pair.b), pair.a.now_ns)
    pair.advance(5.4)
    pair.settle()
    assert pair.b.inner_packets() == packets[36:]
    tap.sock.close()


def test_restart_of_the_gateway_is_survived(pairs) -> None:
    """The gateway forgets every key; the client notices within 15 s of talking to silence."""
    pair = connected(pairs)
    pair.b.engine.erase_keys(pair.b_peer.slot)
    pair.advance(10)
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.b.inner_packets() == []
    pair.advance(15.5)
    pair.settle()
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.b.inner_packets() == [A_TO_B]


def test_removed_peer_is_gone_and_its_slot_safe(pairs) -> None:
    pair = connected(pairs)
    tap, datagram = transport_datagram(pair)
    pair.b.peers.remove(pair.b_peer)
    tap.give(pair.b, datagram)
    pair.settle()
    assert pair.b.engine.counters()["drop_index"] == 1
    pair.b.peers.add(pair.b_peer.config, pair.b.now_ns)
    tap.give(pair.b, datagram)
    pair.settle()
    assert pair.b.engine.counters()["drop_stale_generation"] == 1
    assert pair.b.inner_packets() == []
    tap.sock.close()


def test_short_timers_are_ours_alone(pairs) -> None:
    second = 10**9
    timers = Timers(
        rekey_after_time_ns=2 * second,
        reject_after_time_ns=6 * second,
        keepalive_timeout_ns=second,
        rekey_timeout_ns=second,
        rekey_attempt_time_ns=10 * second,
    )
    pair = connected(pairs, timers=timers)
    pair.advance(2.1)
    pair.a.inner.send(A_TO_B)
    pair.settle()
    assert pair.a.exchange.counters["completed"] == 2
