# SPDX-License-Identifier: Apache-2.0
"""The impairment relay does what it is told, measured on real sockets.

    client 127.0.0.1 ──── relay 127.0.0.1 ──── gateway 127.0.0.1        (one namespace, loopback)

The wire from "client" to "gateway" is "up". Other loopback addresses are other hosts.
"""

from __future__ import annotations

import itertools
import math
import select
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Final

import pytest

from tests.net.lab import Lab, Namespace, missing_requirements
from tests.net.relay import Relay, RelayError

RELAY: Final = "127.0.0.1:4000"
GATEWAY: Final = "127.0.0.1:5000"
NUMBER: Final = struct.Struct("!Q")
QUIET_S: Final = 0.2

MISSING: Final = missing_requirements(("ip", "gcc"))

pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One laboratory for the module."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def namespace(lab: Lab) -> Namespace:
    """The namespace whose loopback everything runs on."""
    return lab.namespace("relay")


class Wire:
    """A client and a gateway socket with a relay between them."""

    def __init__(self, namespace: Namespace, relay: Relay) -> None:
        self.namespace, self.relay = namespace, relay
        self.client = self.udp("127.0.0.1", 0)
        self.gateway = self.udp("127.0.0.1", 5000)
        self.client.connect(("127.0.0.1", 4000))

    def udp(self, host: str, port: int) -> socket.socket:
        """A bound socket in the namespace."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = self.namespace.open_socket(family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((host, port))
        made.settimeout(2.0)
        return made

    def meet(self) -> tuple[str, int]:
        """Let the gateway see the client once; returns the address it sees."""
        self.client.send(b"hello")
        seen: tuple[str, int] = self.gateway.recvfrom(100)[1]
        return seen

    def send(self, count: int, size_bytes: int = 64, gap_s: float = 0.0, first: int = 0) -> None:
        """Numbered datagrams from the client."""
        for number in range(first, first + count):
            self.client.send(NUMBER.pack(number).ljust(size_bytes, b"."))
            if gap_s:
                time.sleep(gap_s)
            elif number % 256 == 255:
                time.sleep(0.002)

    def received(self, quiet_s: float = QUIET_S) -> list[tuple[int, bytes, tuple[str, int]]]:
        """All that arrives at the gateway until it is quiet: (CLOCK_MONOTONIC ns, payload, source)."""
        found = []
        while select.select([self.gateway], [], [], quiet_s)[0]:
            payload, source = self.gateway.recvfrom(65_536)
            found.append((time.monotonic_ns(), payload, source))
        return found

    def numbers(self, quiet_s: float = QUIET_S) -> list[int]:
        """The numbers of what arrives, in order."""
        return [NUMBER.unpack_from(payload)[0] for _, payload, _ in self.received(quiet_s)]

    def wait_packets(self, up: int, down: int) -> None:
        """Until the relay has taken that many."""
        deadline_s = time.monotonic() + 5.0
        while [self.relay.stats()[way]["packets"] for way in ("up", "down")] != [up, down]:
            assert time.monotonic() < deadline_s, self.relay.stats()
            time.sleep(0.001)

    def close(self) -> None:
        """Close both sockets."""
        self.client.close()
        self.gateway.close()


@pytest.fixture
def wire(lab: Lab, namespace: Namespace) -> Iterator[Wire]:
    """A fresh relay, built with the sanitizers: every test here is a memory test of it too."""
    sources = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
    relay = Relay(lab, namespace, RELAY, GATEWAY, seed=7, sources=sources, flows=4, sanitize=True)
    with relay, closing(Wire(namespace, relay)) as made:
        yield made
    assert relay.proc.returncode == 0, relay.proc.stderr


def binomial_bounds(trials: int, probability: float, sigmas: float = 4.5) -> tuple[float, float]:
    """Bounds that a binomial count leaves with a probability below 1e-5."""
    spread = sigmas * math.sqrt(trials * probability * (1 - probability))
    return trials * probability - spread, trials * probability + spread


def test_perfect_wire_passes_everything_in_order_both_ways(wire: Wire) -> None:
    wire.send(1000)
    arrived = wire.received()
    assert [NUMBER.unpack_from(payload)[0] for _, payload, _ in arrived] == list(range(1000))
    assert len({source for _, _, source in arrived}) == 1
    wire.gateway.sendto(b"back", arrived[0][2])
    assert wire.client.recv(100) == b"back"
    stats = wire.relay.stats()
    assert (stats["up"]["packets"], stats["up"]["sent"], stats["down"]["sent"], stats["flows"]) == (
        1000,
        1000,
        1,
        1,
    )


@pytest.mark.parametrize("delay_ms", [5.0, 50.0])
def test_delay_is_exact_within_a_millisecond(wire: Wire, delay_ms: float) -> None:
    wire.relay.set("both", delay_ms=delay_ms)
    rtts_ms = []
    for _ in range(15):
        start_ns = time.monotonic_ns()
        source = wire.meet()
        wire.gateway.sendto(b"back", source)
        wire.client.recv(100)
        rtts_ms.append((time.monotonic_ns() - start_ns) / 1e6)
    assert 2 * delay_ms <= statistics.median(rtts_ms) < 2 * delay_ms + 2.0


def test_jitter_spreads_uniformly_and_keeps_order_when_told(wire: Wire) -> None:
    wire.relay.set("up", delay_ms=20, jitter_ms=10)
    log = wire.relay.log()
    wire.send(2000)
    shuffled = wire.numbers()
    wire.relay.log(False)
    delays_ms = [int(line.split("delay=")[1].split()[0]) / 1e6 for line in log.read_text().splitlines()]
    assert 10 <= min(delays_ms) < 10.5
    assert 29.5 < max(delays_ms) <= 30
    assert statistics.mean(delays_ms) == pytest.approx(20, abs=4.5 * 20 / math.sqrt(12 * 2000))
    assert sorted(shuffled) == list(range(2000)) != shuffled
    wire.relay.set("up", ordered=True)
    wire.send(2000)
    assert wire.numbers() == list(range(2000))


@pytest.mark.parametrize("loss", [0.02, 0.3])
def test_independent_loss_has_its_ratio(wire: Wire, loss: float) -> None:
    wire.relay.set("up", loss=loss)
    wire.send(5000)
    low, high = binomial_bounds(5000, 1 - loss)
    arrived = wire.numbers()
    assert low <= len(arrived) <= high
    assert wire.relay.stats()["up"]["loss"] == 5000 - len(arrived)


def test_gilbert_elliott_loses_in_bursts_of_the_right_length(wire: Wire) -> None:
    to_bad, to_good, packets = 0.01, 0.2, 10_000
    wire.relay.set("up", ge=(to_bad, to_good))
    wire.send(packets)
    arrived = set(wire.numbers())
    runs: list[int] = []
    for number in range(packets):
        if number not in arrived:
            runs = [*runs[:-1], runs[-1] + 1] if runs and number - 1 not in arrived else [*runs, 1]
    # Mean burst 1/r; share of time spent bad p/(p+r). Independent loss of that ratio would have bursts of
    # 1.05.
    assert statistics.mean(runs) == pytest.approx(1 / to_good, rel=0.5)
    assert sum(runs) / packets == pytest.approx(to_bad / (to_bad + to_good), rel=0.6)
    assert wire.relay.stats()["up"]["burst_loss"] == sum(runs)


def test_duplicates_are_exact_copies(wire: Wire) -> None:
    wire.relay.set("up", duplicate=0.25)
    wire.send(2000)
    arrived = wire.numbers()
    low, high = binomial_bounds(2000, 0.25)
    assert set(arrived) == set(range(2000))
    assert low <= len(arrived) - 2000 <= high


def test_corruption_flips_one_bit(wire: Wire) -> None:
    wire.relay.set("up", corrupt=1.0)
    wire.send(200, size_bytes=100)
    for expected, (_, payload, _) in enumerate(wire.received()):
        sent = NUMBER.pack(expected).ljust(100, b".")
        assert sum((a ^ b).bit_count() for a, b in zip(sent, payload, strict=True)) == 1


def test_reordered_datagrams_arrive_late_by_the_reorder_delay(wire: Wire) -> None:
    wire.relay.set("up", reorder=0.1, reorder_delay_ms=5)
    wire.send(500, gap_s=0.001)
    arrived = wire.numbers()
    late = sum(1 for before, after in itertools.pairwise(arrived) if after < before)
    assert sorted(arrived) == list(range(500))
    assert 20 <= late <= 90
    assert wire.relay.stats()["up"]["reordered"] > 20


def test_rate_limit_and_its_bounded_queue(wire: Wire) -> None:
    # 8 Mbit/s = 1,000 bytes per ms; the queue holds 100 of them.
    wire.relay.set("up", rate_mbit=8, queue_bytes=100_000)
    start_ns = time.monotonic_ns()
    wire.send(150, size_bytes=1000)
    arrived = wire.received()
    assert 100 <= len(arrived) <= 115
    assert wire.relay.stats()["up"]["rate"] == 150 - len(arrived)
    assert len(arrived) <= (arrived[-1][0] - start_ns) / 1e6 < len(arrived) + 15


@pytest.mark.parametrize(
    ("ways", "up", "down"), [("up", 0, 1), ("down", 1, 0), ("both", 0, 0), ("none", 1, 1)]
)
def test_blackhole_one_way_and_two_way(wire: Wire, ways: str, up: int, down: int) -> None:
    source = wire.meet()
    cut_ns = wire.relay.blackhole(ways)  # type: ignore[arg-type]
    assert abs(time.monotonic_ns() - cut_ns) < 1e9
    wire.send(1)
    wire.gateway.sendto(b"back", source)
    assert len(wire.received()) == up
    assert len(select.select([wire.client], [], [], 0.05)[0]) == down
    wire.relay.clear()
    wire.send(1)
    assert len(wire.received()) == 1


def test_path_mtu_drops_what_is_larger_and_only_that(wire: Wire) -> None:
    wire.relay.set("up", mtu_bytes=1280)
    for size in (1280 - 28, 1280 - 27):
        wire.send(1, size_bytes=size)
    assert [len(payload) for _, payload, _ in wire.received()] == [1252]
    assert wire.relay.stats()["up"]["mtu"] == 1


def test_rebinding_changes_port_then_address_and_the_old_mapping_is_mute(wire: Wire) -> None:
    first = wire.meet()
    wire.relay.rebind_port()
    second = wire.meet()
    wire.relay.rebind_address()
    third = wire.meet()
    assert (first[0], second[0], third[0]) == ("127.0.0.11", "127.0.0.11", "127.0.0.12")
    assert len({first[1], second[1]}) == 2
    assert wire.relay.upstream_sources() == [third]
    wire.gateway.sendto(b"lost", first)
    wire.gateway.sendto(b"found", third)
    assert wire.client.recv(100) == b"found"
    assert not select.select([wire.client], [], [], 0.05)[0]
    # No ICMP error came back to the gateway: its next call would fail with ECONNREFUSED.
    assert wire.received() == []


def test_copy_and_forward_reaches_the_gateway_first_and_counts_what_comes_back(wire: Wire) -> None:
    real = wire.meet()
    wire.relay.attack("up", "127.0.0.66", count=2)
    wire.send(3)
    arrived = wire.received()
    assert [source[0] for _, _, source in arrived] == ["127.0.0.66", real[0], "127.0.0.66", real[0], real[0]]
    wire.gateway.sendto(b"stolen", arrived[0][2])
    assert not select.select([wire.client], [], [], 0.1)[0]
    assert wire.relay.stats()["down"]["back"] == 1


def test_full_relay_attack_stays_in_the_middle(wire: Wire) -> None:
    wire.meet()
    wire.relay.attack("up", "127.0.0.66:6666", only=True, back=True)
    wire.send(1)
    ((_, _, source),) = wire.received()
    wire.gateway.sendto(b"answer", source)
    assert source == ("127.0.0.66", 6666)
    assert wire.client.recv(100) == b"answer"
    # The same source again: its port is free for the new attack.
    wire.relay.attack("up", "127.0.0.66:6666", back=True)
    wire.send(1)
    assert [origin[1] == 6666 for _, _, origin in wire.received()] == [True, False]


def test_attack_downwards_from_another_address(wire: Wire) -> None:
    # Unconnected, as a VPN's socket is: a connected one would not take the copy.
    with closing(wire.udp("127.0.0.1", 0)) as client:
        client.sendto(b"hello", ("127.0.0.1", 4000))
        source = wire.gateway.recvfrom(100)[1]
        wire.relay.attack("down", "127.0.0.77", back=True)
        wire.gateway.sendto(b"data", source)
        copies = [client.recvfrom(100) for _ in range(2)]
        assert [(payload, origin[0]) for payload, origin in copies] == [
            (b"data", "127.0.0.77"),
            (b"data", "127.0.0.1"),
        ]
        client.sendto(b"reply", copies[0][1])
        assert wire.gateway.recvfrom(100) == (b"reply", source)


def test_record_replay_and_inject(wire: Wire) -> None:
    wire.relay.record("up", 2)
    wire.send(3)
    wire.received()
    assert [NUMBER.unpack_from(data)[0] for data in wire.relay.recorded("up")] == [0, 1]
    wire.relay.replay("up", 1, count=2)
    wire.relay.inject("up", b"forged", source="127.0.0.99")
    arrived = wire.received()
    assert [payload[:8] for _, payload, _ in arrived] == [NUMBER.pack(1), NUMBER.pack(1), b"forged"]
    assert arrived[2][2][0] == "127.0.0.99"
    wire.relay.inject("down", b"to the client")
    assert wire.client.recv(100) == b"to the client"
    with pytest.raises(RelayError):
        wire.relay.replay("up", 2)


def test_impairments_can_be_limited_to_message_types(wire: Wire) -> None:
    wire.relay.set("up", loss=1.0, types=[1, 2])
    for kind in (1, 2, 3, 4, 255):
        wire.client.send(bytes([kind]) + b"rest")
    assert [payload[0] for _, payload, _ in wire.received()] == [3, 4, 255]


def test_same_seed_same_decisions_whatever_the_timing(lab: Lab, namespace: Namespace) -> None:
    logs = []
    for seed, gap_s in ((3, 0.0), (3, 0.0005), (4, 0.0)):
        with (
            Relay(lab, namespace, RELAY, GATEWAY, seed=seed) as relay,
            closing(Wire(namespace, relay)) as wire,
        ):
            relay.set(
                "both",
                loss=0.1,
                duplicate=0.1,
                corrupt=0.1,
                reorder=0.1,
                delay_ms=3,
                jitter_ms=2,
                ge=(0.05, 0.3),
            )
            path = relay.log()
            wire.send(500, gap_s=gap_s)
            wire.received()
            relay.log(False)
            logs.append(path.read_text())
    assert logs[0] == logs[1] != logs[2]
    assert len(logs[0].splitlines()) == 500


def test_one_impairment_does_not_move_the_decisions_of_another(lab: Lab, namespace: Namespace) -> None:
    lost = []
    for duplicate in (0.0, 0.5):
        with Relay(lab, namespace, RELAY, GATEWAY, seed=5) as relay, closing(Wire(namespace, relay)) as wire:
            relay.set("up", loss=0.2, duplicate=duplicate, jitter_ms=duplicate)
            wire.send(500)
            lost.append(set(range(500)) - set(wire.numbers()))
    assert lost[0] == lost[1] != set()


@pytest.fixture
def others(wire: Wire) -> Iterator[list[socket.socket]]:
    """Five further clients of a relay that remembers four."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(wire.udp("127.0.0.1", 0))) for _ in range(5)]


