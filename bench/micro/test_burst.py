# SPDX-License-Identifier: Apache-2.0
"""UDP over loopback: 512 datagrams of 1,420 bytes sent and received per round, with and without the offloads."""

from __future__ import annotations

import socket
from array import array

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.dataplane.batchio import UDP_GRO, UDP_GSO, BurstSocket

DATAGRAM_BYTES = 1420
ROWS = 64
DATAGRAMS = 512
TRAIN = 44


def udp_socket() -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    for force, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        try:
            s.setsockopt(socket.SOL_SOCKET, force, 8 << 20)
        except PermissionError:
            s.setsockopt(socket.SOL_SOCKET, plain, 1 << 20)
    s.bind(("127.0.0.1", 0))
    return s


def rows_of(width: int, total: int) -> tuple[memoryview, array[int]]:
    lengths = [width] * (total // width) + ([total % width] if total % width else [])
    rows = memoryview(bytearray(width * len(lengths))).cast("B", (len(lengths), width))
    return rows, array("I", lengths)


@pytest.mark.parametrize("direction", ["send", "receive"])
@pytest.mark.parametrize("offload", [0, UDP_GSO | UDP_GRO], ids=["plain", "offload"])
def test_udp_burst(benchmark: BenchmarkFixture, offload: int, direction: str) -> None:
    with udp_socket() as one, udp_socket() as two:
        sender, receiver = (
            BurstSocket(one.fileno(), wanted=offload),
            BurstSocket(two.fileno(), wanted=offload),
        )
        sender.send_to(*two.getsockname())
        if offload and not sender.features == receiver.features == offload:
            pytest.skip("this kernel has no UDP_SEGMENT or no UDP_GRO")
        rows, lengths = rows_of(DATAGRAM_BYTES * (TRAIN if offload else 1), DATAGRAM_BYTES * DATAGRAMS)

        def send() -> int:
            step = range(0, len(lengths), ROWS)
            return sum(sender.send(rows[i : i + ROWS], lengths[i : i + ROWS], DATAGRAM_BYTES) for i in step)

        def receive() -> int:
            total = 0
            while n := receiver.recv_count():
                total += n
            return total

        work, prepare = (send, receive) if direction == "send" else (receive, send)
        benchmark.extra_info["per_round"] = DATAGRAMS
        prepare()
        assert benchmark.pedantic(work, setup=lambda: prepare() and None, rounds=200) == DATAGRAMS
