# SPDX-License-Identifier: Apache-2.0
"""The service manager's notify protocol, sd_notify(3): a datagram of KEY=VALUE lines to $NOTIFY_SOCKET.

Rule: nobody waits for the service manager. A message that cannot be sent is dropped; without $NOTIFY_SOCKET all are.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

US_PER_S: Final = 1_000_000


class Notifier:
    """Tells the service manager about one process."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """``address`` as in $NOTIFY_SOCKET; ``watchdog_s``: how long silence is taken for health, None for ever."""
        # A path, or with "@" a name in the abstract namespace. AF_VSOCK is for virtual machines as a whole.
        known = address[:1] in ("/", "@")
        self._name = ("\0" + address[1:] if address[:1] == "@" else address) if known else ""
        self.watchdog_s = watchdog_s if known else None

    def __bool__(self) -> bool:
        return bool(self._name)

    def send(self, **values: str | int) -> bool:
        """One message; a value is one line. Whether the socket took it."""
        if not self._name:
            return False
        lines = (f"{key}={str(value).replace(chr(10), ' ')}" for key, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._name)
        except OSError:
            return False
        return True


def from_environment(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> Notifier:
    """What the service manager has told this process."""
    return Notifier(
        environ.get("NOTIFY_SOCKET", ""), _watchdog_s(environ, os.getpid() if pid is None else pid)
    )


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """$WATCHDOG_USEC, unless $WATCHDOG_PID means another process."""
    try:
        period_us, meant = int(environ.get("WATCHDOG_USEC", "0")), int(environ.get("WATCHDOG_PID", pid))
    except ValueError:
        return None
    return period_us / US_PER_S if period_us > 0 and meant == pid else None
