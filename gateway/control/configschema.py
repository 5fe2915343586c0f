# SPDX-License-Identifier: Apache-2.0
"""The tables of gateway and client files exactly as they stand in TOML, before any value is checked.

Everything has a default, so an almost empty file works. A key that is not here does not exist. ``repr`` is
empty: some fields hold secrets.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from gateway.constants import DEFAULT_PORT, UNDER_LOAD_HANDSHAKES_PER_S
from gateway.net import tun
from gateway.net.devices import Priority

Roaming = Literal["handshake", "wireguard", "never"]
Protocol = Literal["auto", "jump", "wireguard"]

DEFAULT_INTERFACE: Final = "jvpn0"
DEFAULT_POOL_IPV4: Final = "10.99.0.0/24"
EVERYTHING: Final = ("0.0.0.0/0", "::/0")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Base of all tables."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class GatewayTable(Table, frozen=True):
    interface: str = DEFAULT_INTERFACE
    private_key_file: str = ""
    private_key: str = ""
    listen: list[str] = msgspec.field(
        default_factory=lambda: [f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}"]
    )
    addresses: list[str] = []
    mtu: int = 0
    endpoint: str = ""
    advertise: list[str] = []
    dns: list[str] = []
    fwmark: int = 0
    wg_socket: bool = True
    carrier: str = "udp"


class PoolTable(Table, frozen=True):
    ipv4: str = ""
    ipv6: str = ""


class NatTable(Table, frozen=True):
    enabled: bool = False
    out_interface: str = ""


class ForwardTable(Table, frozen=True):
    enabled: bool = True
    clients: bool = False


class HandshakeTable(Table, frozen=True):
    under_load_per_s: int = UNDER_LOAD_HANDSHAKES_PER_S


class KeysTable(Table, frozen=True):
    """When keys are renewed and refused at this end; the defaults are WireGuard's."""

    rekey_after_time: str = "120s"
    reject_after_time: str = "180s"


class OffloadTable(Table, frozen=True):
    """What the kernel's packet merging is used for; everything it has, by default."""

    tun: tun.Offload = "full"
    udp_segment: bool = True
    udp_gro: bool = True


class WorkersTable(Table, frozen=True):
    """Who moves the packets: the event loop, or threads of the data plane's own."""

    count: int = 1
    native: bool | None = None  # not set: count > 1


class LogTable(Table, frozen=True):
    """The daemon's own log."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class AuditTable(Table, frozen=True):
    """The audit journal's files."""

    max_bytes: int = 64 << 20
    keep_files: int = 0


class ControlTable(Table, frozen=True):
    socket: str = ""


class StatsTable(Table, frozen=True):
    """The stats endpoint: HTTP, for monitoring, and for operators who are allowed to act."""

    enabled: bool = True
    listen: list[str] = msgspec.field(default_factory=lambda: [f"127.0.0.1:{DEFAULT_PORT + 1}"])
    socket: str = ""
    hosts: list[str] = []
    token_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    wireguard_names: bool = False
    per_session: bool = False
    operator_token_file: str = ""
    operator_certificates: list[str] = []
    open_health: bool = False


class PeerTable(Table, frozen=True):
    name: str = ""
    public_key: str = ""
    preshared_key: str = ""
    preshared_key_file: str = ""
    allowed_ips: list[str] = []
    endpoint: str = ""
    keepalive: str = "0s"
    roaming: Roaming = "handshake"
    protocol: Protocol = "auto"
    carrier: str = "udp"


class GatewayFile(Table, frozen=True):
    """A gateway's file."""

    gateway: GatewayTable = GatewayTable()
    pool: PoolTable = PoolTable()
    nat: NatTable = NatTable()
    forward: ForwardTable = ForwardTable()
    handshake: HandshakeTable = HandshakeTable()
    keys: KeysTable = KeysTable()
    policy: dict[str, dict[str, Any]] = {}
    offload: OffloadTable = OffloadTable()
    workers: WorkersTable = WorkersTable()
    control: ControlTable = ControlTable()
    log: LogTable = LogTable()
    audit: AuditTable = AuditTable()
    stats: StatsTable = StatsTable()
    peer: list[PeerTable] = []


class ClientTable(Table, frozen=True):
    interface: str = DEFAULT_INTERFACE
    private_key_file: str = ""
    private_key: str = ""
    addresses: list[str] = []
    mtu: int = 0
    dns: list[str] = []
    table: str | int = "auto"
    fwmark: int = 0
    listen_port: int = 0
    carrier: str = "udp"


class ClientGatewayTable(Table, frozen=True):
    public_key: str = ""
    preshared_key: str = ""
    preshared_key_file: str = ""
    endpoints: list[str] = []
    allowed_ips: list[str] = msgspec.field(default_factory=lambda: list(EVERYTHING))
    keepalive: str = "0s"
    protocol: Protocol = "auto"
    carrier: str = "udp"


class DeviceTable(Table, frozen=True):
    """How paths over devices of that name (a glob) rank."""

    name: str = ""
    priority: Priority = "primary"
    metered: bool = False
    cost: int = 0


class TransportTable(Table, frozen=True):
    """Which of the machine's devices carry the tunnel."""

    allowed: list[str] = msgspec.field(default_factory=lambda: ["udp"])
    max_candidates: int = 8
    learn_endpoints: bool = True
    include: list[str] = []
    exclude: list[str] = []
    device: list[DeviceTable] = []


class ClientFile(Table, frozen=True):
    """A client's file; its ``gateway`` tables are read apart, because one or several may stand there."""

    client: ClientTable = ClientTable()
    keys: KeysTable = KeysTable()
    policy: dict[str, dict[str, Any]] = {}
    offload: OffloadTable = OffloadTable()
    workers: WorkersTable = WorkersTable()
    control: ControlTable = ControlTable()
    log: LogTable = LogTable()
    audit: AuditTable = AuditTable()
    transport: TransportTable = TransportTable()


class PeersDocument(Table, frozen=True):
    """The machine-managed peers file; ``assigned`` maps public keys of configured peers to addresses."""

    peer: list[PeerTable] = []
    assigned: dict[str, list[str]] = {}
