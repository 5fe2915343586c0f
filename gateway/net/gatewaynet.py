# SPDX-License-Identifier: Apache-2.0
"""The gateway's side of the host: the tunnel's addresses, forwarding, routes to what lies behind peers, NAT.

Rule: every change that outlives the process is in the undo journal before it is made. Routes through the TUN
device and its addresses vanish with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

from gateway.constants import DEFAULT_MTU_BYTES
from gateway.errors import HostError
from gateway.net import nft, sysctl
from gateway.net.netlink import Netlink
from gateway.net.remedy import check_interface_name
from gateway.net.rtnl import Rtnl
from gateway.net.steps import Link, NftTable, Route, family_of
from gateway.net.undo import UndoJournal, UndoReport


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What the gateway shall look like on this machine. Addresses and prefixes are text."""

    interface: str
    addresses: tuple[str, ...]
    mtu_bytes: int = DEFAULT_MTU_BYTES
    peer_routes: tuple[str, ...] = ()  # allowed addresses of all peers
    forward: bool = True
    nat: bool = False
    out_interface: str = ""  # NAT only there; "": wherever packets leave
    pools: tuple[str, ...] = ()  # inner prefixes that NAT hides; (): those of ``addresses``
    mss_clamp: bool = True
    clients: bool = True  # may clients reach each other
    inbound: bool = False  # with NAT: may the outside open connections to the pools


class GatewayNetwork:
    """Sets the host up for one gateway and restores it. The TUN device is opened by the caller, before
    ``up``.
    """

    def __init__(self, netlink: Netlink, journal: UndoJournal) -> None:
        self._netlink = netlink
        self._journal = journal
        self._begun = False
        self._interface = ""
        self._own: tuple[IPv4Network | IPv6Network, ...] = ()
        # How many peers want a prefix: while one moves from peer to peer both do.
        self._wanted: Counter[str] = Counter()

    async def prepare(self) -> UndoReport:
        """Undo what a killed run left."""
        report = await self._netlink.run(self._journal.begin)
        self._begun = True
        return report

    async def up(self, plan: GatewayPlan) -> tuple[str, ...]:
        """Make the plan hold; returns warnings. When any part is refused, everything is undone and HostError
        says it.
        """
        if not self._begun:
            await self.prepare()
        self._interface = check_interface_name(plan.interface)
        self._own = tuple(ip_interface(text).network for text in plan.addresses)
        self._wanted.clear()
        try:
            warnings = await self._netlink.run(lambda rtnl: _set_up(rtnl, self._journal, plan))
            return (*warnings, *await self.add_routes(plan.peer_routes))
        except BaseException:
            await self.down()
            raise

    async def refilter(self, plan: GatewayPlan) -> tuple[str, ...]:
        """Other promises about NAT and clients, in one step; returns warnings. HostError leaves those before."""
        return tuple(await self._netlink.run(lambda _: _firewall(self._journal, plan)))

    async def add_routes(self, allowed_ips: Iterable[str]) -> tuple[str, ...]:
        """Route a peer's addresses into the tunnel; returns warnings.

        What lies inside the interface's own prefixes is routed already. A default route through a peer is
        left to the operator: it would take the gateway's own way out.
        """
        warnings, fresh, kept = [], [], []
        for prefix in self._outside(allowed_ips):
            if ip_network(prefix).prefixlen == 0:
                warnings.append(
                    f"{prefix} of a peer is accepted but not routed; add that route yourself if it is meant"
                )
                continue
            if not self._wanted[prefix]:
                fresh.append(prefix)
            kept.append(prefix)
        self._wanted.update(kept)
        try:
            await self._netlink.run(lambda rtnl: rtnl.route_into(self._interface, fresh))
        except HostError:
            await self.remove_routes(kept)
            raise
        return tuple(warnings)

    async def remove_routes(self, allowed_ips: Iterable[str]) -> None:
        """Take a peer's routes away, except those that another peer has too."""
        last = []
        for prefix in self._outside(allowed_ips):
            if self._wanted[prefix] == 1:
                last.append(Route(prefix=prefix, device=self._interface))
            self._wanted[prefix] -= 1
        self._wanted = +self._wanted
        await self._netlink.run(lambda rtnl: [rtnl.del_route(route) for route in last])

    async def down(self) -> UndoReport:
        """Restore everything. The report names what could not be."""
        self._begun = False
        self._wanted.clear()
        return await self._netlink.run(self._journal.undo_all)

    def _outside(self, allowed_ips: Iterable[str]) -> list[str]:
        networks = dict.fromkeys(ip_network(text, strict=False) for text in allowed_ips)
        return [str(network) for network in networks if not _covered(network, self._own)]


def _covered(network: IPv4Network | IPv6Network, own: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(net.version == network.version and network.subnet_of(net) for net in own)  # type: ignore[arg-type]


def _set_up(rtnl: Rtnl, journal: UndoJournal, plan: GatewayPlan) -> list[str]:
    link = rtnl.link(plan.interface)
    if link is None:
        raise HostError(f"there is no interface {plan.interface}")
    journal.record(Link(name=link.name, index=link.ifindex))
    # Before the link is up, so that the first packet is already filtered and translated.
    warnings = _firewall(journal, plan)
    rtnl.configure_link(plan.interface, addresses=plan.addresses, mtu_bytes=plan.mtu_bytes)
    if plan.forward:
        with journal.settings() as others:
            for family in sorted({family_of(text) for text in plan.addresses}):
                sysctl.enable_forwarding(family, plan.interface, journal.record, others)
    return warnings


def _firewall(journal: UndoJournal, plan: GatewayPlan) -> list[str]:
    """NAT and the separation of clients are promises and must hold; the clamp alone is a help and may be
    missed.
    """
    promised = plan.nat or not plan.clients
    if not promised and not plan.mss_clamp:
        return []
    if not promised and not nft.available():
        return ["nft was not found: TCP segment sizes are not clamped; install nftables"]
    pools = _pools(plan) if plan.nat else ()
    journal.record(NftTable(name=nft.table_name(plan.interface)))
    nft.apply(
        nft.nat_ruleset(
            plan.interface,
            out_interface=plan.out_interface,
            pools4=[pool for pool in pools if family_of(pool) == 4],
            pools6=[pool for pool in pools if family_of(pool) == 6],
            mss_clamp=plan.mss_clamp,
            clients=plan.clients,
            inbound=plan.inbound,
        )
    )
    return []


def _pools(plan: GatewayPlan) -> Sequence[str]:
    return plan.pools or [str(ip_interface(text).network) for text in plan.addresses]
