# SPDX-License-Identifier: Apache-2.0
"""Clients that attach two paths, renew their keys and stay idle: what the footprint of a gateway is measured with.

They share two sockets, one for each path, so all of them stand behind one address. Everything is real from the
handshake to the answered challenge, but nothing is decided: a path that fails is not replaced. The swarm is for that.
"""

from __future__ import annotations

import heapq
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench.load.population import Population
from gateway import crypto, suites, wire
from gateway import frames as fr
from gateway.dataplane import engine as dp
from gateway.net.udp import open_udp
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import Initiator, PeerKeys, TransportKeys
from gateway.noise.timers import DEFAULT
from gateway.noise.timestamp import tai64n

NS_PER_S: Final = 1_000_000_000
OFFERED: Final = tuple(int(suite) for suite in suites.available(crypto.sodium_features()))
# Handshakes that may be open at once: fewer than the gateway's ring holds, and below what it takes for load.
OPEN_MAX: Final = 24
AGAIN_NS: Final = 2 * NS_PER_S
REKEY_NS: Final = 120 * NS_PER_S
INTERVAL_NS: Final = NS_PER_S // 4
EVENTS: Final = 256


@dataclass(slots=True)
class Caller:
    """One client."""

    keys: PeerKeys
    slot: int
    session_id: bytes = fr.NO_SESSION
    asked: dict[int, Initiator] = field(default_factory=dict)  # every one that was not answered
    asked_ns: int = 0
    attempt_id: int = 0
    epoch: int = 0
    ready: bool = False  # both paths are proven


