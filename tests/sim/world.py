# SPDX-License-Identifier: Apache-2.0
"""Two endpoints linked in memory: the client core and the gateway core under a seeded lossy network and a fake clock.

            client core                                     gateway core
        path 1 ── socket 1 ──┐   Wire 1: delay, jitter, ┌── address nat1:p
        path 2 ── socket 2 ──┤   loss, dup, blackhole,  ├── address nat2:p
        path n ── socket n ──┘   NAT rebinding          └── ...

Rule: this shell does what a real one does and nothing more. It authenticates (frames carry the keypair they were sealed
under), drops replays by counter, answers probes, keeps challenge bytes, and translates effects into frames and frames
into inputs. Every decision is in the cores. Randomness comes from one seeded generator, so two runs are the same.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core import First, Policy, Role, Session, Turn, audit, create, driver
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.meter import Meter, Probe
from gateway.core.path import VALIDATED
from gateway.core.states import Evidence

MS, S = NS_PER_MS, NS_PER_S
SESSION_ID = bytes(range(16))


@dataclass(frozen=True)
class Frame:
    """One datagram: ``what`` is a control frame or ("data", n); ``counter`` is unique per sender and keypair."""

    keypair: int
    counter: int
    path_id: int
    what: Any


@dataclass
class Wire:
    """One path through the network. Loss is per packet and direction; ``up`` and ``down`` pass packets at all."""

    path_id: int
    delay_ns: int = 10 * MS
    jitter_ns: int = 0
    loss: float = 0.0
    dup: float = 0.0
    up: bool = True
    down: bool = True
    nat: int = 1
    retired: set[int] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"udp:nat{self.path_id}:{self.nat}"


class End:
    """What both shells share: the core, its timers, its meters and its journal."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.meters: dict[int, Meter] = {}
        self.lines: list[audit.Body] = []
        self.core: Session | None = None
        self.keypair = 1
        self.counter = itertools.count(1)
        self.seen: dict[tuple[int, int], int] = {}
        self.told: tuple[int, int] | None = None
        self.data_in = 0
        self.data_paths: list[int] = []
        self.arrivals: list[int] = []
        self._timer = 0
        self._fetch = 0

    # --- the core ---

    @property
    def session(self) -> Session:
        assert self.core is not None
        return self.core

    def adopt(self, session: Session, turn: Turn, source: audit.Body) -> None:
        self.core = session
        self.lines.append(audit.policy_body(session.policy, self.world.now))
        self.lines.append(source)
        self.apply(turn)

    def feed(self, one: inp.Input) -> None:
        if self.core is None:
            return
        self.lines.append(audit.input_body(self.core, one, self.world.now))
        self.apply(driver.receive(self.core, one, self.world.now))

    def apply(self, turn: Turn) -> None:
        assert self.core is not None
        self.lines += audit.turn_bodies(self.core, turn)
        for effect in turn.effects:
            self.effect(effect)
        self.arm()

    def arm(self) -> None:
        due = driver.next_deadline(self.session)
        if due is None:
            return
        self._timer += 1
        ticket = self._timer
        self.world.at(max(due, self.world.now), lambda: self._fire(ticket))

    def _fire(self, ticket: int) -> None:
        if ticket != self._timer or self.core is None:
            return
        self.lines.append(audit.timer_body(self.core, self.world.now))
        self.apply(driver.timer_due(self.core, self.world.now))
        due = driver.next_deadline(self.core)
        assert due is None or due > self.world.now, "a timer that is due has been served: no busy loop"

    def effect(self, effect: fx.Effect) -> None:
        raise NotImplementedError

    def events(self, name: str) -> list[audit.Body]:
        return [body for body in self.lines if body["event"] == name]

    def states(self) -> list[str]:
        """Every state entered, in order."""
        return [body["new_state"] for body in self.events("STATE_CHANGE")]

    def rows(self) -> list[str]:
        return [body["row"] for body in self.events("STATE_CHANGE")]

    def reasons(self) -> list[str]:
        return [body["reason"] for body in self.events("STATE_CHANGE")]

    # --- probing ---

    def meter(self, path_id: int) -> Meter:
        if path_id not in self.meters:
            interval = self.session.policy.profile.interval_ns
            self.meters[path_id] = Meter(interval, self.world.now)
            self.world.at(self.world.now, lambda: self._probe(path_id))
        return self.meters[path_id]

    def _probe(self, path_id: int) -> None:
        meter = self.meters.get(path_id)
        if meter is None or self.core is None or self.core.ended:
            return
        probe, found, _ = meter.poll(self.world.now)
        if probe is not None and self.can_send(path_id):
            self.send(path_id, ("probe", probe, self.core.epoch, self.core.bound_id))
        for one in found:
            self.feed(replace(one, path_id=path_id))  # type: ignore[call-arg]
        self.world.at(
            max(meter.next_ns(), self.world.now + MS), lambda: self._probe(path_id), key=(self.name, path_id)
        )

    def can_send(self, path_id: int) -> bool:
        return True

    def send(self, path_id: int, what: Any) -> None:
        raise NotImplementedError

    def _count(self, path_id: int, what: Any) -> None:
        """Every packet on a path counts; probes and data were counted where they were made."""
        if what[0] not in ("probe", "data") and path_id in self.meters:
            self.meters[path_id].control_sent()

    def probed(self, frame: Frame, reply: Callable[[Any], None]) -> None:
        """A probe or its answer: measuring, the peer's binding, and the evidence that follows."""
        assert self.core is not None
        kind, probe = frame.what[0], frame.what[1]
        meter = self.meter(frame.path_id)
        if kind == "probe":
            reply(("answer", probe, self.core.epoch, self.core.bound_id, meter.received))
        else:
            for one in meter.answered(probe, frame.what[4], 0, self.world.now):
                self.feed(replace(one, path_id=frame.path_id))  # type: ignore[call-arg]
        claim = (frame.what[2], frame.what[3])
        if claim != self.told or not self.core.agreed():
            self.told = claim
            if not self.core.ended and not self.core.stock:
                self.feed(inp.PeerBinding(*claim))

    def fresh(self, frame: Frame) -> bool:
        """The replay window: a counter passes once. Records when, for copies seen elsewhere."""
        key = (frame.keypair, frame.counter)
        if key in self.seen:
            return False
        self.seen[key] = self.world.now
        return True


