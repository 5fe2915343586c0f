# SPDX-License-Identifier: Apache-2.0
"""Everything that can happen to a session, a sentence each.

Rule: an input is either local (an operator, a timer, this host's own kernel) or was authenticated and passed the
replay window before it got here. What a stranger can cause is not an input. Each input is recorded, and replaying the
recorded ones through the machine gives the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.policy import Policy
from gateway.core.reasons import Reason
from gateway.core.states import Evidence, Tier


@dataclass(frozen=True, slots=True)
class Input:
    """Base of all inputs."""


# --- birth and handshakes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Confirmed(Input):
    """G: first transport message under the new keypair, from ``address``. C: the authenticated response (T1)."""

    address: str


@dataclass(frozen=True, slots=True)
class BirthFailed(Input):
    """The handshake was refused, or a newer initiation of the same peer replaced it (T2)."""

    reason: Reason = Reason.HANDSHAKE_FAIL


@dataclass(frozen=True, slots=True)
class HelloSeen(Input):
    """G: an authenticated HELLO for this session: a late one turns a stock session into a jump session in place."""

    path_id: int
    address: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Welcomed(Input):
    """C: WELCOME after a (re)handshake: the gateway's epoch, bound path (0 = none) and last accepted attempt_id."""

    epoch: int
    path_id: int
    attempt_id: int


# --- paths -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PathAdded(Input):
    """C: a socket for this path exists now. ``address`` names it in audit lines; the core never parses it."""

    path_id: int
    address: str
    carrier: str = "udp"
    tier: Tier = Tier.PRIMARY
    cost: int = 0


@dataclass(frozen=True, slots=True)
class PathRemoved(Input):
    """C: the socket is gone for good. G: the peer's PATH_CLOSE."""

    path_id: int


@dataclass(frozen=True, slots=True)
class LinkUp(Input):
    """The path's link, address or route is back; believed after it held 200 ms."""

    path_id: int


@dataclass(frozen=True, slots=True)
class PathLost(Input):
    """Evidence that the path is dead, at once, without a timer: this host's own word or the peer's authentic one."""

    path_id: int
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class PathHinted(Input):
    """The network says the path is broken (ICMP and the like): unauthenticated, so it only makes the path suspect."""

    path_id: int


@dataclass(frozen=True, slots=True)
class PathSuspected(Input):
    """Data was sent, nothing authenticated was heard for ``suspect_after``, and one probe went unanswered for a PTO."""

    path_id: int


@dataclass(frozen=True, slots=True)
class PathMissed(Input):
    """``misses`` probes in a row unanswered, over ``span_ns`` since the last answer; sent at each from the second.

    Evidence the core has by other frames (an ACK, a RESPONSE) may be newer; then it does not count as death yet.
    """

    path_id: int
    misses: int
    span_ns: int


@dataclass(frozen=True, slots=True)
class PathAnswered(Input):
    """An authenticated answer to our own probe, on this very path; ``streak`` good ones in a row so far."""

    path_id: int
    streak: int = 1


@dataclass(frozen=True, slots=True)
class PathMeasured(Input):
    """A measurement of one path: times in µs, loss in ppm over the loss window with its packets and losses."""

    path_id: int
    srtt_us: int
    rttvar_us: int
    jitter_us: int
    loss_ppm: int = 0
    packets: int = 0
    lost: int = 0
    rtt_samples: int = 0
    jitter_samples: int = 0


@dataclass(frozen=True, slots=True)
class PathCarries(Input):
    """The largest inner packet that padded probes got through on this path; ``limited``: the tunnel's own is larger."""

    path_id: int
    inner_bytes: int
    limited: bool


@dataclass(frozen=True, slots=True)
class PeerBinding(Input):
    """The other end's epoch and bound path (0 = none), from a probe or its answer; sent up when it changes."""

    epoch: int
    path_id: int


# --- reattachment ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReattachRequest(Input):
    """G: a REATTACH_REQUEST, seen from ``address`` (where a refusal goes; never what gets bound)."""

    attempt_id: int
    epoch: int
    path_id: int
    reason: Reason
    forced: bool
    address: str
    carrier: str = "udp"


@dataclass(frozen=True, slots=True)
class ReattachAck(Input):
    """C: the gateway bound ``path_id`` at ``epoch`` for that attempt."""

    attempt_id: int
    epoch: int
    path_id: int


