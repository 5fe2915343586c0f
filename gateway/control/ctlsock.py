# SPDX-License-Identifier: Apache-2.0
"""The control socket: newline-delimited JSON over a UNIX stream of mode 0600.

{"id":1,"command":"status","args":{}} is answered by {"id":1,"ok":true,"result":{}} or by
{"id":1,"ok":false,"error":{"code":"not_found","message":"…","exit_code":4}}. Handlers know nothing of
sockets, so the same ones can serve HTTP. Everything is bounded: request size, connections, time to send a
request and to take its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.control import actor, statedir
from gateway.control.ctlclient import call, code_of, owner_pid
from gateway.errors import HostError, JumpError, Refused, TryLater, UsageError

__all__ = ["ControlServer", "Handler", "OnError", "Request", "call", "owner_pid"]

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
OnError = Callable[[str, BaseException], None]

REQUEST_MAX_BYTES: Final = 64 * 1024
CONNECTIONS_MAX: Final = 32
# How long a client may take for one request line, and for taking one answer.
CLIENT_TIMEOUT_S: Final = 10.0


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request line."""

    command: str
    id: int | str | None = None
    args: dict[str, Any] = {}


class ControlServer:
    """Serves ``handlers`` on ``path`` until ``stop``; holds a lock beside the socket meanwhile."""

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        *,
        on_error: OnError | None = None,
        client_timeout_s: float = CLIENT_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.path = path
        self._handlers = handlers
        self._on_error = on_error or (lambda _command, _error: None)
        self._client_timeout_s = client_timeout_s
        self._connections_max = connections_max
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._closing = False
        self._lock = -1

    async def start(self) -> None:
        """Listen. ``Refused`` while another daemon holds the socket, ``HostError`` when it cannot be made."""
        statedir.ensure_dir(self.path.parent)
        self._lock = _take_lock(self.path)
        try:
            listener = _bind(self.path)
            self._server = await asyncio.start_unix_server(
                self._accept, sock=listener, limit=REQUEST_MAX_BYTES
            )
        except BaseException:
            self._unlock()
            raise

    async def stop(self) -> None:
        """Close the socket and every connection, and remove the file."""
        if self._server is None:
            return
        self._closing = True
        self._server.close()
        others = self._tasks - {asyncio.current_task()}  # a handler may be what stops the daemon
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._server = None
        self.path.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):
            _lock_path(self.path).unlink(missing_ok=True)
            os.close(self._lock)
        self._lock = -1

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closing:  # accepted before the socket closed, heard of only now
            writer.transport.abort()
        elif len(self._tasks) >= self._connections_max:
            writer.write(_failure(None, TryLater("too many control connections")))
            writer.close()
        else:
            task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with actor.acting(actor.local(writer.get_extra_info("socket"), "control")):
                await self._serve(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), self._client_timeout_s)
            except ValueError:  # longer than REQUEST_MAX_BYTES; what follows cannot be told apart
                writer.write(_failure(None, UsageError(f"a request has at most {REQUEST_MAX_BYTES} bytes")))
                return
            if not line.endswith(b"\n"):
                return
            writer.write(await self.answer(line))
            await asyncio.wait_for(writer.drain(), self._client_timeout_s)

    async def answer(self, line: bytes) -> bytes:
        """The answer line of one request line. Never raises but for cancellation."""
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return _failure(None, UsageError(f"not a request: {error}"))
        handler = self._handlers.get(request.command)
        if handler is None:
            return _failure(
                request.id,
                UsageError(
                    "unknown command: a client lacks what only a gateway does, an older daemon what is new; "
                    "this one has: " + ", ".join(self._handlers)
                ),
            )
        try:
            result = await handler(request.args)
            return msgspec.json.encode({"id": request.id, "ok": True, "result": result}) + b"\n"
        except JumpError as error:
            return _failure(request.id, error)
        except Exception as error:  # a handler's fault must not end the daemon's socket
            self._on_error(request.command, error)
            return _failure(request.id, JumpError("internal error; the daemon's log has the details"))


def _failure(request_id: int | str | None, error: JumpError) -> bytes:
    body = {"code": code_of(error), "message": str(error), "exit_code": error.exit_code}
    return msgspec.json.encode({"id": request_id, "ok": False, "error": body}) + b"\n"


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _take_lock(path: Path) -> int:
    """The exclusive lock of the daemon that owns the socket; unlike a file it vanishes with the process."""
    while True:
        try:
            descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"{_lock_path(path)}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(_lock_path(path)).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Refused(_running(path)) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # its last holder removed the file between our open and our lock


def _running(path: Path) -> str:
    pid = owner_pid(path)
    return f"already running, pid {pid} ({path})" if pid else f"already running ({path})"


def _bind(path: Path) -> socket.socket:
    if path.exists() and not path.is_socket():
        raise Refused(f"{path} exists and is not a socket")
    if owner_pid(path):
        raise Refused(_running(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        os.fchmod(listener.fileno(), 0o600)  # before bind, so that the file is never open to others
        listener.bind(str(path))
        os.chmod(path, 0o600)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HostError(f"{path}: {error.strerror or error}") from None
    return listener