class ClientEnd(End):
    """The client's shell: one socket per wire."""

    def start(self, policy: Policy, wires: list[Wire]) -> None:
        now = self.world.now
        first = First(wires[0].path_id, f"udp:sock{wires[0].path_id}")
        session, turn = create(Role.CLIENT, SESSION_ID, "gw", policy, first, now)
        self.adopt(session, turn, audit.create_body(session, first, now))
        self.feed(inp.Confirmed(first.address))
        self.meter(first.path_id)
        for wire in wires[1:]:
            self.add(wire)

    def add(self, wire: Wire, **more: Any) -> None:
        self.feed(inp.PathAdded(wire.path_id, f"udp:sock{wire.path_id}", **more))
        self.meter(wire.path_id)

    def can_send(self, path_id: int) -> bool:
        path = self.session.path(path_id)
        return path is not None and self.world.link_up(path_id)

    def send(self, path_id: int, what: Any) -> None:
        if not self.world.link_up(path_id):
            return
        self._count(path_id, what)
        frame = Frame(self.keypair, next(self.counter), path_id, what)
        self.world.uplink(path_id, frame)

    def send_data(self) -> None:
        """One inner packet by the binding; without one, by the path that the request went out on."""
        running = self.session.episode
        active = self.session.active
        if active is None and running is not None:
            active = self.session.path(running.path_id)
        if active is not None:
            self.meter(active.path_id).data_sent(self.world.now)
            self.send(active.path_id, ("data",))

    def receive(self, socket_id: int, frame: Frame) -> None:
        if self.core is None or self.core.ended or not self.world.link_up(socket_id):
            return
        if frame.what[0] == "hs-response":
            self._welcome(socket_id, frame)
            return
        if frame.keypair != self.keypair or not self.fresh(frame):
            return
        self.meter(socket_id).heard(self.world.now)
        frame = replace(frame, path_id=socket_id)
        kind = frame.what[0]
        if kind in ("probe", "answer"):
            self.probed(frame, lambda what: self.send(socket_id, what))
        elif kind == "data":
            self._data(socket_id)
        elif kind == "challenge":
            self._challenge = frame.what[1]
            self.token = frame.what[1]
            self.feed(inp.ChallengeReceived(socket_id, frame.what[2], frame.what[3]))
        else:
            self.feed(frame.what[1])

    def _data(self, socket_id: int) -> None:
        self.data_in += 1
        self.data_paths.append(socket_id)
        self.arrivals.append(self.world.now)

    def _welcome(self, socket_id: int, frame: Frame) -> None:
        """Handshake response, HELLO, WELCOME: one exchange here."""
        _, keypair, welcome = frame.what
        if keypair <= self.keypair:
            return
        self.keypair = keypair
        self.feed(inp.KeyInstalled())
        self.feed(inp.PathAnswered(socket_id))
        self.feed(welcome)

    def effect(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.SendReattachRequest):
            request = ("request", effect)
            if effect.with_response:
                self.send(effect.path_id, ("response", self.token, effect.path_id))
            self.send(effect.path_id, request)
        elif isinstance(effect, fx.SendResponse):
            self.send(effect.path_id, ("response", self.token, effect.path_id))
        elif isinstance(effect, (fx.StartHandshake, fx.StartRekey)):
            self.send(effect.path_id, ("hs-init", self.session.epoch))
        elif isinstance(effect, fx.SendTerminate):
            for path_id, _ in effect.targets:
                self.send(path_id, ("input", inp.PeerTerminated()))
        elif isinstance(effect, fx.ProbePath) and effect.path_id in self.meters:
            self.meters[effect.path_id].override_ns = effect.interval_ns


