# SPDX-License-Identifier: Apache-2.0
"""One end of a measured stream: ``python -m tests.net.stream_helper ROLE HOST PORT LOG RATE SIZE``.

Rule: nothing but the standard library, one thread, and no work per packet that could wait: what happened is packed
into a buffer and written to LOG when the stream has ended (format in `tests.net.stream`).

Both ends send numbered datagrams to each other (payload: number u64, CLOCK_BOOTTIME ns u64, zeros) and log what they
send and what arrives, with the kernel's own arrival time. The end with the role ``client`` also opens one slow TCP
connection (a number every TCP_EVERY_NS, echoed by the other end) to see whether it lives.

Signals: SIGUSR1 pauses the sending, SIGUSR2 goes on, SIGINT ends it for good, SIGTERM reports and ends the process.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Final

STAMP: Final = struct.Struct("!QQ")
RECORD: Final = struct.Struct("<BxxxIQ")
MAGIC: Final = b"JVSTRM1\n"
SENT: Final = 0
ARRIVED: Final = 1
CHUNK_RECORDS: Final = 1 << 14
NS: Final = 1_000_000_000
IDLE_S: Final = 0.02
TCP_EVERY_NS: Final = 20_000_000
BUFFER_BYTES: Final = 4 << 20
# <asm-generic/socket.h>; Python does not name them. SO_TIMESTAMPNS stamps with CLOCK_REALTIME.
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMPNS: Final = 35
TIMESPEC: Final = struct.Struct("@qq")
CONNECT_RETRY_NS: Final = 500_000_000


def boot_ns() -> int:
    """Now."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Log:
    """Records in memory."""

    def __init__(self, path: str) -> None:
        self._path, self._full = path, [MAGIC]
        self._buffer, self._used = bytearray(CHUNK_RECORDS * RECORD.size), 0

    def add(self, kind: int, number: int, at_ns: int) -> None:
        """One datagram sent or arrived."""
        RECORD.pack_into(self._buffer, self._used, kind, number, at_ns)
        self._used += RECORD.size
        if self._used == len(self._buffer):
            self._full.append(bytes(self._buffer))
            self._used = 0

    def write(self) -> None:
        """All of it, at the end."""
        Path(self._path).write_bytes(b"".join(self._full) + self._buffer[: self._used])


class Beat:
    """The slow TCP connection, at either end."""

    def __init__(self, role: str, host: str, port: int) -> None:
        self.role, self._to = role, (host, port)
        self.sent = self.echoed = 0
        self.last_echo_ns = self.gap_ns = self.gap_at_ns = self.connected_ns = 0
        self.error = ""
        self._due_ns = 0
        self._partial = b""
        self.sock: socket.socket | None = None
        self.listener: socket.socket | None = None
        if role == "backend":
            self.listener = socket.create_server(("", port))
            self.listener.setblocking(False)

    def readable(self) -> list[socket.socket]:
        """What to wait for."""
        connected = self.sock if self.role == "backend" or self.connected_ns else None
        return [sock for sock in (self.listener, connected) if sock is not None]

    def tick(self, now_ns: int) -> None:
        """C: open the connection until it succeeds once, then send what is due."""
        if self.role != "client" or now_ns < self._due_ns or self.error:
            return
        if self.sock is None:
            self._due_ns = now_ns + CONNECT_RETRY_NS
            self._connect(now_ns)
        elif self.connected_ns or self._writable():
            self.connected_ns = self.connected_ns or now_ns
            self._due_ns = now_ns + TCP_EVERY_NS
            self._send(STAMP.pack(self.sent, now_ns))
            self.sent += 1

    def serve(self, sock: socket.socket, now_ns: int) -> None:
        """Something arrived."""
        if sock is self.listener:
            self.sock, _ = sock.accept()
            self.sock.setblocking(False)
            return
        try:
            data = sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(error)
            return
        if not data:
            self._broken(None)
        elif self.role == "backend":
            self._send(data)
        else:
            self._echo(data, now_ns)

    def report(self) -> dict[str, object]:
        """What became of it."""
        names = ("sent", "echoed", "last_echo_ns", "gap_ns", "gap_at_ns", "connected_ns", "error")
        return {name: getattr(self, name) for name in names}

    def _connect(self, now_ns: int) -> None:
        if self.sock is None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            if sock.connect_ex(self._to) in (0, 115):  # EINPROGRESS
                self.sock, self._due_ns = sock, now_ns
            else:
                sock.close()

    def _writable(self) -> bool:
        assert self.sock is not None
        if not select.select([], [self.sock], [], 0)[1]:
            return False
        if error := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.sock.close()
            self.sock = None
            self.error = "" if error in (111, 113, 101) else f"errno {error}"
            return False
        return True

    def _send(self, data: bytes) -> None:
        try:
            if self.sock is not None:
                self.sock.sendall(data)
        except BlockingIOError:
            self.error = "send buffer full"
        except OSError as error:
            self._broken(error)

    def _echo(self, data: bytes, now_ns: int) -> None:
        data = self._partial + data
        whole = len(data) // STAMP.size * STAMP.size
        self._partial = data[whole:]
        for number, _ in STAMP.iter_unpack(data[:whole]):
            if number != self.echoed:
                self.error = f"echo {number} instead of {self.echoed}"
            self.echoed += 1
        if self.last_echo_ns and now_ns - self.last_echo_ns > self.gap_ns:
            self.gap_ns, self.gap_at_ns = now_ns - self.last_echo_ns, self.last_echo_ns
        self.last_echo_ns = now_ns

    def _broken(self, error: OSError | None) -> None:
        if self.sock is not None:
            self.sock.close()
        self.sock = None
        if self.role == "client":
            self.error = "closed by the other end" if error is None else str(error)


