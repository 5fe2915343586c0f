# SPDX-License-Identifier: Apache-2.0
"""B13's long run: the preferred link flaps at 1 Hz for two minutes under a slow stream, in a thread of its own."""

from __future__ import annotations

import threading
import time
from typing import Final

from tests.e2e.sessions.bed import Bed
from tests.net.lab import Lab
from tests.net.stream import StreamLog
from tests.net.topology import boot_ns

PERIOD_S: Final = 1.0
SECONDS: Final = 120
QUIET_S: Final = 10.0
RATE_PPS: Final = 50.0


class Flapping:
    """Starts at once; `result` waits for the end."""

    def __init__(self, lab: Lab) -> None:
        self.bed = Bed(lab, prefix="flap")
        self.bed.start()
        self.side = self.bed.client.active().side
        self.began_ns = boot_ns()
        self._stream = self.bed.client.stream(RATE_PPS)
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            begin_s = time.monotonic()
            for number in range(2 * SECONDS):
                self.bed.topology.set_link(self.side, up=bool(number % 2))
                wait_s = begin_s + (number + 1) * PERIOD_S / 2 - time.monotonic()
                if self._stopping.wait(max(0.0, wait_s)):
                    return
            self.flapped_ns = boot_ns()
            self._stopping.wait(QUIET_S)
        except BaseException as error:
            self._error = error

    def result(self) -> StreamLog:
        """Wait for the end of the flapping and ten quiet seconds; what the stream saw."""
        self._thread.join(SECONDS + QUIET_S + 60)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._stream.stop()

    def close(self) -> None:
        """End it, however far it is."""
        self._stopping.set()
        self._thread.join(10)
        self.bed.kill()
