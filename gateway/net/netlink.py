# SPDX-License-Identifier: Apache-2.0
"""rtnetlink for an asyncio program: one worker thread, because pyroute2 runs a loop of its own beside uvloop.

Rule: everything that changes the host goes through this one thread, in order. It starts when the Netlink is
made and stays in the network namespace of that moment, so enter the namespace first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gateway.net.rtnl import LinkState, RouteTo, Rtnl
from gateway.net.steps import Route, Rule

T = TypeVar("T")


class Netlink:
    """An Rtnl in its thread. All methods raise HostError with a remedy."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._rtnl: Future[Rtnl] = self._worker.submit(Rtnl)

    async def run(self, work: Callable[[Rtnl], T]) -> T:
        """Run blocking ``work`` in the thread; other changes to the host wait for it."""
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, lambda: work(self._rtnl.result())
        )

    async def close(self) -> None:
        """Finish what was begun, then end the thread."""
        try:
            await self.run(Rtnl.close)
        finally:
            self._worker.shutdown()

    async def configure_link(
        self, name: str, *, addresses: Sequence[str], mtu_bytes: int, up: bool = True
    ) -> int:
        """Give an interface MTU and addresses and bring it up; returns its index."""
        return await self.run(
            lambda rtnl: rtnl.configure_link(name, addresses=addresses, mtu_bytes=mtu_bytes, up=up)
        )

    async def add_route(self, route: Route) -> bool:
        """Add a route; False when it is there already."""
        return await self.run(lambda rtnl: rtnl.add_route(route))

    async def del_route(self, route: Route) -> bool:
        """Remove exactly this route; False when it is gone already."""
        return await self.run(lambda rtnl: rtnl.del_route(route))

    async def add_rule(self, rule: Rule) -> bool:
        """Add a rule; False when it is there already."""
        return await self.run(lambda rtnl: rtnl.add_rule(rule))

    async def del_rule(self, rule: Rule) -> bool:
        """Remove exactly this rule; False when it is gone already."""
        return await self.run(lambda rtnl: rtnl.del_rule(rule))

    async def route_to(self, address: str, *, mark: int = 0) -> RouteTo:
        """Where packets to ``address`` with that mark would go."""
        return await self.run(lambda rtnl: rtnl.route_to(address, mark=mark))

    async def link(self, name: str) -> LinkState | None:
        """The interface of that name, or None."""
        return await self.run(lambda rtnl: rtnl.link(name))

    async def link_exists(self, name: str) -> bool:
        """Whether there is an interface of that name."""
        return await self.link(name) is not None

    async def links(self) -> list[LinkState]:
        """All interfaces."""
        return await self.run(Rtnl.links)

    async def delete_link(self, name: str) -> bool:
        """Remove an interface; False when there is none."""
        return await self.run(lambda rtnl: rtnl.delete_link(name))

    async def addresses(self, name: str) -> list[str]:
        """Addresses of an interface as ``address/length``."""
        return await self.run(lambda rtnl: rtnl.addresses(name))
