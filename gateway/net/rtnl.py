# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes and rules of this network namespace, through rtnetlink (pyroute2), synchronously.

Rule: every change is idempotent. Adding what is there already and deleting what is gone are no errors and say
so by returning False; adding what contradicts something there is a HostError that names it.

An Rtnl belongs to the thread that made it, and works in that thread's network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import Any, Final, NamedTuple

from gateway.errors import HostError
from gateway.net import sysctl
from gateway.net.remedy import check_interface_name, refused
from gateway.net.routebatch import add_device_routes
from gateway.net.steps import TABLE_LOCAL, TABLE_MAIN, Link, Route, Rule, family_of

FIB_RULE_INVERT: Final = 0x2  # linux/fib_rules.h
IFF_UP: Final = 0x1
UNSET: Final = 0xFFFFFFFF
ADDR_GEN_NONE: Final = "1"  # net/ipv6/conf/*/addr_gen_mode
# The kernel marks a listing as interrupted when something changed meanwhile; twice in a row is already rare.
DUMP_TRIES: Final = 5

_AF: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
_DEFAULT_METRIC: Final = {4: 0, 6: 1024}
_NO_IPV6: Final = "IPv6 is switched off here; remove the IPv6 addresses from the configuration"


class LinkState(NamedTuple):
    """One interface as the kernel sees it."""

    name: str
    ifindex: int
    mtu_bytes: int
    up: bool


class RouteTo(NamedTuple):
    """How the kernel would send to an address. ``mtu_bytes``: the path's if known, else the interface's."""

    device: str
    via: str
    source: str
    mtu_bytes: int