@dataclass(frozen=True, slots=True)
class ReattachReject(Input):
    """C: the gateway refused that attempt; its current epoch, and when to ask again."""

    attempt_id: int
    reason: Reason
    epoch: int
    retry_after_ns: int = 0


@dataclass(frozen=True, slots=True)
class SwitchAdvice(Input):
    """C: the gateway asks for a switch (OPERATOR_SWITCH) or says that it has no binding (NOT_BOUND)."""

    reason: Reason
    path_id: int = 0


@dataclass(frozen=True, slots=True)
class ChallengeReceived(Input):
    """C: a CHALLENGE on the socket of ``path_id`` that names ``named_id`` (0 = the gateway does not know it)."""

    path_id: int
    named_id: int
    rebind: bool


@dataclass(frozen=True, slots=True)
class AddressSeen(Input):
    """G: an authenticated packet of ``path_id`` (0 = not named) came from an address not validated for it.

    ``copy``: a control message that the replay window dropped, within 1 s of the first; only earns a challenge.
    """

    path_id: int
    address: str
    carrier: str = "udp"
    copy: bool = False


@dataclass(frozen=True, slots=True)
class ChallengeAnswered(Input):
    """G: the right RESPONSE to the challenge sent to ``address``; ``path_id`` is the answering socket's."""

    address: str
    path_id: int
    rtt_ns: int


# --- operators, peers, keys, owner -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OperatorSwitch(Input):
    """An operator asks for a switch to ``path_id`` (0 = whichever is best). ``by`` names him, for the record alone."""

    path_id: int = 0
    by: str = ""


@dataclass(frozen=True, slots=True)
class OperatorPing(Input):
    """An operator measures ``path_id`` (0 = the bound one). The answer is no evidence: it moves nothing."""

    path_id: int = 0


@dataclass(frozen=True, slots=True)
class OperatorTerminate(Input):
    """An operator ends the session. ``by`` names him, for the record alone."""

    by: str = ""


@dataclass(frozen=True, slots=True)
class PeerTerminated(Input):
    """An authenticated TERMINATE."""


@dataclass(frozen=True, slots=True)
class Superseded(Input):
    """The same peer started a new instance."""


@dataclass(frozen=True, slots=True)
class KeyInstalled(Input):
    """A completed handshake of this session: a rekey changes neither id, binding nor epoch."""


@dataclass(frozen=True, slots=True)
class KeyUsage(Input):
    """Packets and bytes sealed under the current keypair so far."""

    packets: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RekeyRefused(Input):
    """The other end refused to rekey (authenticated)."""


@dataclass(frozen=True, slots=True)
class SuiteRefused(Input):
    """G: a HELLO offers no suite that the policy permits. C: WELCOME names one that was not offered."""


@dataclass(frozen=True, slots=True)
class SecurityViolation(Input):
    """An authenticated protocol impossibility."""

    detail: str


@dataclass(frozen=True, slots=True)
class OwnershipLost(Input):
    """G: nobody can prove ownership after the lease bound (OWNERSHIP_AMBIGUOUS), or an invariant broke."""

    reason: Reason
    owner_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Evicted(Input):
    """G: a bounded table must shed this session."""


@dataclass(frozen=True, slots=True)
class PolicyChanged(Input):
    """A new policy for this living session."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class Restarted(Input):
    """Own process restarted and found this session in the store (T22). Made by ``restore`` only."""


@dataclass(frozen=True, slots=True)
class PlainWireguard(Input):
    """The other end left our HELLO unanswered (C), or sent none in time (G): it speaks plain WireGuard.

    ``spoken``: it has spoken jump frames before, so somebody may be dropping them. ``required``: it has to speak them.
    """

    spoken: bool
    required: bool = False


# --- stock peers (protocol.md §2) --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StockSilent(Input):
    """Data sent, nothing authenticated back for 15 s: WireGuard's own rule, a stock session's only death."""


@dataclass(frozen=True, slots=True)
class StockHandshake(Input):
    """A handshake completed with the peer, confirmed from ``address``: a stock session's reattachment.

    ``path_id``: the client's number for the transport it went by; a gateway knows one path of a stock peer.
    """

    address: str
    path_id: int = 1


@dataclass(frozen=True, slots=True)
class StockAddressSeen(Input):
    """An authenticated packet of a stock peer from a new address; ``highest``: it moved the replay window's top."""

    address: str
    highest: bool
