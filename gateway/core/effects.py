# SPDX-License-Identifier: Apache-2.0
"""What the core asks its shell to do. Effects are carried out in order, after the transition they belong to.

Rule: an effect names *what*, never *how*: no sockets, no key bytes, no random bytes. A send that fails is the
network's business; the core repeats what needs repeating.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Effect:
    """Base of all effects."""


@dataclass(frozen=True, slots=True)
class SwitchBinding(Effect):
    """Send downstream (G) or upstream (C) by this path from now on; tell the data plane epoch and path_id."""

    path_id: int
    address: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ClearBinding(Effect):
    """Nothing is bound: send control frames only."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RetirePath(Effect):
    """Receive only on this path until ``until_ns``; it is a standby afterwards."""

    path_id: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class DropPath(Effect):
    """Forget the path and its measurements (G: it expired; C: its socket is gone)."""

    path_id: int


@dataclass(frozen=True, slots=True)
class ProbePath(Effect):
    """Probe this path at this interval (ns); 0 = the session's profile.

    ``report``: send up each measurement. Without it only what crosses a threshold, falls silent or returns, and one
    measurement per path and second for the scores.
    """

    path_id: int
    interval_ns: int
    report: bool


@dataclass(frozen=True, slots=True)
class DuplicateTraffic(Effect):
    """Send the same ciphertext on both paths until ``until_ns`` (§6: at most 2 s in any 10 s); now = stop."""

    path_id: int
    standby_id: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class SendReattachRequest(Effect):
    """REATTACH_REQUEST on that path. ``with_response``: in one datagram with the RESPONSE to a rebind challenge.

    ``carry_data``: nothing is bound, so upstream data may already follow it there (§7); the gateway delivers by key.
    """

    path_id: int
    attempt_id: int
    epoch: int
    reason: Reason
    forced: bool
    with_response: bool = False
    carry_data: bool = False


@dataclass(frozen=True, slots=True)
class SendReattachAck(Effect):
    """REATTACH_ACK, on the path that was bound."""

    attempt_id: int
    epoch: int
    path_id: int
    address: str


@dataclass(frozen=True, slots=True)
class SendReattachReject(Effect):
    """REATTACH_REJECT to where the request came from, with the current epoch."""

    attempt_id: int
    reason: Reason
    epoch: int
    retry_after_ns: int
    address: str


@dataclass(frozen=True, slots=True)
class SendChallenge(Effect):
    """CHALLENGE with 8 fresh random bytes, tied to this exact address; padded within the anti-amplification budget."""

    address: str
    path_id: int
    rebind: bool


@dataclass(frozen=True, slots=True)
class SendResponse(Effect):
    """RESPONSE on the socket where the CHALLENGE came in."""

    path_id: int


@dataclass(frozen=True, slots=True)
class SendAdvice(Effect):
    """SWITCH_ADVICE on that path: the reason, and the path preferred (0 = any)."""

    path_id: int
    reason: Reason
    preference: int


@dataclass(frozen=True, slots=True)
class SendPing(Effect):
    """One PING on that path, with the operator's token."""

    path_id: int


@dataclass(frozen=True, slots=True)
class CopyDownstream(Effect):
    """Copy downstream to an address under validation, within the ×factor budget, until ``until_ns``."""

    address: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class StopCopy(Effect):
    """Stop copying downstream to that address."""

    address: str


@dataclass(frozen=True, slots=True)
class StartHandshake(Effect):
    """Send one handshake initiation on that path (0 = the last confirmed endpoint)."""

    path_id: int


@dataclass(frozen=True, slots=True)
class InitiateTo(Effect):
    """Stock roaming: send a handshake initiation to that address, within the anti-amplification budget."""

    address: str


@dataclass(frozen=True, slots=True)
class StartRekey(Effect):
    """Begin a rekey by that path (0 = any); why is in ``trigger`` (TIME, PACKETS, BYTES)."""

    trigger: str
    path_id: int


@dataclass(frozen=True, slots=True)
class SendTerminate(Effect):
    """TERMINATE once on every validated path (path_id, address), before the keys are erased."""

    targets: tuple[tuple[int, str], ...]
    reason: Reason


@dataclass(frozen=True, slots=True)
class EraseKeys(Effect):
    """Erase every key of this session. Nothing can be sent or received afterwards."""


@dataclass(frozen=True, slots=True)
class Persist(Effect):
    """Hand the session's record to the durable store before the effects that follow. They do not wait for the disk."""
