# SPDX-License-Identifier: Apache-2.0
"""The client's side of the host: the tunnel's addresses, routes and DNS, and their return to what was before.

A default route through the tunnel must not swallow the tunnel's own packets. As wg-quick does it: the sockets
mark what they send; the route stands in a table of its own; two rules are asked before the main table's turn:

    not fwmark MARK          lookup TABLE    everything but the tunnel's own packets goes inside,
    suppress_prefixlength 0  lookup main     except where the main table knows better than "default"

The second is asked first. Nothing in the main table is changed, so nothing there needs restoring.

Rule: every change that outlives the process is in the undo journal before it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from gateway.constants import DEFAULT_MTU_BYTES, DEFAULT_PORT
from gateway.errors import HostError
from gateway.net import dns, nft, sysctl
from gateway.net.netlink import Netlink
from gateway.net.rtnl import Rtnl
from gateway.net.steps import TABLE_MAIN, Link, NftTable, Rule, family_of
from gateway.net.undo import UndoJournal, UndoReport

# 40 (IPv6) + 8 (UDP) + 32 (transport header and tag): also over IPv4, because the path may change to IPv6.
OVERHEAD_BYTES: Final = 80
# RFC 8200 §5: IPv6 needs it. Below, the outer packets are fragmented instead.
MTU_MIN_BYTES: Final = 1280
# The largest packet the data plane's trains are made for, dataplane.md: 65,400 bytes with the overhead.
MTU_MAX_BYTES: Final = 65_400 - OVERHEAD_BYTES
MARK_TRIES: Final = 64
SRC_VALID_MARK: Final = "net/ipv4/conf/all/src_valid_mark"
# rp_filter (RFC 3704): strict drops what comes in by another device than the best way back.
STRICT: Final = "1"
LOOSE: Final = "2"

TABLE_AUTO: Final = "auto"
TABLE_OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """What the tunnel shall look like on this machine. Addresses and prefixes are text, endpoints literal
    addresses.
    """

    interface: str
    addresses: tuple[str, ...]
    allowed_ips: tuple[str, ...]
    endpoints: tuple[str, ...] = ()
    fwmark: int = 0  # the mark of the tunnel's sockets; a default route needs one
    mtu_bytes: int = 0  # 0: that of the way to the endpoints, less 80
    table: str | int = TABLE_AUTO  # "auto", "off" or a table's number
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientReport:
    """What was set up."""

    mtu_bytes: int
    table: int  # the table of a default route, 0 when there is none
    dns: str  # who was told about the DNS servers, "" when nobody
    warnings: tuple[str, ...]


class ClientNetwork:
    """Sets the host up for one tunnel and restores it. The caller opens the TUN device, before ``up``."""

    def __init__(self, netlink: Netlink, journal: UndoJournal) -> None:
        self._netlink = netlink
        self._journal = journal
        self._begun = False

    async def prepare(self) -> UndoReport:
        """Undo what a killed run left. Comes first: its DNS servers would fail the gateway's name."""
        report = await self._netlink.run(self._journal.begin)
        self._begun = True
        return report

    async def choose_mark(self, preferred: int = DEFAULT_PORT) -> int:
        """A mark for the tunnel's sockets, from ``preferred`` upwards: free as a mark and as a table's
        number.
        """
        return await self._netlink.run(lambda rtnl: _free_mark(rtnl, preferred))

    async def up(self, plan: ClientPlan) -> ClientReport:
        """Make the plan hold. When a part is refused, everything is undone and HostError says what."""
        if not self._begun:
            await self.prepare()
        try:
            return await self._netlink.run(lambda rtnl: _SetUp(rtnl, self._journal, plan).run())
        except BaseException:
            await self.down()
            raise

    async def loosen(self, devices: Sequence[str]) -> tuple[str, ...]:
        """Let answers in by each of these uplinks, not only by the best one of them; returns warnings."""
        return await self._netlink.run(lambda _: _loosen(self._journal, devices))

    async def down(self) -> UndoReport:
        """Restore everything. The report names what could not be."""
        self._begun = False
        return await self._netlink.run(self._journal.undo_all)


