# SPDX-License-Identifier: Apache-2.0
"""Reading files that somebody named: configuration, keys, tokens.

Rule: nothing but a regular file is read. A pipe without a writer would hold its reader for ever, and a device does
something when it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = {
    stat.S_IFIFO: "is a pipe, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


def read(path: Path, most_bytes: int) -> tuple[bytes, int]:
    """At most so many bytes of a file, and its mode. OSError; its ``strerror`` says what else stands there."""
    _require_file(os.stat(path).st_mode)
    # What was put there since is opened without waiting, and not read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        _require_file(mode)
        return file.read(most_bytes), mode


def _require_file(mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, _KINDS.get(kind, "is not a file"))
