# SPDX-License-Identifier: Apache-2.0
"""What of the appliance can be reached from where: TCP, and the stats endpoint."""

from __future__ import annotations

import json
import socket
from typing import Any, Final, NamedTuple

from tests.image.appliance import STATS_TOKEN
from tests.image.site import LAN_ADDRESS
from tests.net.lab import Namespace

CONNECT_S: Final = 4.0
STATS_PORT: Final = 51821


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: str

    def json(self) -> dict[str, Any]:
        """The body as a document."""
        return dict(json.loads(self.body))


def connects(namespace: Namespace, host: str, port: int) -> bool:
    """Whether a TCP connection is accepted; silence and refusal alike are no."""
    with namespace.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_S)
        return sock.connect_ex((host, port)) == 0


def ask_stats(namespace: Namespace, path: str, *, token: str | None = STATS_TOKEN) -> Answer:
    """Ask the stats endpoint at the LAN address, with curl as an operator does."""
    header = [] if token is None else ["-H", f"Authorization: Bearer {token}"]
    url = f"http://{LAN_ADDRESS}:{STATS_PORT}{path}"
    done = namespace.run(["curl", "-sS", "-m", "30", "-w", "\n%{http_code}", *header, url])
    body, _, status = done.stdout.rpartition("\n")
    return Answer(int(status), body)