def mapping(wire: Wire, client: socket.socket) -> tuple[str, int]:
    """The address that the gateway sees of this client, which says something for it."""
    client.sendto(b"x", ("127.0.0.1", 4000))
    seen: tuple[str, int] = wire.gateway.recvfrom(100)[1]
    return seen


def test_a_full_table_forgets_the_client_that_was_quiet_for_longest(
    wire: Wire, others: list[socket.socket]
) -> None:
    """What either end says counts: the first client has spoken last, the second one was spoken to."""
    before = [mapping(wire, other) for other in others[:4]]
    assert len(set(before)) == 4
    assert mapping(wire, others[0]) == before[0]
    wire.gateway.sendto(b"to the second", before[1])
    assert others[1].recv(100) == b"to the second"
    fifth = mapping(wire, others[4])
    stats = wire.relay.stats()
    assert (stats["flows"], stats["forgotten"], stats["up"]["no_flow"]) == (4, 1, 0)
    assert [mapping(wire, others[i]) for i in (0, 1, 3)] == [before[i] for i in (0, 1, 3)]
    assert mapping(wire, others[4]) == fifth
    assert mapping(wire, others[2]) not in {*before, fifth}
    assert wire.relay.stats()["forgotten"] == 2


def test_what_waits_for_a_forgotten_client_goes_to_nobody_else(
    wire: Wire, others: list[socket.socket]
) -> None:
    before = [mapping(wire, other) for other in others[:4]]
    for other in others[1:4]:
        mapping(wire, other)
    wire.relay.set("both", delay_ms=500)
    wire.gateway.sendto(b"for the first", before[0])
    others[0].sendto(b"from the first", ("127.0.0.1", 4000))
    wire.wait_packets(up=8, down=1)
    for other in others[1:]:
        other.sendto(b"new", ("127.0.0.1", 4000))
    assert [payload for _, payload, _ in wire.received(quiet_s=1.0)] == [b"new"] * 4
    assert not select.select(others, [], [], 0.0)[0]
    stats = wire.relay.stats()
    assert (stats["forgotten"], stats["up"]["no_flow"], stats["down"]["no_flow"]) == (1, 1, 1)


