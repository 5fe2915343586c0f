# SPDX-License-Identifier: Apache-2.0
"""How full what is bounded is, for /metrics: entries and limit of what grows with peers, sessions or a flood.

What the data plane refuses for want of room is in jvpn_drops_total (ring_…_full, staging_full), and what store and
journal could not take in their lost counters.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.control.auditlog import CAPACITY
from gateway.control.observed import Observed
from gateway.control.store import PENDING_MAX
from gateway.ops.stats.text import Text

# See duequeue.py: what is armed, what was armed before, and what is about to be swept.
_ENTRIES_PER_TIMER: Final = 3
# Two rings of 256 KB (csrc); the shortest message, a cookie reply, takes 160 bytes of one.
_HANDSHAKES_MAX: Final = 2 * (1 << 18) // 160


class Fill(NamedTuple):
    """One table. ``limit`` is what it can never exceed."""

    entries: int
    limit: int


def fills(seen: Observed) -> dict[str, Fill]:
    """Every table by its name."""
    tunnel, limits = seen.tunnel, seen.tunnel.limits
    timers = _ENTRIES_PER_TIMER * limits.peers
    return {
        "peers": Fill(len(tunnel.peers), limits.peers),
        "sessions": Fill(len(seen.sessions), limits.peers),
        "session_timers": Fill(len(seen.sessions.due), timers),
        "handshake_timers": Fill(len(tunnel.exchange.due), timers),
        "handshakes_waiting": Fill(tunnel.engine.handshakes_waiting, _HANDSHAKES_MAX),
        "audit_turns": Fill(seen.records.audit.queued, CAPACITY),
        "store_changes": Fill(seen.records.store.pending, PENDING_MAX),
    }


def tables(text: Text, seen: Observed) -> None:
    """Two families, so that one divided by the other is how full a table is."""
    found = fills(seen)
    entries = {name: float(fill.entries) for name, fill in found.items()}
    limits = {name: float(fill.limit) for name, fill in found.items()}
    text.each("jvpn_table_entries", "gauge", "Entries of a bounded table.", "table", entries)
    text.each("jvpn_table_limit", "gauge", "How many it can ever have.", "table", limits)
