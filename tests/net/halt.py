# SPDX-License-Identifier: Apache-2.0
"""Stop single threads of a running process, as a fault in them would, while its other threads go on."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# <linux/ptrace.h>
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_DETACH: Final = 17
_WALL: Final = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def threads(pid: int, name: str) -> list[int]:
    """Ids of the threads whose name begins so."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(int(task.name) for task in tasks if (task / "comm").read_text().startswith(name))


@contextmanager
def halted(thread_ids: list[int]) -> Iterator[None]:
    """These threads do nothing until the end of the block."""
    for tid in thread_ids:
        _ptrace(_SEIZE, tid)
        _ptrace(_INTERRUPT, tid)
        os.waitpid(tid, _WALL)
    try:
        yield
    finally:
        for tid in thread_ids:
            _ptrace(_DETACH, tid)


def _ptrace(request: int, tid: int) -> None:
    if _libc.ptrace(request, tid, None, None) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")
