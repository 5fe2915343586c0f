# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.netns.links_agent [EVENT_BUFFER_BYTES]``, inside a namespace, on uvloop: the client's link watch
and its transports with a real engine, without a tunnel.

Reads ``[action, arguments]`` lines and answers each with one line. Ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from typing import Any

import uvloop

from gateway.control import clock
from gateway.control.transports import Transports
from gateway.core.inputs import Input, PathLost
from gateway.dataplane import engine as dp
from gateway.net import links
from gateway.net.devices import Settings
from gateway.net.linkstate import Snapshot
from gateway.net.netlink import Netlink
from gateway.net.udp import Sockets, open_udp
from gateway.noise.timers import DEFAULT

FWMARK = 51820


class Ports:
    """What the tunnel does with a path's sockets: the engine has them, the loop reads them."""

    def __init__(self, engine: dp.Engine, received: list[str]) -> None:
        self._engine, self._received = engine, received
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[int, Sockets] = {}

    def add_port(self, sockets: Sockets) -> int:
        (sock,) = sockets
        socket_id = self._engine.add_socket(sock.fileno())
        self._sockets[socket_id] = sockets
        self.read(sock)
        return socket_id

    def read(self, sock: socket.socket) -> None:
        """What it receives is kept."""
        self._loop.add_reader(sock.fileno(), lambda: self._received.append(sock.recv(2048).decode()))

    def remove_port(self, socket_id: int) -> None:
        (sock,) = self._sockets.pop(socket_id)
        self._loop.remove_reader(sock.fileno())
        self._engine.remove_socket(socket_id)


class Agent:
    """One method per action."""

    def __init__(self) -> None:
        self.netlink = Netlink()
        self.watch = links.LinkWatch(self.netlink, self.changed)
        engine = dp.Engine(
            sessions=1,
            prefixes=1,
            window_bits=1024,
            index_seed=bytes(32),
            limits=DEFAULT,
            now_ns=clock.now_ns(),
        )
        self.received: list[str] = []
        self.ports = Ports(engine, self.received)
        self.transports = Transports(
            self.ports,
            settings=Settings(max_candidates=16),
            emit=self.emit,
            own_device="jv0",
            fwmark=FWMARK,
        )
        self.loop = asyncio.get_running_loop()
        self.endpoints: list[tuple[str, int]] = []
        self.inputs: list[tuple[int, str]] = []
        self.timer: asyncio.TimerHandle | None = None

    # --- what the tunnel will do --------------------------------------------------------------------------------

    def changed(self, snapshot: Snapshot) -> None:
        self.transports.update(clock.now_ns(), snapshot, self.endpoints)
        self.rearm()

    def rearm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        due_ns = self.transports.next_deadline_ns
        if due_ns is not None:
            self.timer = self.loop.call_later(max(0, due_ns - clock.now_ns()) / 1e9, self.due)

    def due(self) -> None:
        self.timer = None
        self.transports.timer_due(clock.now_ns())
        self.rearm()

    def emit(self, seen: Input) -> None:
        text = type(seen).__name__ + f" {seen.path_id}"  # type: ignore[attr-defined]
        self.inputs.append(
            (time.monotonic_ns(), text + (f" {seen.evidence.value}" if isinstance(seen, PathLost) else ""))
        )

    # --- actions ------------------------------------------------------------------------------------------------

    async def start(self, endpoints: list[list[Any]]) -> None:
        self.endpoints = [(host, port) for host, port in endpoints]
        self.changed(await self.watch.start())

    async def paths(self) -> Any:
        return [[path.path_id, path.candidate.key, path.up] for path in self.transports.paths()]

    async def wait(self, text: str, since: int = 0, wait_s: float = 5.0) -> Any:
        """[when, how many inputs there are] once an input with that text is there; its "when" is CLOCK_MONOTONIC."""
        end_s = time.monotonic() + wait_s
        while time.monotonic() < end_s:
            for when_ns, seen in self.inputs[since:]:
                if seen == text:
                    return [when_ns, len(self.inputs)]
            await asyncio.sleep(0.002)
        return [0, self.inputs[since:]]

    async def said(self, since: int = 0) -> Any:
        return [text for _, text in self.inputs[since:]]

    async def echo(self, path_id: int, text: str, wait_s: float = 2.0) -> str:
        """What comes back on the path's socket; "" for nothing, the errno's name when the kernel refuses."""
        path = self.transports.by_id(path_id)
        assert path is not None
        self.received.clear()
        try:
            path.sockets[0].sendto(text.encode(), path.endpoint)
        except OSError as error:
            return f"errno {error.errno}"
        return await self.answer(wait_s)

    async def bound_echo(self, device: str, local: str, to: str, port: int, wait_s: float = 1.0) -> str:
        """As ``echo``, from a socket of its own: what the kernel does for a device without asking for candidates."""
        self.received.clear()
        with open_udp(local, 0, fwmark=FWMARK, device=device) as sock:
            self.ports.read(sock)
            try:
                sock.sendto(b"bound", (to, port))
                return await self.answer(wait_s)
            except OSError as error:
                return f"errno {error.errno}"
            finally:
                self.loop.remove_reader(sock.fileno())

    async def answer(self, wait_s: float) -> str:
        end_s = time.monotonic() + wait_s
        while not self.received and time.monotonic() < end_s:
            await asyncio.sleep(0.002)
        return self.received[0] if self.received else ""

    async def watched(self) -> Any:
        snapshot = self.watch.snapshot
        listed = await self.netlink.run(lambda _: links.list_everything().snapshot())
        return {
            "listings": self.watch.listings,
            "losses": self.watch.losses,
            "routes": len(snapshot.routes),
            "true": snapshot == listed,
        }

    async def stop(self) -> None:
        await self.watch.stop()
        self.transports.close()
        await self.netlink.close()


async def main() -> None:
    if len(sys.argv) > 1:
        links.EVENT_BUFFER_BYTES = int(sys.argv[1])  # type: ignore[misc]
    agent = Agent()
    while line := await agent.loop.run_in_executor(None, sys.stdin.readline):
        action, arguments = json.loads(line)
        print(json.dumps(await getattr(agent, action)(**arguments)), flush=True)
    await agent.stop()


if __name__ == "__main__":
    uvloop.run(main())
