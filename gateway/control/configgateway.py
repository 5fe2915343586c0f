# SPDX-License-Identifier: Apache-2.0
"""From a gateway's TOML text to a checked ``GatewayConfig``, or every mistake it holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Final, TypeVar

from gateway.constants import DEFAULT_MTU_BYTES, REJECT_AFTER_TIME_NS, REKEY_AFTER_TIME_NS
from gateway.control import configfields, keysfile
from gateway.control.configaudit import read_audit
from gateway.control.configfields import Address, Interface, Network
from gateway.control.configmodel import ON_THE_LOOP, Dns, GatewayConfig, Offload, Workers
from gateway.control.configpeers import NO_KEY, Origin, PeerIndex, read_carrier, read_peers, read_secret
from gateway.control.configpolicy import read_policy, with_keys
from gateway.control.configreport import Problems, decode, read_toml
from gateway.control.configschema import (
    DEFAULT_INTERFACE,
    DEFAULT_POOL_IPV4,
    GatewayFile,
    GatewayTable,
    KeysTable,
    OffloadTable,
    PoolTable,
    WorkersTable,
)
from gateway.control.configstats import read_socket, read_stats
from gateway.core.policy import Policy
from gateway.frames import ENDPOINTS_MAX
from gateway.noise.timers import DEFAULT as DEFAULT_TIMERS
from gateway.noise.timers import Timers
from gateway.suites import BY_NAME, max_tag_bytes

T = TypeVar("T")

UNDER_LOAD_MAX_PER_S: Final = 1_000_000
# What one process needs at the limit of its card; the data plane has room for as many.
WORKERS_MAX: Final = 16
# A pool needs room for its own reserved addresses, the gateway and at least one peer.
POOL_PREFIX_MAX: Final = {4: 30, 6: 126}
DEFAULT_KEY_FILE: Final = "gateway.key"
# What DEFAULT_MTU_BYTES allows for.
_WIREGUARD_TAG_BYTES: Final = 16


def resolve_gateway(text: str, file: str, origin: Origin, problems: Problems) -> GatewayConfig:
    """Raises ``ConfigErrors``."""
    tables = decode(read_toml(text, file), GatewayFile, "", problems)
    table = tables.gateway
    private_key = _private_key(table, problems, origin)
    pools = _pools(tables.pool, table, problems)
    addresses = _addresses(table, pools, problems)
    index = PeerIndex()
    public_key = keysfile.public_key(private_key)
    own = [ip_network(f"{address.ip}") for address in addresses]
    index.reserve(public_key, own, "the gateway itself")
    peers = read_peers(tables.peer, problems, origin, index)
    timers = read_timers(tables.keys, problems)
    policy = with_keys(read_policy(tables.policy, problems), timers)
    config = GatewayConfig(
        path=Path(file),
        interface=problems.check(
            "gateway.interface", configfields.interface_name, table.interface, DEFAULT_INTERFACE
        ),
        private_key=private_key,
        public_key=public_key,
        listen=_listen(table, problems),
        addresses=addresses,
        mtu=read_mtu(table.mtu, addresses, policy, "gateway.mtu", problems),
        endpoint=problems.check_text("gateway.endpoint", configfields.endpoint, table.endpoint),
        advertise=_advertise(table, problems),
        dns=read_dns(table.dns, "gateway.dns", problems),
        fwmark=read_fwmark(table.fwmark, "gateway.fwmark", problems),
        pools=pools,
        nat_enabled=tables.nat.enabled,
        nat_out_interface=_out_interface(tables.nat.out_interface, table.interface, problems),
        forward_enabled=tables.forward.enabled,
        forward_clients=tables.forward.clients,
        under_load_per_s=_under_load(tables.handshake.under_load_per_s, problems),
        timers=timers,
        policy=policy,
        control_socket=read_socket(tables.control.socket, "control.socket", problems),
        peers=peers,
        offload=read_offload(tables.offload),
        workers=read_workers(tables.workers, problems),
        wg_socket=table.wg_socket,
        audit=read_audit(tables.audit, problems),
        stats=read_stats(tables.stats, problems, origin),
        log_level=tables.log.level,
        warnings=tuple(problems.warnings),
    )
    problems.raise_if_any()
    return config


def _private_key(table: GatewayTable, problems: Problems, origin: Origin) -> bytes:
    read_carrier(table.carrier, "gateway", problems)
    found = read_secret(table, "private_key", "gateway", problems, origin)
    if found is None:
        default = GatewayTable(private_key_file=DEFAULT_KEY_FILE)
        found = read_secret(default, "private_key", "gateway", problems, origin)
    return found or NO_KEY


def _listen(table: GatewayTable, problems: Problems) -> tuple[configfields.Endpoint, ...]:
    sockets = problems.check_each("gateway.listen", configfields.listen, table.listen)
    if not table.listen:
        problems.add("gateway.listen", 'is empty; write at least one "address:port"')
    seen: set[configfields.Endpoint] = set()
    for position, socket in enumerate(sockets):
        if socket in seen and socket.port:
            problems.add(f"gateway.listen[{position}]", f"{socket} stands there twice")
        seen.add(socket)
    return sockets


def _advertise(table: GatewayTable, problems: Problems) -> tuple[configfields.Endpoint, ...]:
    """What WELCOME tells clients; it has room for 16."""
    found = problems.check_each("gateway.advertise", configfields.reachable, table.advertise)
    if len(found) > ENDPOINTS_MAX:
        problems.add("gateway.advertise", f"has {len(found)} entries; at most {ENDPOINTS_MAX} can be told")
    return tuple(dict.fromkeys(found))


def _pools(pool: PoolTable, table: GatewayTable, problems: Problems) -> tuple[Network, ...]:
    if not pool.ipv4 and not pool.ipv6:
        return _implied_pools(table)
    pools = []
    for version, field, text in ((4, "pool.ipv4", pool.ipv4), (6, "pool.ipv6", pool.ipv6)):
        network = problems.check_text(field, partial(_pool, version=version), text)
        if network is not None:
            pools.append(network)
    return tuple(pools)


def _pool(text: str, version: int) -> Network:
    network = configfields.network(text)
    if network.version != version:
        raise ValueError(f"{network} is not an IPv{version} prefix")
    if network.prefixlen > POOL_PREFIX_MAX[version]:
        raise ValueError(f"{network} is too small for a pool; use a /{POOL_PREFIX_MAX[version]} or larger")
    return network


def _implied_pools(table: GatewayTable) -> tuple[Network, ...]:
    """Without a [pool]: the networks of the gateway's own addresses, or the default pool when it has none."""
    if not table.addresses:
        return (ip_network(DEFAULT_POOL_IPV4),)
    networks: dict[int, Network] = {}
    for text in table.addresses:
        try:
            network = configfields.interface_address(text).network
        except ValueError:
            continue  # reported where the addresses are read
        if network.prefixlen <= POOL_PREFIX_MAX[network.version]:
            networks.setdefault(network.version, network)
    return tuple(networks[version] for version in sorted(networks))


