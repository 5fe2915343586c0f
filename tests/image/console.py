# SPDX-License-Identifier: Apache-2.0
"""A machine's serial line: everything it says goes into a file, and waiting for a text has a limit.

Rule: a position in the output (`mark`) is taken before the act whose answer is waited for, so an old answer never
counts.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.net.proc import LabError

POLL_S: Final = 0.05
TAIL_LINES: Final = 60
READ_BYTES: Final = 65536
# Colours, cursor movements and what firmware draws its screen with.
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>78cM]|\r(?=\n)")


class Console:
    """One end of the socket that QEMU's serial port is; a thread reads it, since a full one would stop the guest."""

    def __init__(self, path: Path, log: Path, alive: Callable[[], bool]) -> None:
        """``alive``: whether anything can still be said."""
        self.log, self._path, self._alive = log, path, alive
        self._raw = bytearray()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def connect(self, timeout_s: float = 10.0) -> None:
        """Connect as soon as QEMU listens, and read from then on."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                self._socket.connect(str(self._path))
                break
            except OSError as error:
                if not self._alive() or time.monotonic() > deadline_s:
                    raise LabError(f"no serial line at {self._path}: {error}") from None
            time.sleep(POLL_S)
        threading.Thread(target=self._read, name=f"console {self.log.name}", daemon=True).start()

    def close(self) -> None:
        """Hang up; what was said stays readable."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    @property
    def text(self) -> str:
        """All that was said, as plain text."""
        with self._lock:
            raw = bytes(self._raw)
        return plain(raw)

    def mark(self) -> int:
        """Where the output ends now."""
        with self._lock:
            return len(self._raw)

    def since(self, mark: int) -> str:
        """What was said after ``mark``, as plain text."""
        with self._lock:
            raw = bytes(self._raw[mark:])
        return plain(raw)

    def send(self, text: str) -> None:
        """Type it. A serial line has no echo of its own: the guest decides what is shown."""
        self._socket.sendall(text.encode())

    def wait(self, pattern: str, timeout_s: float, *, mark: int = 0) -> re.Match[str]:
        """Wait until the output after ``mark`` matches; LabError with the last lines when the time is over or the
        machine is off.
        """
        wanted, deadline_s = re.compile(pattern, re.MULTILINE), time.monotonic() + timeout_s
        while True:
            alive = self._alive()
            if found := wanted.search(self.since(mark)):
                return found
            if not alive or time.monotonic() > deadline_s:
                state = f"within {timeout_s:.0f} s" if alive else "before the machine went off"
                raise LabError(f"the console did not show {pattern!r} {state}\n{self.tail()}")
            time.sleep(POLL_S)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines, and where the rest is."""
        # Firmware and GRUB draw with blanks.
        last = re.sub(" {8,}", "  ", "\n".join(self.text.splitlines()[-lines:]))
        return f"--- end of {self.log} ---\n{last}\n---"

    def _read(self) -> None:
        with self.log.open("ab", buffering=0) as log:
            while data := self._receive():
                log.write(data)
                with self._lock:
                    self._raw += data

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(READ_BYTES)
        except OSError:
            return b""  # the machine is gone, or `close` was called


def plain(raw: bytes) -> str:
    """Without what moves a cursor or colours a word."""
    return _ESCAPES.sub("", raw.decode(errors="replace"))
