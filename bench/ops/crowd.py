# SPDX-License-Identifier: Apache-2.0
"""Thousands of stock clients that come once: ``python -m bench.ops.crowd HOST PORT GATEWAY_KEY CROWD_FILE RATE``.

Each member completes a handshake and confirms it with a keepalive, so the gateway has a session of it. They share one
socket: a session is told by its receiver index. Who got no answer asks again; it prints how many came in.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.tunnel.load import say
from gateway import crypto, wire
from gateway.errors import AuthError
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import Identity, Initiator, PeerKeys
from gateway.noise.timestamp import tai64n

RECV_BYTES: Final = 2048
# What is still on its way after the last initiation.
DRAIN_S: Final = 1.0
TRIES: Final = 4


class Members:
    """All of them, by the local index of their handshake in progress."""

    def __init__(self, sock: socket.socket, gateway: bytes, privates: Sequence[bytes]) -> None:
        self._sock = sock
        self._keys = [PeerKeys(Identity(private), gateway) for private in privates]
        self._asked: dict[int, Initiator] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._keys)

    def ask(self, number: int) -> None:
        """An initiation of one member; its index is its number and one."""
        keys = self._keys[number]
        made = Initiator.start(
            keys,
            local_index=number + 1,
            timestamp=tai64n(time.time_ns()),
            ephemeral_private=os.urandom(crypto.KEY_BYTES),
        )
        self._asked[number + 1] = made
        self._sock.send(add_macs(made.packet, keys.mac1_key, None))

    def hear(self, until_s: float) -> set[int]:
        """Members whose handshake was answered until then."""
        found: set[int] = set()
        while (left_s := until_s - time.monotonic()) > 0:
            if select.select([self._sock], [], [], left_s)[0]:
                found |= self._answered(self._sock.recv(RECV_BYTES))
        return found

    def _answered(self, message: bytes) -> set[int]:
        if wire.message_type(message) != wire.MSG_RESPONSE:
            return set()
        index = wire.receiver_index(message)
        made = self._asked.pop(index, None)
        if made is None:
            return set()
        try:
            keys = made.finish(message)
        except AuthError:
            return set()
        sealed = crypto.chacha20poly1305_encrypt(keys.send_key, 0, b"", b"")
        self._sock.send(wire.transport_header(keys.remote_index, 0) + sealed)
        return {index - 1}


def gather(members: Members, rate_per_s: float) -> int:
    """How many came in after some rounds of asking at that pace."""
    missing = set(range(members.count))
    for _ in range(TRIES):
        start_s = time.monotonic()
        for place, number in enumerate(sorted(missing)):
            missing -= members.hear(start_s + place / rate_per_s)
            members.ask(number)
        missing -= members.hear(time.monotonic() + DRAIN_S)
        if not missing:
            break
    return members.count - len(missing)


def main(argv: list[str]) -> int:
    """All of them once."""
    host, port, gateway, file, rate = argv
    privates = [base64.b64decode(text) for text in json.loads(Path(file).read_text())]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, int(port)))
        say({"sessions": gather(Members(sock, base64.b64decode(gateway), privates), float(rate))})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