def _addresses(table: GatewayTable, pools: Sequence[Network], problems: Problems) -> tuple[Interface, ...]:
    if not table.addresses:
        return tuple(ip_interface(f"{pool.network_address + 1}/{pool.prefixlen}") for pool in pools)
    addresses = read_addresses(table.addresses, "gateway.addresses", problems)
    by_version = {pool.version: pool for pool in pools}
    for position, address in enumerate(addresses):
        pool = by_version.get(address.version)
        if pool is not None and address.ip not in pool and not _covered(pool, addresses):
            problems.add(f"gateway.addresses[{position}]", f"{address.ip} is not inside the pool {pool}")
    return addresses


def _covered(pool: Network, addresses: Sequence[Interface]) -> bool:
    return any(address.version == pool.version and address.ip in pool for address in addresses)


def _out_interface(name: str, own: str, problems: Problems) -> str:
    if name and name == own:
        problems.add(
            "nat.out_interface",
            f"{name} is the tunnel itself; NAT happens on the way out of another interface",
        )
    return problems.check_text("nat.out_interface", configfields.interface_name, name) or ""


def _under_load(value: int, problems: Problems) -> int:
    return problems.check(
        "handshake.under_load_per_s",
        lambda rate: configfields.bounded(rate, 1, UNDER_LOAD_MAX_PER_S),
        value,
        1,
    )


