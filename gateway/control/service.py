# SPDX-License-Identifier: Apache-2.0
"""A daemon as a service: what the service manager hears of it, and when.

Rule 1: READY=1 comes when the daemon serves, not before.
Rule 2: WATCHDOG=1 comes only while the data plane moves, by the judgement of /livez (``watch``): a process whose loop
runs and whose packets stand still is restarted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import structlog

from gateway.control.sessions import Sessions
from gateway.core.states import State
from gateway.net.notify import Notifier

# systemctl status shows this line; nobody reads it more often.
STATUS_S: Final = 2.0
# sd_watchdog_enabled(3) advises half; a third leaves room for one beat that the loop was late for.
BEATS: Final = 3


class Attended(Protocol):
    """What is asked of a daemon."""

    def problems(self) -> list[str]:
        """What of its data plane does not move, in words. Empty: all well."""

    def summary(self) -> str:
        """One line for `systemctl status`."""


def attached(sessions: Sessions) -> str:
    """How many of them are, in words."""
    count = sum(live.core.state is State.ATTACHED for live in sessions)
    return f"{count} of {len(sessions)} sessions attached"


class Service:
    """Speaks for one daemon. Outside of a service it says nothing and costs nothing."""

    def __init__(
        self,
        daemon: Attended,
        notifier: Notifier,
        log: structlog.stdlib.BoundLogger,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._daemon = daemon
        self._notifier = notifier
        self._log = log
        self._monotonic_ns = monotonic_ns
        self._task: asyncio.Task[None] | None = None
        self._stalled = False

    def ready(self) -> None:
        """It serves: from now on the watchdog is fed."""
        if not self._notifier:
            return
        self._notifier.send(READY=1, STATUS=self._daemon.summary())
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._attend())

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Around a reload of the configuration, whatever comes of it. The watchdog is fed on."""
        # The clock and the pair READY, RELOADING are what Type=notify-reload asks for; Type=notify shows them.
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=self._monotonic_ns() // 1000, STATUS="reloading")
        try:
            yield
        finally:
            self._notifier.send(READY=1, STATUS=self._daemon.summary())

    def stopping(self) -> None:
        """It was told to stop and puts things away. TimeoutStopSec counts, not the watchdog."""
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._notifier.send(STOPPING=1, STATUS="stopping")

    async def _attend(self) -> None:
        watchdog_s = self._notifier.watchdog_s
        period_s = STATUS_S if watchdog_s is None else min(STATUS_S, watchdog_s / BEATS)
        said = ""
        while True:
            problems = self._daemon.problems()
            self._say_stall(problems)
            if not problems and watchdog_s is not None:
                self._notifier.send(WATCHDOG=1)
            says = ", ".join(problems) or self._daemon.summary()
            if says != said:
                self._notifier.send(STATUS=says)
                said = says
            await asyncio.sleep(period_s)

    def _say_stall(self, problems: list[str]) -> None:
        if bool(problems) != self._stalled:
            self._stalled = bool(problems)
            if problems:
                self._log.error("the data plane stands still", problems=problems)
            else:
                self._log.info("the data plane moves again")
