# SPDX-License-Identifier: Apache-2.0
"""The asking side of the control socket (``ctlsock`` has the protocol): synchronous and quick to import.

The command line is the caller; it must not pay for asyncio.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.errors import DaemonUnreachable, JumpError, NotFound, Refused, TryLater, UsageError

# The status of 100,000 peers is 40 MB.
ANSWER_MAX_BYTES: Final = 256 * 1024 * 1024
CALL_TIMEOUT_S: Final = 10.0
_UCRED: Final = struct.Struct("3i")

# Code in the answer <-> class; the first match by isinstance counts, everything else is "failed".
CODES: Final[tuple[tuple[str, type[JumpError]], ...]] = (
    ("not_found", NotFound),
    ("refused", Refused),
    ("try_later", TryLater),
    ("unreachable", DaemonUnreachable),
    ("usage", UsageError),
    ("failed", JumpError),
)


def code_of(error: JumpError) -> str:
    """The code of an error in an answer."""
    return next(name for name, kind in CODES if isinstance(error, kind))


def owner_pid(path: Path) -> int:
    """Process that listens on a UNIX socket (SO_PEERCRED), 0 when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError:
            return 0
    return int(_UCRED.unpack(credentials)[0])


def call(
    path: Path, command: str, args: Mapping[str, Any] | None = None, timeout_s: float = CALL_TIMEOUT_S
) -> dict[str, Any]:
    """Ask the daemon behind ``path`` once and return its result.

    ``DaemonUnreachable`` when nobody answers in time; else the error the daemon reports, by its code.
    """
    request = msgspec.json.encode({"id": 1, "command": command, "args": dict(args or {})}) + b"\n"
    try:
        line = _exchange(path, request, time.monotonic() + timeout_s)
    except PermissionError:
        raise DaemonUnreachable(
            f"{path}: permission denied; run this as the user the daemon runs as (root)"
        ) from None
    except (TimeoutError, OSError) as error:
        raise DaemonUnreachable(f"no daemon answers on {path}: {_reason(path, error)}") from None
    return _result(path, line)


def _reason(path: Path, error: OSError) -> str:
    """Why nobody answered, and what helps."""
    if isinstance(error, TimeoutError):
        pid = owner_pid(path)
        return "no answer in time" + (f"; its process {pid} is there, but busy or stopped" if pid else "")
    if isinstance(error, ConnectionRefusedError):
        return "it was killed; start it again, or let `jvpn disconnect` clean up after a client"
    return error.strerror or str(error)


def _exchange(path: Path, request: bytes, deadline_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(max(0.001, deadline_s - time.monotonic()))
        connection.connect(str(path))
        # A full daemon answers and hangs up before it was asked: its refusal is there to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        chunks: list[bytes] = []
        size_bytes = 0
        while not chunks or not chunks[-1].endswith(b"\n"):
            connection.settimeout(max(0.001, deadline_s - time.monotonic()))
            chunk = connection.recv(1 << 20)
            size_bytes += len(chunk)
            if not chunk or size_bytes > ANSWER_MAX_BYTES:
                raise OSError("the connection ended before the answer was complete")
            chunks.append(chunk)
    return b"".join(chunks)


def _result(path: Path, line: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise DaemonUnreachable(f"what answers on {path} is not a jvpn daemon") from None
    result, error = answer.get("result"), answer.get("error")
    if answer.get("ok") is True and isinstance(result, dict):
        return result
    if not isinstance(error, dict):
        raise DaemonUnreachable(f"what answers on {path} is not a jvpn daemon")
    kinds = dict(CODES)
    raise kinds.get(str(error.get("code")), JumpError)(str(error.get("message", "failed")))
