# SPDX-License-Identifier: Apache-2.0
"""A steady TCP download that lasts as long as the test: every byte is checked as it arrives.

Rule: the bytes are consecutive 64-bit numbers, so the receiver needs nothing but their position to judge them. The
program: ``python -m tests.net.download serve PORT BYTES_PER_S`` and ``… fetch HOST PORT`` (until SIGTERM).
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from array import array
from dataclasses import dataclass
from typing import Final, Self

from tests.net.lab import LabError, Namespace, python_module

NUMBER_BYTES: Final = 8
EVERY_S: Final = 0.01
RECV_BYTES: Final = 1 << 18
CONNECT_TIMEOUT_S: Final = 10.0
MODULE: Final = "tests.net.download"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What arrived. ``ok``: every byte was the right one, and the connection never broke."""

    size_bytes: int
    ok: bool
    seconds: float
    max_gap_ms: float
    last_boot_ns: int
    error: str


class Download:
    """A download in progress, from construction until `stop`."""

    def __init__(
        self,
        client: Namespace,
        server: Namespace,
        host: str,
        *,
        port: int = 5020,
        bytes_per_s: int = 1_000_000,
    ) -> None:
        self._server = server.spawn(
            python_module(MODULE, "serve", str(port), str(bytes_per_s)), f"{server.role}-serve"
        )
        self._server.wait_line("^ready")
        self._client = client.spawn(python_module(MODULE, "fetch", host, str(port)), f"{client.role}-fetch")
        self._client.wait_line("^ready")

    def stop(self) -> Downloaded:
        """End it and report."""
        self._client.signal(signal.SIGTERM)
        if self._client.wait(10.0) != 0:
            raise LabError(f"the download failed\n{self._client.output}")
        self._server.kill()
        return Downloaded(**json.loads(self._client.stdout.splitlines()[-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.kill()
        self._server.kill()


# --- the program --------------------------------------------------------------------------------------------------


def numbers(first: int, count: int) -> bytes:
    """``count`` numbers from ``first`` on, as they travel."""
    return array("Q", range(first, first + count)).tobytes()


def serve(port: int, bytes_per_s: int) -> None:
    """One client, at a steady rate, until killed."""
    count = max(1, int(bytes_per_s * EVERY_S) // NUMBER_BYTES)
    with socket.create_server(("", port)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        sent, due_s = 0, time.monotonic()
        while True:
            connection.sendall(numbers(sent, count))
            sent += count
            # After a pause of the path the lost time is not caught up with: it is a rate, not a volume.
            due_s = max(due_s + EVERY_S, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))


class Fetch:
    """The receiving end."""

    def __init__(self) -> None:
        self.size = self.gap_ns = self.last_ns = 0
        self.ok, self.error, self.stopping = True, "", False
        self._partial = b""

    def add(self, data: bytes, now_ns: int) -> None:
        """Check what arrived."""
        if self.last_ns:
            self.gap_ns = max(self.gap_ns, now_ns - self.last_ns)
        self.last_ns = now_ns
        first = (self.size - len(self._partial)) // NUMBER_BYTES
        self.size += len(data)
        data = self._partial + data
        whole = len(data) // NUMBER_BYTES
        self.ok &= data[: whole * NUMBER_BYTES] == numbers(first, whole)
        self._partial = data[whole * NUMBER_BYTES :]

    def run(self, connection: socket.socket) -> None:
        """Until told to stop or the connection ends, which it never does by itself."""
        connection.settimeout(0.1)
        while not self.stopping:
            try:
                data = connection.recv(RECV_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                self.error = str(error)
                return
            if not data:
                self.error = "closed by the other end"
                return
            self.add(data, time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def fetch(host: str, port: int) -> None:
    """Receive until SIGTERM, then report."""
    state = Fetch()
    signal.signal(signal.SIGTERM, lambda *_: setattr(state, "stopping", True))
    with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as connection:
        print("ready", flush=True)
        start_s = time.monotonic()
        state.run(connection)
    report = Downloaded(
        state.size,
        state.ok and not state.error,
        time.monotonic() - start_s,
        state.gap_ns / 1e6,
        state.last_ns,
        state.error,
    )
    print(json.dumps({name: getattr(report, name) for name in Downloaded.__slots__}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        fetch(sys.argv[2], int(sys.argv[3]))
