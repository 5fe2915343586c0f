# SPDX-License-Identifier: Apache-2.0
"""The programs that `tests.net.traffic` runs inside namespaces: ``python -m tests.net.traffic_helper COMMAND …``.

Rule: nothing but the standard library, one line ``ready`` once it works, results as one line of JSON on
standard output.

TCP: the client sends one line, ``send SIZE SHA256`` or ``recv SIZE``; the sender writes SIZE bytes of a
pattern that does not repeat at any power of two; the receiver answers or reports the digest of what it got.
UDP: payload = number (8 bytes, network order), CLOCK_MONOTONIC ns of sending (8 bytes), zeros up to the
size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

PATTERN_BYTES: Final = 8 << 20
CHUNK_BYTES: Final = 4 << 20
# Coprime to every power of two: no two chunks of a transfer start at the same place of the pattern.
CHUNK_STEP_BYTES: Final = 65_537
RECV_BYTES: Final = 1 << 20
STAMP: Final = struct.Struct("!QQ")
CONNECT_TIMEOUT_S: Final = 10.0
UDP_BUFFER_BYTES: Final = 8 << 20
# <asm-generic/socket.h>; Python does not name it.
SO_RCVBUFFORCE: Final = 33
# <linux/udp.h>
UDP_SEGMENT: Final = 103
RAMP_SLEEP_NS: Final = 50_000


def main(argv: list[str]) -> int:
    """Run one command; the table at the end of the file lists them."""
    command, *args = argv
    COMMANDS[command](*args)
    return 0


def say(value: object) -> None:
    """One line of output, at once."""
    sys.stdout.write(f"{value if isinstance(value, str) else json.dumps(value)}\n")
    sys.stdout.flush()


# --- TCP --------------------------------------------------------------------------------------------------------


def tcp_server(port: str) -> None:
    """Serve transfers until killed, each connection in a thread."""
    pattern = make_pattern()
    with socket.create_server(
        ("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
    ) as server:
        say("ready")
        while True:
            connection, _ = server.accept()
            threading.Thread(target=serve, args=(connection, pattern), daemon=True).start()


def serve(connection: socket.socket, pattern: BinaryIO) -> None:
    """One connection of the server."""
    with connection, connection.makefile("rb", buffering=0) as lines:
        way, size = lines.readline().decode().split()
        if way == "send":
            connection.sendall(json.dumps(hash_stream(connection, int(size))).encode() + b"\n")
        else:
            connection.sendall(expected_digest(pattern, int(size)).encode() + b"\n")
            send_pattern(connection, pattern, int(size))


def tcp_send(host: str, port: str, size: str) -> None:
    """Send to the server and report what it says it got."""
    pattern = make_pattern()
    expected = expected_digest(pattern, int(size))
    with socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S) as connection:
        connection.settimeout(None)
        connection.sendall(f"send {size}\n".encode())
        start_s = time.monotonic()
        send_pattern(connection, pattern, int(size))
        result = json.loads(connection.makefile("rb").readline())
        report(result, time.monotonic() - start_s, expected)


def tcp_recv(host: str, port: str, size: str) -> None:
    """Receive from the server and report."""
    with socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S) as connection:
        connection.settimeout(None)
        connection.sendall(f"recv {size}\n".encode())
        with connection.makefile("rb", buffering=0) as lines:
            expected = lines.readline().decode().strip()
        start_s = time.monotonic()
        result = hash_stream(connection, int(size))
        report(result, time.monotonic() - start_s, expected)


def report(result: dict[str, Any], seconds: float, expected: str) -> None:
    """Print a transfer as the fields of `tests.net.traffic.Transfer`."""
    say({**result, "seconds": seconds, "expected_sha256": expected})


def make_pattern() -> BinaryIO:
    """The pattern as a file in memory for sendfile: the same bytes in every process."""
    fd = os.memfd_create("pattern", os.MFD_CLOEXEC)
    file = os.fdopen(fd, "r+b", buffering=0)
    file.write(random.Random(20_220_316).randbytes(PATTERN_BYTES))
    return file


def chunks(size: int) -> Iterator[tuple[int, int]]:
    """Offset into the pattern and length of each chunk of a transfer of ``size`` bytes."""
    for number, start in enumerate(range(0, size, CHUNK_BYTES)):
        yield number * CHUNK_STEP_BYTES % CHUNK_BYTES, min(CHUNK_BYTES, size - start)


def expected_digest(pattern: BinaryIO, size: int) -> str:
    """SHA-256 of the first ``size`` bytes that `send_pattern` sends."""
    digest = hashlib.sha256()
    for offset, length in chunks(size):
        digest.update(os.pread(pattern.fileno(), length, offset))
    return digest.hexdigest()


def send_pattern(connection: socket.socket, pattern: BinaryIO, size: int) -> None:
    """Send ``size`` bytes without copying them through this process."""
    for offset, length in chunks(size):
        done = 0
        while done < length:
            done += os.sendfile(connection.fileno(), pattern.fileno(), offset + done, length - done)


def hash_stream(connection: socket.socket, size: int) -> dict[str, Any]:
    """Receive up to ``size`` bytes; digest, count and the longest silence."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(RECV_BYTES))
    got, last_ns, gap_ns = 0, time.monotonic_ns(), 0
    while got < size and (count := connection.recv_into(buffer[: min(RECV_BYTES, size - got)])):
        now_ns = time.monotonic_ns()
        gap_ns, last_ns = max(gap_ns, now_ns - last_ns), now_ns
        digest.update(buffer[:count])
        got += count
    return {"size_bytes": got, "sha256": digest.hexdigest(), "max_gap_ms": gap_ns / 1e6}


