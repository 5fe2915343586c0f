# SPDX-License-Identifier: Apache-2.0
"""Log lines as entries of systemd's journal, each value a field whose name begins with JVPN: `journalctl -p warning`.

Only where stdout is the journal's (systemd.exec(5), $JOURNAL_STREAM). An entry that the journal does not take, or that
is too large for one datagram, is printed instead: JSON behind the priority, as the journal reads lines (sd-daemon(3)).
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

import structlog

SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "jvpn"
# syslog(3). An unknown level is a notice.
PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
NOTICE: Final = 5
# The journal's own bound of a field's name.
_NAME_MAX: Final = 64
_NOT_A_NAME: Final = re.compile(r"[^A-Z0-9_]")

Event = MutableMapping[str, Any]


def is_ours(environ: Mapping[str, str] = os.environ, fd: int | None = None) -> bool:
    """Whether stdout (or ``fd``) is the stream that $JOURNAL_STREAM names; a pipe to elsewhere is not."""
    try:
        found = os.fstat(sys.stdout.fileno() if fd is None else fd)
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalRenderer:
    """The last of structlog's processors: sends the entry, or renders the line that stands for it."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)

    def __call__(self, _logger: Any, _method: str, event: Event) -> str:
        priority = PRIORITIES.get(str(event.get("level")), NOTICE)
        if self._sent(entry(event, priority)):
            raise structlog.DropEvent
        return f"<{priority}>" + json.dumps(event, default=repr)

    def _sent(self, data: bytes) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(data, self._path)
        except OSError:
            return False
        return True


def entry(event: Event, priority: int) -> bytes:
    """The datagram of one log line in the journal's native protocol."""
    values = {key: value for key, value in event.items() if key not in ("event", "level", "timestamp")}
    told = " ".join(f"{key}={_text(value)}" for key, value in values.items())
    fields = [("MESSAGE", f"{event.get('event', '')} {told}".rstrip())]
    fields += [("PRIORITY", str(priority)), ("SYSLOG_IDENTIFIER", IDENTIFIER)]
    fields += [(field_name(key), _text(value)) for key, value in values.items()]
    return b"".join(_field(name, value) for name, value in fields)


def field_name(key: str) -> str:
    """What a value is called in the journal."""
    return ("JVPN_" + _NOT_A_NAME.sub("_", key.upper()))[:_NAME_MAX]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def _field(name: str, value: str) -> bytes:
    """A value of several lines has its length before it, so no value can pass for another field."""
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
