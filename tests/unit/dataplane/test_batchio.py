# SPDX-License-Identifier: Apache-2.0
"""Bursts between two loopback sockets, with every combination of offloads."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Iterator

import pytest

from gateway.dataplane.batchio import UDP_GRO, UDP_GSO, BurstSocket
from gateway.errors import DataplaneError

Sockets = tuple[socket.socket, socket.socket]


def matrix(rows: int, width: int) -> memoryview:
    return memoryview(bytearray(rows * width)).cast("B", (rows, width))


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["v4", "v6"])
def sockets(request: pytest.FixtureRequest) -> Iterator[Sockets]:
    family, address = request.param
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as two:
        for s in (one, two):
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            s.bind((address, 0))
        yield one, two


def received(burst: BurstSocket, rows: memoryview, lengths: array[int]) -> list[bytes]:
    out = []
    while n := burst.recv(rows, lengths):
        out += [bytes(rows.cast("B")[i * rows.shape[1] :][: lengths[i]]) for i in range(n)]
    return out


@pytest.mark.parametrize("wanted", [0, UDP_GSO, UDP_GRO, UDP_GSO | UDP_GRO])
def test_trains_arrive_as_datagrams_in_order(sockets: Sockets, wanted: int) -> None:
    sender, receiver = (BurstSocket(s.fileno(), wanted=wanted) for s in sockets)
    host, port = sockets[1].getsockname()[:2]
    sender.send_to(host, port)
    rows = matrix(3, 1000)
    flat = rows.cast("B")
    for i in range(3000):
        flat[i] = i // 100
    assert sender.send(rows, array("I", [1000, 250, 1000]), 100) == 10 + 3 + 10
    datagrams = received(receiver, matrix(512, 200), array("I", bytes(4 * 512)))
    assert [d[0] for d in datagrams] == [*range(10), 10, 11, 12, *range(20, 30)]
    assert [len(d) for d in datagrams] == [100] * 12 + [50] + [100] * 10
    assert receiver.counters()["rx_datagrams"] == 23 == sender.counters()["tx_datagrams"]


def test_nothing_waits(sockets: Sockets) -> None:
    burst = BurstSocket(sockets[0].fileno())
    assert burst.recv(matrix(1, 10), array("I", [0])) == 0
    assert burst.recv_count() == 0


def test_too_large_datagrams_are_counted(sockets: Sockets) -> None:
    sender = BurstSocket(sockets[0].fileno())
    receiver = BurstSocket(sockets[1].fileno(), wanted=0, datagram_bytes=100)
    sender.send_to(*sockets[1].getsockname()[:2])
    assert sender.send(matrix(2, 200), array("I", [101, 100])) == 2
    assert receiver.recv_count() == 1
    assert receiver.counters()["drop_rx_truncated"] == 1


def test_wrong_arguments(sockets: Sockets) -> None:
    burst = BurstSocket(sockets[0].fileno())
    with pytest.raises(ValueError, match="more lengths"):
        burst.send(matrix(1, 10), array("I", [1, 1]))
    with pytest.raises(ValueError, match="shorter than"):
        burst.send(matrix(1, 10), array("I", [11]))
    with pytest.raises(ValueError):
        burst.send_to("not an address", 1)
    with pytest.raises(DataplaneError):
        BurstSocket(-1)
    with pytest.raises(ValueError, match="1 to 65535"):
        BurstSocket(sockets[0].fileno(), wanted=0, datagram_bytes=0)
