# SPDX-License-Identifier: Apache-2.0
"""Traffic through a path under test, and what arrived of it.

Rule: the end that receives checks. A TCP transfer is compared by SHA-256 with what was sent; every UDP
datagram carries its number and its sending time, and arrivals are judged by the receiver. The functions
here start the helpers of `tests.net.traffic_helper` inside namespaces; all ends share one machine and so
one CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.net.lab import LabError, Namespace, Proc, python_module

HELPER: Final = "tests.net.traffic_helper"
MEGABYTE: Final = 1_000_000
# What is still queued when the sender stops arrives within this time on any path the tests build.
DRAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Transfer:
    """One TCP transfer. ``max_gap_ms`` is the longest silence between two reads of the receiver."""

    size_bytes: int
    seconds: float
    sha256: str
    expected_sha256: str
    max_gap_ms: float

    @property
    def ok(self) -> bool:
        """Everything arrived, unchanged."""
        return self.sha256 == self.expected_sha256

    @property
    def mbit_per_s(self) -> float:
        """Payload throughput in Mbit/s."""
        return self.size_bytes * 8 / self.seconds / 1e6 if self.seconds > 0 else 0.0


class TcpServer:
    """A server for `tcp_send` and `tcp_recv`, on every IPv4 and IPv6 address of its namespace."""

    def __init__(self, namespace: Namespace, port: int = 5001) -> None:
        self.port = port
        self.proc = namespace.spawn(
            python_module(HELPER, "tcp-server", str(port)), f"{namespace.role}-tcp{port}"
        )
        self.proc.wait_line("^ready")

    def stop(self) -> None:
        """End it and its connections."""
        self.proc.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def tcp_send(
    client: Namespace, host: str, size_bytes: int, port: int = 5001, timeout_s: float = 60.0
) -> Transfer:
    """Send ``size_bytes`` to a `TcpServer`; the server hashes what it receives."""
    return tcp_start(client, "send", host, size_bytes, port).result(timeout_s)


def tcp_recv(
    client: Namespace, host: str, size_bytes: int, port: int = 5001, timeout_s: float = 60.0
) -> Transfer:
    """Receive ``size_bytes`` from a `TcpServer`; the client hashes what it receives."""
    return tcp_start(client, "recv", host, size_bytes, port).result(timeout_s)


@dataclass(frozen=True, slots=True)
class RunningTransfer:
    """A transfer in progress."""

    proc: Proc

    def result(self, timeout_s: float = 60.0) -> Transfer:
        """Wait for the end; LabError when it fails or takes longer."""
        try:
            status = self.proc.wait(timeout_s)
        except LabError:
            self.proc.kill()
            raise
        if status != 0:
            raise LabError(f"{self.proc.name}: transfer failed\n{self.proc.output}")
        return Transfer(**json.loads(self.proc.stdout))


def tcp_start(client: Namespace, way: str, host: str, size_bytes: int, port: int = 5001) -> RunningTransfer:
    """Start a transfer (``way`` is ``send`` or ``recv``) and return at once."""
    argv = python_module(HELPER, f"tcp-{way}", host, str(port), str(size_bytes))
    return RunningTransfer(client.spawn(argv, f"{client.role}-tcp-{way}"))


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What became of a UDP stream.

    ``lost`` and ``duplicated`` are datagram numbers, the first 32; the counts are complete. ``max_gap_ms`` is
    the longest time between two first arrivals, ``max_gap_at_ns`` the CLOCK_MONOTONIC time at its beginning.
    """

    sent: int
    received: int
    lost_count: int
    duplicate_count: int
    reordered_count: int
    lost: tuple[int, ...]
    duplicated: tuple[int, ...]
    max_gap_ms: float
    max_gap_at_ns: int
    delay_p50_ms: float
    delay_p99_ms: float
    delay_max_ms: float

    @property
    def loss_ratio(self) -> float:
        """Share of the sent datagrams that never arrived."""
        return self.lost_count / self.sent if self.sent else 0.0