def read_addresses(texts: Sequence[str], key: str, problems: Problems) -> tuple[Interface, ...]:
    """Inner addresses of this machine, each at most once."""
    addresses = problems.check_each(key, configfields.interface_address, texts)
    seen: set[Address] = set()
    for position, address in enumerate(addresses):
        if address.ip in seen:
            problems.add(f"{key}[{position}]", f"{address.ip} stands there twice")
        seen.add(address.ip)
    return addresses


def read_mtu(value: int, addresses: Sequence[Interface], policy: Policy, key: str, problems: Problems) -> int:
    """The inner MTU in bytes; IPv6 among the addresses raises the minimum. 0: what fits 1500 bytes over IPv6."""
    fits = DEFAULT_MTU_BYTES + _WIREGUARD_TAG_BYTES - max_tag_bytes([BY_NAME[name] for name in policy.suites])
    has_ipv6 = any(address.version == 6 for address in addresses)
    return problems.check(key, lambda mtu: configfields.mtu(mtu, has_ipv6), value or fits, fits)


def read_dns(texts: Sequence[str], key: str, problems: Problems) -> Dns:
    """DNS servers and search domains mixed in one list, as wg-quick has them."""
    values = problems.check_each(key, _dns_value, texts)
    servers = tuple(value for value in values if not isinstance(value, str))
    return Dns(servers, tuple(value for value in values if isinstance(value, str)))


def _dns_value(text: str) -> Address | str:
    try:
        return configfields.address(text)
    except ValueError:
        return configfields.search_domain(text)


def read_fwmark(value: int, key: str, problems: Problems) -> int:
    """A firewall mark, 0 for none."""
    return problems.check(key, lambda mark: configfields.bounded(mark, 0, configfields.FWMARK_MAX), value, 0)


def read_timers(table: KeysTable, problems: Problems) -> Timers:
    """Key lifetimes of this end. They may be shortened, never stretched beyond what the protocol allows."""
    rekey_ns = problems.check("keys.rekey_after_time", configfields.duration_ns, table.rekey_after_time, 0)
    reject_ns = problems.check("keys.reject_after_time", configfields.duration_ns, table.reject_after_time, 0)
    if rekey_ns > REKEY_AFTER_TIME_NS:
        problems.add("keys.rekey_after_time", "may be at most 120s (WireGuard's REKEY_AFTER_TIME)")
    elif reject_ns > REJECT_AFTER_TIME_NS:
        problems.add("keys.reject_after_time", "may be at most 180s (WireGuard's REJECT_AFTER_TIME)")
    else:
        try:
            return Timers(rekey_after_time_ns=rekey_ns, reject_after_time_ns=reject_ns)
        except ValueError as error:
            problems.add("keys", str(error))
    return DEFAULT_TIMERS


def read_offload(table: OffloadTable) -> Offload:
    """The [offload] table; its words are checked where it is decoded."""
    return Offload(table.tun, table.udp_segment, table.udp_gro)


def read_workers(table: WorkersTable, problems: Problems) -> Workers:
    """The [workers] table. The event loop is one thread, so several workers are native ones."""
    count = problems.check(
        "workers.count", lambda n: configfields.bounded(n, 1, WORKERS_MAX), table.count, ON_THE_LOOP.count
    )
    if count > 1 and table.native is False:
        problems.add(
            "workers.native",
            f"the event loop is one worker, not {count}; write count = 1, or leave native out",
        )
    return Workers(count, count > 1 if table.native is None else table.native)
