# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the stats endpoint in small: every member of its crowd has a session, everything is measured.

    client ─── gateway ─── backend       drawn in bench/tunnel/scene.py
                  └─── crowd

Figures are not judged here: one sitting on whatever machine tests run on promises nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.ops.report import TARGETS
from tests.net.lab import REPO, missing_requirements

MISSING = missing_requirements()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")
SESSIONS = 30


def bench(*words: str) -> str:
    """Its output; it must succeed."""
    argv = [sys.executable, "-m", "bench.ops", *words]
    done = subprocess.run(argv, cwd=REPO, text=True, capture_output=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_one_sitting_of_each(tmp_path: Path) -> None:
    out = tmp_path / "ops.json"
    small = ("--runs", "1", "--scrapes", "2", "--quick", "5", "--pings", "40")
    output = bench("--sessions", str(SESSIONS), *small, "--out", str(out))
    found = json.loads(out.read_text())
    assert (found["schema"], found["complete"], found["failed"]) == ("jvpn.bench-ops/1", True, [])
    figures = {row["peer"]: row["runs"][0] for row in found["results"]}
    assert set(figures) == {"aggregates", "per-session"}
    for taken in figures.values():
        assert taken["sessions"] == SESSIONS
        for name in ("metrics", "page", "largest"):
            assert 0 < taken[f"{name}_ms"] <= taken[f"{name}_max_ms"]
            assert taken[f"{name}_cpu_ms"] > 0
        assert 0 < taken["idle_p50_us"] <= taken["idle_p99_us"]
        assert taken["scraped_answers"] >= 1 and taken["paged_answers"] >= 1
        added_us = taken["scraped_p99_us"] - taken["idle_p99_us"]
        assert taken["scraped_adds_ms"] == pytest.approx(added_us / 1000)
    # A series per session is more to say.
    assert figures["per-session"]["metrics_kb"] > figures["aggregates"]["metrics_kb"] + SESSIONS * 0.2
    assert output.count("  met  ") + output.count("  MISSED  ") == len(TARGETS) == len(found["targets"])
    assert bench("--table", str(out)) in output
