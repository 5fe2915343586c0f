# SPDX-License-Identifier: Apache-2.0
"""Keys and texts that the tests of configuration share. The keys are made of one byte each: nobody's."""

from __future__ import annotations

import base64

from gateway.control.keysfile import encode_key, public_key


def private(number: int) -> str:
    """A private key as base64."""
    return base64.b64encode(bytes([number]) * 32).decode()


def public(number: int) -> str:
    """The public key of ``private(number)``."""
    return encode_key(public_key(bytes([number]) * 32))


OWN = private(1)
GATEWAY = f'[gateway]\nprivate_key = "{OWN}"\n'  # two lines


def peer(number: int, *, more: str = "") -> str:
    """A [[peer]] table: header, name, key and one line of ``allowed_ips``: four lines, then ``more``."""
    address = f"10.99.0.{number}/32"
    return (
        f'[[peer]]\nname = "p{number}"\npublic_key = "{public(number)}"\nallowed_ips = ["{address}"]\n{more}'
    )


CLIENT = f"""\
[client]
private_key = "{OWN}"
addresses = ["10.99.0.2/32", "fd99::2/128"]

[gateway]
public_key = "{public(2)}"
endpoints = ["vpn.example.net:51820"]
"""

WGQUICK = f"""\
# a stock client
[Interface]
PrivateKey = {OWN}
Address = 10.99.0.2/32, fd99::2/128
DNS = 9.9.9.9, example.net
MTU = 1400

[Peer]
PublicKey = {public(2)}
PresharedKey = {private(9)}
AllowedIPs = 0.0.0.0/0
AllowedIPs = ::/0
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25
"""
