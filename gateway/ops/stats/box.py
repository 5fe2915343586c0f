# SPDX-License-Identifier: Apache-2.0
"""psutil's view of the box and of this process: plain numbers, read on a thread and kept for a second.

Rule: what a machine does not have (temperatures, a counter) is absent or null, never a guess. Shares of CPU are since
the reading before.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Final

import psutil

from gateway.constants import NS_PER_S
from gateway.control import clock

# However many ask, the box is read once in this time.
KEEP_NS: Final = NS_PER_S
_SNMP: Final = Path("/proc/self/net/snmp")
_SNMP6: Final = Path("/proc/self/net/snmp6")
_UDP_ERRORS: Final = {
    "InErrors": "in_errors",
    "RcvbufErrors": "receive_buffer_errors",
    "SndbufErrors": "send_buffer_errors",
}


class Box:
    """The last reading. One at a time; who asks meanwhile waits for the same."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._read_ns = 0
        self._last: dict[str, Any] = {}
        self._lock = asyncio.Lock()
        psutil.cpu_percent(percpu=True)  # the first call begins the span that the next one reports
        self._process.cpu_percent()

    async def document(self) -> dict[str, Any]:
        """Not older than a second."""
        async with self._lock:
            if not self._last or clock.now_ns() - self._read_ns >= KEEP_NS:
                self._last = await asyncio.to_thread(self._read)
                self._read_ns = clock.now_ns()
            return self._last

    def _read(self) -> dict[str, Any]:
        return {
            "cpu": _cpu(),
            "memory": _memory(),
            "nics": _nics(),
            "udp": udp_errors(),
            "temperatures_c": _temperatures(),
            "process": process_document(self._process),
        }


def process_document(process: psutil.Process) -> dict[str, Any]:
    """This process: what it uses now, and since its start."""
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
        return {
            "pid": process.pid,
            "cpu_percent": process.cpu_percent(),
            "cpu_user_s": times.user,
            "cpu_system_s": times.system,
            "rss_bytes": memory.rss,
            "virtual_bytes": memory.vms,
            "fds": process.num_fds(),
            "threads": process.num_threads(),
            "started_unix_s": process.create_time(),
        }


def _cpu() -> dict[str, Any]:
    return {
        "per_core_percent": psutil.cpu_percent(percpu=True),
        "load": list(os.getloadavg()),
        "uptime_s": time.time() - psutil.boot_time(),
    }


def _memory() -> dict[str, Any]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "swap_total_bytes": swap.total,
        "swap_used_bytes": swap.used,
    }


def _nics() -> dict[str, dict[str, int]]:
    return {
        name: {
            "rx_bytes": nic.bytes_recv,
            "tx_bytes": nic.bytes_sent,
            "rx_packets": nic.packets_recv,
            "tx_packets": nic.packets_sent,
            "rx_errors": nic.errin,
            "tx_errors": nic.errout,
            "rx_drops": nic.dropin,
            "tx_drops": nic.dropout,
        }
        for name, nic in psutil.net_io_counters(pernic=True).items()
    }


def _temperatures() -> dict[str, float]:
    """By sensor and label; a machine without sensors has none."""
    found: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    return {
        f"{name}/{one.label or number}": one.current
        for name, sensors in found.items()
        for number, one in enumerate(sensors)
    }


def udp_errors() -> dict[str, int]:
    """What the kernel dropped of UDP in this network namespace, both families together."""
    totals = dict.fromkeys(_UDP_ERRORS.values(), 0)
    for key, value in (*_snmp_pairs(), *_snmp6_pairs()):
        if key in _UDP_ERRORS:
            totals[_UDP_ERRORS[key]] += value
    return totals


def _snmp_pairs() -> list[tuple[str, int]]:
    """A line of names and a line of numbers per protocol."""
    rows = [line.split() for line in _text(_SNMP).splitlines() if line.startswith("Udp:")]
    if len(rows) != 2:
        return []
    return [(key, int(value)) for key, value in zip(rows[0][1:], rows[1][1:], strict=False)]


def _snmp6_pairs() -> list[tuple[str, int]]:
    rows = (line.split() for line in _text(_SNMP6).splitlines() if line.startswith("Udp6"))
    return [(row[0].removeprefix("Udp6"), int(row[1])) for row in rows if len(row) == 2]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
