# SPDX-License-Identifier: Apache-2.0
"""One listening socket whose TLS handshakes count as connections: asyncio's servers do not count those.

Rule: whoever is one too many is closed before a byte of his is read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

# After an error of accept itself, such as no descriptor being left.
_PAUSE_S: Final = 0.1


class Listener:
    """Takes connections for ``protocol`` while ``room(n)`` says that there is room beside n handshakes."""

    def __init__(
        self,
        sock: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        room: Callable[[int], bool],
        context: ssl.SSLContext | None,
        handshake_s: float,
    ) -> None:
        self._sock = sock
        self._protocol = protocol
        self._room = room
        self._context = context
        self._handshake_s = handshake_s
        self._shaking: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> tuple[str, int] | str:
        """Host and port, or the path."""
        found = self._sock.getsockname()
        return (found[0], found[1]) if isinstance(found, tuple) else str(found)

    def start(self) -> None:
        """Take connections from now on."""
        self._task = asyncio.get_running_loop().create_task(self._accept())

    async def stop(self) -> None:
        """Close the socket and what has not become a connection yet."""
        tasks = [*self._shaking, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError:
                await asyncio.sleep(_PAUSE_S)
                continue
            if not self._room(len(self._shaking)):
                sock.close()
                continue
            task = loop.create_task(self._connect(sock))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _connect(self, sock: socket.socket) -> None:
        timeout_s = self._handshake_s if self._context is not None else None
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._protocol, sock, ssl=self._context, ssl_handshake_timeout=timeout_s
            )
        except (OSError, asyncio.CancelledError):  # ssl.SSLError and a timeout are among them
            sock.close()
