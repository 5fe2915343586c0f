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
    """Previous, current and next keypair of one peer. A method returns what it retired; its keys are wiped.

    Seal under `current`; open under all three.
    """

    __slots__ = ("current", "next", "previous")

    def __init__(self) -> None:
        self.previous: KeyAge | None = None
        self.current: KeyAge | None = None
        self.next: KeyAge | None = None

    def install(self, new: KeyAge) -> tuple[KeyAge, ...]:
        """A handshake completed. The initiator may send at once, the responder waits for the first packet."""
        if not new.is_initiator:
            retired = self.next, self.previous
            self.next, self.previous = new, None
        elif self.next is not None:
            # Both sides began at once: the peer may already send under `next`, so that one survives.
            retired = self.current, self.previous
            self.previous, self.current, self.next = self.next, new, None
        else:
            retired = None, self.previous
            self.previous, self.current = self.current, new
        return _present(*retired)

    def confirm(self, local_index: int) -> tuple[KeyAge, ...]:
        """A packet authenticated under `local_index`; if that is `next`, the peer has the keys: rotate."""
        if self.next is None or self.next.local_index != local_index:
            return ()
        retired = self.previous
        self.previous, self.current, self.next = self.current, self.next, None
        return _present(retired)

    def expire(self, limits: KeyLimits, now_ns: int) -> tuple[KeyAge, ...]:
        """Retire every keypair too old to seal or open anything."""
        dead = tuple(key for key in self.held() if not may_open(limits, key, now_ns, 0))
        self.previous = None if self.previous in dead else self.previous
        self.current = None if self.current in dead else self.current
        self.next = None if self.next in dead else self.next
        return dead

    def held(self) -> tuple[KeyAge, ...]:
        """The keypairs that can open packets."""
        return _present(self.previous, self.current, self.next)


def _present(*keys: KeyAge | None) -> tuple[KeyAge, ...]:
    return tuple(key for key in keys if key is not None)
