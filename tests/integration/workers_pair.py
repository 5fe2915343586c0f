# SPDX-License-Identifier: Apache-2.0
"""Two engines with two native workers each in one process; packets both ways while Python looks at everything.

Run by test_workers_tsan.py as a program of its own. Prints the file of libjv in use and how many packets arrived.
"""

from __future__ import annotations

import gc
import socket
import time
from ipaddress import ip_network
from pathlib import Path

from gateway.dataplane.engine import Endpoint, Engine
from gateway.net.udp import open_shared
from gateway.noise.handshake import TransportKeys
from gateway.noise.timers import DEFAULT
from tests.integration.pair import MTU_BYTES, ipv4_packet

WORKERS = 2
PACKETS = 1000
WINDOW = 32
PATIENCE_S = 60


def now_ns() -> int:
    """As the workers tell time."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class End:
    """One engine; whatever it needs stays open until `close`."""

    def __init__(self, inner: str, other: str, seed: int) -> None:
        self.inner_ip, self.other_ip = inner, other
        self.engine = Engine(
            sessions=8,
            prefixes=8,
            window_bits=8192,
            index_seed=bytes([seed]) * 32,
            limits=DEFAULT,
            now_ns=now_ns(),
            workers=WORKERS,
        )
        self.udp = open_shared("127.0.0.1", 0, workers=WORKERS)
        self.port = self.udp[0].getsockname()[1]
        self.engine.add_socket(self.udp[0].fileno(), [each.fileno() for each in self.udp[1:]])
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(WORKERS)]
        self.inner, self.devices = [p[0] for p in pairs], [p[1] for p in pairs]
        for each in (*self.inner, *self.devices):
            each.setblocking(False)
        self.engine.set_tun(self.devices[0].fileno(), MTU_BYTES, more=[self.devices[1].fileno()])
        self.slot = self.engine.add_session()
        self.engine.add_route(ip_network(f"{other}/32"), self.slot)
        self.seen: set[int] = set()
        self.sent = 0

    def meet(self, other: End, index: int, its_index: int, initiator: bool) -> None:
        """Install the keys of a handshake that has been, and start."""
        keys = [bytes([1]) * 32, bytes([2]) * 32]
        send, recv = keys if initiator else keys[::-1]
        self.engine.set_endpoint(self.slot, Endpoint.of("127.0.0.1", other.port, 0), now_ns())
        found = TransportKeys(index, its_index, send, recv, initiator, bytes(32))
        self.engine.install(self.slot, found, now_ns())

    def send(self, other: End) -> None:
        """The next numbered packet, by either queue, unless too many are on their way."""
        if self.sent < PACKETS and self.sent - len(other.seen) < WINDOW:
            packet = ipv4_packet(self.inner_ip, self.other_ip, self.sent.to_bytes(4, "big") + bytes(500))
            self.inner[self.sent % WORKERS].send(packet)
            self.sent += 1

    def take(self) -> None:
        """What came out of the tunnel."""
        for queue in self.inner:
            try:
                while True:
                    self.seen.add(int.from_bytes(queue.recv(2048)[20:24], "big"))
            except BlockingIOError:
                pass

    def look(self) -> None:
        """Everything that the daemon asks of its engine."""
        self.engine.clear_event()
        self.engine.poll(16)
        self.engine.counters()
        self.engine.stats(self.slot)
        self.engine.worker_stats()

    def close(self) -> None:
        """The workers end first."""
        self.engine.stop_workers()
        for each in (*self.udp, *self.inner, *self.devices):
            each.close()


def loaded_libjv() -> str:
    """The folder of the libjv that this process has mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return str(Path(next(line.split()[-1] for line in maps if line.endswith("/libjv.so"))).parent)


def main() -> None:
    """Both ways until all have arrived."""
    a, b = End("10.0.0.1", "10.0.0.2", 1), End("10.0.0.2", "10.0.0.1", 2)
    a_index, b_index = a.engine.new_index(a.slot), b.engine.new_index(b.slot)
    b.meet(a, b_index, a_index, initiator=False)
    a.meet(b, a_index, b_index, initiator=True)
    for end in (a, b):
        end.engine.start_workers()
    until_s = time.monotonic() + PATIENCE_S
    while len(a.seen) + len(b.seen) < 2 * PACKETS and time.monotonic() < until_s:
        for end, other in ((a, b), (b, a)):
            end.send(other)
            end.take()
            end.look()
        if a.sent % 100 == 0:
            gc.collect()
    print(f"libjv {loaded_libjv()}")
    print(f"packets {len(a.seen) + len(b.seen)} of {2 * PACKETS}")
    a.close()
    b.close()


if __name__ == "__main__":
    main()
