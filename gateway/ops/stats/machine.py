# SPDX-License-Identifier: Apache-2.0
"""What this build and this machine lend to the tunnel, for /metrics: suites, offloads, workers, memory.

Rule: what is done without shows as a 0, and every fallback as a count, so that a dashboard finds the gateway whose
kernel or libsodium lacks something.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from gateway import __version__
from gateway.constants import NS_PER_S
from gateway.control.observed import Observed
from gateway.crypto import sodium_features
from gateway.ops.stats.text import Text
from gateway.suites import BY_NAME, available

# Counters of the data plane with a family of their own; drops have one too.
_ELSEWHERE: Final = frozenset(
    f"{side}_{what}"
    for side, whats in {
        "rx": ("datagrams", "bytes", "calls"),
        "tx": ("datagrams", "bytes", "calls"),
        "tun_rx": ("packets", "bytes"),
        "tun_tx": ("packets", "bytes"),
    }.items()
    for what in whats
)


def build(text: Text, seen: Observed) -> None:
    """What runs here, and what it found."""
    text.family("jvpn_build_info", "gauge", "What runs here.")
    python, sodium = ".".join(map(str, sys.version_info[:3])), sodium_features()
    labels = {"version": __version__, "python": python, "libsodium": sodium.version}
    text.sample("jvpn_build_info", 1, interface=seen.interface, **labels)
    offered = available(sodium)
    suites = {name: float(suite in offered) for name, suite in BY_NAME.items()}
    text.each("jvpn_suite_available", "gauge", "1 for suites that this host offers.", "suite", suites)
    offloads = {name: float(used) for name, used in seen.tunnel.offloads().items()}
    text.each("jvpn_offload_active", "gauge", "1 for offloads in use.", "offload", offloads)


def workers(text: Text, seen: Observed) -> None:
    """Who moves the packets. The event loop's own work is in process_cpu_seconds_total alone."""
    text.one("jvpn_workers", "gauge", "Workers; the event loop counts as one.", seen.tunnel.workers.count)
    each = seen.tunnel.worker_stats()
    cpu = {str(number): one["cpu_ns"] / NS_PER_S for number, one in enumerate(each)}
    text.each("jvpn_worker_cpu_seconds_total", "counter", "CPU time of native workers.", "worker", cpu)
    moved = {str(number): float(one["rx_datagrams"] + one["tx_datagrams"]) for number, one in enumerate(each)}
    text.each("jvpn_worker_datagrams_total", "counter", "Datagrams of native workers.", "worker", moved)


def dataplane(text: Text, counters: Mapping[str, int]) -> None:
    """Every counter that has no family of its own, fallbacks among them."""
    rest: dict[str, float] = {
        name: count
        for name, count in counters.items()
        if name not in _ELSEWHERE and not name.startswith("drop_")
    }
    tells = "Counters of the data plane, by their names in jvpn status."
    text.each("jvpn_dataplane_total", "counter", tells, "counter", rest)


def host(text: Text, box: Mapping[str, Any]) -> None:
    """The box, as far as a gateway depends on it; a machine's own exporter says the rest."""
    memory = box["memory"]
    text.each("jvpn_host_udp_errors_total", "counter", "UDP the kernel dropped here.", "kind", box["udp"])
    text.one("jvpn_host_load1", "gauge", "Load of the last minute.", box["cpu"]["load"][0])
    text.one("jvpn_host_memory_bytes", "gauge", "Memory of the machine.", memory["total_bytes"])
    available_bytes = memory["available_bytes"]
    text.one("jvpn_host_memory_available_bytes", "gauge", "What is left of it.", available_bytes)
