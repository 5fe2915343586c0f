# SPDX-License-Identifier: Apache-2.0
"""The built extension with native workers under ThreadSanitizer: libtsan preloaded, libjv instrumented."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def instrumented() -> Path:
    """The folder of libjv with TSan's instrumentation, made if it is out of date."""
    subprocess.run([sys.executable, "setup.py", "-q", "threadtest"], cwd=REPO, check=True, timeout=280)
    return REPO / "build" / "tsan"


def libtsan() -> str:
    """What the compiler links with -fsanitize=thread."""
    found = subprocess.run(["gcc", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True)
    return str(Path(found.stdout.strip()).resolve())


def test_workers_run_beside_python_without_a_race(instrumented: Path) -> None:
    """That TSan finds a race here is shown by the planted one, which `setup.py threadtest` runs."""
    environment = os.environ | {"LD_PRELOAD": libtsan(), "LD_LIBRARY_PATH": str(instrumented)}
    environment["TSAN_OPTIONS"] = "verbosity=1"
    command = [sys.executable, "-m", "tests.integration.workers_pair"]
    done = subprocess.run(
        command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running under ThreadSanitizer" in done.stderr
    assert "WARNING: ThreadSanitizer" not in done.stderr, done.stderr
    assert done.stdout.splitlines() == [f"libjv {instrumented}", "packets 2000 of 2000"]
