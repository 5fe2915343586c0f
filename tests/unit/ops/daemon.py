# SPDX-License-Identifier: Apache-2.0
"""A control server on a thread of its own: what the command line talks to in these tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.control.ctlsock import ControlServer, Handler

STATUS: dict[str, Any] = {
    "schema": "jvpn.status/1",
    "role": "gateway",
    "interface": "jvpn0",
    "public_key": "k" * 43 + "=",
    "listen": ["0.0.0.0:51820", "[::]:51820"],
    "uptime_s": 7_384,
    "peers": [
        {
            "name": "phone",
            "public_key": "p" * 43 + "=",
            "endpoint": "192.0.2.7:4000",
            "allowed_ips": ["10.99.0.2/32", "fd99::2/128", "10.1.0.0/16"],
            "latest_handshake_s": 75,
            "rx_bytes": 1_572_864,
            "tx_bytes": 999,
            "rx_packets": 3,
            "tx_packets": 2,
            "keepalive_s": 0,
            "suite": "aegis-128l",
            "state": "attached",
        },
        {
            "name": "laptop",
            "public_key": "l" * 43 + "=",
            "endpoint": "",
            "allowed_ips": [],
            "latest_handshake_s": None,
            "rx_bytes": 0,
            "tx_bytes": 0,
            "rx_packets": 0,
            "tx_packets": 0,
            "keepalive_s": 25,
            "state": "never",
        },
    ],
    "counters": {"replayed": 3, "bad_tag": 0},
    "libsodium": {"version": "1.0.20"},
    "offloads": {"udp_segment": True, "udp_gro": False},
    "workers": {"count": 1, "native": False, "each": []},
}


async def status(_args: dict[str, Any]) -> dict[str, Any]:
    return STATUS


@contextmanager
def serving(path: Path, handlers: dict[str, Handler]) -> Iterator[None]:
    """Serve for the time of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ControlServer(path, handlers)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
