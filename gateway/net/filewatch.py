# SPDX-License-Identifier: Apache-2.0
"""Says when something happens to one file: inotify, which Python does not have."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.net.remedy import refused

# linux/inotify.h. A socket's inode outlives its name as long as it is served: then only ATTRIB tells of the removal.
IN_ATTRIB: Final = 0x4
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
_EVENTS_BYTES: Final = 4096


class FileWatch:
    """Calls ``on_event`` when the file's attributes change, and when it is moved or removed."""

    def __init__(self, path: Path, on_event: Callable[[], None]) -> None:
        self._path = path
        self._on_event = on_event
        self._fd = -1

    def start(self) -> None:
        """HostError when there is no such file."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(self._path), mask) < 0:
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            self._close()
            raise refused(f"cannot watch {self._path}", error) from error
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    def stop(self) -> None:
        """Watch no more."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._close()

    def _on_readable(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, _EVENTS_BYTES)
        self._on_event()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
