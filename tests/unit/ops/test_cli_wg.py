# SPDX-License-Identifier: Apache-2.0
"""`jvpn wg` before there is an interface: how much it says, and what it refuses."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from gateway.ops.cli.wg import log_level


@pytest.mark.parametrize(
    ("word", "level"),
    [
        ("verbose", logging.DEBUG),
        ("debug", logging.DEBUG),
        ("ERROR", logging.ERROR),
        ("silent", logging.CRITICAL),
        ("", logging.ERROR),
        ("chatty", logging.ERROR),
    ],
)
def test_log_level(word: str, level: int) -> None:
    assert log_level({"LOG_LEVEL": word}) == level
    assert log_level({}) == logging.ERROR


@pytest.mark.parametrize("name", ["two words", "../wg0", "", "a" * 16, "-x"])
@pytest.mark.parametrize("foreground", [True, False])
def test_a_name_that_no_interface_can_have(name: str, foreground: bool) -> None:
    argv = [sys.executable, "-m", "gateway.ops.cli", "wg", *(["-f"] if foreground else []), "--", name]
    env = {**os.environ, "LOG_LEVEL": ""}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("jvpn: interface name")