class _SetUp:
    """One run of ``up``, in the netlink thread."""

    def __init__(self, rtnl: Rtnl, journal: UndoJournal, plan: ClientPlan) -> None:
        self._rtnl, self._journal, self._plan = rtnl, journal, plan
        self._warnings: list[str] = []

    def run(self) -> ClientReport:
        plan = self._plan
        mtu_bytes = plan.mtu_bytes or automatic_mtu(self._rtnl, plan.endpoints, plan.fwmark)
        self._configure_link(mtu_bytes)
        table = self._add_routes()
        backend = self._set_dns()
        return ClientReport(mtu_bytes, table, backend, tuple(self._warnings))

    def _configure_link(self, mtu_bytes: int) -> None:
        plan = self._plan
        link = self._rtnl.link(plan.interface)
        if link is None:
            raise HostError(f"there is no interface {plan.interface}")
        self._journal.record(Link(name=link.name, index=link.ifindex))
        self._rtnl.configure_link(plan.interface, addresses=plan.addresses, mtu_bytes=mtu_bytes)

    def _add_routes(self) -> int:
        plan = self._plan
        if plan.table == TABLE_OFF:
            return 0
        prefixes = list(dict.fromkeys(str(ip_network(text, strict=False)) for text in plan.allowed_ips))
        if plan.table != TABLE_AUTO:
            self._route(prefixes, int(plan.table))
            return 0
        apart = [prefix for prefix in prefixes if _swallows(prefix, plan.endpoints)]
        self._route([prefix for prefix in prefixes if prefix not in apart], TABLE_MAIN)
        return self._route_apart(apart) if apart else 0

    def _route(self, prefixes: Sequence[str], table: int) -> None:
        self._rtnl.route_into(self._plan.interface, prefixes, table)

    def _route_apart(self, prefixes: Sequence[str]) -> int:
        """Prefixes that hold the gateway's own address: a table that the tunnel's packets do not ask."""
        mark = self._plan.fwmark
        if not mark:
            raise HostError(
                f"{prefixes[0]} through the tunnel needs a mark on the tunnel's own packets (fwmark)"
            )
        self._route(prefixes, mark)
        self._guard(mark)
        for family in sorted({family_of(prefix) for prefix in prefixes}):
            first = self._rtnl.priority_before_main(family, 2)
            main = Rule(family=family, priority=first, table=TABLE_MAIN, suppress_prefixlength=0)
            inside = Rule(family=family, priority=first + 1, table=mark, fwmark=mark, invert=True)
            for rule in (main, inside):
                self._journal.record(rule)
                self._rtnl.add_rule(rule)
        return mark

    def _guard(self, mark: int) -> None:
        """Reverse-path filtering must look at the mark; strangers must not reach our inner addresses."""
        try:
            with self._journal.settings() as others:
                sysctl.ensure(SRC_VALID_MARK, "1", self._journal.record, others)
        except HostError as error:
            if _strict_reverse_path():
                raise
            self._warnings.append(str(error))
        if not nft.available():
            self._warnings.append(
                "nft was not found: packets for the tunnel's addresses are not filtered; install nftables"
            )
            return
        self._journal.record(NftTable(name=nft.table_name(self._plan.interface)))
        nft.apply(nft.client_ruleset(self._plan.interface, fwmark=mark, addresses=self._plan.addresses))

    def _set_dns(self) -> str:
        plan = self._plan
        if not plan.dns_servers:
            return ""
        if len(plan.dns_servers) > dns.SERVERS_MAX:
            self._warnings.append(
                f"resolv.conf takes {dns.SERVERS_MAX} DNS servers, further ones may go unused"
            )
        wanted = dns.DnsPlan(plan.interface, plan.dns_servers, plan.dns_search)
        return dns.configure(wanted, self._journal.record).value


def automatic_mtu(rtnl: Rtnl, endpoints: Sequence[str], mark: int) -> int:
    """The smallest MTU on the ways to the endpoints less the overhead, as wg-quick; 1420 when no way is
    known.
    """
    known = []
    for endpoint in endpoints:
        try:
            known.append(rtnl.route_to(endpoint, mark=mark).mtu_bytes - OVERHEAD_BYTES)
        except HostError:
            continue
    return max(MTU_MIN_BYTES, min(MTU_MAX_BYTES, *known)) if known else DEFAULT_MTU_BYTES


def _swallows(prefix: str, endpoints: Sequence[str]) -> bool:
    """Whether a route to ``prefix`` would take the tunnel's own packets: a default, half of one, or by an
    endpoint.
    """
    network = ip_network(prefix)
    return network.prefixlen <= 1 or any(ip_address(endpoint) in network for endpoint in endpoints)


def _free_mark(rtnl: Rtnl, preferred: int) -> int:
    taken = {
        number for family in (4, 6) for rule in rtnl.rules(family) for number in (rule.fwmark, rule.table)
    }
    for mark in range(preferred, preferred + MARK_TRIES):
        if mark not in taken and not rtnl.routes(4, mark) and not rtnl.routes(6, mark):
            return mark
    raise HostError(f"the marks and routing tables {preferred} to {preferred + MARK_TRIES - 1} are all taken")


def _loosen(journal: UndoJournal, devices: Sequence[str]) -> tuple[str, ...]:
    """Only where it is strict: off stays off. The larger of the global value and the interface's holds."""
    warnings: list[str] = []
    everywhere = sysctl.read(_rp_filter("all"))
    if everywhere == LOOSE:
        return ()
    with journal.settings() as others:
        for device in devices:
            own = sysctl.read(_rp_filter(device))
            if own != LOOSE and STRICT not in (own, everywhere):
                continue
            try:
                sysctl.ensure(_rp_filter(device), LOOSE, journal.record, others)
            except HostError as error:
                warnings.append(str(error))
    return tuple(warnings)


def _rp_filter(device: str) -> str:
    return f"net/ipv4/conf/{device}/rp_filter"


def _strict_reverse_path() -> bool:
    """The larger of the global value and the interface's holds (kernel ip-sysctl documentation)."""
    return any(sysctl.read(_rp_filter(name)) == STRICT for name in ("all", *sysctl.interfaces(4)))
