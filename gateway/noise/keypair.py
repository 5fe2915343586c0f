# SPDX-License-Identifier: Apache-2.0
"""When a keypair may seal, open, wants a successor, and how a successor takes over (whitepaper §6.1 to §6.3).

Rule: the packet path executes these rules in C; this file says what they are. `KeyRing` is the reference the
C implementation is compared with, and holds indices and times only, never a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway import constants as c


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How long and how far one keypair may be used, at our end."""

    rekey_after_time_ns: int = c.REKEY_AFTER_TIME_NS
    reject_after_time_ns: int = c.REJECT_AFTER_TIME_NS
    rekey_after_messages: int = c.REKEY_AFTER_MESSAGES
    reject_after_messages: int = c.REJECT_AFTER_MESSAGES
    # A receiver that seldom sends asks for a successor while a keepalive and one retransmission still fit in.
    rekey_on_receive_margin_ns: int = c.KEEPALIVE_TIMEOUT_NS + c.REKEY_TIMEOUT_NS

    def __post_init__(self) -> None:
        if not 0 < self.rekey_after_time_ns < self.reject_after_time_ns:
            raise ValueError("rekey_after_time must be positive and below reject_after_time")
        if not 0 < self.rekey_after_messages < self.reject_after_messages <= c.REJECT_AFTER_MESSAGES:
            raise ValueError("rekey_after_messages must be positive and below reject_after_messages")
        if not 0 <= self.rekey_on_receive_margin_ns < self.reject_after_time_ns:
            raise ValueError("reject_after_time leaves no room for a keepalive and a retransmission")


DEFAULT_LIMITS: Final = KeyLimits()


class KeyAge(NamedTuple):
    """What the rules look at. `created_ns` is when the handshake completed here."""

    local_index: int
    is_initiator: bool
    created_ns: int


def may_seal(limits: KeyLimits, key: KeyAge, now_ns: int, counter: int) -> bool:
    """Whether `counter`, the next to be sent, may still be sealed under the key (§6.2)."""
    return now_ns - key.created_ns < limits.reject_after_time_ns and counter < limits.reject_after_messages


def may_open(limits: KeyLimits, key: KeyAge, now_ns: int, counter: int) -> bool:
    """Whether a packet with this counter may still be accepted under the key (§6.2)."""
    return may_seal(limits, key, now_ns, counter)


def rekey_on_send(limits: KeyLimits, key: KeyAge, now_ns: int, counter: int) -> bool:
    """After sealing `counter`: whether to start a handshake. Age counts at the initiator only (§6.2)."""
    aged = key.is_initiator and now_ns - key.created_ns >= limits.rekey_after_time_ns
    return aged or counter > limits.rekey_after_messages


def rekey_on_receive(limits: KeyLimits, key: KeyAge, now_ns: int) -> bool:
    """After opening a packet: whether the initiator starts a handshake before the key dies (§6.2, 165 s)."""
    due_ns = limits.reject_after_time_ns - limits.rekey_on_receive_margin_ns
    return key.is_initiator and now_ns - key.created_ns >= due_ns


class KeyRing:
    """Previous, current and next keypair of one peer, and an older one where handshakes have crossed.

    Seal under `current`; open under all four. A method returns what it retired; its keys are wiped.
    """

    __slots__ = ("_crossed", "_heard", "_turn", "current", "next", "older", "previous")

    def __init__(self) -> None:
        self.previous: KeyAge | None = None
        self.current: KeyAge | None = None
        self.next: KeyAge | None = None
        self.older: KeyAge | None = None
        self._heard: dict[int, int] = {}  # local index -> turn of the last packet under it
        self._turn = 0
        # Keypairs that the other end may seal with for as long as they live, whatever we do.
        self._crossed: set[KeyAge] = set()

    def install(self, new: KeyAge) -> tuple[KeyAge, ...]:
        """A handshake completed. The initiator may send at once, the responder waits for the first packet."""
        if new.is_initiator:
            return self._take_over(new)
        before, self.next = self.next, new
        if before is not None:
            self._crossed.add(before)
        return self._retire(before, self.current)

    def confirm(self, local_index: int) -> tuple[KeyAge, ...]:
        """A packet authenticated under `local_index`; if that is `next`, the peer has the keys: rotate."""
        self._turn += 1
        retired: tuple[KeyAge, ...] = ()
        if self.next is not None and self.next.local_index == local_index:
            retired = self._take_over(self.next)
        if any(key.local_index == local_index for key in self.held()):
            self._heard[local_index] = self._turn
        return retired

    def _take_over(self, fresh: KeyAge) -> tuple[KeyAge, ...]:
        """With a `next` that is not the fresh one both sides have begun at once: the peer may already seal with that
        one, and goes on with what it had until then.
        """
        crossed = self.next if self.next != fresh else None
        older, previous, last = self.older, self.previous, self.current
        self.previous, self.older = (last, None) if crossed is None else (crossed, last)
        self.current, self.next = fresh, None
        # Two rotations ago: the peer has long moved on.
        retired = _present(older) + self._retire(previous, last)
        if crossed is not None:
            self._crossed.add(crossed)
        return retired

    def _retire(self, key: KeyAge | None, stays: KeyAge | None) -> tuple[KeyAge, ...]:
        """It stays open as `older` if its handshake crossed and the peer was heard under it later than under `stays`:
        that is what the peer seals with.
        """
        if key not in self._crossed or self._heard_at(key) <= self._heard_at(stays):
            return _present(key)
        key, self.older = self.older, key
        return _present(key)

    def _heard_at(self, key: KeyAge | None) -> int:
        """0 = never."""
        return self._heard.get(key.local_index, 0) if key is not None else 0

    def expire(self, limits: KeyLimits, now_ns: int) -> tuple[KeyAge, ...]:
        """Retire every keypair too old to seal or open anything."""
        dead = tuple(key for key in self.held() if not may_open(limits, key, now_ns, 0))
        self.previous = None if self.previous in dead else self.previous
        self.current = None if self.current in dead else self.current
        self.next = None if self.next in dead else self.next
        self.older = None if self.older in dead else self.older
        return dead

    def held(self) -> tuple[KeyAge, ...]:
        """The keypairs that can open packets."""
        return _present(self.older, self.previous, self.current, self.next)


def _present(*keys: KeyAge | None) -> tuple[KeyAge, ...]:
    return tuple(key for key in keys if key is not None)
