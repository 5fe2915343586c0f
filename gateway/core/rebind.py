# SPDX-License-Identifier: Apache-2.0
"""Address validation at the gateway: slots, challenges, the old path's challenge, and the way back (session.md §7).

Rule: an address is believed when the right RESPONSE to a challenge sent to it came in *and* the path's last validated
address has been silent for a PTO since it was challenged too. If the old one answers, the path stays: that defeats an
attacker who forwards packets from his own address (RFC 9000 §9.3.3). Nothing here allocates for a stranger: an address
gets a slot only after a packet from it authenticated, and a session has at most ``security.unvalidated_slots``.

This file keeps the books; which effects and transitions follow is ``gateway``'s business.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core.policy import Policy

MAX_SENDS: Final = 3
OLD_AGAIN_NS: Final = 20 * NS_PER_MS
# A full table gives up the oldest slot only if it has been silent this long.
GIVE_WAY_NS: Final = 300 * NS_PER_MS
AGAIN_AFTER_NS: Final = NS_PER_S
REVERT_AT_NS: Final = (1 * NS_PER_S, 2 * NS_PER_S, 4 * NS_PER_S, 8 * NS_PER_S)


class Kind(enum.Enum):
    """Why an address is being challenged."""

    NEW = "a new address, of a known path or of an unknown one"
    OLD = "the last validated address of a path that was seen elsewhere"
    REVERT = "the address a path had before its last rebind"
    AGAIN = "a known path that fell silent and was heard again"


class Slot:
    """One address under validation."""

    __slots__ = (
        "address",
        "answered_ns",
        "believed",
        "carrier",
        "first_ns",
        "kind",
        "last_ns",
        "late",
        "next_ns",
        "path_id",
        "rtt_ns",
        "seen_ns",
        "sends",
    )

    def __init__(self, kind: Kind, path_id: int, address: str, carrier: str, now_ns: int) -> None:
        self.kind = kind
        self.path_id = path_id  # 0 = not named yet
        self.address = address
        self.carrier = carrier
        self.first_ns = now_ns
        self.seen_ns = now_ns
        self.next_ns = now_ns  # of the next challenge, 0 = no more
        self.sends = 0
        self.last_ns = 0  # of the last challenge
        self.answered_ns = 0
        self.rtt_ns = 0
        self.late = (
            False  # named only after a challenge had left without a path: the client has yet to ask for it
        )
        self.believed = False  # the verdict is in; a bound path still waits for its request

    def sent(self, now_ns: int, pto_ns: int) -> None:
        """A challenge went out: three, a PTO apart; the old address again after 20 ms; a revert at 1, 2, 4, 8 s."""
        self.sends += 1
        self.last_ns = now_ns
        if self.kind is Kind.REVERT:
            last = self.sends >= len(REVERT_AT_NS)
            self.next_ns = 0 if last else self.first_ns + REVERT_AT_NS[self.sends]
        elif self.sends >= MAX_SENDS:
            self.next_ns = 0
        else:
            quick = self.kind is Kind.OLD and self.sends == 1
            self.next_ns = now_ns + (OLD_AGAIN_NS if quick else pto_ns)

    def name(self, path_id: int, now_ns: int) -> None:
        """What came from here named no path so far (data does not): challenge it anew as that path's."""
        self.path_id, self.late = path_id, True
        self.sends, self.next_ns = 0, now_ns

    def again(self, now_ns: int) -> None:
        """The three challenges went unanswered but the address is heard again: three more, at most once a second."""
        if (
            self.next_ns
            or self.answered_ns
            or self.kind is Kind.REVERT
            or now_ns - self.last_ns < AGAIN_AFTER_NS
        ):
            return
        self.sends, self.next_ns = 0, now_ns

    def ends_ns(self, policy: Policy) -> int:
        """When this slot is given up."""
        return self.first_ns + (REVERT_AT_NS[-1] if self.kind is Kind.REVERT else 0) + policy.slot_ttl_ns


class Outcome(enum.Enum):
    """Where the inquiry about one path stands."""

    OPEN = "no verdict yet"
    STAY = "the old address answered"
    MOVE = "a new address is believed"


class Inquiry:
    """All slots of one session."""

    __slots__ = ("slots",)

    def __init__(self) -> None:
        self.slots: tuple[Slot, ...] = ()

    def at(self, address: str) -> Slot | None:
        for slot in self.slots:
            if slot.address == address:
                return slot
        return None

    def of(self, path_id: int, kind: Kind) -> list[Slot]:
        return [slot for slot in self.slots if slot.path_id == path_id and slot.kind is kind]

    def unvalidated(self) -> list[Slot]:
        """The slots that count against the limit: what no challenge has proven and no path owned before."""
        return [slot for slot in self.slots if slot.kind is Kind.NEW]

    def add(self, slot: Slot) -> None:
        self.slots = (*self.slots, slot)

    def drop(self, gone: Iterable[Slot]) -> None:
        dropped = {id(slot) for slot in gone}
        self.slots = tuple(slot for slot in self.slots if id(slot) not in dropped)


def admit(inquiry: Inquiry, policy: Policy, now_ns: int) -> bool:
    """Make room for a new address if the limit allows: the oldest that has been silent for 300 ms gives way."""
    waiting = [slot for slot in inquiry.unvalidated() if not slot.answered_ns]
    if len(inquiry.unvalidated()) < policy.unvalidated_slots:
        return True
    idle = [slot for slot in waiting if now_ns - slot.seen_ns >= GIVE_WAY_NS]
    if not idle:
        return False
    inquiry.drop([min(idle, key=lambda slot: slot.first_ns)])
    return True


def judge(inquiry: Inquiry, path_id: int, pto_ns: int, now_ns: int) -> tuple[Outcome, Slot | None]:
    """The verdict on one path and, for MOVE, the slot believed: lowest challenge round trip, then first seen."""
    old = inquiry.of(path_id, Kind.OLD)
    if any(slot.answered_ns for slot in old):
        return Outcome.STAY, None
    answered = [slot for slot in inquiry.of(path_id, Kind.NEW) if slot.answered_ns]
    if not answered or any(now_ns < slot.first_ns + pto_ns for slot in old):
        return Outcome.OPEN, None
    return Outcome.MOVE, min(answered, key=lambda slot: (slot.rtt_ns, slot.first_ns, slot.address))


def verdict_due_ns(inquiry: Inquiry, path_id: int, pto_ns: int) -> int:
    """When the old address will have been silent long enough for an answered new one, 0 = nothing to wait for."""
    old = inquiry.of(path_id, Kind.OLD)
    answered = any(slot.answered_ns for slot in inquiry.of(path_id, Kind.NEW))
    return max(slot.first_ns for slot in old) + pto_ns if old and answered else 0
