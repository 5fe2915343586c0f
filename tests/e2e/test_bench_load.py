# SPDX-License-Identifier: Apache-2.0
"""The load generator: the traffic program against answers with a known delay and loss, a client through the scene.

Figures of the gateway are not judged here: one run on whatever machine tests run on promises nothing.
"""

from __future__ import annotations

import heapq
import json
import select
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.load.gateway import NATIVE, PORT, LoadGateway, encoded
from bench.load.population import Population
from bench.load.scene import Scene, endpoints, flows_binary
from bench.load.traffic import Flows, Load
from tests.net.jvpn import JvpnClient
from tests.net.lab import REPO, Lab, missing_requirements
from tests.net.wg import Keys

MISSING = missing_requirements()
needs_lab = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")
IP_PKTINFO = 8  # Python 3.11 does not name it
DELAY_S = 0.05
LOST_OF = 10
# Loopback has all of 127.0.0.0/8, so every flow has its addresses without a namespace.
LOOPBACK = ("--source", "127.16.0.0", "--target", "127.48.0.0")


@contextmanager
def answering(*, copies: int = 1, wrong: bool = False) -> Iterator[int]:
    """Answers each packet ``DELAY_S`` later but for every tenth number, from the address it came to; yields its port.

    ``wrong``: from the address of flow 0 whoever was asked.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, open_stop() as (ended, stop):
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("0.0.0.0", 0))
        worker = threading.Thread(target=answer, args=(sock, ended, copies, wrong))
        worker.start()
        try:
            yield sock.getsockname()[1]
        finally:
            stop.send(b"x")
            worker.join()


@contextmanager
def open_stop() -> Iterator[tuple[socket.socket, socket.socket]]:
    ended, stop = socket.socketpair()
    with ended, stop:
        yield ended, stop


def answer(sock: socket.socket, ended: socket.socket, copies: int, wrong: bool) -> None:
    waiting: list[tuple[float, int, bytes, bytes, tuple[str, int]]] = []
    count = 0
    while True:
        left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready = select.select([sock, ended], [], [], left_s)[0]
        if ended in ready:
            return
        if sock in ready:
            data, info, _, sender = sock.recvmsg(2048, 64)
            asked = socket.inet_aton("127.48.0.0") if wrong else info[0][2][8:12]
            number = int.from_bytes(data[8:16], "little")
            if number % LOST_OF:
                for _ in range(copies):
                    count += 1
                    heapq.heappush(waiting, (time.monotonic() + DELAY_S, count, data, asked, sender))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, data, asked, sender = heapq.heappop(waiting)
            source = bytes(4) + asked + bytes(4)
            sock.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, sender)


def flows(*words: str) -> list[dict[str, object]]:
    """Lines of the program under ASan and UBSan."""
    done = subprocess.run(
        [str(flows_binary(sanitize=True)), *words, *LOOPBACK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_delay_and_loss_are_what_they_are() -> None:
    with answering() as port:
        first, *by_second, last = flows(
            "--flows", "40", "--first", "7", "--rate", "500", "--seconds", "2", "--port", str(port)
        )
    assert first["rate_per_s"] == 500
    assert [line["second"] for line in by_second] == [0, 1]
    assert [line["sent"] for line in by_second] == [500, 500]
    assert [line["received"] for line in by_second] == [450, 450]
    assert (last["sent"], last["received"], last["refused"]) == (1000, 900, 0)
    assert (last["duplicates"], last["wrong"]) == (0, 0)
    buckets = last["buckets"]
    assert isinstance(buckets, list) and sum(count for _, count in buckets) == 900
    # Nothing comes back early, by more than a step of the histogram; the machine may be slow.
    assert buckets[0][0] >= DELAY_S * 1e6 * (1 - 1 / 1024)
    values = [last[name] for name in ("p50_us", "p90_us", "p99_us", "p999_us", "max_us")]
    assert values == sorted(values)  # type: ignore[type-var]
    lower = [us for us, count in buckets for _ in range(count)]
    for name, place in (("p50_us", 449), ("p99_us", 890)):
        assert lower[place] <= last[name] <= lower[place] * (1 + 1 / 512) + 1  # type: ignore[operator]


def test_a_stall_counts_from_when_packets_were_due() -> None:
    """The program is stopped for half a second: what was due meanwhile is sent, late, and its latency says so."""
    words = ("--flows", "10", "--rate", "1000", "--seconds", "2")
    with answering() as port:
        argv = [str(flows_binary()), *words, "--port", str(port), *LOOPBACK]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout
            assert '"start_ns"' in running.stdout.readline()
            running.send_signal(19)
            time.sleep(0.5)
            running.send_signal(18)
            lines = [json.loads(line) for line in running.stdout]
    last = lines[-1]
    assert (last["sent"], last["received"]) == (2000, 1800)
    assert last["late"] >= 400
    assert last["late_max_us"] >= 400_000
    waited = sum(count for us, count in last["buckets"] if us > DELAY_S * 1e6 + 100_000)
    assert waited >= 300


def test_copies_and_answers_of_others_are_told_apart() -> None:
    with answering(copies=2) as port:
        last = flows("--rate", "300", "--seconds", "1", "--flows", "5", "--port", str(port))[-1]
    assert (last["received"], last["duplicates"], last["wrong"]) == (270, 270, 0)
    with answering(wrong=True) as port:
        last = flows("--rate", "300", "--seconds", "1", "--flows", "3", "--port", str(port))[-1]
    assert (last["received"], last["wrong"]) == (90, 180)


@needs_lab
def test_a_client_of_ours_through_the_scene() -> None:
    """Client 0 alone, by `jvpn connect`: the gateway answers the asker, both uplinks carry, a cut is silent."""
    population = Population(seed=5, count=3)
    with Lab() as lab:
        scene = Scene.build(lab)
        gateway = LoadGateway(scene, population, NATIVE)
        assert 0 < gateway.launch(60) < 60
        own = population.identity(0)
        client = JvpnClient(
            lab,
            scene.crowd,
            Keys(encoded(own.private), encoded(own.public)),
            ["10.16.0.0/32"],
            {
                "public_key": encoded(population.gateway.public),
                "endpoints": endpoints(PORT)[:1],
                "allowed_ips": ["10.48.0.0/32"],
            },
        )
        client.start()
        load = Load(rate_per_s=200, flows=1)
        while not (settled := Flows(scene, load, 1).wait()).received:
            assert client.proc.running
        assert settled.figures["wrong"] == 0
        found = Flows(scene, load, 2).wait()
        assert found.sent == 400 and found.received > 0
        before_s = gateway.cpu_s()
        assert gateway.rss_bytes() > 10_000_000
        attached = gateway.metrics()
        assert any(name.startswith("jvpn_sessions") for name in attached)
        assert gateway.cpu_s() > before_s
        client.stop()
        assert gateway.stop() == 0


@needs_lab
@pytest.mark.slow
def test_a_whole_run_in_small(tmp_path: Path) -> None:
    small = ("--sessions", "100", "--idle", "1", "--rekeyed", "20", "--established", "2", "--rate", "300")
    start_s = time.monotonic()
    output = bench("bench.load", *small, "--out", str(tmp_path))
    assert time.monotonic() - start_s < 40
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["schema"], found["complete"], found["failed"]) == ("jvpn.bench-load/1", True, [])
    (result,) = found["results"]
    figures = result["figures"]
    assert result["sessions"] == 100
    assert (figures["attach_failed"], figures["breaches"], figures["established_wrong"]) == (0, 0, 0)
    for name in ("start_s", "attach_cpu_ms", "rekey_cpu_ms", "bytes_per_session", "idle_cpu_share"):
        assert figures[name] > 0
    assert 0 < figures["established_p50_us"] <= figures["established_p99_us"] <= figures["established_max_us"]
    assert sum(count for _, count in result["established_buckets_us"]) > 0
    # Every session has two paths, and both are probed.
    assert result["idle_per_s"]["probes sent"] > 100
    assert output.count("  met  ") + output.count("  MISSED  ") + output.count("  not measured ") == len(
        found["targets"]
    )
    for name in ("load-100.svg", "load-growth.svg"):
        ET.fromstring((tmp_path / name).read_text())
    assert bench("bench.load", "--table", str(tmp_path / "load.json")) in output


SMALL_STORM = """\
title = "all of it in small"
sessions = 40
attached = 30
warmup_s = 3
[load]
rate_per_s = 200
from = 10
count = 20
[[event]]
at_s = 0
do = "cut"
uplink = 0
from = 0
count = 10
[[event]]
at_s = 0.1
do = "settle"
name = "back"
count = 10
[[event]]
at_s = 1
do = "attach"
name = "late"
from = 30
count = 10
rate_per_s = 50
[[expect]]
title = "all back"
figure = "back.reattached_us.count"
at_least = 10
[[expect]]
title = "impossible"
figure = "late.attached"
at_least = 11
"""


@needs_lab
@pytest.mark.slow
def test_a_scenario_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(SMALL_STORM)
    output = bench("bench.load.storm", str(file), "--out", str(tmp_path))
    found = json.loads((tmp_path / "storm.json").read_text())
    assert (found["complete"], found["failed"]) == (True, []), output
    figures = found["results"][0]["figures"]
    assert (figures["late.attached"], figures["late.failed"]) == (10, 0)
    assert figures["back.reattached_us.count"] >= 10
    assert (figures["sessions.missing"], figures["sessions.ended"], figures["gateway.breaches"]) == (0, 0, 0)
    # The others' traffic knows nothing of it; a machine that runs tests may lose some of it to itself.
    assert figures["load.during.kept"] > 0.5
    assert [target["met"] for target in found["targets"]] == [True, False]
    ET.fromstring((tmp_path / "storm-own.svg").read_text())


def bench(module: str, *words: str) -> str:
    """Its output; it must succeed."""
    argv = [sys.executable, "-m", module, *words]
    done = subprocess.run(argv, cwd=REPO, text=True, capture_output=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
