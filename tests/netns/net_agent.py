# SPDX-License-Identifier: Apache-2.0
"""The process under test: ``python -m tests.netns.net_agent STATE_DIR INTERFACE``, inside a namespace, on uvloop.

Reads ``[action, arguments]`` lines and answers each with one line. Ends at the end of its input without cleaning up.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from gateway.errors import HostError
from gateway.net.clientnet import ClientNetwork, ClientPlan
from gateway.net.gatewaynet import GatewayNetwork, GatewayPlan
from gateway.net.netlink import Netlink
from gateway.net.tun import Tun, open_tun
from gateway.net.udp import open_udp
from gateway.net.undo import UndoJournal, UndoReport

WAIT_S = 5.0


class Agent:
    """One method per action."""

    def __init__(self, state: Path, interface: str) -> None:
        self.interface = interface
        self.journal = UndoJournal(state, interface)
        self.netlink = Netlink()
        self.client = ClientNetwork(self.netlink, self.journal)
        self.gateway = GatewayNetwork(self.netlink, self.journal)
        self.tun: Tun | None = None

    async def client_up(self, **plan: Any) -> Any:
        await self.client.prepare()
        self._open_tun()
        return asdict(await self.client.up(ClientPlan(interface=self.interface, **_tuples(plan))))

    async def client_down(self) -> Any:
        return self._closed(await self.client.down())

    async def gateway_up(self, **plan: Any) -> Any:
        await self.gateway.prepare()
        self._open_tun()
        return await self.gateway.up(GatewayPlan(interface=self.interface, **_tuples(plan)))

    async def gateway_down(self) -> Any:
        return self._closed(await self.gateway.down())

    async def add_routes(self, prefixes: list[str]) -> Any:
        return await self.gateway.add_routes(prefixes)

    async def remove_routes(self, prefixes: list[str]) -> None:
        await self.gateway.remove_routes(prefixes)

    async def choose_mark(self, preferred: int) -> int:
        return await self.client.choose_mark(preferred)

    async def prepare(self) -> Any:
        return asdict(await self.client.prepare())

    async def recover(self) -> Any:
        return asdict(await self.netlink.run(self.journal.recover))

    async def route_to(self, address: str, mark: int = 0) -> Any:
        return (await self.netlink.route_to(address, mark=mark))._asdict()

    async def send(self, to: str, port: int, text: str, mark: int = 0, answer: bool = False) -> str:
        """One datagram from a socket with that mark; with ``answer`` wait for one back."""
        with open_udp("::" if ":" in to else "0.0.0.0", 0, fwmark=mark) as sock:
            sock.sendto(text.encode(), (to, port))
            if not answer:
                return ""
            ready, _, _ = select.select([sock], [], [], WAIT_S)
            return sock.recv(2048).decode() if ready else ""

    async def tun_read(self, containing: str, wait_s: float = WAIT_S) -> str:
        """The first packet from the device that holds these bytes (hex), "" when none comes."""
        fd, wanted, end = self._fd(), bytes.fromhex(containing), time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0]:
                packet = os.read(fd, 65535)
                if wanted in packet:
                    return packet.hex()
        return ""

    async def cpu_s(self) -> float:
        """Processor time so far; unlike the clock it does not measure the neighbours."""
        return time.process_time()

    async def tun_write(self, packet: str) -> None:
        os.write(self._fd(), bytes.fromhex(packet))

    def _open_tun(self) -> None:
        if self.tun is None:
            self.tun = open_tun(self.interface)

    def _fd(self) -> int:
        if self.tun is None:
            raise HostError("the device is not open")
        return self.tun.fd

    def _closed(self, report: UndoReport) -> Any:
        if self.tun is not None:
            self.tun.close()
            self.tun = None
        return asdict(report)


def _tuples(plan: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plan.items()}


async def main() -> None:
    agent = Agent(Path(sys.argv[1]), sys.argv[2])
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        action, arguments = json.loads(line)
        try:
            answer = {"done": await getattr(agent, action)(**arguments)}
        except HostError as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
