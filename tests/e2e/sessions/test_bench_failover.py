# SPDX-License-Identifier: Apache-2.0
"""The failover benchmark with three runs of each event: every run is made, keeps its session and leaves sound journals.

Figures are not judged here: three runs on whatever machine tests run on promise nothing. (Its topology is drawn in
tests/net/topology.py.)
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.failover.plan import EVENTS
from tests.net.lab import REPO
from tests.net.ledger import owned_by, remains


def argv(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "bench.failover", "--out", str(out), *more]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_runs_of_everything(tmp_path: Path) -> None:
    out = tmp_path / "failover.json"
    done = subprocess.run(
        argv(out, "--runs", "3", "--system", "jvpn"), cwd=REPO, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    found = json.loads(out.read_text())
    assert found["schema"] == "jvpn.failover/1"
    assert found["complete"] is True
    for event in EVENTS:
        runs = [run for run in found["runs"] if run["event"] == event.key]
        assert len(runs) == 3
        for run in runs:
            assert (run["session_unchanged"], run["audit_ok"], run["tcp_alive"]) == (True, True, True), run
            assert run["detection_ms"] is not None, run
            assert not run["outage_up_open"] and not run["outage_down_open"], run


def test_what_was_measured_is_kept_when_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "failover.json"
    only = ("--only", "nat_rebind", "--system", "wireguard-go", "--runs", "50")
    with subprocess.Popen(argv(out, *only), cwd=REPO, text=True, stdout=subprocess.PIPE) as bench:
        deadline_s = time.monotonic() + 60
        while not out.exists():
            assert time.monotonic() < deadline_s and bench.poll() is None
            time.sleep(0.05)
        (token,) = owned_by(bench.pid)
        bench.send_signal(signal.SIGINT)
        output, _ = bench.communicate(timeout=60)
    assert bench.returncode == 130
    assert "interrupted" in output
    found = json.loads(out.read_text())
    assert found["complete"] is False
    assert len(found["runs"]) >= 1
    assert remains(token) == []
