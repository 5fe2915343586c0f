# SPDX-License-Identifier: Apache-2.0
"""The few words everything else in the core is written with: roles, states, classes of switch, kinds of evidence.

The rule of this file: names only. What a state means is session.md §2; how one is left is in ``transitions``.
"""

from __future__ import annotations

import enum
from typing import Final


class Role(enum.Enum):
    """Which end of the session runs this machine. The gateway is the authority on the binding."""

    CLIENT = "C"
    GATEWAY = "G"


class State(enum.IntEnum):
    """The six states of a session (architecture overview §3). The numbers are stored and never change."""

    BIRTH = 0
    ATTACHED = 1
    VOLATILE = 2
    DEGRADED = 3
    RECOVERING = 4
    TERMINATED = 5


LIVE: Final = (State.BIRTH, State.ATTACHED, State.VOLATILE, State.DEGRADED, State.RECOVERING)


class PathState(enum.IntEnum):
    """The order of a path's life (session.md §2). Decided by ``path.status`` and nowhere else."""

    CANDIDATE = 0
    PROBING = 1
    STANDBY = 2
    ACTIVE = 3
    RETIRING = 4
    DEAD = 5
    REJECTED = 6
    SUPPRESSED = 7


class Tier(enum.IntEnum):
    """``transport.priority`` of a path. NEVER means the policy rejects it."""

    PRIMARY = 0
    SECONDARY = 1
    BACKUP = 2
    NEVER = 3


class SwitchClass(enum.Enum):
    """Why the binding is replaced, as far as the limits care (session.md §1, §5)."""

    FORCED = "forced"
    DISCRETIONARY = "discretionary"
    REBIND = "rebind"


class Evidence(enum.Enum):
    """What proved a path dead. Everything here is local or authenticated: the network's word alone is not listed."""

    LINK_DOWN = "LINK_DOWN"
    ADDRESS_REMOVED = "ADDRESS_REMOVED"
    ROUTE_GONE = "ROUTE_GONE"
    LOCAL_ERROR = "LOCAL_ERROR"
    MISSES = "MISSES"
    PEER_CLOSED = "PEER_CLOSED"
    STOCK_SILENCE = "STOCK_SILENCE"
    CANDIDATE_EXPIRED = "CANDIDATE_EXPIRED"
    REMOVED = "REMOVED"


LOCAL_EVIDENCE: Final = frozenset(
    {Evidence.LINK_DOWN, Evidence.ADDRESS_REMOVED, Evidence.ROUTE_GONE, Evidence.LOCAL_ERROR}
)


class Phase(enum.Enum):
    """``recovery_phase``: C: probing (path unproven) or confirm (waits for the ACK); G: proof (path challenged)."""

    PROBING = "probing"
    PROOF = "proof"
    CONFIRM = "confirm"
