# SPDX-License-Identifier: Apache-2.0
"""Traffic through a tunnel between our own ends over clean links: all of it arrives once and unchanged.

Rule: what arrives is judged by the receiver, what went wrong on the way by the counters of both kernels and both ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.net.jvpn import Daemon
from tests.net.lab import Namespace
from tests.net.traffic import TcpServer, UdpStream, tcp_recv, tcp_send
from tests.net.tunnel import Tunnel

SIZE_BYTES: Final = 30_000_001
DATAGRAM_BYTES: Final = 1200
TRAIN: Final = 40  # datagrams in one call of the sender
DATAGRAMS: Final = 100 * TRAIN
# Faults on the way; a loss probe is TCP's own haste, not a loss.
FAULTS: Final = (
    "TcpRetransSegs",
    "TcpInErrs",
    "TcpInCsumErrors",
    "UdpInErrors",
    "UdpInCsumErrors",
    "Udp6InErrors",
)
PROBES: Final = "TcpExtTCPLossProbes"


@contextmanager
def running(tunnel: Tunnel) -> Iterator[Tunnel]:
    """The tunnel and a TCP server on the backend, for a while."""
    tunnel.start()
    try:
        with TcpServer(tunnel.site.backend):
            yield tunnel
    finally:
        tunnel.client.stop()
        tunnel.server.stop()


def ours(tunnel: Tunnel) -> tuple[Daemon, Daemon]:
    """Client and gateway."""
    assert isinstance(tunnel.client, Daemon)
    assert isinstance(tunnel.server, Daemon)
    return tunnel.client, tunnel.server


def in_use(daemon: Daemon) -> frozenset[str]:
    """What `jvpn status` says."""
    return frozenset(name for name, used in daemon.status()["offloads"].items() if used)


def kernel_counters(namespace: Namespace) -> dict[str, int]:
    """The kernel's own, by the names nstat has for them."""
    text = namespace.run(["nstat", "-asz"]).stdout
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {row[0]: int(row[1]) for row in rows}


@contextmanager
def without_faults(tunnel: Tunnel) -> Iterator[None]:
    """What happens inside loses nothing. But a device that takes single packets holds 500 of them, and a sender that
    is faster than the tunnel overruns it: then TCP resends, as it does on any link that is its bottleneck.
    """
    machines = (tunnel.site.client, tunnel.site.server, tunnel.site.backend)
    before = [kernel_counters(machine) for machine in machines]
    yield
    single = any("tso4" not in in_use(daemon) for daemon in ours(tunnel))
    for machine, earlier in zip(machines, before, strict=True):
        later = kernel_counters(machine)
        grown = {name: later[name] - earlier[name] for name in (*FAULTS, PROBES)}
        grown["TcpRetransSegs"] = 0 if single else max(0, grown["TcpRetransSegs"] - grown[PROBES])
        del grown[PROBES]
        assert grown == dict.fromkeys(FAULTS, 0), machine.role
    for daemon in ours(tunnel):
        counters = daemon.status()["counters"]
        lost = {name for name, count in counters.items() if name.startswith("drop_") and count}
        # The kernel's own multicast on a new interface belongs to nobody; the first probe may come before its path.
        assert lost <= {"drop_no_route", "drop_control_path"}, daemon.command


def move_tcp(tunnel: Tunnel, host: str) -> None:
    """A transfer each way, compared by its digest."""
    for move in (tcp_send, tcp_recv):
        assert move(tunnel.site.client, host, SIZE_BYTES).ok


def move_udp(tunnel: Tunnel, host: str, segments: int) -> None:
    """Every datagram arrives once; the sender gives away ``segments`` of them in one call."""
    with UdpStream(
        tunnel.site.client,
        tunnel.site.backend,
        host,
        rate_pps=20_000,
        size_bytes=DATAGRAM_BYTES,
        count=DATAGRAMS,
        segments=segments,
    ) as stream:
        report = stream.finish()
    assert (report.sent, report.lost_count, report.duplicate_count) == (DATAGRAMS, 0, 0)
