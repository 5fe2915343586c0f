# SPDX-License-Identifier: Apache-2.0
"""QEMU's own control line (QMP): power button, reset, and the events that tell of them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.net.proc import LabError

POLL_S: Final = 0.05


def seconds_of(timestamp: Mapping[str, int]) -> float:
    """An event's time."""
    return timestamp.get("seconds", 0) + timestamp.get("microseconds", 0) / 1e6


def separate(times_s: Sequence[float], apart_s: float) -> int:
    """How many there are that do not follow another within ``apart_s``."""
    return sum(1 for i, at_s in enumerate(times_s) if i == 0 or at_s - times_s[i - 1] >= apart_s)


class Qmp:
    """The line of one QEMU process."""

    def __init__(self, path: Path, alive: Callable[[], bool], timeout_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._rest = b""
        self.events: list[tuple[str, float]] = []
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                if not alive() or time.monotonic() > deadline_s:
                    raise LabError(f"no control line at {path}: {error}") from None
            time.sleep(POLL_S)
        self._socket.settimeout(timeout_s)
        self._message()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer; LabError when it is refused."""
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._message()
            if "error" in answer:
                raise LabError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self.events.append((str(answer.get("event")), seconds_of(answer.get("timestamp", {}))))

    def poll(self) -> list[tuple[str, float]]:
        """Every event up to now, oldest first, with its time in seconds."""
        self.execute("query-status")
        return self.events

    def close(self) -> None:
        """Hang up; the machine runs on."""
        self._socket.close()

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise LabError(f"the control line is silent: {error}") from None
            if not data:
                raise LabError("the control line was closed: the machine is off")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return dict(json.loads(line))
