# SPDX-License-Identifier: Apache-2.0
"""A service manager's end of the notify protocol: a socket of the test's own."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, Self


class Manager:
    """Hears what a service says."""

    def __init__(self, at: Path | str) -> None:
        """``at`` is a path, or a name of the abstract namespace written with "@"."""
        self.address = str(at)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + self.address[1:] if self.address[0] == "@" else self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._sock.close()

    def heard(self) -> list[dict[str, str]]:
        """What has arrived since the last time."""
        found = []
        self._sock.setblocking(False)
        while True:
            try:
                data = self._sock.recv(4096)
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in data.decode().split("\n")))

    def wait(self, key: str, timeout_s: float = 15.0) -> dict[str, str]:
        """The next message with that key; those before it are dropped."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._sock.settimeout(max(0.01, deadline_s - time.monotonic()))
            data = self._sock.recv(4096)
            found = dict(line.split("=", 1) for line in data.decode().split("\n"))
            if key in found:
                return found
