# SPDX-License-Identifier: Apache-2.0
"""What gateway and client share as processes: the loop, logging, signals, and a failed start that says why.

Rule: a daemon is `start`, then waiting, then `stop`; `stop` also follows a start that failed half-way, so nothing
is left behind on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import structlog
import uvloop

from gateway import crypto
from gateway.control import ctlclient, journald
from gateway.control.loglevel import GATE
from gateway.control.service import Attended, Service
from gateway.dataplane import aead
from gateway.errors import JumpError, Refused
from gateway.net import notify

# How long a thread that spells audit records may keep the loop waiting; Python's own 5 ms are sixteen handshakes.
THREAD_TURN_S: Final = 0.001


class Daemon(Attended, Protocol):
    """A gateway or a client."""

    async def start(self, stopping: Stopping) -> None: ...
    async def stop(self) -> None: ...


@runtime_checkable
class Reloadable(Protocol):
    """A daemon with a file. To others SIGHUP is what it is to every process."""

    def hang_up(self) -> None: ...
    def announce_reloads(self, around: Callable[[], AbstractContextManager[None]]) -> None: ...


class Stopping:
    """The one place that ends a daemon: a signal, an operator, or a device that is gone."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.failure = ""

    def ask(self, failure: str = "") -> None:
        """End in order; with a `failure` the process ends with status 1 and says it."""
        self.failure = self.failure or failure
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


def logger(level: int = logging.INFO) -> structlog.stdlib.BoundLogger:
    """Lines for a person on a terminal, one JSON object per line for a journal. NO_COLOR is honoured.

    A process has one; ``loglevel.GATE`` changes its level afterwards.
    """
    GATE.level = level
    human = sys.stdout.isatty()
    colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    renderer = _renderer(human, colours)
    stamper = structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human)
    structlog.configure(
        processors=[GATE, structlog.processors.add_log_level, stamper, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger()  # type: ignore[no-any-return]


def _renderer(human: bool, colours: bool) -> Any:
    if journald.is_ours():
        return journald.JournalRenderer()
    return structlog.dev.ConsoleRenderer(colors=colours) if human else structlog.processors.JSONRenderer()


def refuse_second(control_path: Path, interface: str) -> None:
    """Before anything is touched: a second daemon must not take a running one's leftovers for dead ones."""
    pid = ctlclient.owner_pid(control_path)
    if pid:
        raise Refused(f"interface {interface}: already running, pid {pid}")


def run(daemon: Daemon, log: structlog.stdlib.BoundLogger) -> int:
    """Run a daemon until it is stopped; the exit status. JumpError when its start was refused.

    Refuses a process with two libsodiums in it.
    """
    crypto.require_one_sodium(aead.sodium_path())
    sys.setswitchinterval(THREAD_TURN_S)
    return uvloop.run(_run(daemon, log))


async def _run(daemon: Daemon, log: structlog.stdlib.BoundLogger) -> int:
    stopping = Stopping()
    service = Service(daemon, notify.from_environment(), log)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.ask)
    if isinstance(daemon, Reloadable):
        daemon.announce_reloads(service.reloading)
        loop.add_signal_handler(signal.SIGHUP, _hung_up, daemon, stopping, _has_terminal())
    try:
        await _until_stopped(daemon, stopping, service)
    finally:
        service.stopping()
        with contextlib.suppress(JumpError):
            await daemon.stop()
    if stopping.failure:
        log.error("ended", reason=stopping.failure)
        return 1
    log.info("stopped")
    return 0


def _hung_up(daemon: Reloadable, stopping: Stopping, from_terminal: bool) -> None:
    """Somebody's `kill -HUP` means the file; a terminal that was closed takes what it has started with it."""
    if from_terminal and not _has_terminal():
        stopping.ask()
    else:
        daemon.hang_up()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal; one that hung up is none any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


async def _until_stopped(daemon: Daemon, stopping: Stopping, service: Service) -> None:
    """A signal during the start ends it too."""
    start = asyncio.ensure_future(daemon.start(stopping))
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            service.ready()
            await stop
    finally:
        for task in (start, stop):
            task.cancel()
        await asyncio.gather(start, stop, return_exceptions=True)
