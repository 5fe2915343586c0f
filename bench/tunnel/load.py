# SPDX-License-Identifier: Apache-2.0
"""The TCP programs at both ends of a measurement: ``python -m bench.tunnel.load serve PORT`` and
``… stream up|down HOST PORT SECONDS STREAMS``.

Rule: they cost as little as they can (sendfile on one side, discarding receives on the other), because they share the
processors with what is measured. The receiving end counts; the last line, JSON, is the result.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final

PATTERN_BYTES: Final = 8 << 20
RECV_BYTES: Final = 1 << 20
SELECT_S: Final = 0.1
BACKLOG: Final = 16


def main(argv: list[str]) -> int:
    """Run one of the two."""
    if argv[0] == "serve":
        serve(int(argv[1]))
    else:
        way, host, port, seconds, streams = argv[1:]
        stream(way, host, int(port), float(seconds), int(streams))
    return 0


def say(value: object) -> None:
    """One line of output, at once."""
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def serve(port: int) -> None:
    """Every connection in a thread of its own, until killed."""
    address = ("::", port)
    with socket.create_server(
        address, family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
    ) as server:
        pattern()
        say("ready")
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """One connection of the server: its first byte says which way."""
    with connection:
        if connection.recv(1) == b"u":
            connection.sendall(b"%d\n" % discard(connection))
        else:
            pour(connection, None)


def stream(way: str, host: str, port: int, seconds: float, streams: int) -> None:
    """Send or receive for so long on so many connections; say when it begins, and how many bytes arrived how fast."""
    pattern()
    connections = [connect(way, host, port) for _ in range(streams)]
    say("connected")
    start_s = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        one = send if way == "up" else discard
        arrived = sum(pool.map(one, connections, [start_s + seconds] * streams))
    say({"bytes": arrived, "seconds": time.monotonic() - start_s})


def connect(way: str, host: str, port: int) -> socket.socket:
    """One connection, and which way it goes."""
    connection = socket.create_connection((host, port), 10.0)
    connection.settimeout(None)
    connection.sendall(way[:1].encode())
    return connection


def send(connection: socket.socket, until_s: float) -> int:
    """Send until then; the server's count of what arrived."""
    pour(connection, until_s)
    connection.shutdown(socket.SHUT_WR)
    return int(connection.makefile("rb").readline())


def pour(connection: socket.socket, until_s: float | None) -> None:
    """Send until then, or until the other end has enough."""
    while until_s is None or time.monotonic() < until_s:
        try:
            os.sendfile(connection.fileno(), pattern(), 0, PATTERN_BYTES)
        except (BrokenPipeError, ConnectionResetError):
            return


@cache
def pattern() -> int:
    """A file in memory that nothing can compress."""
    descriptor = os.memfd_create("pattern", os.MFD_CLOEXEC)
    os.write(descriptor, os.urandom(PATTERN_BYTES))
    return descriptor


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
