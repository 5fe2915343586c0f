# SPDX-License-Identifier: Apache-2.0
"""How much one keypair has carried, for policies that limit it by packets or bytes (session.md, `keys.*`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.dataplane.engine import SessionStats


class KeyUse:
    """What the current keypair of one session has carried, told from the totals of the data plane."""

    __slots__ = ("birth_ns", "start")

    def __init__(self) -> None:
        self.birth_ns = 0  # of the keypair that the others belong to
        self.start = (0, 0, 0, 0)  # packets sent, packets received, bytes sent, bytes received before it

    def busier_direction(self, stats: SessionStats) -> tuple[int, int]:
        """Packets and bytes under the current keypair, each of the direction that carried more.

        Both ends count both directions, so that both come to the same limit.
        """
        totals = stats["tx_packets"], stats["rx_packets"], stats["tx_bytes"], stats["rx_bytes"]
        if stats["key_birth_ns"] != self.birth_ns:
            self.birth_ns, self.start = stats["key_birth_ns"], totals
        tx, rx, tx_bytes, rx_bytes = (now - then for now, then in zip(totals, self.start, strict=True))
        return max(tx, rx), max(tx_bytes, rx_bytes)
