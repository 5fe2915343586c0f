# SPDX-License-Identifier: Apache-2.0
"""A guest of one program: what accelerators and the harness itself are tried with, in a second."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

HELLO: Final = "tiny guest runs"
SOURCE: Final = Path(__file__).with_name("tiny.c")
_TRAILER: Final = "TRAILER!!!"
_EXECUTABLE: Final = 0o100755


def make_initramfs(folder: Path) -> Path:
    """Compile the program and pack it as /init; returns the archive."""
    program, archive = folder / "tiny", folder / "tiny.cpio"
    flags = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-O1", "-Wall", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", str(program), str(SOURCE)], check=True, timeout=60)
    archive.write_bytes(_entry("init", _EXECUTABLE, program.read_bytes()) + _entry(_TRAILER, 0, b""))
    return archive


def _entry(name: str, mode: int, content: bytes) -> bytes:
    """One file of a cpio archive of the kind "newc": 13 numbers of 8 hexadecimal digits, all padded to 4 bytes."""
    #          ino mode uid gid links mtime size          dev×2 rdev×2 name size         checksum
    numbers = (1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name.encode() + b"\0") + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
