# SPDX-License-Identifier: Apache-2.0
"""Helper programs in C: compiled on first use and whenever their text has changed, into build/NAME.

Rule: warnings are errors here too; two builds at once end in the same file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.net.lab import REPO, LabError

CFLAGS: Final = (
    "-O2",
    "-g",
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Werror",
)
SANITIZE: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover")


def build(
    name: str,
    sources: Sequence[Path],
    *,
    headers: Sequence[Path] = (),
    libraries: Sequence[str] = (),
    sanitize: bool = False,
) -> Path:
    """The binary, its name made of what it was compiled from; LabError when it does not compile.

    ``libraries``: flags behind the sources, for what is linked.
    """
    flags = (*CFLAGS, *SANITIZE) if sanitize else CFLAGS
    digest = hashlib.sha256(repr((*flags, *libraries)).encode())
    for source in (*sources, *headers):
        digest.update(source.read_bytes())
    folder = REPO / "build" / name
    binary = folder / f"{name}-{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _compile(binary, flags, (*map(str, sources), *libraries))
    return binary


def _compile(binary: Path, flags: Sequence[str], sources: Sequence[str]) -> None:
    partial = binary.with_suffix(".partial")
    argv = [os.environ.get("CC", "gcc"), *flags, "-o", str(partial), *sources]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}\n{done.stderr}")
    partial.replace(binary)