class GatewayEnd(End):
    """The gateway's shell: addresses, challenge bytes, the handshake that survives its restart."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.tokens: dict[int, tuple[str, int]] = {}
        self.token = itertools.count(1)
        self.dead = False
        self.stored: driver.Stored | None = None
        self.down_ns = 0

    def start(self, policy: Policy, wire: Wire) -> None:
        now = self.world.now
        first = First(wire.path_id, wire.address)
        session, turn = create(Role.GATEWAY, SESSION_ID, "alice", policy, first, now)
        self.adopt(session, turn, audit.create_body(session, first, now))
        self.feed(inp.Confirmed(wire.address))
        self.meter(wire.path_id)

    # --- a restart ---

    def kill(self) -> None:
        self.dead, self.down_ns = True, self.world.now
        self.stored = driver.snapshot(self.session, self.world.now)
        self.core, self.meters, self.keypair = None, {}, -1

    def restart(self, policy: Policy) -> None:
        assert self.stored is not None
        self.dead = False
        now, down = self.world.now, self.world.now - self.down_ns
        version = max(body.get("state_version", 0) for body in self.lines)
        session, turn = driver.restore(self.stored, policy, down, version, now)
        self.adopt(session, turn, audit.restore_body(session, self.stored, down, version, now))

    # --- frames ---

    def receive(self, address: str, frame: Frame) -> None:
        if self.core is None or self.core.ended:
            return
        if frame.what[0] == "hs-init":
            self._handshake(address, frame)
            return
        if frame.keypair != self.keypair:
            return
        if not self.fresh(frame):
            self._copy(address, frame)
            return
        self._authentic(address, frame)

    def _copy(self, address: str, frame: Frame) -> None:
        first = self.seen[(frame.keypair, frame.counter)]
        if frame.what[0] != "data" and self.world.now - first <= S:
            self._hint(address, frame.path_id, copy=True)

    def _authentic(self, address: str, frame: Frame) -> None:
        self._hint(address, frame.path_id, copy=False)
        # The client's name for its path is authenticated, the source is not: account to the named path, and answer a
        # probe where that path was proven to be. So packets copied from elsewhere neither feed nor starve anything.
        path = self.session.path(frame.path_id)
        if path is not None:
            self.meter(path.path_id).heard(self.world.now)
        kind = frame.what[0]
        if kind in ("probe", "answer"):
            if path is not None:
                self.probed(frame, lambda what: self.send(path.path_id, what))
        elif kind == "data":
            self.data_in += 1
            self.data_paths.append(frame.path_id)
            self.arrivals.append(self.world.now)
        elif kind == "response":
            self._response(frame)
        elif kind == "request":
            e = frame.what[1]
            request = inp.ReattachRequest(e.attempt_id, e.epoch, e.path_id, e.reason, e.forced, address)
            self.feed(request)
        else:
            self.feed(frame.what[1])

    def _hint(self, address: str, path_id: int, copy: bool) -> None:
        path = self.session.path_at(address)
        if path is None or not path.has(VALIDATED):
            self.feed(inp.AddressSeen(path_id, address, "udp", copy))

    def _response(self, frame: Frame) -> None:
        _, token, path_id = frame.what
        sent = self.tokens.pop(token, None)
        if sent is not None:
            self.feed(inp.ChallengeAnswered(sent[0], path_id, self.world.now - sent[1]))

    def _handshake(self, address: str, frame: Frame) -> None:
        self.keypair = max(self.keypair, self.world.keypairs) + 1
        self.world.keypairs = self.keypair
        self.feed(inp.KeyInstalled())
        self.feed(inp.HelloSeen(frame.path_id, address, frame.what[1]))
        s = self.session
        welcome = inp.Welcomed(s.epoch, s.bound_id, s.attempt_id)
        self.send_to(address, ("hs-response", self.keypair, welcome))
        path = s.path(frame.path_id)
        if path is not None:
            self.meter(path.path_id)

    def can_send(self, path_id: int) -> bool:
        return self.core is not None and self.core.path(path_id) is not None

    def send(self, path_id: int, what: Any) -> None:
        path = self.session.path(path_id)
        if path is not None:
            self.send_to(path.address, what)

    def send_to(self, address: str, what: Any) -> None:
        path = self.core.path_at(address) if self.core is not None else None
        if path is not None:
            self._count(path.path_id, what)
        frame = Frame(self.keypair, next(self.counter), 0, what)
        self.world.downlink(address, frame)

    def send_data(self) -> None:
        active = self.session.active if self.core is not None else None
        if active is not None:
            self.meter(active.path_id).data_sent(self.world.now)
            self.send(active.path_id, ("data",))

    def effect(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.SendChallenge):
            token = next(self.token)
            self.tokens[token] = (effect.address, self.world.now)
            self.send_to(effect.address, ("challenge", token, effect.path_id, effect.rebind))
        elif isinstance(effect, fx.SendReattachAck):
            ack = inp.ReattachAck(effect.attempt_id, effect.epoch, effect.path_id)
            self.send_to(effect.address, ("input", ack))
        elif isinstance(effect, fx.SendReattachReject):
            reject = inp.ReattachReject(effect.attempt_id, effect.reason, effect.epoch, effect.retry_after_ns)
            self.send_to(effect.address, ("input", reject))
        elif isinstance(effect, fx.SendAdvice):
            self.send(effect.path_id, ("input", inp.SwitchAdvice(effect.reason, effect.preference)))
        elif isinstance(effect, fx.SendTerminate):
            for _, address in effect.targets:
                self.send_to(address, ("input", inp.PeerTerminated()))
        elif isinstance(effect, fx.ProbePath):
            self.meter(effect.path_id).override_ns = effect.interval_ns
        elif isinstance(effect, fx.DropPath):
            self.meters.pop(effect.path_id, None)


class World:
    """The network and the clock. ``run`` advances to a time; nothing else does."""

    def __init__(
        self, seed: int = 1, wires: int = 2, policy: Policy | None = None, delay_ns: int = 10 * MS
    ) -> None:
        self.now = 1_000 * S
        self.random = random.Random(seed)
        self.policy = policy or Policy()
        self.wires = {n: Wire(n, delay_ns) for n in range(1, wires + 1)}
        self.links_down: set[int] = set()
        self.tap: Callable[[str, str, Frame], bool] | None = None
        self.extra: dict[str, Callable[[Frame], None]] = {}
        self.keypairs = 1
        self._heap: list[tuple[int, int, Any, Callable[[], None]]] = []
        self._order = itertools.count()
        self._latest: dict[Any, int] = {}
        self.client = ClientEnd(self, "client")
        self.gateway = GatewayEnd(self, "gateway")

    def start(self) -> World:
        wires = list(self.wires.values())
        self.gateway.start(self.policy, wires[0])
        self.client.start(self.policy, wires)
        self.run(2 * S)
        return self

    # --- the clock ---

    def at(self, when: int, act: Callable[[], None], key: Any = None) -> None:
        """Call ``act`` at ``when``; a later one with the same key replaces it."""
        order = next(self._order)
        if key is not None:
            self._latest[key] = order
        heapq.heappush(self._heap, (when, order, key, act))

    def run(self, for_ns: int) -> None:
        end = self.now + for_ns
        while self._heap and self._heap[0][0] <= end:
            when, order, key, act = heapq.heappop(self._heap)
            if key is not None and self._latest[key] != order:
                continue
            self.now = max(self.now, when)
            act()
        self.now = end

    def run_until(self, done: Callable[[], bool], limit_ns: int) -> bool:
        """Advance in milliseconds until ``done`` or the limit. Returns whether it was done."""
        end = self.now + limit_ns
        while not done() and self.now < end:
            self.run(MS)
        return done()

    def traffic(self, for_ns: int, every_ns: int = 10 * MS) -> None:
        """Inner packets in both directions while time passes."""
        end = self.now + for_ns
        while self.now < end:
            if self.client.core is not None:
                self.client.send_data()
            self.gateway.send_data()
            self.run(min(every_ns, end - self.now))

    # --- the network ---

    def link_up(self, path_id: int) -> bool:
        return path_id not in self.links_down

    def _pass(self, wire: Wire, open_: bool, deliver: Callable[[], None]) -> None:
        copies = 1 + (self.random.random() < wire.dup)
        for _ in range(copies):
            if not open_ or self.random.random() < wire.loss:
                continue
            extra = self.random.randrange(wire.jitter_ns) if wire.jitter_ns else 0
            self.at(self.now + wire.delay_ns + extra, deliver)

    def uplink(self, path_id: int, frame: Frame) -> None:
        wire = self.wires[path_id]
        address = wire.address
        if self.tap is not None and self.tap("up", address, frame):
            return
        self._pass(wire, wire.up, lambda: self.gateway.receive(address, frame))

    def downlink(self, address: str, frame: Frame) -> None:
        if self.tap is not None and self.tap("down", address, frame):
            return
        if address in self.extra:
            self.extra[address](frame)
            return
        for wire in self.wires.values():
            if wire.address == address:
                self._pass(wire, wire.down, lambda w=wire: self.client.receive(w.path_id, frame))  # type: ignore[misc]

    # --- what happens to it ---

    def cut(self, path_id: int) -> None:
        """Link down, known to the host at once."""
        self.links_down.add(path_id)
        self.client.feed(inp.PathLost(path_id, Evidence.LINK_DOWN))

    def mend(self, path_id: int) -> None:
        self.links_down.discard(path_id)
        self.client.feed(inp.LinkUp(path_id))

    def blackhole(self, path_id: int, up: bool = True, down: bool = True) -> None:
        """Silence in the chosen directions; nobody says so."""
        wire = self.wires[path_id]
        wire.up, wire.down = wire.up and not up, wire.down and not down

    def heal(self, path_id: int) -> None:
        wire = self.wires[path_id]
        wire.up = wire.down = True
        wire.loss = wire.dup = 0.0
        wire.jitter_ns = 0

    def rebind(self, path_id: int) -> None:
        """The NAT moves the path to a new address; the old mapping is gone."""
        self.wires[path_id].nat += 1


__all__ = ["MS", "SESSION_ID", "ClientEnd", "Frame", "GatewayEnd", "Probe", "S", "Wire", "World"]
