# SPDX-License-Identifier: Apache-2.0
"""What a session's effects do to the data plane: a client's core on a real engine, its frames into the void."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import frames as fr
from gateway.constants import NS_PER_S
from gateway.control.clientkeeper import ClientKeeper
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.peers import PeerTable
from gateway.control.sessions import Live
from gateway.core import inputs as inp
from gateway.core.driver import First
from gateway.core.policy import Policy
from gateway.core.states import Evidence, Role, State
from gateway.dataplane import engine as dp
from gateway.noise.handshake import Identity
from gateway.noise.timers import DEFAULT
from tests.unit.dataplane.test_engine_paths import Keys

T0 = 1_000 * NS_PER_S
PAIR = (bytes(32), bytes(32))
PING = fr.encode((fr.Ping(token=bytes(8)),))


class Nowhere:
    """A sink that keeps nothing."""

    def created(self, *_: Any) -> None: ...
    def received(self, *_: Any) -> None: ...
    def timed(self, *_: Any) -> None: ...
    def restored(self, *_: Any) -> None: ...


class Bench:
    """A client's session, ATTACHED on path 1, path 2 validated."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.udp.bind(("127.0.0.1", 0))
        self.engine = dp.Engine(
            sessions=4,
            prefixes=4,
            window_bits=1024,
            index_seed=os.urandom(32),
            limits=DEFAULT,
            now_ns=T0,
            client=True,
        )
        self.engine.add_socket(self.udp.fileno())
        identity = Identity(os.urandom(32))
        config = PeerConfig("gw", Identity(os.urandom(32)).public, None, (ip_network("10.0.0.0/24"),))
        self.peer = PeerTable(self.engine, identity).add(config, T0)
        self.keeper = ClientKeeper(self.engine, Nowhere(), Policy(), os.urandom, bytes(16))
        self.keeper.sessions.on_handshake = lambda now_ns, live, to: None
        self.live = self._attach()

    @staticmethod
    def at(path_id: int) -> dp.Endpoint:
        return dp.Endpoint.of("127.0.0.1", 9000 + path_id, 0)

    def _attach(self) -> Live:
        sessions = self.keeper.sessions
        first = First(1, "one")
        live = sessions.create(
            T0, self.peer, Role.CLIENT, bytes(16), Policy(), first, self.at(1), stock=False
        )
        sessions.feed(T0, live, inp.Confirmed("one"))
        sessions.open_paths(T0, live)
        sessions.bind_again(T0, live)
        live.know("two", self.at(2))
        self.feed(inp.PathAdded(2, "two"), live)
        for path_id in (1, 2):
            self.feed(inp.PathAnswered(path_id), live)
        return live

    def feed(self, one: inp.Input, live: Live | None = None) -> None:
        self.keeper.sessions.feed(T0, live or self.live, one)

    def bound(self, path_id: int) -> bool:
        return self.engine.path_stats(self.live.slot, path_id, T0)["bound"]

    def goes_to(self) -> str:
        return str(self.engine.endpoint(self.live.slot))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.udp.close()


def test_data_follows_the_request_before_it_is_bound(bench: Bench) -> None:
    """session.md §7: the client may send data on the new path together with the request."""
    assert bench.goes_to() == str(bench.at(1)) and bench.bound(1)
    bench.feed(inp.PathLost(1, Evidence.LINK_DOWN))
    assert bench.live.core.state is State.RECOVERING and not bench.live.core.bound_id
    assert bench.goes_to() == str(bench.at(2)) and not bench.bound(2)
    bench.feed(inp.ReattachAck(bench.live.core.attempt_id, 2, 2))
    assert bench.live.core.state is State.ATTACHED
    assert bench.goes_to() == str(bench.at(2)) and bench.bound(2)


def test_data_waits_again_when_the_attempt_fails(bench: Bench) -> None:
    bench.feed(inp.PathLost(1, Evidence.LINK_DOWN))
    now_ns = T0
    while bench.live.core.episode is not None:
        now_ns = bench.keeper.sessions.next_deadline_ns or now_ns
        bench.keeper.sessions.timer_due(now_ns, 10)
    assert bench.live.core.state is State.DEGRADED
    assert bench.goes_to() == "None"


