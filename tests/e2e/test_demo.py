# SPDX-License-Identifier: Apache-2.0
"""The demo runs, says the truth with its exit status, and leaves nothing, also when it is interrupted.

(Its own topology is drawn in bench/demo/scene.py.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from bench.demo.__main__ import PROGRAMS
from tests.net.lab import REPO, missing_requirements
from tests.net.ledger import owned_by, remains
from tests.net.wg import SOCKETS

MISSING: Final = missing_requirements(PROGRAMS)
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")
# Small transfers: the demo is the same, the test is quick.
ARGV: Final = [sys.executable, "-m", "bench.demo", "--size-mb", "16"]


def start(marker: str) -> subprocess.Popen[str]:
    """The demo with a mark in its environment, which everything it starts inherits."""
    env = {**os.environ, "JVPN_TEST_MARKER": marker}
    return subprocess.Popen(
        ARGV, cwd=REPO, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=1
    )


def marked_processes(marker: str) -> list[int]:
    """Processes that carry the mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found += [int(path.parent.name)] if f"JVPN_TEST_MARKER={marker}".encode() in words else []
    return found


def host() -> tuple[set[str], set[str]]:
    """Devices of this namespace, and control sockets of clients that wg-quick started (only the demo
    uses it).
    """
    return set(os.listdir("/sys/class/net")), {path.name for path in SOCKETS.glob("wq*")}


def token_of(demo: subprocess.Popen[str]) -> str:
    """The token of the demo's laboratory."""
    deadline_s = time.monotonic() + 20
    while not (tokens := owned_by(demo.pid)):
        if demo.poll() is not None or time.monotonic() > deadline_s:
            pytest.fail("the demo made no laboratory")
        time.sleep(0.01)
    return tokens[0]


def test_demo_succeeds_and_leaves_nothing() -> None:
    before, marker = host(), f"demo-{os.getpid()}"
    with start(marker) as demo:
        token = token_of(demo)
        output, errors = demo.communicate(timeout=120)
    assert demo.returncode == 0, output + errors
    assert errors == ""
    assert "✗" not in output
    assert output.count("✓") >= 8 + 8 + 4 + 1
    for words in (
        "jvpn connect",
        "wireguard-go",
        "IPv4",
        "IPv6",
        "Mbit/s",
        "attached",
        "nothing is left behind",
    ):
        assert words in output
    assert remains(token) == []
    assert (marked_processes(marker), host()) == ([], before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals, status: int) -> None:
    before, marker = host(), f"demo-{os.getpid()}-{number}"
    with start(marker) as demo:
        token = token_of(demo)
        for line in demo.stdout or ():
            if "TCP transfers" in line:
                break
        time.sleep(0.3)
        assert len(marked_processes(marker)) > 4
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=30)
    assert demo.returncode == status
    assert "Traceback" not in errors
    assert remains(token) == []
    assert (marked_processes(marker), host()) == ([], before)


def test_a_broken_gateway_is_reported_by_the_exit_status(tmp_path: Path) -> None:
    """With a `gateway` package that cannot start, the demo says so and ends with 1."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('gateway.ops.cli' in word for word in sys.orig_argv) and 'gateway' in sys.orig_argv:\n"
        "    sys.exit('broken on purpose')\n"
    )
    before, marker = host(), f"demo-{os.getpid()}-broken"
    env = {**os.environ, "JVPN_TEST_MARKER": marker, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(ARGV, cwd=REPO, env=env, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "broken on purpose" in done.stdout
    assert (marked_processes(marker), host()) == ([], before)
