# SPDX-License-Identifier: Apache-2.0
"""WireGuard's timers as data (whitepaper §6). Nothing here runs; a shell arms its clock with these numbers.

Rule: a test or a configuration may change our end only; the defaults are the protocol's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway import constants as c
from gateway.noise.keypair import KeyLimits


@dataclass(frozen=True, slots=True)
class Timers:
    """Every interval of one peer, in nanoseconds."""

    rekey_after_time_ns: int = c.REKEY_AFTER_TIME_NS
    reject_after_time_ns: int = c.REJECT_AFTER_TIME_NS
    rekey_attempt_time_ns: int = c.REKEY_ATTEMPT_TIME_NS
    rekey_timeout_ns: int = c.REKEY_TIMEOUT_NS
    rekey_timeout_jitter_max_ns: int = c.REKEY_TIMEOUT_JITTER_MAX_NS
    keepalive_timeout_ns: int = c.KEEPALIVE_TIMEOUT_NS
    cookie_refresh_time_ns: int = c.COOKIE_REFRESH_TIME_NS
    initiation_interval_ns: int = c.INITIATION_INTERVAL_NS
    # 0 = off. An empty packet this long after the last one sent, to keep a NAT mapping open.
    persistent_keepalive_ns: int = 0
    rekey_after_messages: int = c.REKEY_AFTER_MESSAGES
    reject_after_messages: int = c.REJECT_AFTER_MESSAGES

    def __post_init__(self) -> None:
        if self.rekey_timeout_ns <= 0 or self.rekey_attempt_time_ns < self.rekey_timeout_ns:
            raise ValueError("a handshake attempt must last at least one retransmission interval")
        if min(self.keepalive_timeout_ns, self.cookie_refresh_time_ns) <= 0:
            raise ValueError("keepalive and cookie intervals must be positive")
        may_be_zero = (
            self.rekey_timeout_jitter_max_ns,
            self.initiation_interval_ns,
            self.persistent_keepalive_ns,
        )
        if min(may_be_zero) < 0:
            raise ValueError("an interval cannot be negative")
        self.key_limits()

    def key_limits(self) -> KeyLimits:
        """The part of the timers that one keypair lives by."""
        return KeyLimits(
            rekey_after_time_ns=self.rekey_after_time_ns,
            reject_after_time_ns=self.reject_after_time_ns,
            rekey_after_messages=self.rekey_after_messages,
            reject_after_messages=self.reject_after_messages,
            rekey_on_receive_margin_ns=self.new_handshake_ns,
        )

    @property
    def new_handshake_ns(self) -> int:
        """Data sent and nothing authenticated back for this long: start a handshake (§6.5, 15 s)."""
        return self.keepalive_timeout_ns + self.rekey_timeout_ns

    @property
    def erase_keys_ns(self) -> int:
        """No new keypair for this long: drop every key and ephemeral of the peer (§6.3, 9 min)."""
        return 3 * self.reject_after_time_ns


DEFAULT: Final = Timers()
