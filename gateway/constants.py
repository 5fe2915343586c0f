# SPDX-License-Identifier: Apache-2.0
"""Numbers, in two parts: what the WireGuard protocol fixes, and what we chose (each with its reason)."""

from __future__ import annotations

from typing import Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

# --- fixed by the protocol (WireGuard whitepaper §5.4, §6) -----------------------------------------------------

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"

REKEY_AFTER_TIME_NS: Final = 120 * NS_PER_S
REJECT_AFTER_TIME_NS: Final = 180 * NS_PER_S
REKEY_ATTEMPT_TIME_NS: Final = 90 * NS_PER_S
REKEY_TIMEOUT_NS: Final = 5 * NS_PER_S
KEEPALIVE_TIMEOUT_NS: Final = 10 * NS_PER_S
COOKIE_REFRESH_TIME_NS: Final = 120 * NS_PER_S
REKEY_AFTER_MESSAGES: Final = 1 << 60
REJECT_AFTER_MESSAGES: Final = (1 << 64) - (1 << 13) - 1

# A peer's initiations are answered at most this often (kernel WireGuard: INITIATIONS_PER_SECOND = 50).
INITIATION_INTERVAL_NS: Final = NS_PER_S // 50
# Retransmissions get up to a third of a second of jitter so that two peers do not collide for ever (§6.1).
REKEY_TIMEOUT_JITTER_MAX_NS: Final = NS_PER_S // 3

# --- chosen -----------------------------------------------------------------------------------------------------

# 1500 - 40 (IPv6) - 8 (UDP) - 32 (transport header and tag): what every WireGuard client uses on Ethernet.
DEFAULT_MTU_BYTES: Final = 1420
DEFAULT_PORT: Final = 51820
# Handshakes per source address under load: WireGuard's own ratelimiter.
RATE_LIMIT_PER_S: Final = 20
RATE_LIMIT_BURST: Final = 5
# Fixed memory for sources under flood: 16,384 rows are 1 MB and outlast a /18 of attackers.
RATE_LIMIT_SOURCES: Final = 16_384
# A handshake with its session costs 0.35 ms of the loop; 2,000/s is two thirds of a core and asks for cookies beyond.
UNDER_LOAD_HANDSHAKES_PER_S: Final = 2_000
