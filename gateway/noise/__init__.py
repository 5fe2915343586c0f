# SPDX-License-Identifier: Apache-2.0
"""The WireGuard handshake without a clock, randomness or I/O: time, ephemeral keys and nonces are arguments.

handshake  the Noise IKpsk2 messages          timestamp  TAI64N that never goes back
cookie     mac1, mac2, cookie replies         admission  what may cost a curve operation
peer       one peer's handshake over time     timers     every interval as data
keypair    when a key rotates and dies
"""
