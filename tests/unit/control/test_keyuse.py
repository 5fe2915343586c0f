# SPDX-License-Identifier: Apache-2.0
"""What the current keypair has carried, counted from totals that never go back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.control.keyuse import KeyUse

if TYPE_CHECKING:
    from gateway.dataplane.engine import SessionStats


def _stats(birth_ns: int, tx: tuple[int, int], rx: tuple[int, int]) -> SessionStats:
    return {
        "rx_packets": rx[0],
        "rx_bytes": rx[1],
        "tx_packets": tx[0],
        "tx_bytes": tx[1],
        "latest_handshake_ns": birth_ns,
        "key_birth_ns": birth_ns,
        "has_current": True,
        "has_next": False,
        "has_previous": False,
        "has_older": False,
        "staged": 0,
        "window_packets": 8128,
    }


def test_counts_from_the_first_look_at_a_keypair() -> None:
    use = KeyUse()
    assert use.busier_direction(_stats(1, (100, 9000), (50, 4000))) == (0, 0)
    assert use.busier_direction(_stats(1, (107, 9900), (52, 4100))) == (7, 900)


def test_both_ends_see_the_same_usage() -> None:
    """What one end sent the other received: each looks at the direction that carried more."""
    client, gateway = KeyUse(), KeyUse()
    client.busier_direction(_stats(1, (0, 0), (0, 0)))
    gateway.busier_direction(_stats(1, (0, 0), (0, 0)))
    up, down = (10, 99_000), (800, 44_000)
    assert client.busier_direction(_stats(1, up, down)) == (800, 99_000)
    assert gateway.busier_direction(_stats(1, down, up)) == (800, 99_000)


def test_a_new_keypair_starts_at_nothing() -> None:
    use = KeyUse()
    use.busier_direction(_stats(1, (0, 0), (0, 0)))
    assert use.busier_direction(_stats(1, (90, 900), (0, 0))) == (90, 900)
    assert use.busier_direction(_stats(2, (95, 950), (0, 0))) == (0, 0)
