# SPDX-License-Identifier: Apache-2.0
"""WireGuard's configuration socket: /var/run/wireguard/IFACE.sock, mode 0600, where `wg` and `wg-quick` look for it.

`wg` opens a connection and closes it again to see whether somebody listens, and removes the file when nobody does.
What is asked is for wgsocket.py, what it does for the backend. Everything is bounded: connections, the length of a
line, a whole request, the time until the next line comes and until an answer is taken.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from gateway.control import actor
from gateway.control.ctlclient import owner_pid
from gateway.control.wgsocket import (
    LINE_MAX_BYTES,
    DeviceChange,
    DeviceState,
    Fault,
    SetReader,
    answer,
    describe,
)
from gateway.errors import DataplaneError, HostError, NotFound, Refused, UsageError

SOCKETS: Final = Path("/var/run/wireguard")
CONNECTIONS_MAX: Final = 32
CLIENT_TIMEOUT_S: Final = 10.0
# Taken in one turn of the loop: some 500 lines, which are read in 5 ms.
BLOCK_BYTES: Final = 16_384


class _Lines:
    """Lines of one connection. Read in blocks: a request of 100,000 lines would pay for a timer each."""

    def __init__(self, reader: asyncio.StreamReader, timeout_s: float) -> None:
        self._reader = reader
        self._timeout_s = timeout_s
        self._lines: deque[bytes] = deque()
        self._rest = b""

    async def next(self) -> str:
        """The next line without its end. EOFError when there is none, Fault for one that nobody would write."""
        while not self._lines:
            if len(self._rest) > LINE_MAX_BYTES:
                raise Fault(errno.EINVAL, "a line is too long")
            block = await asyncio.wait_for(self._reader.read(BLOCK_BYTES), self._timeout_s)
            if not block:
                raise EOFError
            *whole, self._rest = (self._rest + block).split(b"\n")
            self._lines.extend(whole)
        line = self._lines.popleft()
        if len(line) > LINE_MAX_BYTES:
            raise Fault(errno.EINVAL, "a line is too long")
        try:
            return line.decode("ascii")
        except UnicodeDecodeError:
            raise Fault(errno.EINVAL, "a line is no text") from None


class Backend(Protocol):
    """What is configured."""

    def state(self) -> DeviceState:
        """Everything `wg show` asks for. ``peers`` is read at once."""

    async def apply(self, change: DeviceChange) -> None:
        """Do what a request asks. A Fault, or an error that has an errno, is the answer."""


class WgServer:
    """Serves a backend on ``path`` until ``stop``."""

    def __init__(
        self,
        path: Path,
        backend: Backend,
        *,
        on_error: Callable[[BaseException], None] = lambda _error: None,
        client_timeout_s: float = CLIENT_TIMEOUT_S,
    ) -> None:
        self.path = path
        self._backend = backend
        self._on_error = on_error
        self._client_timeout_s = client_timeout_s
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # one request acts at a time

    async def start(self) -> None:
        """Listen. Refused while another process serves the interface, HostError when the socket cannot be made."""
        listener = _bind(self.path)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=BLOCK_BYTES)

    async def stop(self) -> None:
        """Close the socket and every connection; the file goes, if it is still ours."""
        if self._server is None:
            return
        if self.is_there():  # asked while the socket is open, so that no other file can have its inode
            self.path.unlink(missing_ok=True)
        self._server.close()
        self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def is_there(self) -> bool:
        """Whether the file is still the socket that was bound."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._tasks) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = _Lines(reader, self._client_timeout_s)
        try:
            with actor.acting(actor.local(writer.get_extra_info("socket"), "wg")):
                while await self._serve(lines, writer):
                    await asyncio.wait_for(writer.drain(), self._client_timeout_s)
        except (TimeoutError, ConnectionError, asyncio.CancelledError, EOFError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _serve(self, lines: _Lines, writer: asyncio.StreamWriter) -> bool:
        """One request; whether another may follow. After one that is refused nobody knows where the next begins."""
        try:
            operation = await lines.next()
            if operation == "get=1":
                await self._get(lines, writer)
            elif operation == "set=1":
                await self._set(lines)
                writer.write(answer(0))
            else:
                raise Fault(errno.EINVAL, "unknown operation")
        except (ConnectionError, EOFError, TimeoutError):
            raise
        except Exception as error:
            writer.write(answer(self._number_of(error)))
            return False
        return True

    async def _get(self, lines: _Lines, writer: asyncio.StreamWriter) -> None:
        if await lines.next():
            raise Fault(errno.EINVAL, "get=1 has no arguments")
        for piece in describe(self._backend.state()):
            writer.write(piece)

    async def _set(self, lines: _Lines) -> None:
        request = SetReader()
        while line := await lines.next():
            request.line(line)
        async with self._turn:
            await self._backend.apply(request.change)

    def _number_of(self, error: Exception) -> int:
        number = errno_of(error)
        if number is None:
            self._on_error(error)
        return number or errno.EIO


def errno_of(error: BaseException) -> int | None:
    """The errno that tells `wg` what an error means; None for one that nobody foresaw."""
    if isinstance(error, Fault):
        return error.number
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno:
        return cause.errno
    kinds = ((NotFound, errno.ENOENT), (Refused, errno.EPERM), (UsageError, errno.EINVAL))
    for kind, number in (*kinds, (DataplaneError, errno.ENOSPC), (HostError, errno.EIO)):
        if isinstance(error, kind):
            return number
    return None


def _bind(path: Path) -> socket.socket:
    """Listen at ``path``. A file that nobody serves any more is in the way of nobody."""
    pid = owner_pid(path)
    if pid:
        raise Refused(f"{path} is served already, by pid {pid}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.fchmod(listener.fileno(), 0o600)  # before bind, so that the file is never open to others
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
    except OSError as error:
        listener.close()
        raise HostError(f"{path}: {error.strerror or error}") from error
    return listener
