# SPDX-License-Identifier: Apache-2.0
"""Where and of what a run was made: date, machine, commit, libraries, versions of the peers."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gateway.crypto import sodium_features
from tests.net.lab import REPO

PACKAGES: Final = ("nebula", "openvpn", "fastd", "wireguard-go")


def about() -> dict[str, Any]:
    """All of it, for the document."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "kernel": platform.release(),
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "processors": os.cpu_count(),
        "memory_mb": memory_mb(Path("/proc/meminfo").read_text()),
        "python": platform.python_version(),
        "libsodium": sodium_features().version,
        "peers": {name: version for name in PACKAGES if (version := package_version(name))},
    }


def cpu_model(cpuinfo: str) -> str:
    """The first processor's name, and which of the instructions that ciphers live on it has."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    useful = [flag for flag in ("aes", "vaes", "avx2", "avx512f") if flag in have]
    return f"{name[1].strip() if name else platform.machine()} ({' '.join(useful) or 'no AES instructions'})"


def memory_mb(meminfo: str) -> int:
    """All of it."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def commit() -> str:
    """The checkout's, and whether it has changes; "unknown" outside git."""
    name = _output("git", "rev-parse", "--short=10", "HEAD") or "unknown"
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return f"{name} with changes" if changed else name


def package_version(name: str) -> str:
    """As Debian numbers it; "" elsewhere."""
    return _output("dpkg-query", "-W", "-f=${Version}", name)


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=REPO)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
