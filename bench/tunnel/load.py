# SPDX-License-Identifier: Apache-2.0
"""The programs at both ends of a measurement: ``python -m bench.tunnel.load serve PORT`` and
``… stream up|down HOST PORT SECONDS``.

Rule: they cost as little as they can (sendfile on one side, discarding receives on the other), because they share the
processors with what is measured. The receiving end counts; one line of JSON is the result.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from typing import Final

PATTERN_BYTES: Final = 8 << 20
RECV_BYTES: Final = 1 << 20
SELECT_S: Final = 0.1


def main(argv: list[str]) -> int:
    """Run one of the two."""
    if argv[0] == "serve":
        serve(int(argv[1]))
    else:
        stream(argv[1], argv[2], int(argv[3]), float(argv[4]))
    return 0


def say(value: object) -> None:
    """One line of output, at once."""
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def serve(port: int) -> None:
    """One connection after the other, until killed."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        say("ready")
        while True:
            connection, _ = server.accept()
            with connection:
                if connection.recv(1) == b"u":
                    connection.sendall(b"%d\n" % discard(connection))
                else:
                    pour(connection, None)


def stream(way: str, host: str, port: int, seconds: float) -> None:
    """Send or receive for so long, and say how many bytes arrived in which time."""
    with socket.create_connection((host, port), 10.0) as connection:
        connection.settimeout(None)
        connection.sendall(way[:1].encode())
        start_s = time.monotonic()
        if way == "up":
            pour(connection, start_s + seconds)
            connection.shutdown(socket.SHUT_WR)
            arrived = int(connection.makefile("rb").readline())
        else:
            arrived = discard(connection, start_s + seconds)
        say({"bytes": arrived, "seconds": time.monotonic() - start_s})


def pour(connection: socket.socket, until_s: float | None) -> None:
    """Send until then, or until the other end has enough."""
    with os.fdopen(os.memfd_create("pattern"), "r+b", buffering=0) as file:
        file.write(os.urandom(PATTERN_BYTES))
        while until_s is None or time.monotonic() < until_s:
            try:
                os.sendfile(connection.fileno(), file.fileno(), 0, PATTERN_BYTES)
            except (BrokenPipeError, ConnectionResetError):
                return


def discard(connection: socket.socket, until_s: float | None = None) -> int:
    """Count what arrives, until the end or until then. MSG_TRUNC drops it inside the kernel (tcp(7))."""
    buffer, got = memoryview(bytearray(RECV_BYTES)), 0
    while until_s is None or time.monotonic() < until_s:
        if until_s is not None and not select.select([connection], [], [], SELECT_S)[0]:
            continue
        count = connection.recv_into(buffer, 0, socket.MSG_TRUNC)
        if not count:
            break
        got += count
    return got


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
