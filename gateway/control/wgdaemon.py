# SPDX-License-Identifier: Apache-2.0
"""A userspace implementation of WireGuard as a process: an interface, its configuration socket, and nothing else.

It gives the interface no address and no route: that is for `ip` and wg-quick. It ends when the interface or the file
of its socket is removed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

import structlog

from gateway.constants import DEFAULT_MTU_BYTES
from gateway.control import daemon
from gateway.control.tunnel import Tunnel
from gateway.control.wgdevice import WgDevice
from gateway.control.wgserver import SOCKETS, WgServer
from gateway.errors import Refused
from gateway.net.filewatch import FileWatch
from gateway.net.remedy import check_interface_name
from gateway.net.tun import open_with
from gateway.net.tunwatch import Device, TunWatch
from gateway.noise.handshake import Identity

# A process whose interface was deleted a moment ago still has the socket; it needs a tenth of a second to end.
_TRIES: Final = 40
_PAUSE_S: Final = 0.05


def run(interface: str, level: int, on_ready: Callable[[], None]) -> int:
    """Serve an interface until it is removed; the exit status. ``on_ready`` is called when `wg` can be used."""
    log = daemon.logger(level)
    return daemon.run(WgDaemon(interface, log, on_ready), log)


class WgDaemon:
    """One interface."""

    def __init__(
        self, interface: str, log: structlog.stdlib.BoundLogger, on_ready: Callable[[], None]
    ) -> None:
        self._interface = check_interface_name(interface)
        self._log = log.bind(interface=interface)
        self._on_ready = on_ready
        self._stopping: daemon.Stopping | None = None
        self._tunnel: Tunnel | None = None
        self._device: WgDevice | None = None
        self._watch: TunWatch | None = None
        self._server: WgServer | None = None
        self._file: FileWatch | None = None

    async def start(self, stopping: daemon.Stopping) -> None:
        """Make the interface and serve its socket. JumpError says what was refused."""
        self._stopping = stopping
        tun = open_with(self._interface, "full")
        tunnel = self._tunnel = Tunnel(Identity(secrets.token_bytes(32)))
        tunnel.on_failure = self._failed
        tunnel.attach([], tun, DEFAULT_MTU_BYTES)
        self._device = WgDevice(tunnel, self._log)
        self._watch = TunWatch(tun.fd, self._changed)
        self._watch.start()
        self._watch.set_mtu(DEFAULT_MTU_BYTES)
        server = WgServer(SOCKETS / f"{self._interface}.sock", self._device, on_error=self._fault)
        await _serve(server)
        self._server = server
        self._file = FileWatch(server.path, self._file_changed)
        self._file.start()
        tunnel.start()
        self._changed(self._watch.device)
        self._log.debug("ready", socket=str(server.path))
        self._on_ready()

    async def stop(self) -> None:
        """The interface and its socket go."""
        if self._file is not None:
            self._file.stop()
        if self._server is not None:
            await self._server.stop()
        if self._watch is not None:
            self._watch.stop()
        if self._device is not None:
            self._device.close()
        if self._tunnel is not None:
            self._tunnel.stop()

    def problems(self) -> list[str]:
        """Nobody asks: wg-quick's processes are no services."""
        return []

    def summary(self) -> str:
        """One line for `systemctl status`."""
        return self._interface

    def _changed(self, device: Device | None) -> None:
        if device is None:
            self._end("interface removed")
        elif self._device is not None:
            self._device.follow(device)

    def _file_changed(self) -> None:
        if self._server is not None and not self._server.is_there():
            self._end("socket removed")

    def _end(self, why: str) -> None:
        """Somebody wants this process to end: no failure."""
        self._log.debug("ending", reason=why)
        if self._stopping is not None:
            self._stopping.ask()

    def _failed(self, reason: str) -> None:
        """A read of an interface that was removed fails before anybody has said that it was."""
        gone = self._watch is not None and self._watch.look() is None
        if gone:
            self._end("interface removed")
        elif self._stopping is not None:
            self._stopping.ask(reason)

    def _fault(self, error: BaseException) -> None:
        self._log.error("configuration failed", error=type(error).__name__)


async def _serve(server: WgServer) -> None:
    """Whoever has the socket although the interface was free is on its way out, or has one of that name elsewhere."""
    for _ in range(_TRIES):
        try:
            await server.start()
        except Refused:
            await asyncio.sleep(_PAUSE_S)
        else:
            return
    await server.start()
