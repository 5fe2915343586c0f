# SPDX-License-Identifier: Apache-2.0
"""The key lifecycle as the session sees it: deterministic triggers, no key material.

Rule: a rekey changes neither session_id, binding nor epoch. Keys that age out while nothing is bound never end a
session: the recovery window decides, and the next attempt begins with a handshake (session.md T19).
"""

from __future__ import annotations

from typing import Final

from gateway.constants import REKEY_ATTEMPT_TIME_NS
from gateway.core.policy import Policy

# A lost rekey is repeated by the handshake's own timers; this is when those give up.
REKEY_GIVE_UP_NS: Final = REKEY_ATTEMPT_TIME_NS


class KeyClock:
    """When the current keypair was made, when a rekey of it was asked for (0 = not), whether it was refused."""

    __slots__ = ("born_ns", "refused", "rekey_ns")

    def __init__(self, now_ns: int) -> None:
        self.born_ns = now_ns
        self.rekey_ns = 0
        self.refused = False

    def installed(self, now_ns: int) -> None:
        """A handshake completed."""
        self.born_ns, self.rekey_ns, self.refused = now_ns, 0, False


def used_up(policy: Policy, packets: int, size_bytes: int) -> str:
    """The trigger that use has reached, or empty."""
    if packets >= policy.rekey_after_packets:
        return "PACKETS"
    if policy.rekey_after_bytes and size_bytes >= policy.rekey_after_bytes:
        return "BYTES"
    return ""


def rekey_due_ns(keys: KeyClock, policy: Policy) -> int:
    """When age asks for a rekey, 0 = one is running."""
    return 0 if keys.rekey_ns else keys.born_ns + policy.rekey_after_ns


def unusable_ns(keys: KeyClock, policy: Policy) -> int:
    """From when nothing may be sealed or opened under the keypair."""
    return keys.born_ns + policy.reject_after_ns


def lost_due_ns(keys: KeyClock, policy: Policy) -> int:
    """When a bound session has no usable keypair and its rekey was refused or unanswered for 90 s; 0 = not in sight."""
    if not keys.rekey_ns:
        return 0
    gave_up = keys.rekey_ns if keys.refused else keys.rekey_ns + REKEY_GIVE_UP_NS
    return max(unusable_ns(keys, policy), gave_up)
