# SPDX-License-Identifier: Apache-2.0
"""The Debian package of this tree, built once per run of the tests, and what it unpacks to."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from tests.net.lab import REPO


@cache
def built() -> Path:
    """The package's file, made as `make deb` does from a tree that is built."""
    subprocess.run([".ci/package"], cwd=REPO, check=True, capture_output=True)
    (found,) = (REPO / "build/deb").glob("jumping-vpn_*.deb")
    return found


def unpack(folder: Path) -> Path:
    """Its files below an empty folder that everybody may read; returns the folder's usr."""
    folder.mkdir()
    folder.chmod(0o755)
    subprocess.run(["dpkg-deb", "-x", str(built()), str(folder)], check=True)
    return folder / "usr"