def test_oversized_datagrams_are_counted_not_cut(wire: Wire) -> None:
    wire.send(1, size_bytes=2048)
    wire.send(1, size_bytes=2049)
    assert [len(payload) for _, payload, _ in wire.received()] == [2048]
    assert wire.relay.stats()["up"]["oversize"] == 1


def test_ipv6_and_a_spoofed_source(lab: Lab, namespace: Namespace) -> None:
    gateway, client = (namespace.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
    relay = Relay(lab, namespace, "[::1]:4000", "[::1]:5000", sanitize=True)
    with relay, closing(gateway), closing(client):
        gateway.bind(("::1", 5000))
        gateway.settimeout(2.0)
        client.settimeout(2.0)
        client.sendto(b"six", ("::1", 4000))
        payload, source = gateway.recvfrom(100)
        gateway.sendto(b"back", source)
        assert (payload, client.recv(100)) == (b"six", b"back")
        # 2001:db8::/32 is for documentation and belongs to nobody here.
        relay.inject("up", b"spoofed", source="2001:db8::1")
        payload, source = gateway.recvfrom(100)
        assert (payload, source[0]) == (b"spoofed", "2001:db8::1")


# fmt: off
BAD_COMMANDS: Final = [
    " ", "nonsense", "set", "set up", "set sideways loss=0.1", "set up loss", "set up loss=2",
    "set up loss=-1", "set up loss=nan", "set up delay=5", "set up delay=1h", "set up delay=99999999s",
    "set up ge=0.1", "set up ge=0.1,0.1,0.1,0.1,0.1", "set up rate=5", "set up mtu=70000",
    "set up types=256", "set up types=", "set up unknown=1", "set up " + "x" * 100 + "=1", "clear",
    "blackhole", "blackhole left", "rebind", "rebind addr 300.1.1.1", "attack both from=127.0.0.1",
    "attack up", "attack up from=", "attack up who=me", "record up 257", "record both 1", "recorded up 0",
    "replay up 0", "inject up abc", "inject up zz", "inject both 00", "inject down 00", "seed", "log",
    "log /nonexistent/file",
]
# fmt: on


def test_bad_commands_are_refused_and_change_nothing(wire: Wire) -> None:
    before = wire.relay.stats()
    for line in BAD_COMMANDS:
        with pytest.raises(RelayError):
            wire.relay.command(line)
    assert wire.relay.stats() == before
    wire.send(50)
    assert wire.numbers() == list(range(50))
