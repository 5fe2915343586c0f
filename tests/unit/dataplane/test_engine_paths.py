# SPDX-License-Identifier: Apache-2.0
"""The door to paths and jump frames: a client and a gateway engine on loopback, on a clock of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from gateway import frames as fr
from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.dataplane import engine as dp
from gateway.errors import DataplaneError, NotFound
from gateway.noise.timers import DEFAULT

SENT, BACK = (b"\1" * 32, b"\2" * 32), (b"\3" * 32, b"\4" * 32)
PING = fr.encode((fr.Ping(token=b"12345678"),))


@dataclass
class Keys:
    """What a finished handshake leaves."""

    local_index: int
    remote_index: int
    send_key: bytes
    recv_key: bytes
    is_initiator: bool


class End:
    """One engine with a socket, a pair of datagram sockets for a TUN device, and one session."""

    def __init__(self, client: bool, now_ns: int) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.udp.bind(("127.0.0.1", 0))
        self.device, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.engine = dp.Engine(
            sessions=4,
            prefixes=4,
            window_bits=2048,
            index_seed=os.urandom(32),
            limits=DEFAULT,
            now_ns=now_ns,
            client=client,
        )
        self.socket_id = self.engine.add_socket(self.udp.fileno())
        self.engine.set_tun(self.device.fileno(), 1420)
        self.slot = self.engine.add_session()
        self.index = self.engine.new_index(self.slot)
        self.events: list[dp.Event] = []

    def at(self) -> dp.Endpoint:
        return dp.Endpoint.of(*self.udp.getsockname(), 0)

    def crank(self, now_ns: int) -> None:
        self.engine.pump_udp(self.socket_id, now_ns)
        self.engine.pump_tun(now_ns)
        self.engine.tick(now_ns)
        self.events += self.engine.poll(100)

    def kinds(self) -> list[int]:
        return [event.kind for event in self.events]

    def last(self, kind: int) -> dp.Event:
        return [event for event in self.events if event.kind == kind][-1]

    def close(self) -> None:
        del self.engine
        for sock in (self.udp, self.device, self.inner):
            sock.close()


class Pair:
    """Both ends, keys installed, path 1 set and bound at epoch 1."""

    def __init__(self) -> None:
        self.now_ns = 1000 * NS_PER_S
        self.client, self.gateway = End(True, self.now_ns), End(False, self.now_ns)
        for end, other, send, recv in (
            (self.gateway, self.client, BACK, SENT),
            (self.client, self.gateway, SENT, BACK),
        ):
            end.engine.open_paths(end.slot, self.now_ns)
            end.engine.set_path(end.slot, 1, other.at(), self.now_ns)
            end.engine.bind(end.slot, 1, 1, self.now_ns)
            keys = Keys(end.index, other.index, send[0], recv[0], end is self.client)
            end.engine.install(end.slot, keys, self.now_ns, control=(send[1], recv[1]))
        self.run(0)

    def run(self, for_ns: int, step_ns: int = 5 * NS_PER_MS) -> None:
        end_ns = self.now_ns + for_ns
        while True:
            for end in (self.client, self.gateway, self.client):
                end.crank(self.now_ns)
            if self.now_ns >= end_ns:
                return
            self.now_ns += step_ns


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.client.close()
    pair.gateway.close()


def test_control_arrives_with_where_it_came_from(pair: Pair) -> None:
    client, gateway = pair.client, pair.gateway
    assert client.engine.send_control(client.slot, 0, None, PING, pair.now_ns, path_id=1)
    pair.run(0)
    event = gateway.last(dp.EVENT_CONTROL)
    assert (event.data, event.reason, event.path_id, event.value) == (PING, 5, 1, 1)
    assert event.local_index == gateway.index
    assert event.source.same_remote(client.at())


def test_an_opening_is_data(pair: Pair) -> None:
    gateway = pair.gateway
    refusal = fr.Refuse(instance_id=b"i" * 16, reason=fr.RefuseReason.VERSION, retry_after_ms=7)
    message = fr.encode((refusal,))
    assert gateway.engine.send_data(gateway.slot, gateway.index, pair.client.at(), message, pair.now_ns)
    pair.run(0)
    event = pair.client.last(dp.EVENT_CONTROL)
    assert event.reason == 4
    assert fr.parse(event.data, fr.Direction.TO_CLIENT) == (refusal,)


def test_a_probe_is_measured_and_reported(pair: Pair) -> None:
    client = pair.client
    for end in (client, pair.gateway):
        end.engine.set_liveness(end.slot, 300 * NS_PER_MS, pair.now_ns)
    client.engine.probe_path(client.slot, 1, 100 * NS_PER_MS, True, pair.now_ns)
    pair.run(NS_PER_S)
    answered = [event.reason for event in client.events if event.kind == dp.EVENT_ANSWERED]
    assert len(answered) >= 9
    assert all(b == a + 1 for a, b in pairwise(answered))
    srtt_us, rttvar_us, _, loss_ppm, packets, lost, samples, _ = client.last(dp.EVENT_MEASURED).numbers
    assert 0 < srtt_us <= 10_000 and rttvar_us <= srtt_us
    assert (loss_ppm, lost) == (0, 0) and packets > 0 and samples == len(answered)
    assert (client.last(dp.EVENT_PEER_BINDING).path_id, client.last(dp.EVENT_PEER_BINDING).value) == (1, 1)
    stats = client.engine.path_stats(client.slot, 1, pair.now_ns)
    assert stats["bound"] and stats["misses"] == 0 and stats["interval_ns"] == 100 * NS_PER_MS
    assert stats["numbers"][6] == samples


def test_silence_is_reported(pair: Pair) -> None:
    client = pair.client
    client.engine.set_liveness(client.slot, 100 * NS_PER_MS, pair.now_ns)
    pair.run(500 * NS_PER_MS)
    pair.gateway.engine.drop_path(pair.gateway.slot, 1)
    pair.gateway.engine.erase_keys(pair.gateway.slot)
    client.events.clear()
    pair.run(NS_PER_S)
    missed = [(event.reason, event.value) for event in client.events if event.kind == dp.EVENT_MISSED]
    assert [misses for misses, _ in missed[:2]] == [2, 3] and len(missed) <= 5
    assert all(150 * NS_PER_MS <= span_ns <= NS_PER_S + 200 * NS_PER_MS for _, span_ns in missed)


def test_a_path_that_carries_everything_has_no_limit_and_is_no_news(pair: Pair) -> None:
    client = pair.client
    client.engine.set_liveness(client.slot, 100 * NS_PER_MS, pair.now_ns)
    pair.run(500 * NS_PER_MS)
    assert client.engine.path_stats(client.slot, 1, pair.now_ns)["mtu_bytes"] == 0
    assert dp.EVENT_PMTU not in [event.kind for event in client.events]


def test_what_cannot_be_sent_is_false_and_what_cannot_be_is_an_error(pair: Pair) -> None:
    client = pair.client
    stranger = dp.Endpoint.of("127.0.0.1", 9, 0)
    assert not client.engine.send_control(client.slot, 0, stranger, PING, pair.now_ns)
    assert not client.engine.send_control(client.slot, 4711, None, PING, pair.now_ns)
    with pytest.raises(DataplaneError):
        client.engine.send_control(client.slot, 0, None, b"\2", pair.now_ns)
    with pytest.raises(NotFound):
        client.engine.bind(client.slot, 7, 1, pair.now_ns)
    with pytest.raises(NotFound):
        client.engine.path_stats(client.slot, 7, pair.now_ns)
    with pytest.raises(NotFound):
        client.engine.promote(client.slot, 4711, pair.now_ns)
    assert not client.engine.drop_path(client.slot, 7)
    assert not client.engine.duplicate(client.slot, 1, 7, pair.now_ns + NS_PER_S, pair.now_ns)
    keys = Keys(client.index, 1, b"k" * 32, b"k" * 32, True)
    with pytest.raises(ValueError, match="control keys"):
        client.engine.install(client.slot, keys, pair.now_ns, control=(b"", b""))


def test_idle_budget_is_a_gauge(pair: Pair) -> None:
    engine = pair.client.engine
    # Nothing has passed yet: it is idle from the beginning, and one path of the default budget.
    assert (engine.idle_interval_ns, engine.idle_paths) == (NS_PER_S // 20_000, 1)
    engine.set_probe_budget(1)
    engine.set_liveness(pair.client.slot, 300 * NS_PER_MS, pair.now_ns)
    pair.run(12 * NS_PER_S, step_ns=100 * NS_PER_MS)
    assert (engine.idle_interval_ns, engine.idle_paths) == (NS_PER_S, 1)


def test_a_lent_path_claims_no_binding(pair: Pair) -> None:
    client = pair.client
    with pytest.raises(DataplaneError):
        client.engine.lend(client.slot, 1, pair.now_ns)
    client.engine.clear_binding(client.slot, 1, pair.now_ns)
    with pytest.raises(NotFound):
        client.engine.lend(client.slot, 7, pair.now_ns)
    client.engine.lend(client.slot, 1, pair.now_ns)
    assert client.engine.endpoint(client.slot) is not None
    assert not client.engine.path_stats(client.slot, 1, pair.now_ns)["bound"]


def test_duplication_is_stopped_whatever_the_standby(pair: Pair) -> None:
    client = pair.client
    assert client.engine.duplicate(client.slot, 1, 0, pair.now_ns, pair.now_ns)


def test_a_binding_that_is_cleared_stops_data(pair: Pair) -> None:
    client = pair.client
    client.engine.clear_binding(client.slot, 1, pair.now_ns)
    assert client.engine.endpoint(client.slot) is None
    assert not client.engine.path_stats(client.slot, 1, pair.now_ns)["bound"]
    assert client.engine.copy_to(client.slot, dp.Endpoint.of("127.0.0.1", 9, 0), pair.now_ns + 1, pair.now_ns)
    client.engine.stop_copy(client.slot, dp.Endpoint.of("127.0.0.1", 9, 0))
