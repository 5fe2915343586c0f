# SPDX-License-Identifier: Apache-2.0
"""Every reason code the product can give. One primary code per transition or refusal; context goes in ``details``.

The names are the stable interface (session.md §3, §8). The numbers travel as u16 in frames and are packed in the
last-transitions ring, so a number is never reused and never changes; new codes are appended to their block.
"""

from __future__ import annotations

import enum


class Reason(enum.IntEnum):
    """A stable UPPER_SNAKE code with its wire number."""

    NONE = 0

    # --- transitions, in the order of the table ---
    HANDSHAKE_OK = 1
    HANDSHAKE_FAIL = 2
    BIRTH_TIMEOUT = 3
    LOSS_THRESHOLD_EXCEEDED = 10
    LATENCY_THRESHOLD_EXCEEDED = 11
    JITTER_THRESHOLD_EXCEEDED = 12
    HEARTBEAT_TIMEOUT = 13
    TRANSPORT_DEAD = 14
    OPERATOR_SWITCH = 20
    PREFERRED_PATH = 21
    BINDING_MISMATCH = 22
    PEER_REPORTED_INSTABILITY = 23
    NAT_REBIND = 24
    STOCK_ROAMING = 25
    LINK_DOWN = 26
    STABILITY_RESTORED = 30
    VOLATILITY_PERSISTED = 31
    SWITCH_RATE_LIMITED = 32
    COOLDOWN_ACTIVE = 33
    NO_CANDIDATE_TRANSPORT = 34
    RECOVERY_START = 40
    RECOVERY_RETRY = 41
    REATTACH_SUCCESS = 42
    REATTACH_REJECTED = 43
    REATTACH_TIMEOUT = 44
    ALL_TRANSPORTS_DEAD = 50
    POLICY_EXHAUSTED = 51
    RECOVERY_WINDOW_EXPIRED = 52
    SESSION_TTL_EXPIRED = 53
    OPERATOR_TERMINATED = 54
    PEER_TERMINATED = 55
    SUPERSEDED = 56
    KEY_EXPIRED = 57
    SECURITY_VIOLATION = 58
    OWNERSHIP_AMBIGUOUS = 59
    INVARIANT_VIOLATION = 60
    RESOURCE_EVICTED = 61
    OWNER_RESTARTED = 62

    # --- refusals and security classes ---
    HYSTERESIS_NOT_MET = 80
    POLICY_DENIED = 81
    RATE_LIMITED = 82
    PATH_VALIDATION_FAILED = 83
    NOT_BOUND = 84
    INSTANCE_CONFLICT = 85
    PROTOCOL_DOWNGRADE = 86
    AUTH_FAIL = 87
    REPLAY_DETECTED = 88
    STALE_EPOCH = 89
    SESSION_NOT_FOUND = 90
    SESSION_EXPIRED = 91
    OWNERSHIP_CONFLICT = 92
    INVALID_STATE_TRANSITION = 93
    PATH_SUPPRESSED = 94
    REBIND_AMBIGUOUS = 95
    DRAIN = 97
