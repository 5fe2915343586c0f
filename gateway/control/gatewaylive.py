# SPDX-License-Identifier: Apache-2.0
"""What a running gateway takes over from its file, put into effect: the keys of ``configkeys.LIVE_GATEWAY``.

Rule 1: what the machine or a table may refuse comes first; sessions hear of a new policy last, when nothing can fail.
Rule 2: every part is made to be as wanted from whatever it is like, so the same code takes a half-made change back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final

import structlog

from gateway import frames as fr
from gateway.control import clock
from gateway.control.configkeys import peer_changes
from gateway.control.configmodel import GatewayConfig
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.gatewaykeeper import GatewayKeeper
from gateway.control.loglevel import GATE, LEVELS
from gateway.control.observed import Surface
from gateway.control.peerbook import PeerBook, catch_up, refuse_own
from gateway.control.peers import Peer
from gateway.control.tunnel import Tunnel
from gateway.errors import JumpError, NotFound
from gateway.net.gatewaynet import GatewayNetwork, GatewayPlan

# Of a new policy, in one turn of the loop: 2 ms.
_SESSIONS_PER_TURN: Final = 64


class Peering:
    """How peers come, go and change in the data plane. ``settle``: until their routes hold on the host as well."""

    def __init__(
        self,
        *,
        install: Callable[[PeerConfig], None],
        uninstall: Callable[[PeerConfig], None],
        change: Callable[[list[tuple[Peer, PeerConfig]]], None],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self.install = install
        self.uninstall = uninstall
        self.change = change
        self.settle = settle


class GatewayLive:
    """One running gateway's."""

    def __init__(
        self,
        started: GatewayConfig,
        *,
        tunnel: Tunnel,
        keeper: GatewayKeeper,
        book: PeerBook,
        network: GatewayNetwork,
        peering: Peering,
        surface: Surface | None,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._plan = network_plan(started)
        self._tunnel = tunnel
        self._keeper = keeper
        self._book = book
        self._network = network
        self._peering = peering
        self._surface = surface
        self._log = log

    @property
    def configured(self) -> tuple[PeerConfig, ...]:
        """The peers of the configuration, as they are by now."""
        return self._book.configured

    async def apply(self, wanted: GatewayConfig) -> list[str]:
        """Be like ``wanted``; the keys of peers that changed, those of peers.toml included.

        ``ConfigErrors`` and ``Refused`` have changed nothing; after other errors the caller goes back.
        """
        self._keeper.require_suites(wanted.policy)
        refuse_own(wanted)
        fresh = await asyncio.to_thread(self._book.prepared, wanted)
        before = list(self._book.peers.values())
        self._book.follow(fresh)
        self._reconcile()
        await self._peering.settle()
        await self._refilter(network_plan(wanted))
        self._tunnel.admission.set_limit(wanted.under_load_per_s)
        self._keeper.reception.endpoints = advertised(wanted)
        GATE.level = LEVELS[wanted.log_level]
        if self._surface is not None:
            self._surface.adopt(wanted.stats)
        self._keeper.set_policy(wanted.policy)
        await self._tell_sessions()
        return [change.key for change in peer_changes(before, self._book.peers.values())]

    def _reconcile(self) -> None:
        """The data plane's peers are the book's. One that is still the same peer keeps its session."""
        wanted = {peer.public_key: peer for peer in self._book.peers.values()}
        changed = []
        for live in list(self._tunnel.peers):
            after = wanted.get(live.config.public_key)
            if after is None or not same_peer(live.config, after):
                self._peering.uninstall(live.config)
                continue
            del wanted[after.public_key]
            if after != live.config:
                changed.append((live, after))
        if changed:
            self._peering.change(changed)
        for peer in wanted.values():
            self._peering.install(peer)

    async def change_peer(self, after: PeerConfig) -> None:
        """One peer is allowed something else, its session lives on. ``NotFound``, ``Refused``; all of it or nothing."""
        catch_up(self._book, self._peering.install, self._peering.uninstall)
        live = self._tunnel.peers.by_key(after.public_key)
        if live is None:
            raise NotFound(f"there is no peer {after.name}")
        before = live.config
        self._book.change(after)
        try:
            self._peering.change([(live, after)])
            await self._peering.settle()
        except JumpError:
            self._book.change(before)
            self._peering.change([(live, before)])
            await self._peering.settle()
            raise

    async def _refilter(self, plan: GatewayPlan) -> None:
        if plan == self._plan:
            return
        for warning in await self._network.refilter(plan):
            self._log.warning("host", problem=warning)
        self._plan = plan

    async def _tell_sessions(self) -> None:
        for number, live in enumerate(list(self._keeper.sessions), 1):
            if number % _SESSIONS_PER_TURN == 0:
                self._tunnel.kick()
                await asyncio.sleep(0)
            if not live.ended:
                self._keeper.reception.follow_policy(clock.now_ns(), live)
        self._tunnel.kick()


def same_peer(before: PeerConfig, after: PeerConfig) -> bool:
    """Whether a session may live on over the change: another name or protocol makes it another peer."""
    return (before.name, before.protocol) == (after.name, after.protocol)


def advertised(config: GatewayConfig) -> tuple[fr.Endpoint, ...]:
    """Further ways to this gateway, as WELCOME tells them."""
    return tuple(fr.Endpoint(ip=ip_address(one.host), port=one.port) for one in config.advertise)


def network_plan(config: GatewayConfig, peer_routes: tuple[str, ...] = ()) -> GatewayPlan:
    """What the gateway does to this machine."""
    return GatewayPlan(
        interface=config.interface,
        addresses=tuple(str(address) for address in config.addresses),
        mtu_bytes=config.mtu,
        peer_routes=peer_routes,
        forward=config.forward_enabled,
        nat=config.nat_enabled,
        out_interface=config.nat_out_interface,
        pools=tuple(str(pool) for pool in config.pools),
        clients=config.forward_clients,
    )