class Rtnl:
    """rtnetlink, one request at a time."""

    def __init__(self) -> None:
        # Here and not above: 8 MB and 0.15 s that a command which only reads the journal need not pay.
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

        self._ipr: Any = IPRoute()
        self._refusal: type[Exception] = NetlinkError
        self._interrupted: type[Exception] = NetlinkDumpInterrupted

    def close(self) -> None:
        """Close the socket."""
        self._ipr.close()

    # --- links and addresses --------------------------------------------------------------------------------

    def link(self, name: str) -> LinkState | None:
        """The interface of that name, or None."""
        try:
            return _link_state(self._call("link", "get", ifname=name)[0])
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise refused(f"cannot look up interface {name}", error) from error

    def links(self) -> list[LinkState]:
        """All interfaces."""
        with _refusing("cannot list the interfaces"):
            return [_link_state(message) for message in self._call("link", "dump")]

    def addresses(self, name: str) -> list[str]:
        """Addresses of an interface as ``address/length``, IPv4 first; none when it is absent."""
        link = self.link(name)
        return [f"{address}/{length}" for address, length in self._addresses(link.ifindex)] if link else []

    def configure_link(self, name: str, *, addresses: Sequence[str], mtu_bytes: int, up: bool = True) -> int:
        """Give an interface MTU and addresses, and bring it up. Returns its index.

        The kernel's own IPv6 link-local address is switched off first, as WireGuard does: nobody is there to
        answer.
        """
        link = self.link(check_interface_name(name))
        if link is None:
            raise HostError(f"there is no interface {name}")
        with suppress(HostError):
            sysctl.write(f"net/ipv6/conf/{name}/addr_gen_mode", ADDR_GEN_NONE)
        with _refusing(f"cannot set the MTU of {name} to {mtu_bytes}", {errno.EINVAL: "it is out of range"}):
            self._call("link", "set", index=link.ifindex, mtu=mtu_bytes)
        for text in addresses:
            self._add_address(link, ip_interface(text))
        if up:
            with _refusing(f"cannot bring {name} up"):
                self._call("link", "set", index=link.ifindex, state="up")
        return link.ifindex

    def delete_link(self, name: str) -> bool:
        """Remove an interface."""
        link = self.link(name)
        return link is not None and self._gone_or_done(
            f"cannot remove {name}", "link", "del", index=link.ifindex
        )

    def undo_link(self, step: Link) -> bool:
        """Remove it, or take it down without addresses. Another interface of the same name is left alone."""
        link = self.link(step.name)
        if link is None or link.ifindex != step.index:
            return False
        if step.delete:
            return self.delete_link(step.name)
        with _refusing(f"cannot reset {step.name}"):
            for address, length in self._addresses(link.ifindex):
                self._gone_or_done(
                    f"cannot remove {address}",
                    "addr",
                    "del",
                    index=link.ifindex,
                    address=address,
                    prefixlen=length,
                )
            self._call("link", "set", index=link.ifindex, state="down")
        return True

    def _addresses(self, index: int) -> list[tuple[str, int]]:
        found = []
        with _refusing("cannot list addresses"):
            for family in _AF.values():
                for message in self._call("addr", "dump", family=family, match={"index": index}):
                    local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                    found.append((str(local), int(message["prefixlen"])))
        return found

    def _add_address(self, link: LinkState, address: IPv4Interface | IPv6Interface) -> None:
        remedies = (
            dict.fromkeys((errno.EACCES, errno.EPERM), _NO_IPV6) if self._ipv6_is_off(link, address) else {}
        )
        with _refusing(f"cannot give {link.name} the address {address}", remedies), _ignoring(errno.EEXIST):
            self._call(
                "addr", "add", index=link.ifindex, address=str(address.ip),
                prefixlen=address.network.prefixlen, family=_AF[address.version],
            )  # fmt: skip

    @staticmethod
    def _ipv6_is_off(link: LinkState, address: IPv4Interface | IPv6Interface) -> bool:
        return address.version == 6 and sysctl.read(f"net/ipv6/conf/{link.name}/disable_ipv6") != "0"

    # --- routes ---------------------------------------------------------------------------------------------

    def add_route(self, route: Route) -> bool:
        """Add it; False when it is there already. HostError when the prefix is routed elsewhere."""
        return self._add_route(route, self._index(route.device))

    def route_into(self, device: str, prefixes: Iterable[str], table: int = TABLE_MAIN) -> None:
        """Add a route through ``device`` for each prefix; the first refusal is raised."""
        ifindex, wanted = self._index(device), list(prefixes)
        with _refusing(f"cannot add routes through {device}"):
            refused = add_device_routes(ifindex, wanted, table)
        for prefix, _ in refused:
            # Once more by itself: it is there already, or this names the refusal.
            self._add_route(Route(prefix=prefix, device=device, table=table), ifindex)

    def _add_route(self, route: Route, ifindex: int) -> bool:
        try:
            with _refusing(f"cannot add {route}"):
                self._call("route", "add", **_route_query(route, ifindex))
        except HostError as error:
            if _errno(error) != errno.EEXIST:
                raise
            self._check_same(route)
            return False
        return True

    def del_route(self, route: Route) -> bool:
        """Remove exactly this route."""
        link = self.link(route.device) if route.device else None
        if route.device and link is None:
            return False
        query = _route_query(route, link.ifindex if link else 0)
        return self._gone_or_done(f"cannot remove {route}", "route", "del", **query)

    def routes(self, family: int, table: int = TABLE_MAIN) -> list[Route]:
        """Unicast routes of one table."""
        names = {link.ifindex: link.name for link in self.links()}
        with _refusing("cannot list routes"):
            messages = self._call("route", "dump", family=_AF[family], match={"table": table, "type": 1})
        return [_route(message, family, names) for message in messages]

    def route_to(self, address: str, *, mark: int = 0) -> RouteTo:
        """Where packets to ``address`` with that mark would go. HostError when nowhere."""
        query = {"mark": mark} if mark else {}
        with _refusing(f"cannot find a route to {address}"):
            message = self._call(
                "route", "get", dst=address, family=_AF[ip_address(address).version], **query
            )[0]
            link = _link_state(self._call("link", "get", index=message.get_attr("RTA_OIF"))[0])
        metrics = message.get_attr("RTA_METRICS")
        mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else None
        via, source = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PREFSRC")
        return RouteTo(link.name, via or "", source or "", mtu or link.mtu_bytes)

    def _index(self, name: str) -> int:
        if not name:
            return 0
        link = self.link(name)
        if link is None:
            raise HostError(f"there is no interface {name}")
        return link.ifindex

    def _check_same(self, wanted: Route) -> None:
        family = family_of(wanted.prefix)
        prefix, metric = str(ip_network(wanted.prefix)), wanted.metric or _DEFAULT_METRIC[family]
        rivals = [r for r in self.routes(family, wanted.table) if (r.prefix, r.metric) == (prefix, metric)]
        if not any(r.device == wanted.device or (r.via and r.via == wanted.via) for r in rivals):
            there = rivals[0] if rivals else "another route"
            raise HostError(
                f"cannot add {wanted}: {there} is in its place; remove that or take the prefix out"
            )

    # --- rules ----------------------------------------------------------------------------------------------

    def add_rule(self, rule: Rule) -> bool:
        """Add it; False when it is there already."""
        try:
            with _refusing(f"cannot add {rule}"):
                self._call("rule", "add", **_rule_query(rule))
        except HostError as error:
            if _errno(error) != errno.EEXIST:
                raise
            return False
        return True

    def del_rule(self, rule: Rule) -> bool:
        """Remove exactly this rule."""
        return self._gone_or_done(f"cannot remove {rule}", "rule", "del", **_rule_query(rule))

    def rules(self, family: int) -> list[Rule]:
        """All rules, in the order in which they are asked."""
        with _refusing("cannot list rules"):
            return [_rule(message, family) for message in self._call("rule", "dump", family=_AF[family])]

    def priority_before_main(self, family: int, count: int) -> int:
        """The first of ``count`` priorities asked after the local table and before every other rule."""
        rules = self.rules(family)
        local = max((rule.priority for rule in rules if rule.table == TABLE_LOCAL), default=0)
        others = [rule.priority for rule in rules if rule.table != TABLE_LOCAL and rule.priority > local]
        return max(min(others, default=0x7FFF) - count, local + 1)

    # --- plumbing -------------------------------------------------------------------------------------------

    def _call(self, method: str, command: str, **query: Any) -> list[Any]:
        for _ in range(DUMP_TRIES):
            try:
                return list(getattr(self._ipr, method)(command, **query))
            except self._interrupted:
                continue
            except self._refusal as error:
                code = int(getattr(error, "code", 0))
                raise OSError(code, os.strerror(code)) from None
        raise OSError(errno.EAGAIN, "the listing was interrupted again and again")

    def _gone_or_done(self, what: str, method: str, command: str, **query: Any) -> bool:
        try:
            self._call(method, command, **query)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise refused(what, error) from error
        return True


