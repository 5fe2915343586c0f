# SPDX-License-Identifier: Apache-2.0
"""Rekeys that cross, message by message: the test carries every datagram between the two ends by hand.

a (its initiation goes first) <-> [carrier] <-> b (its own gives way)
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from gateway import wire
from gateway.constants import NS_PER_S
from gateway.control.peers import Peer
from gateway.control.roaming import Roaming
from gateway.dataplane.engine import Endpoint
from tests.integration.pair import ipv4_packet, make_pair

A_TO_B = ipv4_packet("10.0.0.2", "10.0.0.1", b"ping")
B_TO_A = ipv4_packet("10.0.0.1", "10.0.0.2", b"pong")
INITIATION, RESPONSE = wire.MSG_INITIATION, wire.MSG_RESPONSE
RETRY_NS = int(5.4 * NS_PER_S)  # REKEY_TIMEOUT and its jitter
STEP_NS = NS_PER_S // 10


class Tied(Roaming):
    """A keeper that knows whose initiation goes first, as those of sessions do for a jump session."""

    first: bool | None = None

    def goes_first(self, peer: Peer) -> bool | None:
        return self.first


class Carrier:
    """What either end sends lies in `under_way` until it is delivered or lost."""

    def __init__(self, tied: bool = True) -> None:
        self.pair = make_pair(keeper=Tied)
        self.ends = (self.pair.a, self.pair.b)
        self.peers = (self.pair.a_peer, self.pair.b_peer)
        self.under_way: tuple[list[bytes], list[bytes]] = [], []  # towards each end
        self.socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in self.ends]
        for number, (end, peer, sock) in enumerate(zip(self.ends, self.peers, self.socks, strict=True)):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            assert isinstance(end.keeper, Tied)
            end.keeper.first = number == 0 if tied else None
            end.engine.set_endpoint(peer.slot, Endpoint.of(*sock.getsockname(), end.socket_id), end.now_ns)
        self.pair.a.inner.send(A_TO_B)
        self.settle()
        assert self.received() == ([], [A_TO_B])

    def crank(self) -> None:
        """Both ends do what is due; what they send is under way."""
        for number, (end, sock) in enumerate(zip(self.ends, self.socks, strict=True)):
            while end.crank():
                pass
            try:
                while True:
                    self.under_way[1 - number].append(sock.recv(65536))
            except BlockingIOError:
                continue

    def deliver(self, to: int, kind: int | None = None) -> None:
        """The first message of that kind towards an end, or the first of all."""
        waiting = self.under_way[to]
        datagram = next(each for each in waiting if kind in (None, each[0]))
        waiting.remove(datagram)
        self.socks[to].sendto(datagram, self.ends[to].address)
        self.crank()

    def lose(self, to: int, kind: int) -> None:
        """The first message of that kind towards an end never arrives."""
        self.under_way[to].remove(next(each for each in self.under_way[to] if each[0] == kind))

    def settle(self) -> None:
        """Everything arrives, each way in order."""
        self.crank()
        while any(self.under_way):
            for to in (0, 1):
                if self.under_way[to]:
                    self.deliver(to)

    def wait(self, for_ns: int) -> None:
        """Time passes and nothing is lost."""
        for _ in range(0, for_ns, STEP_NS):
            for end in self.ends:
                end.now_ns += STEP_NS
            self.settle()

    def rekey(self, *sides: int) -> None:
        """These ends begin, at this moment. The first handshake is long ago."""
        for end in self.ends:
            end.now_ns += 10 * NS_PER_S
        for side in sides:
            self.ends[side].exchange.rekey(self.ends[side].now_ns, self.peers[side], None)
        self.crank()

    def births(self) -> tuple[int, int]:
        stats = [end.engine.stats(peer.slot) for end, peer in zip(self.ends, self.peers, strict=True)]
        return stats[0]["key_birth_ns"], stats[1]["key_birth_ns"]

    def received(self) -> tuple[list[bytes], list[bytes]]:
        return self.ends[0].inner_packets(), self.ends[1].inner_packets()

    def works(self) -> bool:
        """A packet each way arrives, and nobody begins anything for a while."""
        self.ends[0].inner.send(A_TO_B)
        self.ends[1].inner.send(B_TO_A)
        sent = self.count("initiations_sent")
        self.wait(6 * NS_PER_S)
        return self.received() == ([B_TO_A], [A_TO_B]) and self.count("initiations_sent") == sent

    def count(self, name: str) -> list[int]:
        return [end.exchange.counters[name] for end in self.ends]

    def close(self) -> None:
        self.pair.close()
        for sock in self.socks:
            sock.close()


@pytest.fixture
def carriers() -> Iterator[Callable[..., Carrier]]:
    made: list[Carrier] = []

    def make(tied: bool = True) -> Carrier:
        made.append(Carrier(tied))
        return made[-1]

    yield make
    for carrier in made:
        carrier.close()


def test_the_first_one_wins(carriers: Callable[..., Carrier]) -> None:
    """One handshake completes; what was sealed before it arrives after it."""
    carrier = carriers()
    carrier.rekey(0, 1)
    before = carrier.births()
    for end, packet in zip(carrier.ends, (A_TO_B, B_TO_A), strict=True):
        end.inner.send(packet)
    carrier.crank()
    carrier.deliver(0, INITIATION)
    carrier.deliver(1, INITIATION)
    carrier.deliver(0, RESPONSE)
    carrier.settle()
    assert carrier.received() == ([B_TO_A], [A_TO_B])
    assert (carrier.count("crossed"), carrier.count("yielded")) == ([1, 0], [0, 1])
    assert carrier.count("completed") == [2, 2]
    assert all(new > old for new, old in zip(carrier.births(), before, strict=True))
    assert carrier.works()


@pytest.mark.parametrize(
    ("to", "kind"), [(0, INITIATION), (1, INITIATION), (0, RESPONSE)], ids=["theirs", "ours", "response"]
)
def test_a_lost_message_costs_one_retry(carriers: Callable[..., Carrier], to: int, kind: int) -> None:
    carrier = carriers()
    carrier.rekey(0, 1)
    before = carrier.births()
    if kind == RESPONSE:
        carrier.deliver(1, INITIATION)
    carrier.lose(to, kind)
    carrier.settle()
    carrier.wait(2 * RETRY_NS)
    assert all(new > old for new, old in zip(carrier.births(), before, strict=True))
    assert carrier.works()


def test_a_lost_confirmation_is_made_up_by_the_next_packet(carriers: Callable[..., Carrier]) -> None:
    carrier = carriers()
    carrier.rekey(0, 1)
    carrier.deliver(0, INITIATION)
    carrier.deliver(1, INITIATION)
    carrier.deliver(0, RESPONSE)
    carrier.lose(1, wire.MSG_TRANSPORT)
    assert carrier.works()


def test_whatever_is_lost_it_ends_with_a_key(carriers: Callable[..., Carrier]) -> None:
    """Each pattern of four, three times: of twelve messages at two a retry, the last are lost after six."""
    for pattern in range(16):
        carrier = carriers()
        carrier.rekey(0, 1)
        before, number = carrier.births(), 0
        for _ in range(8 * RETRY_NS // STEP_NS):
            for to in (0, 1):
                while carrier.under_way[to]:
                    if pattern >> (number % 4) & 1 and number < 12:
                        carrier.under_way[to].pop(0)
                        carrier.crank()
                    else:
                        carrier.deliver(to)
                    number += 1
            for end in carrier.ends:
                end.now_ns += STEP_NS
            carrier.crank()
        assert all(new > old for new, old in zip(carrier.births(), before, strict=True)), pattern
        assert carrier.works(), pattern


def test_an_initiation_that_was_passed_over_is_spent(carriers: Callable[..., Carrier]) -> None:
    """Nobody can bring it again later, when it would be answered."""
    carrier = carriers()
    carrier.rekey(0, 1)
    passed_over = carrier.under_way[0][0]
    carrier.settle()
    carrier.wait(RETRY_NS)
    answered = carrier.count("responses_sent")
    carrier.under_way[0].append(passed_over)
    carrier.settle()
    assert carrier.count("responses_sent") == answered
    assert carrier.count("timestamp_replayed") == [1, 0]


def test_an_old_initiation_of_ours_answers_the_peers(carriers: Callable[..., Carrier]) -> None:
    """After REKEY_TIMEOUT ours has come to nothing: the peer's is welcome."""
    carrier = carriers()
    carrier.rekey(0)
    carrier.lose(1, INITIATION)
    for end in carrier.ends:
        end.now_ns += 5 * NS_PER_S
    carrier.ends[1].exchange.rekey(carrier.ends[1].now_ns, carrier.peers[1], None)
    while end := carrier.ends[1].crank():
        pass
    carrier.under_way[0].append(carrier.socks[1].recv(65536))
    carrier.deliver(0, INITIATION)
    assert carrier.count("responses_sent") == [1, 1]
    carrier.settle()
    assert carrier.works()


