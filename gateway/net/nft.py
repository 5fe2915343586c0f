# SPDX-License-Identifier: Apache-2.0
"""Firewall rules as JSON for ``nft -j -f -``: one table of our own per interface, replaced in one
transaction.

Rule: nothing outside the table ``inet jvpn_IFACE`` is read or changed, and applying twice equals applying
once. A packet that another table drops stays dropped: an ``accept`` here ends only this table's part of the
decision.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

from gateway.net import programs
from gateway.net.remedy import check_interface_name

FAMILY: Final = "inet"
# include/uapi/linux/netfilter_ipv4.h
PRIORITY_RAW: Final = -300
PRIORITY_MANGLE: Final = -150
PRIORITY_FILTER: Final = 0
PRIORITY_SOURCE_NAT: Final = 100
NFT: Final = ("nft", "-j", "-f", "-")

Statement = dict[str, Any]
Ruleset = dict[str, list[dict[str, Any]]]


def table_name(interface: str) -> str:
    """The table that belongs to an interface. Every allowed interface name is a valid nft identifier behind
    it.
    """
    return f"jvpn_{check_interface_name(interface)}"


def nat_ruleset(
    interface: str,
    *,
    out_interface: str = "",
    pools4: Sequence[str] = (),
    pools6: Sequence[str] = (),
    mss_clamp: bool = True,
    clients: bool = False,
    inbound: bool = False,
) -> Ruleset:
    """The gateway's table.

    Packets from the pools leave with the gateway's address (masquerade) when they go anywhere but back into
    the tunnel, or only through ``out_interface``. ``clients``: may clients reach each other. ``inbound``: may
    the outside open connections to pool addresses; answers to the clients' own always pass. ``mss_clamp``
    keeps TCP segments of forwarded connections below the MTU of the way they take.
    """
    pools = [ip_network(text) for text in (*pools4, *pools6)]
    chains = {"forward": list(_forward(interface, pools, mss_clamp, clients, inbound))}
    if pools:
        chains["postrouting"] = [_masquerade(interface, out_interface, pool) for pool in pools]
    return _ruleset(interface, chains)


def client_ruleset(interface: str, *, fwmark: int, addresses: Sequence[str]) -> Ruleset:
    """The client's table when a default route goes through the tunnel.

    What arrives for the tunnel's addresses on another interface is dropped, unless it is from this machine
    (CVE-2019-14899). Answers to the tunnel's own packets get the mark of those, so that strict reverse-path
    filtering (with src_valid_mark) looks for them outside the tunnel.
    """
    udp = _match(_meta("l4proto"), "udp")
    mark, saved = {"meta": {"key": "mark"}}, {"ct": {"key": "mark"}}
    return _ruleset(
        interface,
        {
            "prerouting_raw": [
                _drop_foreign(interface, ip_address(text.partition("/")[0])) for text in addresses
            ],
            "prerouting": [[udp, {"mangle": {"key": mark, "value": saved}}]],
            "postrouting_mark": [[udp, _match(mark, fwmark), {"mangle": {"key": saved, "value": mark}}]],
        },
    )


def apply(ruleset: Ruleset) -> None:
    """Put it in force, all or nothing. HostError with nft's message when it refuses."""
    programs.run(NFT, json.dumps(ruleset))


def remove(interface: str) -> bool:
    """Remove the interface's table; False when there is none."""
    return remove_table(table_name(interface))


def remove_table(name: str) -> bool:
    """Remove a table of family inet; False when there is none, or no nft that could have made one."""
    if not available():
        return False
    listing = json.loads(programs.run(["nft", "-j", "list", "tables", FAMILY]))
    if not any(entry.get("table", {}).get("name") == name for entry in listing["nftables"]):
        return False
    programs.run(NFT, json.dumps({"nftables": [{"delete": {"table": {"family": FAMILY, "name": name}}}]}))
    return True


def available() -> bool:
    """Whether nft is installed."""
    return bool(programs.find("nft"))


# --- rules --------------------------------------------------------------------------------------------------

_CHAINS: Final = {
    "forward": ("filter", "forward", PRIORITY_FILTER),
    "postrouting": ("nat", "postrouting", PRIORITY_SOURCE_NAT),
    "prerouting_raw": ("filter", "prerouting", PRIORITY_RAW),
    "prerouting": ("filter", "prerouting", PRIORITY_MANGLE),
    "postrouting_mark": ("filter", "postrouting", PRIORITY_MANGLE),
}


def _ruleset(interface: str, chains: dict[str, list[list[Statement]]]) -> Ruleset:
    table = {"family": FAMILY, "name": table_name(interface)}
    # Deleting what does not exist is an error, so it is added first; the kernel sees the sum of the
    # transaction.
    commands: list[dict[str, Any]] = [
        {"add": {"table": table}},
        {"delete": {"table": table}},
        {"add": {"table": table}},
    ]
    for name, rules in chains.items():
        kind, hook, priority = _CHAINS[name]
        place = {"family": FAMILY, "table": table["name"]}
        chain = {**place, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept"}
        commands.append({"add": {"chain": chain}})
        commands += [{"add": {"rule": {**place, "chain": name, "expr": rule}}} for rule in rules]
    return {"nftables": commands}


def _forward(
    interface: str, pools: Sequence[IPv4Network | IPv6Network], mss_clamp: bool, clients: bool, inbound: bool
) -> Iterable[list[Statement]]:
    into, out_of = _match(_meta("oifname"), interface), _match(_meta("iifname"), interface)
    if not clients:
        yield [out_of, into, {"drop": None}]
    if mss_clamp:
        yield _clamp(out_of)
        yield _clamp(into)
    if inbound or not pools:
        return
    # Only here: one rule that asks for the state makes the kernel track every packet of the machine.
    yield [out_of, {"accept": None}]
    yield [into, _match({"ct": {"key": "state"}}, ["established", "related"], "in"), {"accept": None}]
    for pool in pools:
        yield [into, _match(_field(pool.version, "daddr"), _prefix(pool)), {"drop": None}]


def _clamp(way: Statement) -> list[Statement]:
    """The flags first: of most packets they are all that is looked at."""
    flags = {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["syn", "rst"]]}
    size = {"tcp option": {"name": "maxseg", "field": "size"}}
    return [_match(flags, "syn"), way, {"mangle": {"key": size, "value": {"rt": {"key": "mtu"}}}}]


def _masquerade(interface: str, out_interface: str, pool: IPv4Network | IPv6Network) -> list[Statement]:
    way_out = (
        _match(_meta("oifname"), out_interface)
        if out_interface
        else _match(_meta("oifname"), interface, "!=")
    )
    return [_match(_field(pool.version, "saddr"), _prefix(pool)), way_out, {"masquerade": None}]


def _drop_foreign(interface: str, address: Any) -> list[Statement]:
    return [
        _match(_meta("iifname"), interface, "!="),
        _match(_field(address.version, "daddr"), str(address)),
        _match({"fib": {"result": "type", "flags": ["saddr"]}}, "local", "!="),
        {"drop": None},
    ]


def _match(left: Any, right: Any, op: str = "==") -> Statement:
    return {"match": {"op": op, "left": left, "right": right}}


def _meta(key: str) -> Statement:
    return {"meta": {"key": key}}


def _field(version: int, field: str) -> Statement:
    return {"payload": {"protocol": "ip" if version == 4 else "ip6", "field": field}}


def _prefix(network: IPv4Network | IPv6Network) -> Statement:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
