# SPDX-License-Identifier: Apache-2.0
"""The core's sessions on this process's data plane: inputs in, effects out, one queue of deadlines.

Rule 1: the core decides and never acts, this file acts and never decides. Every input goes through `feed`, every
effect through one method named after it.
Rule 2: the core knows addresses as text; which socket and sockaddr a text means is known here, bounded per session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from gateway import frames as fr
from gateway.control.duequeue import DueQueue
from gateway.control.keyuse import KeyUse
from gateway.control.peers import Peer
from gateway.core import driver
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.policy import Policy
from gateway.core.rates import Bucket
from gateway.core.reasons import Reason
from gateway.core.session import Session, Turn
from gateway.core.states import Role
from gateway.core.stock import next_begins_ns
from gateway.dataplane.engine import Endpoint, Engine
from gateway.suites import Suite

RandomBytes = Callable[[int], bytes]

# Addresses a session may have a name for: its paths, the slots under validation, and where it answered last.
_ADDRESSES_MAX: Final = 24
# The local index that means: under whichever keypair seals now.
CURRENT_KEY: Final = 0
# What the data plane counts of a peer's datagrams, both ways.
_COUNTED: Final = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")
_NOTHING: Final = (0, 0, 0, 0)
# Challenges in flight; the core sends at most three to each of three slots and the old path.
_NONCES_MAX: Final = 16


class Sink(Protocol):
    """Takes what went in and what came out, in order. It never blocks and never raises."""

    def created(self, session: Session, first: driver.First, turn: Turn) -> None: ...
    def received(self, session: Session, one: inp.Input, turn: Turn) -> None: ...
    def timed(self, session: Session, turn: Turn) -> None: ...
    def restored(
        self, session: Session, record: driver.Stored, down_ns: int, audited_version: int, turn: Turn
    ) -> None: ...


def address_name(endpoint: Endpoint) -> str:
    """What the core and the audit call an address of the other end."""
    return f"udp:{endpoint}"


class Live:
    """One session of the core, and what the shell must remember for it."""

    __slots__ = (
        "asked_interval_ns",
        "began_at",
        "born_index",
        "core",
        "deadline_ns",
        "downgraded",
        "ended",
        "has_paths",
        "instance",
        "keep_index",
        "key_use",
        "known",
        "lends",
        "nonces",
        "peer",
        "ping_token",
        "pings",
        "response",
        "resumed",
        "successor_index",
        "suite",
    )

    def __init__(self, core: Session, peer: Peer) -> None:
        self.core = core
        self.peer = peer
        self.began_at: tuple[int, ...] = _NOTHING  # what its peer's counters said when it began here
        self.asked_interval_ns = 0  # G: how often the client's HELLO wants idle paths probed
        self.instance = b""  # the client process that holds it; b"" for a stock peer
        # Name and address of each address in turn: two of them in a dict would cost twice as much.
        self.known: tuple[Any, ...] = ()
        self.nonces: dict[bytes, tuple[str, int, int]] | None = None  # challenge -> address, path_id, sent_ns
        self.response: fr.Response | None = None  # C: the answer to the challenge that is being handled
        self.born_index = 0  # C: the keypair of the handshake that made it
        self.keep_index = 0  # the keypair that survives the end of this session: it carries the next one
        self.successor_index = (
            0  # G: the keypair of a stock peer's last handshake, which may carry its next session
        )
        self.key_use: KeyUse | None = None  # counted where a policy asks for it
        self.ping_token = b""  # of the operator's PING that is being sent
        self.pings: Bucket | None = None  # how many of them there may be
        self.deadline_ns: int | None = None
        self.has_paths = False  # the data plane has rows for its paths: it speaks jump frames
        self.lends = False  # C: data goes by the path that the running episode asks for
        self.downgraded = False  # C: it could speak jump frames, and answers no HELLO
        self.ended = False
        self.suite = Suite.CHACHA20_POLY1305  # that data is sealed under

    @property
    def slot(self) -> int:
        return self.peer.slot

    def name(self, endpoint: Endpoint) -> str:
        """The core's name for an address; the oldest one is forgotten when there are too many."""
        return self.know(address_name(endpoint), endpoint)

    def know(self, text: str, endpoint: Endpoint) -> str:
        """An address has this name from now on; returns the text that is kept, one object however often it comes."""
        names = self.known[::2]
        if text in names:
            place = 2 * names.index(text)
            if self.known[place + 1] != endpoint:
                self.known = (*self.known[: place + 1], endpoint, *self.known[place + 2 :])
            return cast("str", self.known[place])
        if len(names) >= _ADDRESSES_MAX:
            self._forget_one()
        self.known = (*self.known, text, endpoint)
        return text

    def at(self, text: str) -> Endpoint | None:
        """The address of that name, if it is known."""
        names = self.known[::2]
        return cast("Endpoint", self.known[2 * names.index(text) + 1]) if text in names else None

    def _forget_one(self) -> None:
        used = {path.address for path in self.core.paths}
        for place in range(0, len(self.known), 2):
            if self.known[place] not in used:
                self.known = self.known[:place] + self.known[place + 2 :]
                return

    def challenged(self, nonce: bytes, address: str, path_id: int, now_ns: int) -> None:
        """A challenge has left for an address; of too many the oldest is forgotten."""
        if self.nonces is None:
            self.nonces = {}
        if len(self.nonces) >= _NONCES_MAX:
            del self.nonces[next(iter(self.nonces))]
        self.nonces[nonce] = (address, path_id, now_ns)

    def answered(self, nonce: bytes) -> tuple[str, int, int] | None:
        """The challenge that this answers: address, path_id, sent_ns. Once."""
        found = self.nonces.pop(nonce, None) if self.nonces is not None else None
        if not self.nonces:
            self.nonces = None
        return found