def test_nobody_begins_while_the_others_keys_wait_for_their_proof(carriers: Callable[..., Carrier]) -> None:
    """Nor for longer than REKEY_TIMEOUT."""
    carrier = carriers()
    carrier.rekey(1)
    carrier.deliver(0, INITIATION)
    carrier.lose(1, RESPONSE)
    begun = carrier.count("initiations_sent")[0]
    a = carrier.ends[0]
    a.exchange.rekey(a.now_ns, carrier.peers[0], None)
    a.exchange.wanted(a.now_ns, carrier.peers[0])
    assert carrier.count("initiations_sent")[0] == begun
    for _ in range(51):
        a.now_ns += STEP_NS
        a.crank()
    assert carrier.count("initiations_sent")[0] == begun + 1
    carrier.ends[1].now_ns = a.now_ns
    carrier.crank()
    carrier.settle()
    assert carrier.works()


def test_without_a_key_nobody_waits(carriers: Callable[..., Carrier]) -> None:
    carrier = carriers()
    carrier.wait(30 * NS_PER_S)  # no timer of the first packet is left
    for end in carrier.ends:
        end.now_ns += 200 * NS_PER_S
    b = carrier.ends[1]
    b.exchange.wanted(b.now_ns, carrier.peers[1])
    carrier.crank()
    carrier.deliver(0, INITIATION)
    a = carrier.ends[0]
    begun = carrier.count("initiations_sent")[0]
    a.inner.send(A_TO_B)
    a.crank()
    assert carrier.count("initiations_sent")[0] == begun + 1


def test_with_a_stock_peer_both_complete_and_nothing_is_lost(carriers: Callable[..., Carrier]) -> None:
    """What was sealed before, between and after; then a rekey by one end while the other seals under its own."""
    carrier = carriers(tied=False)
    for sides in ((0, 1), (0,), (0, 1), (1,), (1, 0), (1, 0)):
        carrier.rekey(*sides)
        sent = 0
        for _ in range(4):
            for end, packet in zip(carrier.ends, (A_TO_B, B_TO_A), strict=True):
                end.inner.send(packet)
            sent += 1
            carrier.crank()
            for to in (0, 1):
                if carrier.under_way[to]:
                    carrier.deliver(to)
        carrier.settle()
        assert carrier.received() == ([B_TO_A] * sent, [A_TO_B] * sent), sides
    assert carrier.count("crossed") == [0, 0]
