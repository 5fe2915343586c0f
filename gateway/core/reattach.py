# SPDX-License-Identifier: Apache-2.0
"""Reattachment: what an attempt is at each end, and the gateway's ordered checks (session.md §7).

Rule: a check fails closed and changes nothing. Checks 0–5 (length, receiver, tag, replay, rate) happened before an
input existed; here are 6 to 9, in order, as one pure function. The commit (10) is the caller's, in one piece.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Final, NamedTuple

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core.policy import Policy
from gateway.core.reasons import Reason
from gateway.core.states import SwitchClass

ADVANCE_MIN_NS: Final = 300 * NS_PER_MS
ADVANCE_MAX_NS: Final = 1500 * NS_PER_MS
RESEND_MAX_NS: Final = NS_PER_S
# After max_attempts fast episodes one per 5 s until the window ends, never none.
SLOW_EPISODE_NS: Final = 5 * NS_PER_S
# A client that heard nothing for 1 s starts a handshake beside its attempts: the gateway may have lost its keys.
DEAF_NS: Final = NS_PER_S
ADVICE_EVERY_NS: Final = 250 * NS_PER_MS
ADVICE_FOR_NS: Final = 2500 * NS_PER_MS


class Ask(NamedTuple):
    """What an operator asked for: a path (0 = whichever is best), until when (G: how long to advise)."""

    path_id: int
    until_ns: int
    reason: Reason


class Better(NamedTuple):
    """A path that has been better by the margin since then."""

    path_id: int
    since_ns: int


class Accepted(NamedTuple):
    """G: what the last accepted attempt led to, so that a lost ACK can be given again."""

    epoch: int
    path_id: int


class Episode:
    """C: one stay in RECOVERING. It may hold several attempts, each on one path; one runs at a time."""

    __slots__ = (
        "advance_ns",
        "deadline_ns",
        "gap_ns",
        "path_id",
        "reason",
        "resend_ns",
        "start_ns",
        "switch_class",
        "target_id",
        "tries",
    )

    def __init__(
        self, switch_class: SwitchClass, reason: Reason, target_id: int, now_ns: int, timeout_ns: int
    ) -> None:
        self.switch_class = switch_class
        self.reason = reason
        self.target_id = target_id  # 0 = any eligible path
        self.start_ns = now_ns
        self.deadline_ns = now_ns + timeout_ns
        self.path_id = 0  # of the running attempt
        self.tries = 0
        self.resend_ns = 0
        self.gap_ns = 0
        self.advance_ns = 0

    def aim(self, path_id: int, pto_ns: int, now_ns: int) -> None:
        """A new attempt starts on that path."""
        self.path_id = path_id
        self.tries += 1
        self.gap_ns = pto_ns
        self.resend_ns = now_ns + pto_ns
        self.advance_ns = now_ns + max(ADVANCE_MIN_NS, min(ADVANCE_MAX_NS, 3 * pto_ns))

    def resent(self, now_ns: int) -> None:
        """The same request went out again: after a PTO, doubling to 1 s."""
        self.gap_ns = min(RESEND_MAX_NS, 2 * self.gap_ns)
        self.resend_ns = now_ns + self.gap_ns


class RebindTry:
    """C: the request that answered a rebind challenge. No state moves before its ACK."""

    __slots__ = ("attempt_id", "gap_ns", "path_id", "resend_ns", "until_ns")

    def __init__(self, attempt_id: int, path_id: int, pto_ns: int, now_ns: int, timeout_ns: int) -> None:
        self.attempt_id = attempt_id
        self.path_id = path_id
        self.gap_ns = pto_ns
        self.resend_ns = now_ns + pto_ns
        self.until_ns = now_ns + timeout_ns

    def resent(self, now_ns: int) -> None:
        self.gap_ns = min(RESEND_MAX_NS, 2 * self.gap_ns)
        self.resend_ns = now_ns + self.gap_ns


class Pending(NamedTuple):
    """G: a valid request whose path is not proven yet."""

    attempt_id: int
    epoch: int
    path_id: int
    reason: Reason
    forced: bool
    address: str
    deadline_ns: int


class Ruling(enum.Enum):
    """What the gateway does with a request."""

    REPEAT_ACK = "the last accepted attempt: the same ACK again"
    DROP = "an older attempt: dropped, nothing is said"
    REJECT = "refused with a reason"
    PROVE = "valid, its path is still unproven"
    COMMIT = "valid and proven"


class Standing(NamedTuple):
    """What the checks need to know of the session, gathered once."""

    last_attempt_id: int
    pending_attempt_id: int
    epoch: int
    carrier_allowed: bool
    budget_allowed: bool
    proven: bool
    rebind_lost: bool  # a NAT_REBIND whose inquiry did not believe the new address


def check(attempt_id: int, epoch: int, standing: Standing) -> tuple[Ruling, Reason]:
    """Checks 7, 8 and 9 of session.md §7, in order; 6 (live, lifetime, window) was judged before any input."""
    if attempt_id == standing.last_attempt_id:
        return Ruling.REPEAT_ACK, Reason.NONE
    if attempt_id < max(standing.last_attempt_id, standing.pending_attempt_id):
        return Ruling.DROP, Reason.NONE
    if epoch != standing.epoch:
        return Ruling.REJECT, Reason.STALE_EPOCH
    if not standing.carrier_allowed:
        return Ruling.REJECT, Reason.POLICY_DENIED
    if not standing.budget_allowed:
        return Ruling.REJECT, Reason.RATE_LIMITED
    if standing.rebind_lost:
        return Ruling.REJECT, Reason.PATH_VALIDATION_FAILED
    return (Ruling.COMMIT, Reason.NONE) if standing.proven else (Ruling.PROVE, Reason.NONE)


def spread_ns(session_id: bytes, attempt: int, span_ns: int) -> int:
    """0..span_ns, the same for the same session and attempt: storms are spread without randomness."""
    digest = hashlib.blake2s(session_id + attempt.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % (span_ns + 1)


def backoff_ns(policy: Policy, session_id: bytes, episodes: int, attempt_id: int) -> int:
    """The wait after the ``episodes``-th episode: 200 ms doubling to 3 s, then 5 s; plus up to a quarter of it."""
    if episodes >= policy.max_attempts:
        base = SLOW_EPISODE_NS
    else:
        base = min(policy.backoff_max_ns, policy.backoff_min_ns << min(max(episodes - 1, 0), 16))
    return base + spread_ns(session_id, attempt_id, base // 4)