class UdpStream:
    """A stream of numbered datagrams from one namespace to another, from construction until `stop`.

    With ``echo`` the receiving end sends every datagram back and the *sender* reports: a round trip through
    both ways, which needs no route to the sender's socket but the one that a reply takes. With ``segments``
    so many datagrams are given to the kernel in one call (UDP_SEGMENT).
    """

    def __init__(
        self,
        sender: Namespace,
        receiver: Namespace,
        host: str,
        *,
        port: int = 5002,
        rate_pps: float = 1000.0,
        size_bytes: int = 200,
        count: int | None = None,
        echo: bool = False,
        segments: int = 1,
    ) -> None:
        kind = "udp-echo" if echo else "udp-recv"
        self._receiver = receiver.spawn(
            python_module(HELPER, kind, str(port)), f"{receiver.role}-{kind}{port}"
        )
        self._receiver.wait_line("^ready")
        way = "udp-ping" if echo else "udp-send"
        numbers = map(str, (rate_pps, size_bytes, count or 0, segments))
        argv = python_module(HELPER, way, host, str(port), *numbers)
        self._sender = sender.spawn(argv, f"{sender.role}-{way}{port}")
        self._echo = echo
        self._sender.wait_line("^ready")

    def finish(self, timeout_s: float = 60.0) -> StreamReport:
        """Wait until ``count`` datagrams are sent, then `stop`."""
        self._sender.wait_line("^{", timeout_s)
        return self.stop()

    def stop(self, drain_s: float = DRAIN_S) -> StreamReport:
        """End the stream, give what is on its way ``drain_s`` to arrive, and report."""
        self._sender.signal(signal.SIGINT)
        self._sender.wait_line("^{")
        time.sleep(drain_s)
        reporter = self._sender if self._echo else self._receiver
        reporter.signal(signal.SIGTERM)
        reporter.wait(30.0)
        sent = json.loads(self._sender.stdout.splitlines()[1])["sent"]
        report = json.loads(reporter.stdout.splitlines()[-1])
        self._sender.stop()
        self._receiver.stop()
        return _stream_report(sent, report)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.kill()
        self._receiver.kill()


def _stream_report(sent: int, report: dict[str, Any]) -> StreamReport:
    arrived = set(report.pop("arrived_holes"))
    lost = sorted(arrived | set(range(report["received_up_to"] + 1, sent)))
    del report["received_up_to"]
    report["duplicated"] = tuple(report["duplicated"][:32])
    return StreamReport(sent=sent, lost_count=len(lost), lost=tuple(lost[:32]), **report)


@dataclass(frozen=True, slots=True)
class Ping:
    """What ``ping`` measured; round-trip times in ms, in order of arrival."""

    sent: int
    received: int
    rtts_ms: tuple[float, ...]

    @property
    def ok(self) -> bool:
        """Every request was answered."""
        return self.sent > 0 and self.sent == self.received

    @property
    def median_ms(self) -> float:
        """Median round trip; NaN when nothing came back."""
        ordered = sorted(self.rtts_ms)
        return ordered[len(ordered) // 2] if ordered else float("nan")


def ping(
    namespace: Namespace,
    host: str,
    count: int = 3,
    interval_s: float = 0.05,
    wait_s: float = 2.0,
    size_bytes: int = 56,
) -> Ping:
    """ICMP echo, IPv4 or IPv6 by the address; lost answers are reported, not raised."""
    sized = ["-s", str(size_bytes), "-M", "dont"]
    argv = ["ping", "-n", "-c", str(count), "-i", str(interval_s), "-W", str(wait_s), *sized, host]
    text = namespace.run(argv, check=False, timeout_s=count * max(interval_s, 0.01) + wait_s + 10).stdout
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if counts is None:
        # "Network is unreachable": nothing was sent, so nothing was answered.
        return Ping(count, 0, ())
    rtts = tuple(float(found) for found in re.findall(r"time=([\d.]+) ms", text))
    return Ping(int(counts[1]), int(counts[2]), rtts)


def wait_reachable(namespace: Namespace, host: str, timeout_s: float = 15.0) -> float:
    """Ping until the first answer; returns the seconds it took, LabError after ``timeout_s``."""
    start_s = time.monotonic()
    while time.monotonic() - start_s < timeout_s:
        if ping(namespace, host, count=1, wait_s=1.0).received:
            return time.monotonic() - start_s
    raise LabError(f"{namespace.role}: {host} did not answer within {timeout_s} s")