class Sessions:
    """All sessions of one process by slot. `on_ended` lets the owner free what belongs to the peer."""

    def __init__(self, engine: Engine, sink: Sink, random_bytes: RandomBytes) -> None:
        self._engine = engine
        self._sink = sink
        self._random = random_bytes
        self._by_slot: list[Live | None] = []  # slots are handed out from 0 on
        self._count = 0
        self.due: DueQueue[Live] = DueQueue()
        self.on_ended: Callable[[int, Live], None] = lambda now_ns, live: None
        self.on_persist: Callable[[int, Live], None] = lambda now_ns, live: None
        # The answer to an operator's PING: its token.
        self.on_pong: Callable[[int, Live, bytes], None] = lambda now_ns, live, token: None
        # The exchange's part: one initiation, on a path or to an address.
        self.on_handshake: Callable[[int, Live, Endpoint | None], None] = lambda now_ns, live, to: None
        # The same for new keys, repeated until they are there.
        self.on_rekey: Callable[[int, Live, Endpoint | None], None] = lambda now_ns, live, to: None
        self._apply: Final[dict[type[fx.Effect], Callable[[int, Live, Any], None]]] = {
            fx.SwitchBinding: self._switch_binding,
            fx.ClearBinding: self._clear_binding,
            fx.RetirePath: self._nothing,
            fx.DropPath: self._drop_path,
            fx.ProbePath: self._probe_path,
            fx.DuplicateTraffic: self._duplicate,
            fx.SendReattachRequest: self._send_request,
            fx.SendReattachAck: self._send_ack,
            fx.SendReattachReject: self._send_reject,
            fx.SendChallenge: self._send_challenge,
            fx.SendResponse: self._send_response,
            fx.SendAdvice: self._send_advice,
            fx.SendPing: self._send_ping,
            fx.CopyDownstream: self._copy,
            fx.StopCopy: self._stop_copy,
            fx.StartHandshake: self._start_handshake,
            fx.InitiateTo: self._initiate_to,
            fx.StartRekey: self._start_rekey,
            fx.SendTerminate: self._send_terminate,
            fx.EraseKeys: self._erase_keys,
            fx.Persist: lambda now_ns, live, _: self.on_persist(now_ns, live),
        }

    def __iter__(self) -> Any:
        return (live for live in self._by_slot if live is not None)

    def __len__(self) -> int:
        return self._count

    def of(self, slot: int) -> Live | None:
        """The living session of a slot."""
        return self._by_slot[slot] if slot < len(self._by_slot) else None

    def _put(self, slot: int, live: Live | None) -> None:
        self._by_slot.extend([None] * (slot + 1 - len(self._by_slot)))
        self._count += (live is not None) - (self._by_slot[slot] is not None)
        self._by_slot[slot] = live

    # --- in ---------------------------------------------------------------------------------------------------

    def create(
        self,
        now_ns: int,
        peer: Peer,
        role: Role,
        session_id: bytes,
        policy: Policy,
        first: driver.First,
        at: Endpoint,
        *,
        stock: bool,
    ) -> Live:
        """T0; `at` is what `first.address` names. Refused for an invalid policy. The slot's older session has ended."""
        core, turn = driver.create(role, session_id, peer.config.name, policy, first, now_ns, stock)
        live = self._live(core, peer)
        live.know(first.address, at)
        self._put(peer.slot, live)
        self._sink.created(core, first, turn)
        self._carry_out(now_ns, live, turn)
        return live

    def restore(
        self,
        now_ns: int,
        peer: Peer,
        record: driver.Stored,
        policy: Policy,
        down_ns: int,
        audited_version: int,
    ) -> Live | None:
        """T22 from the durable store; None when its time is over."""
        core, turn = driver.restore(record, policy, down_ns, audited_version, now_ns)
        live = self._live(core, peer)
        self._put(peer.slot, live)
        self._sink.restored(core, record, down_ns, audited_version, turn)
        self._carry_out(now_ns, live, turn)
        return None if live.ended else live

    def _live(self, core: Session, peer: Peer) -> Live:
        live = Live(core, peer)
        live.began_at = self._counted(peer.slot)
        return live

    def _counted(self, slot: int) -> tuple[int, ...]:
        found: Mapping[str, Any] = self._engine.stats(slot)
        counted = tuple(found[name] for name in _COUNTED)
        return counted if any(counted) else _NOTHING  # one for all whose peers begin with them

    def traffic(self, live: Live) -> dict[str, int]:
        """Datagrams and outer bytes of a session both ways since it began, or since this process took it over.

        The peer of its slot is still there.
        """
        found = zip(_COUNTED, self._counted(live.slot), live.began_at, strict=True)
        return {name: now - before for name, now, before in found}

    def feed(self, now_ns: int, live: Live, one: inp.Input) -> Turn:
        """One input; its effects are carried out before this returns."""
        turn = driver.receive(live.core, one, now_ns)
        self._sink.received(live.core, one, turn)
        self._carry_out(now_ns, live, turn)
        return turn

    def timer_due(self, now_ns: int, most: int) -> None:
        """Look at up to `most` sessions; run those whose deadline has not moved meanwhile. The others leave no record:
        of 100,000 idle ones each rekey moves the deadline.
        """
        while most > 0 and (at := self.next_deadline_ns) is not None and at <= now_ns:
            live = self.due.pop()
            due_ns = driver.next_deadline(live.core)
            if due_ns is not None and due_ns <= now_ns:
                self.run_timers(now_ns, live)
            else:
                self._arm_at(live, due_ns)
            most -= 1

    def run_timers(self, now_ns: int, live: Live) -> None:
        """Whatever is due in one session."""
        turn = driver.timer_due(live.core, now_ns)
        self._sink.timed(live.core, turn)
        self._carry_out(now_ns, live, turn)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `timer_due` has work."""
        return self.due.next_ns

    def _carry_out(self, now_ns: int, live: Live, turn: Turn) -> None:
        for effect in turn.effects:
            self._apply[type(effect)](now_ns, live, effect)
        if live.lends and live.core.episode is None:
            self._take_back(now_ns, live)
        if live.core.ended and not live.ended:
            live.ended = True
            if self.of(live.slot) is live:
                self._put(live.slot, None)
            self.on_ended(now_ns, live)
        self._arm(live)

    def _arm(self, live: Live) -> None:
        """The queue's entry stands at the session's next deadline; an earlier one is left and looks again."""
        self._arm_at(live, driver.next_deadline(live.core))

    def _arm_at(self, live: Live, at: int | None) -> None:
        if at is None or (live.deadline_ns is not None and live.deadline_ns <= at):
            live.deadline_ns = live.deadline_ns if at is not None else None
            return
        self.due.arm(live, at)

    # --- out: binding and paths -------------------------------------------------------------------------------

    def open_paths(self, now_ns: int, live: Live) -> None:
        """The other end speaks jump frames: the data plane measures paths from now on, by this session's policy."""
        self._engine.open_paths(live.slot, now_ns)
        self._measure(now_ns, live)
        live.has_paths = True

    def change_policy(self, now_ns: int, live: Live, policy: Policy) -> None:
        """Another policy from the next decision on, audited; the data plane measures by it (session.md §4)."""
        self.feed(now_ns, live, inp.PolicyChanged(policy))
        if live.has_paths and not live.ended:
            self._measure(now_ns, live)

    def _measure(self, now_ns: int, live: Live) -> None:
        policy = live.core.policy
        self._engine.set_liveness(live.slot, policy.profile.interval_ns, now_ns)
        self._engine.set_thresholds(
            live.slot,
            loss_enter_ppm=policy.loss_enter_ppm,
            loss_exit_ppm=policy.loss_exit_ppm,
            latency_enter_us=policy.latency_enter_ns // 1000,
            latency_factor=policy.latency_factor,
            jitter_enter_us=policy.jitter_enter_ns // 1000,
            exit_ratio_ppm=policy.exit_ratio_ppm,
        )

    def bind_again(self, now_ns: int, live: Live) -> None:
        """Tell the data plane the paths and the binding the core has already."""
        for path in live.core.paths:
            to = live.at(path.address)
            if to is not None:
                self._engine.set_path(live.slot, path.path_id, to, now_ns)
        if live.core.bound_id:
            self._engine.bind(live.slot, live.core.bound_id, live.core.epoch, now_ns)

    def rehome(self, now_ns: int, live: Live, path_id: int, to: Endpoint) -> None:
        """A path has another socket, or its gateway's address another text: what the data plane sends goes by it."""
        if live.has_paths and live.core.path(path_id) is not None:
            self._engine.set_path(live.slot, path_id, to, now_ns)
        elif not live.has_paths and live.core.bound_id == path_id:
            self._engine.set_endpoint(live.slot, to, now_ns)

    def _nothing(self, now_ns: int, live: Live, effect: fx.Effect) -> None:
        """A path that retires only receives, and receiving goes by key: nothing to do."""

    def _switch_binding(self, now_ns: int, live: Live, effect: fx.SwitchBinding) -> None:
        to = live.at(effect.address)
        if to is None:
            return
        if live.has_paths:
            self._engine.set_path(live.slot, effect.path_id, to, now_ns)
            self._engine.bind(live.slot, effect.path_id, effect.epoch, now_ns)
        else:
            self._engine.set_endpoint(live.slot, to, now_ns)

    def _lend(self, now_ns: int, live: Live, path_id: int) -> None:
        """Nothing is bound: upstream data follows the request on that path, and is delivered by its key (§7)."""
        to = live.at(self._on_path(live, path_id))
        if live.has_paths and to is not None:
            self._engine.set_path(live.slot, path_id, to, now_ns)
            self._engine.lend(live.slot, path_id, now_ns)
            live.lends = True

    def _take_back(self, now_ns: int, live: Live) -> None:
        """The episode is over: its path is bound by now, or inner packets wait again."""
        live.lends = False
        if not live.core.bound_id and not live.core.ended:
            self._engine.clear_binding(live.slot, live.core.epoch, now_ns)

    def _clear_binding(self, now_ns: int, live: Live, effect: fx.ClearBinding) -> None:
        if live.has_paths:
            self._engine.clear_binding(live.slot, effect.epoch, now_ns)

    def _drop_path(self, now_ns: int, live: Live, effect: fx.DropPath) -> None:
        if live.has_paths:
            self._engine.drop_path(live.slot, effect.path_id)

    def _probe_path(self, now_ns: int, live: Live, effect: fx.ProbePath) -> None:
        path = live.core.path(effect.path_id)
        to = live.at(path.address) if path is not None else None
        if not live.has_paths or to is None:
            return
        self._engine.set_path(live.slot, effect.path_id, to, now_ns)
        self._engine.probe_path(live.slot, effect.path_id, effect.interval_ns, effect.report, now_ns)

    def _duplicate(self, now_ns: int, live: Live, effect: fx.DuplicateTraffic) -> None:
        if live.has_paths:
            self._engine.duplicate(live.slot, effect.path_id, effect.standby_id, effect.until_ns, now_ns)

    def _copy(self, now_ns: int, live: Live, effect: fx.CopyDownstream) -> None:
        to = live.at(effect.address)
        if to is not None:
            self._engine.copy_to(live.slot, to, effect.until_ns, now_ns)

    def _stop_copy(self, now_ns: int, live: Live, effect: fx.StopCopy) -> None:
        to = live.at(effect.address)
        if to is not None:
            self._engine.stop_copy(live.slot, to)

    # --- out: frames ------------------------------------------------------------------------------------------

    def send(self, now_ns: int, live: Live, address: str, *out: fr.Frame) -> None:
        """Control frames in one datagram to a named address; an unknown one is no longer ours to send to."""
        to = live.at(address)
        if to is not None:
            self._engine.send_control(live.slot, CURRENT_KEY, to, fr.encode(out), now_ns)

    def _on_path(self, live: Live, path_id: int) -> str:
        path = live.core.path(path_id)
        return path.address if path is not None else ""

    def _send_request(self, now_ns: int, live: Live, effect: fx.SendReattachRequest) -> None:
        request = fr.ReattachRequest(
            attempt_id=effect.attempt_id,
            binding_epoch=effect.epoch,
            path_id=effect.path_id,
            reason=int(effect.reason),
            forced=effect.forced,
        )
        before = (live.response,) if effect.with_response and live.response is not None else ()
        self.send(now_ns, live, self._on_path(live, effect.path_id), *before, request)
        if effect.carry_data:
            self._lend(now_ns, live, effect.path_id)

    def _send_ack(self, now_ns: int, live: Live, effect: fx.SendReattachAck) -> None:
        ack = fr.ReattachAck(attempt_id=effect.attempt_id, binding_epoch=effect.epoch, path_id=effect.path_id)
        self.send(now_ns, live, effect.address, ack)

    def _send_reject(self, now_ns: int, live: Live, effect: fx.SendReattachReject) -> None:
        reject = fr.ReattachReject(
            attempt_id=effect.attempt_id,
            reason=int(effect.reason),
            binding_epoch=effect.epoch,
            retry_after_ms=min(effect.retry_after_ns // 1_000_000, 0xFFFFFFFF),
        )
        self.send(now_ns, live, effect.address, reject)

    def _send_challenge(self, now_ns: int, live: Live, effect: fx.SendChallenge) -> None:
        nonce = self._random(fr.CHALLENGE_BYTES)
        live.challenged(nonce, effect.address, effect.path_id, now_ns)
        challenge = fr.Challenge(path_id=effect.path_id, rebind=effect.rebind, nonce=nonce)
        self.send(now_ns, live, effect.address, challenge)

    def _send_response(self, now_ns: int, live: Live, effect: fx.SendResponse) -> None:
        if live.response is not None:
            self.send(now_ns, live, self._on_path(live, effect.path_id), live.response)

    def _send_advice(self, now_ns: int, live: Live, effect: fx.SendAdvice) -> None:
        advice = fr.SwitchAdvice(reason=int(effect.reason), preferred_path_id=effect.preference)
        self.send(now_ns, live, self._on_path(live, effect.path_id), advice)

    def _send_ping(self, now_ns: int, live: Live, effect: fx.SendPing) -> None:
        if live.ping_token:
            self.send(now_ns, live, self._on_path(live, effect.path_id), fr.Ping(token=live.ping_token))

    def answer_ping(self, now_ns: int, live: Live, address: str, frame: fr.Ping) -> None:
        """The same token back to where the other end's PING came from; how often, the control rate says."""
        self.send(now_ns, live, address, fr.Pong(token=frame.token))

    def _send_terminate(self, now_ns: int, live: Live, effect: fx.SendTerminate) -> None:
        for _, address in effect.targets:
            self.send(now_ns, live, address, fr.Terminate(reason=int(effect.reason)))

    # --- out: keys --------------------------------------------------------------------------------------------

    def _start_handshake(self, now_ns: int, live: Live, effect: fx.StartHandshake) -> None:
        self.on_handshake(now_ns, live, live.at(self._on_path(live, effect.path_id)))

    def _initiate_to(self, now_ns: int, live: Live, effect: fx.InitiateTo) -> None:
        to = live.at(effect.address)
        if to is not None:
            self.on_handshake(now_ns, live, to)

    def _start_rekey(self, now_ns: int, live: Live, effect: fx.StartRekey) -> None:
        self.on_rekey(now_ns, live, live.at(self._on_path(live, effect.path_id)))

    def _erase_keys(self, now_ns: int, live: Live, effect: fx.EraseKeys) -> None:
        live.peer.renews = False
        if live.peer.config.protocol == "jump":  # the next session begins with a greeting too
            self._engine.mute(live.slot, True, now_ns)
        self._engine.erase_keys(live.slot, live.keep_index or self.successor(live))

    @staticmethod
    def successor(live: Live) -> int:
        """The keypair that a lifetime's end leaves: the next session's, if that handshake has been made."""
        core = live.core
        expired = core.history()[-1].reason is Reason.SESSION_TTL_EXPIRED
        fresh = core.stock and core.keys.born_ns >= next_begins_ns(core)
        return live.successor_index if expired and fresh else 0
