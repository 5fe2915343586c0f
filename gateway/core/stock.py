# SPDX-License-Identifier: Apache-2.0
"""Stock sessions: a WireGuard peer that knows no jump frames has the same six states and one implicit path.

Rule: silence of an idle peer is not death; death is WireGuard's own rule, and a completed handshake is the
reattachment (protocol.md §2). What moves its address is the peer's ``roaming`` policy, audited as STOCK_ROAMING:
"handshake" only where a handshake completes, "wireguard" on the highest counter but two tokens a move, "never" never.
"""

from __future__ import annotations

from typing import Final

from gateway.constants import NS_PER_S
from gateway.core import budget as limits
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.path import DEAD, VALIDATED, Path
from gateway.core.policy import Policy, Roaming
from gateway.core.reasons import Reason
from gateway.core.session import Session, Turn
from gateway.core.states import Evidence, Role, State, SwitchClass, Tier
from gateway.core.switching import Commit, commit, path_died
from gateway.core.transitions import Trigger

IMPLICIT_PATH_ID: Final = 1
# A copied packet may cost us one initiation per 5 s, not one per packet.
INITIATE_EVERY_NS: Final = 5 * NS_PER_S
# The next session's handshake begins that long before a lifetime ends (protocol.md §2), and is repeated that often.
NEXT_BEFORE_NS: Final = 5 * NS_PER_S
NEXT_EVERY_NS: Final = NS_PER_S
# Moving away from where the last handshake was costs two tokens: a forwarder cannot use up the owner's way back.
ROAM_TOKENS: Final = 2


def on_plain(s: Session, turn: Turn, seen: inp.PlainWireguard) -> None:
    """Served as a stock peer from now on, audited if that is less than it could; never if it must not be.

    A client cannot know who is silent, so it goes on asking; a gateway has the peer's own authentic word.
    """
    if seen.required:
        s.alarm(turn, Reason.PROTOCOL_DOWNGRADE, "no jump frames from a peer that must speak them")
        if s.role is Role.GATEWAY:
            s.step(turn, Trigger.KEY_LOST, Reason.SECURITY_VIOLATION, s.facts(turn.now_ns, proven=True))
        return
    s.stock = True
    if seen.spoken:
        s.alarm(turn, Reason.PROTOCOL_DOWNGRADE, "no jump frames from a peer that has spoken them before")


def on_silent(s: Session, turn: Turn, _: inp.StockSilent) -> None:
    active = s.active
    if s.stock and active is not None:
        path_died(s, turn, active, Evidence.STOCK_SILENCE)


def on_handshake(s: Session, turn: Turn, seen: inp.StockHandshake) -> None:
    """The reattachment of a lost stock session, or the only thing that moves a "handshake" peer's address.

    A client's handshakes go where its own transports lead, so ``roaming`` is a gateway's question.
    """
    s.heard_ns = turn.now_ns
    s.keys.installed(turn.now_ns)
    path = _handshake_path(s, turn, seen)
    if not s.stock or path is None or s.state is State.BIRTH:
        return
    home = seen.address == path.address
    if s.role is Role.GATEWAY and s.policy.roaming is Roaming.NEVER and not home:
        s.alarm(turn, Reason.POLICY_DENIED, f"roaming is off; refused {seen.address}")
        return
    path.set(VALIDATED)
    path.clear(DEAD)
    path.heard_ns = turn.now_ns
    if s.home != seen.address:
        turn.effects.append(fx.StopCopy(seen.address))
    s.home = seen.address
    if not s.bound_id:
        _move(s, turn, path, seen.address, Reason.PEER_REPORTED_INSTABILITY)
    elif path is not s.active or not home:
        _move(s, turn, path, seen.address, Reason.STOCK_ROAMING)


def _handshake_path(s: Session, turn: Turn, seen: inp.StockHandshake) -> Path | None:
    """The path a handshake went by. A client's has the transport's number, so that a late WELCOME finds it right."""
    path = s.path(seen.path_id)
    if path is not None or s.role is Role.GATEWAY or not s.stock:
        return path
    if s.paths:
        s.rename(s.paths[0], seen.path_id)
    else:
        s.paths = (Path(seen.path_id, seen.address, "udp", Tier.PRIMARY, 0, turn.now_ns),)
    return s.paths[0]


def next_begins_ns(s: Session) -> int:
    """From when on a completed handshake is the next session's."""
    return s.born_ns + s.policy.max_lifetime_ns - NEXT_BEFORE_NS


def next_due_ns(s: Session) -> int:
    """When the peer is called for the session after this one, 0 = it has its key, or nobody is there to call."""
    begins_ns = next_begins_ns(s)
    if not s.stock or not s.bound_id or s.keys.born_ns >= begins_ns:
        return 0
    return max(begins_ns, s.next_ns)


def call_next(s: Session, turn: Turn) -> None:
    """A phone would notice the end of its session 15 s late; so its next handshake comes before."""
    due = next_due_ns(s)
    if due and due <= turn.now_ns:
        s.next_ns = turn.now_ns + NEXT_EVERY_NS
        turn.effects.append(fx.StartHandshake(IMPLICIT_PATH_ID))


def _move(s: Session, turn: Turn, path: Path, address: str, reason: Reason) -> None:
    moved = address if address != path.address else ""
    what = Commit(0, path.path_id, s.epoch + 1, reason, SwitchClass.REBIND, moved)
    commit(s, turn, what, turn.now_ns - s.entered_ns if not s.bound_id else 0)


def on_address_seen(s: Session, turn: Turn, seen: inp.StockAddressSeen) -> None:
    """An authenticated packet from a new address: a hint, or under "wireguard" the move itself."""
    s.heard_ns = turn.now_ns
    active = s.active
    if not s.stock or active is None or active.address == seen.address:
        return
    if s.policy.roaming is Roaming.HANDSHAKE:
        _initiate(s, turn, seen.address)
    elif s.policy.roaming is Roaming.WIREGUARD and seen.highest:
        _roam(s, turn, active, seen.address)


def _initiate(s: Session, turn: Turn, address: str) -> None:
    if s.handshake_ns and turn.now_ns < s.handshake_ns:
        return
    s.handshake_ns = turn.now_ns + INITIATE_EVERY_NS
    turn.effects.append(fx.InitiateTo(address))
    turn.effects.append(fx.CopyDownstream(address, turn.now_ns + s.policy.slot_ttl_ns))


def _roam(s: Session, turn: Turn, active: Path, address: str) -> None:
    """Back home is never delayed; away costs two tokens of the switch budget."""
    if address != s.home:
        if not may_roam(s.budget, s.policy, turn.now_ns):
            s.alarm(turn, Reason.SWITCH_RATE_LIMITED, f"stock peer moves too often; stays, refused {address}")
            return
        for _ in range(ROAM_TOKENS):
            s.budget.spend(SwitchClass.FORCED, turn.now_ns)
    _move(s, turn, active, address, Reason.STOCK_ROAMING)


def may_roam(budget: limits.Budget, policy: Policy, now_ns: int) -> bool:
    """Whether two tokens are left beside the reserve."""
    return budget.used(now_ns) + ROAM_TOKENS <= policy.max_switches_per_min - policy.reserved
