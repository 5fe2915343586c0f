# SPDX-License-Identifier: Apache-2.0
"""The tunnel benchmark in small: everything of a peer is measured, an interruption keeps what there is.

    client ─── gateway ─── backend       drawn in bench/tunnel/scene.py

Figures are not judged here: one repetition on whatever machine tests run on promises nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.net.lab import REPO, missing_requirements
from tests.net.ledger import owned_by, remains

MISSING = missing_requirements()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")


def bench(out: Path, peers: str, only: str, runs: int) -> subprocess.Popen[str]:
    """Started, its output in a pipe."""
    argv = [sys.executable, "-m", "bench.tunnel", "--repeats", "0", "--out", str(out)]
    env = {**os.environ, "PEERS": peers, "ONLY": only, "RUNS": str(runs)}
    return subprocess.Popen(
        argv, cwd=REPO, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_one_repetition_of_ours(tmp_path: Path) -> None:
    out = tmp_path / "tunnel.json"
    with bench(out, "ours", "tcp-up,pps-down,ping,rss", 1) as running:
        output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output
    found = json.loads(out.read_text())
    assert (found["schema"], found["complete"], found["failed"]) == ("jvpn.tunnel/2", True, [])
    figures = {row["measurement"]: row["runs"][0] for row in found["results"]}
    assert set(figures) == {"tcp-up", "pps-down", "ping", "rss"}
    assert figures["tcp-up"]["gbit_per_s"] > 0
    assert 0 < figures["tcp-up"]["gateway_cpu_s_per_gb"] < figures["tcp-up"]["ends_cpu_s_per_gb"]
    assert figures["pps-down"]["kpps"] > 0
    assert figures["pps-down"]["loss"] < 0.01
    assert 0 < figures["ping"]["p50_us"] <= figures["ping"]["p99_us"]
    assert figures["rss"]["gateway_rss_mb"] > 10
    assert len(found["targets"]) == output.count("MISSED") + output.count("not measured ") + output.count(
        "  met "
    )
    again = [sys.executable, "-m", "bench.tunnel", "--table", str(out)]
    assert subprocess.check_output(again, cwd=REPO, text=True) in output


def test_what_was_measured_is_kept_when_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "tunnel.json"
    with bench(out, "veth", "ping", 50) as running:
        deadline_s = time.monotonic() + 60
        while not out.exists():
            assert time.monotonic() < deadline_s and running.poll() is None
            time.sleep(0.05)
        while not (tokens := owned_by(running.pid)):  # between two laboratories there is none
            assert time.monotonic() < deadline_s and running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 130, output
    assert "interrupted; what was measured is kept" in output
    found = json.loads(out.read_text())
    assert found["complete"] is False
    assert len(found["results"][0]["runs"]) >= 1
    assert [remains(token) for token in tokens] == [[] for _ in tokens]