class End:
    """The loop."""

    def __init__(self, role: str, host: str, port: int, log: str, rate_pps: float, size_bytes: int) -> None:
        self.log, self.beat = Log(log), Beat(role, host, port)
        self._to, self._every_ns = (host, port), int(NS / rate_pps)
        self._payload = bytearray(max(size_bytes, STAMP.size))
        self.number = self.due_ns = 0
        self.paused = self.ended = self.stopping = False
        self.udp = _udp(port)

    def run(self) -> None:
        """Until SIGTERM."""
        while not self.stopping:
            now_ns = boot_ns()
            wait_ns = self._send_due(now_ns)
            if not self.paused:
                self.beat.tick(now_ns)
            ready, _, _ = select.select([self.udp, *self.beat.readable()], [], [], wait_ns / NS)
            for sock in ready:
                if sock is self.udp:
                    self._receive()
                else:
                    self.beat.serve(sock, boot_ns())

    def _send_due(self, now_ns: int) -> int:
        """Send what the schedule asks for, a late wake-up is caught up with; how long to wait, in ns."""
        if self.paused or self.ended:
            self.due_ns = 0
            return int(IDLE_S * NS)
        if self.due_ns == 0:
            self.due_ns = now_ns
        while self.due_ns <= now_ns:
            STAMP.pack_into(self._payload, 0, self.number, now_ns)
            # No route or a refused port: it counts as sent and will be missing, as it should.
            with contextlib.suppress(OSError):
                self.udp.sendto(self._payload, self._to)
            self.log.add(SENT, self.number, now_ns)
            self.number += 1
            self.due_ns += self._every_ns
        return max(0, self.due_ns - boot_ns())

    def _receive(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self.udp.recvmsg(2048, 128)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of a datagram of ours
                continue
            if len(data) < STAMP.size:
                continue
            at_ns = boot_ns()
            for level, kind, stamp in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                    seconds, rest = TIMESPEC.unpack_from(stamp)
                    at_ns += seconds * NS + rest - time.time_ns()
            self.log.add(ARRIVED, STAMP.unpack_from(data)[0], at_ns)


def _udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind(("", port))
    sock.setblocking(False)
    return sock


def main(argv: list[str]) -> int:
    """Run one end."""
    role, host, port, log, rate_pps, size_bytes = argv
    end = End(role, host, int(port), log, float(rate_pps), int(size_bytes))

    def flag(name: str, value: bool) -> None:
        setattr(end, name, value)

    signal.signal(signal.SIGUSR1, lambda *_: flag("paused", True))
    signal.signal(signal.SIGUSR2, lambda *_: flag("paused", False))
    signal.signal(signal.SIGINT, lambda *_: flag("ended", True))
    signal.signal(signal.SIGTERM, lambda *_: flag("stopping", True))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    end.run()
    end.log.write()
    sys.stdout.write(json.dumps({"sent": end.number, "tcp": end.beat.report()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
