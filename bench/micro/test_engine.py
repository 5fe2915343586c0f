# SPDX-License-Identifier: Apache-2.0
"""The two pumps over a real TUN device and loopback UDP, bursts of 64 packets, in a network namespace of their own.

kernel UDP socket -> route -> TUN -> pump_tun -> seal -> loopback UDP          (outwards)
sealed datagrams on loopback UDP -> pump_udp -> open -> TUN -> kernel          (inwards)
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.dataplane.engine import Endpoint, Engine
from gateway.net.tun import open_tun
from gateway.net.udp import open_udp
from gateway.noise.handshake import TransportKeys
from gateway.noise.timers import Timers

CLONE_NEWNET = 0x40000000
PACKETS = 64
NOW_NS = 10**12

if os.geteuid() != 0:
    pytest.skip("needs root for a TUN device in a namespace of its own", allow_module_level=True)


@dataclass
class Bed:
    """Two engines with each other's keys; `near` has a TUN device of the kernel, `far` too."""

    near: Engine
    far: Engine
    near_socket: int
    far_socket: int


def _end(name: str, own: str, other: str) -> tuple[Engine, int, socket.socket]:
    engine = Engine(
        sessions=4,
        prefixes=4,
        window_bits=8192,
        index_seed=secrets.token_bytes(32),
        limits=Timers(),
        now_ns=NOW_NS,
    )
    sock = open_udp("127.0.0.1", 0)
    socket_id = engine.add_socket(sock.fileno())
    tun = open_tun(name)
    engine.set_tun(tun.fd, 1420)
    for command in (
        "addr add {own}/32 dev {name}",
        "link set {name} mtu 1420 up",
        "route add {other}/32 dev {name}",
    ):
        subprocess.run(["ip", *command.format(own=own, other=other, name=name).split()], check=True)
    engine.add_route(ip_network(f"{other}/32"), engine.add_session())
    return engine, socket_id, sock


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """Made in a new network namespace that this thread enters and leaves; it goes with its last descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        near, near_socket, near_udp = _end("bench0", "10.0.0.1", "10.0.0.2")
        far, far_socket, far_udp = _end("bench1", "10.1.0.2", "10.1.0.1")
        far.add_route(ip_network("10.0.0.1/32"), 0)
        near.set_endpoint(0, Endpoint.of("127.0.0.1", far_udp.getsockname()[1], near_socket), NOW_NS)
        far.set_endpoint(0, Endpoint.of("127.0.0.1", near_udp.getsockname()[1], far_socket), NOW_NS)
        a, b = near.new_index(0), far.new_index(0)
        keys = secrets.token_bytes(32), secrets.token_bytes(32)
        far.install(0, TransportKeys(b, a, keys[1], keys[0], False, b""), NOW_NS)
        near.install(0, TransportKeys(a, b, keys[0], keys[1], True, b""), NOW_NS)
        yield Bed(near, far, near_socket, far_socket)
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(home)


@pytest.mark.parametrize("payload", [36, 1392])
def test_tun_to_udp(benchmark: BenchmarkFixture, bed: Bed, payload: int) -> None:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def queue() -> None:
        while bed.far.pump_udp(bed.far_socket, NOW_NS) or bed.near.pump_tun(NOW_NS):
            pass
        for _ in range(PACKETS):
            sender.sendto(bytes(payload), ("10.0.0.2", 9))

    benchmark.extra_info["per_round"] = PACKETS
    assert benchmark.pedantic(bed.near.pump_tun, args=(NOW_NS,), setup=queue, rounds=300) == PACKETS
    sender.close()


@pytest.mark.parametrize("payload", [36, 1392])
def test_udp_to_tun(benchmark: BenchmarkFixture, bed: Bed, payload: int) -> None:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def queue() -> None:
        while bed.far.pump_udp(bed.far_socket, NOW_NS) or bed.near.pump_tun(NOW_NS):
            pass
        for _ in range(PACKETS):
            sender.sendto(bytes(payload), ("10.0.0.2", 9))
        assert bed.near.pump_tun(NOW_NS) == PACKETS

    benchmark.extra_info["per_round"] = PACKETS
    taken = benchmark.pedantic(bed.far.pump_udp, args=(bed.far_socket, NOW_NS), setup=queue, rounds=300)
    assert taken == PACKETS
    assert bed.far.counters()["tun_tx_packets"] > 0
    sender.close()
