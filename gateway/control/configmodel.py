# SPDX-License-Identifier: Apache-2.0
"""A checked configuration: what the daemons work with. Every value is typed, in range and free of
contradictions.

Keys are raw bytes and never shown by ``repr``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.control.configfields import Address, Endpoint, Interface, Network
from gateway.control.configschema import Protocol, Roaming
from gateway.core.policy import Policy
from gateway.net import tun
from gateway.net.devices import Settings as Transport
from gateway.noise.timers import Timers


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer of the gateway. ``allowed_ips`` is empty only before the pool has assigned addresses."""

    name: str
    public_key: bytes
    preshared_key: bytes | None = field(repr=False, default=None)
    allowed_ips: tuple[Network, ...] = ()
    endpoint: Endpoint | None = None
    keepalive_s: int = 0
    roaming: Roaming = "handshake"
    protocol: Protocol = "auto"
    managed: bool = False  # lives in peers.toml, so `jvpn peer remove` may take it away


@dataclass(frozen=True, slots=True)
class Dns:
    """DNS servers and search domains."""

    servers: tuple[Address, ...] = ()
    search: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.servers or self.search)

    def texts(self) -> list[str]:
        """Servers, then search domains, as one list of strings."""
        return [*map(str, self.servers), *self.search]


@dataclass(frozen=True, slots=True)
class Offload:
    """What the kernel's packet merging is used for, where it has it."""

    tun: tun.Offload = "full"
    udp_segment: bool = True
    udp_gro: bool = True


DEFAULT_OFFLOAD: Final = Offload()


@dataclass(frozen=True, slots=True)
class Workers:
    """Who moves the packets: the event loop, or ``count`` native threads. More than one are native."""

    count: int = 1
    native: bool = False

    @property
    def threads(self) -> int:
        """How many native threads there are; 0: the event loop calls the pumps."""
        return self.count if self.native else 0


ON_THE_LOOP: Final = Workers()


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a TLS listener. With ``client_ca`` a client shows a certificate of that authority."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """Who may act by TCP, and the token that shows it."""

    name: str
    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stats:
    """The stats endpoint. ``socket`` is ``None`` for the default place in the runtime directory."""

    enabled: bool = True
    listen: tuple[Endpoint, ...] = ()
    socket: Path | None = None
    hosts: frozenset[str] = frozenset()  # names, lower case, that a Host header may have besides localhost
    token: bytes = field(repr=False, default=b"")  # b"": none is asked for
    tls: Tls | None = None
    wireguard_names: bool = False
    per_session: bool = False
    operators: tuple[Operator, ...] = ()
    operator_certificates: frozenset[str] = frozenset()  # common names that may act
    open_health: bool = False  # /livez and /readyz ask for neither token nor certificate


@dataclass(frozen=True, slots=True)
class Audit:
    """When a file of the journal is full, and how many are kept; 0: all of them."""

    max_bytes: int = 64 << 20
    keep_files: int = 0


ALL_KEPT: Final = Audit()
NO_STATS: Final = Stats(enabled=False)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A gateway. ``control_socket`` is ``None`` for the default place in the runtime directory."""

    path: Path
    interface: str
    private_key: bytes = field(repr=False)
    public_key: bytes
    listen: tuple[Endpoint, ...]
    addresses: tuple[Interface, ...]
    mtu: int
    endpoint: Endpoint | None
    advertise: tuple[Endpoint, ...]  # literal addresses
    dns: Dns
    fwmark: int
    pools: tuple[Network, ...]  # at most one IPv4 and one IPv6 prefix, IPv4 first
    nat_enabled: bool
    nat_out_interface: str
    forward_enabled: bool
    forward_clients: bool
    under_load_per_s: int
    timers: Timers
    policy: Policy
    control_socket: Path | None
    peers: tuple[Peer, ...]
    warnings: tuple[str, ...]
    offload: Offload = DEFAULT_OFFLOAD
    workers: Workers = ON_THE_LOOP
    wg_socket: bool = True
    stats: Stats = NO_STATS
    log_level: str = "info"
    audit: Audit = ALL_KEPT


@dataclass(frozen=True, slots=True)
class GatewayPeer:
    """A gateway as a client sees it."""

    public_key: bytes
    preshared_key: bytes | None = field(repr=False)
    endpoints: tuple[Endpoint, ...]
    allowed_ips: tuple[Network, ...]
    keepalive_s: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """A client. ``table`` is "auto", "off" or a number; ``listen_port`` and ``fwmark`` 0 mean: choose one."""

    path: Path
    interface: str
    private_key: bytes = field(repr=False)
    public_key: bytes
    addresses: tuple[Interface, ...]
    mtu: int
    dns: Dns
    table: str | int
    fwmark: int
    listen_port: int
    control_socket: Path | None
    gateways: tuple[GatewayPeer, ...]
    timers: Timers
    policy: Policy
    warnings: tuple[str, ...]
    transport: Transport = field(default_factory=Transport)
    offload: Offload = DEFAULT_OFFLOAD
    workers: Workers = ON_THE_LOOP
    log_level: str = "info"
    audit: Audit = ALL_KEPT
