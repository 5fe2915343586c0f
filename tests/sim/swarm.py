# SPDX-License-Identifier: Apache-2.0
"""One session and its random failures, without packets: cheap enough to run ten thousand of them.

The shells are reduced to their rules: a frame takes 10 ms or is lost, a tick every 300 ms is the probing of both ends
(three silent ticks are a death, an answer is evidence, a probe carries the sender's binding). Everything else is as in
``world``: all decisions are in the two cores, all randomness in one seeded generator.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core import First, Policy, Role, Session, State, audit, create, driver
from gateway.core import effects as fx
from gateway.core import events as ev
from gateway.core import inputs as inp
from gateway.core.path import DEAD, DOWN, VALIDATED
from gateway.core.states import Evidence

MS, S = NS_PER_MS, NS_PER_S
TICK = 300 * MS
FLIGHT = 10 * MS
CHECKED = (ev.StateChange, ev.TransportSwitch, ev.ReattachResult, ev.SessionCreated)


class Swarmer:
    """One seeded session: both cores, two or three paths, and what happens to them."""

    def __init__(self, seed: int, policy: Policy) -> None:
        self.r = random.Random(seed)
        self.now = 1000 * S
        self.loss = self.r.choice((0.0, 0.0, 0.1, 0.4))
        count = self.r.choice((1, 2, 2, 3))
        self.up = dict.fromkeys(range(1, count + 1), True)
        self.down_links: set[int] = set()
        self.nat = dict.fromkeys(self.up, 1)
        self.misses: dict[tuple[Role, int], int] = {}
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.order = 0
        self.records: dict[Role, list[audit.Body]] = {Role.CLIENT: [], Role.GATEWAY: []}
        ident = seed.to_bytes(16, "big")
        head = audit.policy_body(policy, self.now)
        self.records[Role.CLIENT].append(head)
        self.records[Role.GATEWAY].append(head)
        self.ends: dict[Role, Session] = {}
        self.due: dict[Role, int] = {}
        for role, peer, address in ((Role.GATEWAY, "p", self.address(1)), (Role.CLIENT, "g", "sock1")):
            session, turn = create(role, ident, peer, policy, First(1, address), self.now)
            self.ends[role] = session
            self.take(session, turn)
            self.feed(role, inp.Confirmed(address))
        for n in range(2, count + 1):
            self.feed(Role.CLIENT, inp.PathAdded(n, f"sock{n}"))
        self.at(TICK, self.tick)

    def address(self, path_id: int) -> str:
        return f"{path_id}:{self.nat[path_id]}"

    def passes(self, path_id: int) -> bool:
        return self.up.get(path_id, False) and path_id not in self.down_links

    # --- time ---

    def at(self, after: int, act: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.heap, (self.now + after, self.order, act))

    def run(self, for_ns: int) -> None:
        end = self.now + for_ns
        while True:
            timer = min(self.due.values(), default=end + 1)
            frame = self.heap[0][0] if self.heap else end + 1
            if min(timer, frame) > end:
                break
            if frame <= timer:
                when, _, act = heapq.heappop(self.heap)
                self.now = max(self.now, when)
                act()
            else:
                self.now = max(self.now, timer)
                self.timers()
        self.now = end

    def timers(self) -> None:
        for role, session in self.ends.items():
            if self.due.get(role, self.now + 1) <= self.now:
                self.take(session, driver.timer_due(session, self.now))
                assert self.due.get(role, self.now + 1) > self.now, "busy loop"

    # --- cores ---

    def feed(self, role: Role, one: inp.Input) -> None:
        session = self.ends[role]
        self.take(session, driver.receive(session, one, self.now))

    def take(self, session: Session, turn: Any) -> None:
        book = self.records[session.role]
        book += [audit.event_body(session, event) for event in turn.events if isinstance(event, CHECKED)]
        for effect in turn.effects:
            self.effect(session.role, effect)
        due = driver.next_deadline(session)
        if due is None:
            self.due.pop(session.role, None)
        else:
            self.due[session.role] = due

    def send(self, path_id: int, deliver: Callable[[], None]) -> None:
        if self.passes(path_id) and self.r.random() >= self.loss:
            self.at(FLIGHT, lambda: deliver() if self.passes(path_id) else None)

    def to_gateway(self, path_id: int, one: inp.Input) -> None:
        self.send(path_id, lambda: self.feed(Role.GATEWAY, one))

    def to_client(self, address: str, one: inp.Input) -> None:
        for path_id in self.up:
            if self.address(path_id) == address:
                self.send(path_id, lambda: self.feed(Role.CLIENT, one))

    def effect(self, role: Role, effect: fx.Effect) -> None:
        if role is Role.CLIENT:
            self.client_effect(effect)
        else:
            self.gateway_effect(effect)

    def client_effect(self, e: fx.Effect) -> None:
        if isinstance(e, fx.SendReattachRequest):
            if e.with_response:
                self.respond(e.path_id)
            request = inp.ReattachRequest(
                e.attempt_id, e.epoch, e.path_id, e.reason, e.forced, self.address(e.path_id)
            )
            self.to_gateway(e.path_id, request)
        elif isinstance(e, fx.SendResponse):
            self.respond(e.path_id)
        elif isinstance(e, fx.StartHandshake) and self.passes(e.path_id):
            self.at(2 * FLIGHT, lambda: self.handshake(e.path_id))

    def respond(self, path_id: int) -> None:
        answer = inp.ChallengeAnswered(self.address(path_id), path_id, 2 * FLIGHT)
        self.to_gateway(path_id, answer)

    def handshake(self, path_id: int) -> None:
        if not self.passes(path_id) or any(s.ended for s in self.ends.values()):
            return
        g = self.ends[Role.GATEWAY]
        self.feed(Role.GATEWAY, inp.HelloSeen(path_id, self.address(path_id), self.ends[Role.CLIENT].epoch))
        self.feed(Role.CLIENT, inp.Welcomed(g.epoch, g.bound_id, g.attempt_id))

    def gateway_effect(self, e: fx.Effect) -> None:
        if isinstance(e, fx.SendChallenge):
            for path_id in self.up:
                if self.address(path_id) == e.address:
                    named = inp.ChallengeReceived(path_id, e.path_id, e.rebind)
                    self.to_client(e.address, named)
        elif isinstance(e, fx.SendReattachAck):
            self.to_client(e.address, inp.ReattachAck(e.attempt_id, e.epoch, e.path_id))
        elif isinstance(e, fx.SendReattachReject):
            self.to_client(e.address, inp.ReattachReject(e.attempt_id, e.reason, e.epoch, e.retry_after_ns))
        elif isinstance(e, fx.SendAdvice):
            self.to_client(self.address(e.path_id), inp.SwitchAdvice(e.reason, e.preference))

    # --- probing ---

    def tick(self) -> None:
        self.at(TICK, self.tick)
        c, g = self.ends[Role.CLIENT], self.ends[Role.GATEWAY]
        for path_id in self.up:
            here, there = c.path(path_id), g.path(path_id)
            reaches = self.passes(path_id) and here is not None and not here.has(DOWN)
            if reaches and (
                there is None or there.address != self.address(path_id) or not there.has(VALIDATED)
            ):
                self.feed(Role.GATEWAY, inp.AddressSeen(path_id, self.address(path_id)))
            there = g.path(path_id)
            both = reaches and there is not None and there.address == self.address(path_id)
            self.evidence(c, path_id, both)
            self.evidence(g, path_id, both)
            if both:
                self.claims(c, g)

    def evidence(self, s: Session, path_id: int, good: bool) -> None:
        path, key = s.path(path_id), (s.role, path_id)
        if path is None:
            return
        if good:
            fresh = path.has(VALIDATED) and not path.has(DEAD) and not self.misses.get(key)
            self.misses[key] = 0
            path.heard_ns = self.now
            if not fresh or path.trouble is not None:
                self.feed(s.role, inp.PathAnswered(path_id, 40))
            return
        self.misses[key] = count = self.misses.get(key, 0) + 1
        if count >= 2 and not path.flags & (DEAD | DOWN):
            self.feed(s.role, inp.PathMissed(path_id, count, count * TICK))

    def claims(self, c: Session, g: Session) -> None:
        for one, other in ((c, g), (g, c)):
            if (one.peer_epoch, one.peer_bound) != (other.epoch, other.bound_id) or not one.agreed():
                self.feed(one.role, inp.PeerBinding(other.epoch, other.bound_id))

    # --- what happens ---

    def act(self) -> None:
        path_id = self.r.choice(list(self.up))
        r = self.r
        what = r.choice(("cut", "silence", "heal", "rebind", "switch", "alone", "breach", "suspect", "rekey"))
        if what == "cut" and path_id not in self.down_links:
            self.down_links.add(path_id)
            self.feed(Role.CLIENT, inp.PathLost(path_id, Evidence.LINK_DOWN))
        elif what == "silence":
            self.up[path_id] = False
        elif what == "heal":
            self.heal(path_id)
        elif what == "rebind":
            self.nat[path_id] += 1
        elif what == "switch":
            self.feed(r.choice((Role.CLIENT, Role.GATEWAY)), inp.OperatorSwitch(r.choice((0, path_id))))
        elif what == "alone":
            self.feed(r.choice((Role.CLIENT, Role.GATEWAY)), inp.PathLost(path_id, Evidence.MISSES))
        elif what == "breach":
            lossy = inp.PathMeasured(path_id, 20_000, 500, 100, 200_000, 100, 20, 20, 20)
            self.feed(r.choice((Role.CLIENT, Role.GATEWAY)), lossy)
        elif what == "suspect":
            self.feed(Role.CLIENT, inp.PathSuspected(path_id))
        elif what == "rekey":
            self.feed(Role.CLIENT, inp.KeyInstalled())

    def heal(self, path_id: int) -> None:
        self.up[path_id] = True
        if path_id in self.down_links:
            self.down_links.discard(path_id)
            self.feed(Role.CLIENT, inp.LinkUp(path_id))

    def live(self) -> None:
        """The whole life: some failures, then everything heals and has the time the policy promises."""
        self.run(S)
        for _ in range(self.r.randrange(3, 8)):
            self.act()
            self.run(self.r.choice((20 * MS, 200 * MS, S, 4 * S, 4 * S, 15 * S)))
        for path_id in self.up:
            self.heal(path_id)
        self.loss = 0.0
        clean = inp.PathMeasured
        for _ in range(12):
            if self.quiet():
                return
            self.run(2 * S)
            for session in self.ends.values():
                if session.bound_id:
                    self.feed(session.role, clean(session.bound_id, 20_000, 500, 100, 0, 100, 0, 20, 20))
            self.run(2 * S)

    def quiet(self) -> bool:
        """Both ended, or both attached and agreed."""
        c, g = self.ends[Role.CLIENT], self.ends[Role.GATEWAY]
        if c.ended and g.ended:
            return True
        same = (c.epoch, c.bound_id) == (g.epoch, g.bound_id)
        return same and c.state is State.ATTACHED and g.state is State.ATTACHED