def test_a_request_while_bound_moves_no_data(bench: Bench) -> None:
    bench.feed(inp.OperatorSwitch(2))
    assert bench.live.core.state is State.RECOVERING
    assert bench.goes_to() == str(bench.at(1)) and bench.bound(1)


def test_a_socket_error_finds_its_transports(bench: Bench) -> None:
    told: list[tuple[int, int, int]] = []

    class Transports:
        def __init__(self, *mine: int) -> None:
            self.mine = mine

        def socket_failed(self, now_ns: int, socket_id: int, error: int) -> bool:
            if socket_id in self.mine:
                told.append((now_ns, socket_id, error))
            return socket_id in self.mine

    bench.keeper.transports = {7: Transports(1), 8: Transports(2, 3)}  # type: ignore[dict-item]
    bench.keeper.socket_failed(T0, 3, errno.ENETUNREACH)
    bench.keeper.socket_failed(T0, 9, errno.ENETUNREACH)
    assert told == [(T0, 3, errno.ENETUNREACH)]


def plugged_in_again(bench: Bench, path_id: int, key: str, to: tuple[str, int], sock: socket.socket) -> None:
    """A path's device is another one to the kernel, so it has another socket."""
    candidate, socket_id = SimpleNamespace(key=key), bench.engine.add_socket(sock.fileno())
    path = SimpleNamespace(path_id=path_id, candidate=candidate, to=dp.Endpoint.of(*to, socket_id))
    bench.keeper.transports = {bench.live.slot: SimpleNamespace(paths=lambda: [path])}  # type: ignore[dict-item]
    bench.keeper.refresh(T0, bench.live)
    assert bench.live.at(key) == dp.Endpoint.of(*to, socket_id)


def test_a_path_whose_device_was_plugged_in_again_has_another_socket(bench: Bench) -> None:
    """What the data plane sends by itself, probes above all, leaves by it."""
    engine, slot = bench.engine, bench.live.slot
    udp = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2)]
    with udp[0] as gateway, udp[1] as fresh:
        for one in udp:
            one.bind(("127.0.0.1", 0))
        engine.install(slot, Keys(engine.new_index(slot), 9, bytes(32), bytes(32), True), T0, PAIR)
        plugged_in_again(bench, 2, "two", gateway.getsockname(), fresh)
        assert engine.send_control(slot, 0, None, PING, T0, path_id=2)
        assert gateway.recvfrom(2048)[1] == fresh.getsockname()


def test_a_stock_session_follows_its_device_too(bench: Bench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as fresh:
        fresh.bind(("127.0.0.1", 0))
        bench.live.has_paths = False
        plugged_in_again(bench, 1, "one", ("127.0.0.1", 9001), fresh)
        assert bench.engine.endpoint(bench.live.slot) == bench.live.at("one")


def test_the_probe_budget_of_the_policy_is_the_data_planes(bench: Bench) -> None:
    """liveness.probe_budget: idle paths are probed together at most that often, at most 25 s apart."""
    later_ns = T0 + 3600 * NS_PER_S
    bench.engine.tick(later_ns)
    assert bench.engine.idle_paths > 0
    ClientKeeper(bench.engine, Nowhere(), Policy(probe_budget=1), os.urandom, bytes(16))
    assert bench.engine.idle_interval_ns == bench.engine.idle_paths * NS_PER_S


def test_a_deadline_that_moved_is_no_timer(bench: Bench) -> None:
    """New keys move what is due; the queue's entry looks again and nothing is written down of it."""
    timed: list[int] = []
    sessions, live = bench.keeper.sessions, bench.live
    sessions.on_rekey = lambda now_ns, live, to: None
    sessions._sink.timed = lambda session, turn: timed.append(turn.now_ns)  # type: ignore[method-assign]
    old_ns = sessions.next_deadline_ns
    assert old_ns is not None
    sessions.feed(T0 + 60 * NS_PER_S, live, inp.KeyInstalled())
    sessions.timer_due(old_ns, 16)
    assert timed == []
    moved_ns = sessions.next_deadline_ns
    assert moved_ns is not None and moved_ns > old_ns
    sessions.timer_due(moved_ns, 16)
    assert timed == [moved_ns]
