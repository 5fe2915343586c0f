# SPDX-License-Identifier: Apache-2.0
"""The pure core: sessions that outlive their transports.

Rule: no I/O, no clock, no randomness. Time (``now_ns``) is an argument, inputs arrive authenticated, effects are handed
back. A shell needs ``create``, ``receive``, ``timer_due``, ``next_deadline``, ``snapshot`` and ``restore``;
everything else is data (``inputs``, ``effects``, ``events``, ``policy``) or the machine itself.
"""

from __future__ import annotations

from gateway.core.driver import (
    First,
    Stored,
    create,
    next_deadline,
    receive,
    receive_all,
    recovery_phase,
    restore,
    snapshot,
    timer_due,
)
from gateway.core.policy import Policy, policy_hash, problems
from gateway.core.reasons import Reason
from gateway.core.session import Session, Turn
from gateway.core.states import Role, State

__all__ = [
    "First",
    "Policy",
    "Reason",
    "Role",
    "Session",
    "State",
    "Stored",
    "Turn",
    "create",
    "next_deadline",
    "policy_hash",
    "problems",
    "receive",
    "receive_all",
    "recovery_phase",
    "restore",
    "snapshot",
    "timer_due",
]