class Callers:
    """All of them, against one gateway address."""

    def __init__(self, people: Population, gateway: tuple[str, int]) -> None:
        self._people, self._public = people, people.gateway.public
        self._sockets = [open_udp("127.0.0.1", 0) for _ in range(2)]
        self._engine = dp.Engine(
            sessions=people.count + 1,
            prefixes=16,
            window_bits=1024,
            index_seed=os.urandom(32),
            limits=DEFAULT,
            now_ns=time.monotonic_ns(),
            client=True,
        )
        self._device, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._engine.set_tun(self._device.fileno(), 1420)
        ids = [self._engine.add_socket(sock.fileno()) for sock in self._sockets]
        self._ids, self._to = ids, [dp.Endpoint.of(*gateway, one) for one in ids]
        self._all: list[Caller] = []  # by slot
        self._renewals: list[tuple[int, int]] = []
        self._instance = os.urandom(16)
        self._open = 0
        self.handshakes = self.acknowledged = 0
        self.ready = 0  # how many have both paths

    # --- what is done with all ------------------------------------------------------------------------------------

    def attach(self, count: int, limit_s: float, alive: Callable[[], object] = lambda: None) -> float:
        """So many more; how long it took. Raises TimeoutError, and what `alive` raises."""
        began, wanted = time.monotonic(), len(self._all) + count
        while self.ready < wanted:
            alive()
            if time.monotonic() - began > limit_s:
                raise TimeoutError(f"{self.ready} of {wanted} attached after {limit_s} s")
            while self._open < OPEN_MAX and len(self._all) < wanted:
                self._ask(self._new(len(self._all)))
            self.turn(0.05)
        return time.monotonic() - began

    def come_back(self, limit_s: float) -> float:
        """The gateway was restarted: a handshake, HELLO and a request from each; how long until all are bound."""
        began, waiting = time.monotonic(), list(self._all)
        wanted = self.acknowledged + len(self._all)
        while self.acknowledged < wanted:
            if time.monotonic() - began > limit_s:
                raise TimeoutError(f"{wanted - self.acknowledged} are not bound again after {limit_s} s")
            while self._open < OPEN_MAX and waiting:
                self._ask(waiting.pop())
            self.turn(0.05)
        return time.monotonic() - began

    def stay(self, seconds: float) -> None:
        """Idle: probes, answers and new keys."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn(0.05)

    # --- one turn -------------------------------------------------------------------------------------------------

    def turn(self, most_s: float) -> None:
        """Whatever has come and is due."""
        ready, _, _ = select.select(self._sockets, [], [], min(most_s, 0.005))
        now_ns = time.monotonic_ns()
        for sock in ready:
            self._engine.pump_udp(self._ids[self._sockets.index(sock)], now_ns)
        self._engine.tick(now_ns)
        for event in self._engine.poll(EVENTS):
            self._handle(now_ns, event)
        while self._renewals and self._renewals[0][0] <= now_ns:
            self._renew(now_ns, self._all[heapq.heappop(self._renewals)[1]])

    def _handle(self, now_ns: int, event: dp.Event) -> None:
        if event.kind == dp.EVENT_HANDSHAKE:
            self._answered(now_ns, event)
        elif event.kind == dp.EVENT_CONTROL:
            one = self._all[event.slot]
            for frame in fr.parse(event.data, fr.Direction.TO_CLIENT):
                self._frame(now_ns, one, event, frame)

    # --- one client -----------------------------------------------------------------------------------------------

    def _new(self, number: int) -> Caller:
        slot = self._engine.add_session()
        one = Caller(PeerKeys(self._people.identity(number), self._public), slot)
        self._engine.set_endpoint(slot, self._to[0], time.monotonic_ns())
        self._all.append(one)
        return one

    def _ask(self, one: Caller) -> None:
        now_ns = time.monotonic_ns()
        self._open += not one.asked
        made = Initiator.start(
            one.keys,
            local_index=self._engine.new_index(one.slot),
            timestamp=tai64n(time.time_ns()),
            ephemeral_private=os.urandom(32),
        )
        one.asked_ns, one.asked[made.local_index] = now_ns, made
        self._engine.send(self._to[0], add_macs(made.packet, one.keys.mac1_key, None))
        heapq.heappush(self._renewals, (now_ns + AGAIN_NS, one.slot))

    def _renew(self, now_ns: int, one: Caller) -> None:
        """A repetition of what was not answered, or new keys in time."""
        if one.asked or now_ns - one.asked_ns >= REKEY_NS:
            self._ask(one)

    def _answered(self, now_ns: int, event: dp.Event) -> None:
        if wire.message_type(event.data) != wire.MSG_RESPONSE:
            return
        index = wire.receiver_index(event.data)
        slot = self._engine.slot_of(index)
        one = self._all[slot] if slot is not None and slot < len(self._all) else None
        made = one.asked.get(index) if one is not None else None
        if one is None or made is None:
            return
        keys = made.finish(event.data)
        one.asked.clear()
        self._open = max(0, self._open - 1)
        self.handshakes += 1
        heapq.heappush(self._renewals, (one.asked_ns + REKEY_NS, one.slot))
        self._install(now_ns, one, keys)

    def _install(self, now_ns: int, one: Caller, keys: TransportKeys) -> None:
        control = tuple(
            suites.traffic_key(key, suites.Suite.CONTROL) for key in (keys.send_key, keys.recv_key)
        )
        data = {
            suite: tuple(
                suites.traffic_key(key, suites.Suite(suite)) for key in (keys.send_key, keys.recv_key)
            )
            for suite in OFFERED
            if suite > suites.Suite.CHACHA20_POLY1305
        }
        self._engine.install(one.slot, keys, now_ns, control, True, data)
        self._engine.expect_suites(one.slot, keys.local_index)
        hello = fr.Hello(
            capabilities=0,
            instance_id=self._instance,
            session_id=one.session_id,
            binding_epoch=one.epoch,
            path_id=1,
            suites=OFFERED,
            liveness_interval_ms=300,
            liveness_misses=3,
        )
        self._engine.send_data(one.slot, keys.local_index, self._to[0], fr.encode((hello,)), now_ns)

    def _frame(self, now_ns: int, one: Caller, event: dp.Event, frame: fr.Frame) -> None:
        if isinstance(frame, fr.Welcome):
            self._welcomed(now_ns, one, event, frame)
        elif isinstance(frame, fr.Challenge):
            path_id = 1 + self._ids.index(event.source.socket_id)
            answer = fr.encode((fr.Response(path_id=path_id, nonce=frame.nonce),))
            self._engine.send_control(one.slot, 0, None, answer, now_ns, path_id)
            self.ready += path_id == 2 and not one.ready
            one.ready = one.ready or path_id == 2
        elif isinstance(frame, fr.ReattachAck):
            one.epoch = frame.binding_epoch
            self._engine.bind(one.slot, frame.path_id, frame.binding_epoch, now_ns)
            self.acknowledged += 1

    def _welcomed(self, now_ns: int, one: Caller, event: dp.Event, welcome: fr.Welcome) -> None:
        self._engine.choose_suite(one.slot, event.local_index, welcome.suite)
        self._engine.promote(one.slot, event.local_index, now_ns)
        first, one.session_id = one.session_id == fr.NO_SESSION, welcome.session_id
        one.epoch = max(one.epoch, welcome.binding_epoch)
        if first:
            self._engine.open_paths(one.slot, now_ns)
            for path_id, to in enumerate(self._to, 1):
                self._engine.set_path(one.slot, path_id, to, now_ns)
                self._engine.probe_path(one.slot, path_id, 0, False, now_ns)
            self._engine.set_liveness(one.slot, INTERVAL_NS, now_ns)
            self._engine.bind(one.slot, 1, one.epoch, now_ns)
        elif not welcome.bound_path_id:
            one.attempt_id = welcome.last_attempt_id + 1
            request = fr.ReattachRequest(
                attempt_id=one.attempt_id, binding_epoch=one.epoch, path_id=1, reason=23, forced=True
            )
            self._engine.send_control(one.slot, 0, None, fr.encode((request,)), now_ns, 1)
