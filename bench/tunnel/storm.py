# SPDX-License-Identifier: Apache-2.0
"""A crowd of peers that all want a session:
``python -m bench.tunnel.storm HOST PORT GATEWAY_KEY CROWD_FILE RATE SECONDS``.

Rule: the initiations are genuine (`gateway.noise` makes them, from keys that the gateway knows), so that each one costs
the gateway its curve operations and an answer. They are made before the storm begins: during it, sending and counting
is all that this program does.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.tunnel.load import say
from bench.tunnel.scene import CROWD_ENDPOINT
from gateway import crypto, wire
from gateway.constants import NS_PER_S
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import Identity, Initiator, PeerKeys
from gateway.noise.timestamp import tai64n
from tests.net.jvpn import JvpnPeer
from tests.net.lab import Namespace, Proc, python_module

# Each peer asks once a second: what a gateway answers in 20 ms intervals it takes for a flood (whitepaper §5.1).
CROWD: Final = 200
RATE_PER_S: Final = 200
DRAIN_S: Final = 0.5
RECV_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Crowd:
    """Key pairs of peers that the gateway is to know."""

    privates: Sequence[bytes]

    @classmethod
    def generate(cls, count: int = CROWD) -> Crowd:
        """Fresh ones."""
        return cls([os.urandom(crypto.KEY_BYTES) for _ in range(count)])

    def peers(self) -> list[JvpnPeer]:
        """As the gateway's configuration lists them; all within 10.9.0.0/16."""
        return [
            JvpnPeer(f"crowd{number}", encoded(crypto.x25519_public(private)), [address_of(number)])
            for number, private in enumerate(self.privates)
        ]

    def start(self, place: Namespace, folder: Path, gateway_public: str, seconds: float) -> Proc:
        """Their storm from that namespace; it has begun when this returns."""
        file = folder / "crowd.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps([encoded(private) for private in self.privates]))
        host, port = CROWD_ENDPOINT
        numbers = (str(port), gateway_public, str(file), str(RATE_PER_S), str(seconds))
        running = place.spawn(python_module("bench.tunnel.storm", host, *numbers), "crowd")
        running.wait_line("ready", 30.0)
        return running


def encoded(key: bytes) -> str:
    """A key as configuration files hold it."""
    return base64.b64encode(key).decode()


def address_of(number: int) -> str:
    """The inner address of a member."""
    return f"10.9.{number // 250}.{number % 250 + 1}/32"


def initiations(gateway: bytes, privates: Sequence[bytes], count: int, unix_ns: int) -> Iterator[bytes]:
    """So many whole messages, the members in turn, each with a later timestamp than its last."""
    members = [PeerKeys(Identity(private), gateway) for private in privates]
    for number in range(count):
        keys = members[number % len(members)]
        stamp = tai64n(unix_ns + number // len(members) * NS_PER_S)
        made = Initiator.start(
            keys, local_index=number + 1, timestamp=stamp, ephemeral_private=os.urandom(crypto.KEY_BYTES)
        )
        yield add_macs(made.packet, keys.mac1_key, None)


def storm(sock: socket.socket, messages: Sequence[bytes], rate_per_s: float) -> dict[str, int]:
    """Send them at a steady pace; how many were answered."""
    answered, start_s = 0, time.monotonic()
    for number, message in enumerate(messages):
        answered += collect(sock, start_s + number / rate_per_s)
        sock.send(message)
    answered += collect(sock, time.monotonic() + DRAIN_S)
    return {"sent": len(messages), "answered": answered}


def collect(sock: socket.socket, until_s: float) -> int:
    """Responses that come in until then."""
    answered = 0
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([sock], [], [], left_s)[0]:
            answered += wire.message_type(sock.recv(RECV_BYTES)) == wire.MSG_RESPONSE
    return answered


def main(argv: list[str]) -> int:
    """One storm."""
    host, port, gateway, file, rate, seconds = argv
    privates = [base64.b64decode(text) for text in json.loads(Path(file).read_text())]
    count = int(float(rate) * float(seconds))
    messages = list(initiations(base64.b64decode(gateway), privates, count, time.time_ns()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, int(port)))
        say("ready")
        say(storm(sock, messages, float(rate)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
