# SPDX-License-Identifier: Apache-2.0
"""The session: one lasting identity, and the only function that moves it.

Rule 1: ``Session.step`` is the one place that moves ``state``, ``version`` and the binding, always together and always
by a row of ``transitions.TRANSITIONS``; it emits exactly one STATE_CHANGE for each version. (``resume`` loads a stored
session before its first step, ``learn_epoch`` raises the epoch to an authenticated claim, ``rename`` names a path.)
Rule 2: everything else here is plain data. Sessions hold no reference to one another, to a shell or to a timer object,
and no reference cycle: 100,000 of them must not cost a garbage collection.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from gateway.constants import NS_PER_S
from gateway.core import effects as fx
from gateway.core import events as ev
from gateway.core.budget import Budget
from gateway.core.keys import KeyClock
from gateway.core.path import DEAD, DOWN, VALIDATED, Path, drain_ns
from gateway.core.policy import Policy
from gateway.core.reasons import Reason
from gateway.core.reattach import Accepted, Ask, Better, Episode, Pending, RebindTry
from gateway.core.rebind import Inquiry
from gateway.core.states import Role, State
from gateway.core.transitions import Act, Facts, Trigger, decide

# The last transitions each session keeps to refill an audit gap: 8 × 22 bytes.
RING_ROWS: Final = 8
_ROW: Final = struct.Struct("<QIIHBBBB")
# Refusals of one class within this time are one SECURITY_EVENT with a count.
FLOOD_NS: Final = NS_PER_S


class Turn:
    """What one input or timer led to: events in order, effects in order."""

    __slots__ = ("effects", "events", "now_ns")

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.events: list[ev.Event] = []
        self.effects: list[fx.Effect] = []


class Bind(NamedTuple):
    """The binding a BIND or SWAP makes: path, the epoch from then on, and its new address if a rebind moved it."""

    path_id: int
    epoch: int
    address: str = ""


class Past(NamedTuple):
    """One remembered transition, unpacked from the ring."""

    mono_ns: int
    version: int
    epoch: int
    reason: Reason
    previous: State
    new: State
    path_from: int
    path_to: int


class Session:
    """All a session is, at either end. Fields of one role stay None or 0 at the other."""

    __slots__ = (
        "accepted",
        "advice_ns",
        "ask",
        "attempt_id",
        "backoff_ns",
        "better",
        "born_ns",
        "bound_id",
        "budget",
        "calm_ns",
        "denied",
        "differs_ns",
        "duplicated_ns",
        "entered_ns",
        "episode",
        "episodes",
        "epoch",
        "flood",
        "had_candidate",
        "handshake_ns",
        "handshake_turn",
        "heard_ns",
        "home",
        "inquiry",
        "keys",
        "left_id",
        "next_ns",
        "paths",
        "peer",
        "peer_bound",
        "peer_epoch",
        "pending",
        "policy",
        "rebind",
        "ring",
        "role",
        "session_id",
        "state",
        "stock",
        "version",
        "wake_ns",
        "window_end_ns",
    )

    def __init__(
        self, role: Role, session_id: bytes, peer: str, policy: Policy, now_ns: int, stock: bool
    ) -> None:
        self.role = role
        self.session_id = session_id
        self.peer = peer
        self.policy = policy
        self.stock = stock
        # --- assigned by step() only ---
        self.state = State.BIRTH
        self.version = 0
        self.epoch = 0
        self.bound_id = 0
        self.left_id = 0  # the path that was bound last, while none is
        self.entered_ns = now_ns
        self.window_end_ns = 0
        self.ring = b""
        # --- the session's own record ---
        self.born_ns = now_ns
        self.heard_ns = now_ns  # last authenticated word of the other end, on any path
        self.paths: tuple[Path, ...] = ()
        self.budget = Budget()
        self.keys = KeyClock(now_ns)
        self.flood: dict[Reason, tuple[int, int]] | None = None
        self.duplicated_ns = 0
        # --- what the other end says it has bound ---
        self.peer_epoch = 0
        self.peer_bound = 0
        self.differs_ns = 0
        # --- judgement in progress ---
        self.calm_ns = 0
        self.better: Better | None = None
        self.ask: Ask | None = None
        self.denied: tuple[Reason, int] | None = None
        self.wake_ns = 0
        # --- recovery ---
        self.attempt_id = 0  # C: the last one used. G: the last one accepted
        self.episodes = 0
        self.had_candidate = False
        self.backoff_ns = 0
        self.handshake_ns = 0
        self.handshake_turn = 0
        self.episode: Episode | None = None
        self.rebind: RebindTry | None = None
        self.pending: Pending | None = None
        self.accepted: Accepted | None = None
        self.inquiry: Inquiry | None = None
        self.advice_ns = 0
        self.next_ns = 0  # G: when a stock peer is called again for its next session
        self.home = ""  # G: where a stock peer's last handshake was confirmed

    # --- reading ---

    @property
    def ended(self) -> bool:
        return self.state is State.TERMINATED

    @property
    def active(self) -> Path | None:
        """The bound path, if any."""
        return self.path(self.bound_id) if self.bound_id else None

    def path(self, path_id: int) -> Path | None:
        for path in self.paths:
            if path.path_id == path_id:
                return path
        return None

    def path_at(self, address: str) -> Path | None:
        for path in self.paths:
            if path.address == address:
                return path
        return None

    def agreed(self) -> bool:
        """Both ends report the same binding; a stock peer reports none and is taken at ours."""
        return self.stock or (self.peer_epoch == self.epoch and self.peer_bound == self.bound_id)

    def learn_epoch(self, epoch: int) -> None:
        """An authenticated claim of the other end raises the epoch; nothing ever lowers it."""
        self.epoch = max(self.epoch, epoch)

    def resume(self, state: State, version: int, epoch: int, bound_id: int) -> None:
        """Take over what the store says, before the row of T22 is judged."""
        self.state, self.version, self.epoch, self.bound_id = state, version, epoch, bound_id

    def rename(self, path: Path, path_id: int) -> None:
        """The client's own name for a path replaces the one it had before; the binding is the same path."""
        if path.path_id == self.bound_id:
            self.bound_id = path_id
        path.path_id = path_id

    def window_open(self, now_ns: int) -> bool:
        return self.window_end_ns > now_ns

    def history(self) -> list[Past]:
        """The last transitions, oldest first."""
        rows = []
        for at, version, epoch, reason, old, new, left, taken in _ROW.iter_unpack(self.ring):
            rows.append(Past(at, version, epoch, Reason(reason), State(old), State(new), left, taken))
        return rows

    def facts(
        self, now_ns: int, *, candidate: bool = False, allowed: bool = False, proven: bool = False
    ) -> Facts:
        """The facts guards read, as they are now."""
        return Facts(
            bound=self.bound_id != 0,
            candidate=candidate,
            allowed=allowed,
            window_open=self.window_open(now_ns),
            backoff_over=now_ns >= self.backoff_ns,
            retry=self.episodes > 0,
            proven=proven,
            had_candidate=self.had_candidate or candidate,
            exhausted=self.episodes >= self.policy.max_attempts,
            lifetime_left=now_ns - self.born_ns < self.policy.max_lifetime_ns,
        )

    def stamp(self, turn: Turn) -> tuple[int, int, int]:
        """The first fields of every event: time, version, epoch."""
        return turn.now_ns, self.version, self.epoch

    # --- the one function that moves the session ---

    def step(
        self,
        turn: Turn,
        trigger: Trigger,
        asked: Reason,
        facts: Facts,
        bind: Bind | None = None,
        details: ev.Details = (),
    ) -> bool:
        """Take the row for this trigger, if one holds. Returns whether it did; if not, nothing changed."""
        taken = decide(self.state, self.role, trigger, asked, facts)
        if taken is None:
            return False
        rule, reason = taken
        old_state, old_id, old = self.state, self.bound_id, self.active
        label = old.address if old else ""
        self._rebind(rule.acts, bind, turn.now_ns)
        self.version += 1
        self.state = rule.to
        if rule.to is not old_state:
            self.entered_ns = turn.now_ns
            self._entered(old_state)
        self._remember(turn.now_ns, reason, old_state, old_id)
        new = self.active
        turn.events.append(
            ev.StateChange(
                *self.stamp(turn),
                old_state,
                rule.to,
                reason,
                rule.row,
                label,
                new.address if new else "",
                details,
            )
        )
        self._consequences(rule.acts, reason, old, turn)
        self._watch(old_state, turn)
        return True

    def _rebind(self, acts: Act, bind: Bind | None, now_ns: int) -> None:
        if acts & (Act.BIND | Act.SWAP):
            if bind is None:
                raise ValueError("a binding row needs the path it binds")
            self.bound_id, self.epoch, moved = bind
            self.window_end_ns = 0
            if moved and self.active is not None:
                self.active.address = moved
        elif acts & (Act.CLEAR | Act.END):
            self.left_id, self.bound_id = self.bound_id or self.left_id, 0
        if acts & Act.OPEN_WINDOW and not self.window_end_ns:
            self.window_end_ns = now_ns + self.policy.window_ns(self.stock)
            self.had_candidate, self.episodes, self.backoff_ns = False, 0, 0

    def _entered(self, old: State) -> None:
        """Calm is counted anew from an entry into VOLATILE, and after an attempt."""
        if self.state is State.VOLATILE or old is State.RECOVERING:
            self.calm_ns = 0
        if self.state is State.ATTACHED:
            self.episodes, self.backoff_ns = 0, 0
        self.denied = None

    def _remember(self, now_ns: int, reason: Reason, old: State, old_id: int) -> None:
        row = _ROW.pack(now_ns, self.version, self.epoch, reason, old, self.state, old_id, self.bound_id)
        self.ring = (self.ring + row)[-RING_ROWS * _ROW.size :]

    def _consequences(self, acts: Act, reason: Reason, old: Path | None, turn: Turn) -> None:
        if acts & (Act.BIND | Act.SWAP):
            self._attach(old, turn)
        elif acts & Act.CLEAR:
            self.better, self.differs_ns = None, 0
            turn.effects += (fx.ClearBinding(self.epoch), fx.Persist())
        elif acts & Act.END:
            self._end(reason, turn)

    def _watch(self, old: State, turn: Turn) -> None:
        """Away from ATTACHED every measurement counts, for the calm; back there only what is worth a report."""
        settled = self.state is State.ATTACHED
        if settled is (old is State.ATTACHED) or old is State.BIRTH:
            return
        for path in self.paths:
            if path.trouble is None or not path.trouble.need:
                turn.effects.append(fx.ProbePath(path.path_id, 0, not settled))

    def _attach(self, old: Path | None, turn: Turn) -> None:
        path = self.active
        if path is None:
            raise ValueError("the bound path is unknown")
        path.retire_ns = 0
        if old is not None and old is not path:
            old.retire_ns = turn.now_ns + drain_ns(old, self.policy)
            turn.effects.append(fx.RetirePath(old.path_id, old.retire_ns))
        self.better, self.differs_ns, self.keys.rekey_ns = None, 0, 0
        turn.events.append(ev.TransportAttached(*self.stamp(turn), path.path_id, path.address))
        turn.effects += (fx.SwitchBinding(path.path_id, path.address, self.epoch), fx.Persist())

    def _end(self, reason: Reason, turn: Turn) -> None:
        """TERMINATED absorbs: tell the peer where it can hear us, erase the keys, forget everything but the ring."""
        proven = tuple(
            (p.path_id, p.address) for p in self.paths if p.has(VALIDATED) and not p.flags & (DEAD | DOWN)
        )
        if proven and reason not in (Reason.PEER_TERMINATED, Reason.OWNERSHIP_AMBIGUOUS) and not self.stock:
            turn.effects.append(fx.SendTerminate(proven, reason))
        turn.events.append(ev.TerminationEvent(*self.stamp(turn), reason, turn.now_ns - self.born_ns))
        turn.events.append(ev.KeyEvent(*self.stamp(turn), "ERASED"))
        turn.effects += (fx.EraseKeys(), fx.Persist())
        self.paths, self.window_end_ns, self.wake_ns, self.differs_ns = (), 0, 0, 0
        self.episode, self.rebind, self.pending, self.inquiry = None, None, None, None
        self.ask, self.better = None, None

    # --- refusals ---

    def alarm(self, turn: Turn, security_class: Reason, detail: str) -> None:
        """One SECURITY_EVENT at once, then at most one a second of its class with how many there were."""
        if self.flood is None:
            self.flood = {}
        since, count = self.flood.get(security_class, (-1, 0))
        if since < 0:
            turn.events.append(ev.SecurityEvent(*self.stamp(turn), security_class, 1, detail))
            self.flood[security_class] = (turn.now_ns, 0)
        else:
            self.flood[security_class] = (since, count + 1)

    def settle_flood(self, turn: Turn) -> None:
        """Report what was held back for a second; forget the classes that fell quiet."""
        for security_class, (since, count) in list((self.flood or {}).items()):
            if turn.now_ns - since < FLOOD_NS:
                continue
            self._report_flood(turn, security_class, count)
        if not self.flood:
            self.flood = None

    def _report_flood(self, turn: Turn, security_class: Reason, count: int) -> None:
        if self.flood is None:
            return
        if count:
            turn.events.append(ev.SecurityEvent(*self.stamp(turn), security_class, count, "aggregated"))
            self.flood[security_class] = (turn.now_ns, 0)
        else:
            del self.flood[security_class]

    def flood_due_ns(self) -> int:
        """When ``settle_flood`` has something to do, 0 = never."""
        return min(since for since, _ in self.flood.values()) + FLOOD_NS if self.flood else 0