# --- UDP --------------------------------------------------------------------------------------------------------


class Arrivals:
    """Numbers and times of what arrived."""

    def __init__(self) -> None:
        self.times_ns: dict[int, int] = {}
        self.delays_ns: list[int] = []
        self.duplicated: list[int] = []
        self.reordered, self.highest = 0, -1
        self.last_ns, self.gap_ns, self.gap_at_ns = 0, 0, 0

    def add(self, payload: memoryview, now_ns: int) -> None:
        """Count one datagram."""
        number, sent_ns = STAMP.unpack_from(payload)
        if number in self.times_ns:
            self.duplicated.append(number)
            return
        self.times_ns[number] = now_ns
        self.delays_ns.append(now_ns - sent_ns)
        self.reordered += number < self.highest
        self.highest = max(self.highest, number)
        if self.last_ns and now_ns - self.last_ns > self.gap_ns:
            self.gap_ns, self.gap_at_ns = now_ns - self.last_ns, self.last_ns
        self.last_ns = now_ns

    def report(self) -> dict[str, Any]:
        """The receiver's part of `tests.net.traffic.StreamReport`."""
        delays = sorted(self.delays_ns) or [0]
        return {
            "received": len(self.times_ns),
            "received_up_to": self.highest,
            "arrived_holes": [n for n in range(self.highest + 1) if n not in self.times_ns],
            "duplicate_count": len(self.duplicated),
            "duplicated": self.duplicated,
            "reordered_count": self.reordered,
            "max_gap_ms": self.gap_ns / 1e6,
            "max_gap_at_ns": self.gap_at_ns,
            "delay_p50_ms": delays[len(delays) // 2] / 1e6,
            "delay_p99_ms": delays[len(delays) * 99 // 100] / 1e6,
            "delay_max_ms": delays[-1] / 1e6,
        }


class Stopped(Exception):
    """The signal that ends a command was received."""


def _raise_stopped(_number: int, _frame: object) -> None:
    raise Stopped


def udp_recv(port: str) -> None:
    """Receive until SIGTERM, then report."""
    signal.signal(signal.SIGTERM, _raise_stopped)
    arrivals = Arrivals()
    with _udp_server(int(port)) as sock:
        say("ready")
        try:
            collect(sock, arrivals)
        except Stopped:
            say(arrivals.report())


def collect(sock: socket.socket, arrivals: Arrivals) -> None:
    """Count what arrives on a socket, for ever. A connected socket's ICMP errors are losses like any
    other.
    """
    buffer = memoryview(bytearray(65_536))
    while True:
        try:
            size = sock.recv_into(buffer)
        except OSError:
            continue
        if size >= STAMP.size:
            arrivals.add(buffer[:size], time.monotonic_ns())


def udp_echo(port: str) -> None:
    """Send every datagram back to where it came from, until killed."""
    with _udp_server(int(port)) as sock:
        say("ready")
        while True:
            payload, address = sock.recvfrom(65_536)
            sock.sendto(payload, address)


def _udp_server(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, UDP_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    return sock


def udp_send(host: str, port: str, rate_pps: str, size: str, count: str, segments: str) -> None:
    """Send at a steady rate until SIGINT or until ``count`` are sent; report how many."""
    with _udp_client(host, int(port)) as sock:
        say("ready")
        say({"sent": pace(sock, float(rate_pps), int(size), int(count), int(segments))})
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def udp_ping(host: str, port: str, rate_pps: str, size: str, count: str, segments: str) -> None:
    """As `udp_send`, then stay until SIGTERM and report the echoes that came back."""
    arrivals, stop = Arrivals(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with _udp_client(host, int(port)) as sock:
        threading.Thread(target=collect, args=(sock, arrivals), daemon=True).start()
        say("ready")
        say({"sent": pace(sock, float(rate_pps), int(size), int(count), int(segments))})
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.wait()
        say(arrivals.report())
        # The collecting thread blocks in recv for ever; the report is out.
        os._exit(0)


def _udp_client(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, UDP_BUFFER_BYTES)
    sock.connect((host, port))
    return sock


def pace(sock: socket.socket, rate_pps: float, size: int, count: int, segments: int) -> int:
    """Send by an absolute schedule, so that a late wake-up is caught up with; returns how many were sent."""
    stopping = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    size = max(size, STAMP.size)
    if segments > 1:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    payload, number, start_ns = bytearray(size * segments), 0, time.monotonic_ns()
    while not stopping.is_set() and (count == 0 or number < count):
        wait_ns = start_ns + int(number * 1e9 / rate_pps) - time.monotonic_ns()
        if wait_ns > RAMP_SLEEP_NS:
            time.sleep(wait_ns / 1e9)
        for place in range(segments):
            STAMP.pack_into(payload, place * size, number + place, time.monotonic_ns())
        # No route or a refused port: the datagram counts as sent and will be missing, as it should.
        with contextlib.suppress(OSError):
            sock.send(payload)
        number += segments
    return number


COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "tcp-server": tcp_server,
    "tcp-send": tcp_send,
    "tcp-recv": tcp_recv,
    "udp-recv": udp_recv,
    "udp-echo": udp_echo,
    "udp-send": udp_send,
    "udp-ping": udp_ping,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