@contextmanager
def _refusing(what: str, remedies: dict[int, str] | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused(what, error, (remedies or {}).get(error.errno or 0, "")) from error


@contextmanager
def _ignoring(code: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != code:
            raise


def _errno(error: HostError) -> int:
    cause = error.__cause__
    return cause.errno or 0 if isinstance(cause, OSError) else 0


def _link_state(message: Any) -> LinkState:
    name, mtu = message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_MTU")
    return LinkState(name, message["index"], mtu or 0, bool(message["flags"] & IFF_UP))


def _route_query(route: Route, ifindex: int) -> dict[str, Any]:
    network = ip_network(route.prefix)
    query: dict[str, Any] = {"dst": str(network), "family": _AF[network.version], "table": route.table}
    if ifindex:
        query["oif"] = ifindex
    if route.via:
        query["gateway"] = route.via
    if route.metric:
        query["priority"] = route.metric
    return query


def _route(message: Any, family: int, names: dict[int, str]) -> Route:
    anywhere = "0.0.0.0" if family == 4 else "::"
    return Route(
        prefix=f"{message.get_attr('RTA_DST') or anywhere}/{message['dst_len']}",
        device=names.get(message.get_attr("RTA_OIF"), ""),
        via=message.get_attr("RTA_GATEWAY") or "",
        table=message.get_attr("RTA_TABLE"),
        metric=message.get_attr("RTA_PRIORITY") or 0,
    )


def _rule_query(rule: Rule) -> dict[str, Any]:
    query: dict[str, Any] = {"family": _AF[rule.family], "priority": rule.priority, "table": rule.table}
    if rule.fwmark:
        query["fwmark"] = rule.fwmark
    if rule.invert:
        query["flags"] = FIB_RULE_INVERT
    if rule.suppress_prefixlength >= 0:
        query["suppress_prefixlen"] = rule.suppress_prefixlength
    return query


def _rule(message: Any, family: int) -> Rule:
    suppress_prefixlen = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    return Rule(
        family=family,
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or 0,
        fwmark=message.get_attr("FRA_FWMARK") or 0,
        invert=bool(message["flags"] & FIB_RULE_INVERT),
        suppress_prefixlength=-1 if suppress_prefixlen in (None, UNSET) else suppress_prefixlen,
    )
