# SPDX-License-Identifier: Apache-2.0
"""From a client's TOML text to a checked ``ClientConfig``, or every mistake it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.control import configfields, keysfile
from gateway.control.configaudit import read_audit
from gateway.control.configfields import Network
from gateway.control.configgateway import (
    read_addresses,
    read_dns,
    read_fwmark,
    read_mtu,
    read_offload,
    read_timers,
    read_workers,
)
from gateway.control.configmodel import ClientConfig, GatewayPeer
from gateway.control.configpeers import (
    NO_KEY,
    Origin,
    read_allowed_ips,
    read_carrier,
    read_public_key,
    read_secret,
)
from gateway.control.configpolicy import read_policy, with_keys
from gateway.control.configreport import Problems, decode, read_toml
from gateway.control.configschema import DEFAULT_INTERFACE, ClientFile, ClientGatewayTable, ClientTable
from gateway.control.configstats import read_socket
from gateway.control.configtransport import read_transport

DEFAULT_KEY_FILE: Final = "client.key"


def resolve_client(text: str, file: str, origin: Origin, problems: Problems) -> ClientConfig:
    """Raises ``ConfigErrors``."""
    document = read_toml(text, file)
    gateways = _gateways(document.pop("gateway", []), problems, origin)
    tables = decode(document, ClientFile, "", problems)
    table = tables.client
    private_key = _private_key(table, problems, origin)
    addresses = read_addresses(table.addresses, "client.addresses", problems)
    if not table.addresses:
        problems.add("client.addresses", "is missing: the inner addresses the gateway gave this client")
    timers = read_timers(tables.keys, problems)
    policy = with_keys(read_policy(tables.policy, problems), timers)
    config = ClientConfig(
        path=Path(file),
        interface=problems.check(
            "client.interface", configfields.interface_name, table.interface, DEFAULT_INTERFACE
        ),
        private_key=private_key,
        public_key=keysfile.public_key(private_key),
        addresses=addresses,
        mtu=read_mtu(table.mtu, addresses, policy, "client.mtu", problems),
        dns=read_dns(table.dns, "client.dns", problems),
        table=problems.check("client.table", configfields.table, table.table, "auto"),
        fwmark=read_fwmark(table.fwmark, "client.fwmark", problems),
        listen_port=problems.check(
            "client.listen_port", lambda n: configfields.bounded(n, 0, 65_535), table.listen_port, 0
        ),
        timers=timers,
        policy=policy,
        control_socket=read_socket(tables.control.socket, "control.socket", problems),
        gateways=tuple(gateways.values()),
        transport=read_transport(tables.transport, problems),
        offload=read_offload(tables.offload),
        workers=read_workers(tables.workers, problems),
        log_level=tables.log.level,
        audit=read_audit(tables.audit, problems),
        warnings=tuple(problems.warnings),
    )
    check_gateways(gateways, config.public_key, problems)
    problems.raise_if_any()
    return config


def check_gateways(
    gateways: Mapping[str, GatewayPeer],
    own_key: bytes,
    problems: Problems,
    fields: tuple[str, str] = ("public_key", "allowed_ips"),
) -> None:
    """No gateway is this client itself, none stands there twice, and no prefix belongs to two of them.

    ``gateways`` by the key path they stand under; ``fields`` are the format's names of key and prefixes.
    """
    if not gateways:
        problems.add("gateway", "is missing: at least one gateway with its public_key and endpoints")
    keys: dict[bytes, str] = {own_key: "this client itself"}
    networks: dict[Network, str] = {}
    for key, peer in gateways.items():
        here = f"{key} ({problems.where(key)})"
        if peer.public_key and keys.setdefault(peer.public_key, here) is not here:
            problems.add(f"{key}.{fields[0]}", f"this public key belongs to {keys[peer.public_key]} already")
        for position, network in enumerate(peer.allowed_ips):
            if networks.setdefault(network, here) is not here:
                problems.add(
                    f"{key}.{fields[1]}[{position}]", f"{network} belongs to {networks[network]} already"
                )


def _private_key(table: ClientTable, problems: Problems, origin: Origin) -> bytes:
    read_carrier(table.carrier, "client", problems)
    found = read_secret(table, "private_key", "client", problems, origin)
    if found is None:
        default = ClientTable(private_key_file=DEFAULT_KEY_FILE)
        found = read_secret(default, "private_key", "client", problems, origin)
    return found or NO_KEY


def _gateways(value: object, problems: Problems, origin: Origin) -> dict[str, GatewayPeer]:
    """``[gateway]`` or several ``[[gateway]]``, by the key path they stand under."""
    if not isinstance(value, list):
        return {"gateway": _gateway(value, "gateway", problems, origin)}
    keys = [f"gateway[{position}]" for position in range(len(value))]
    return {key: _gateway(item, key, problems, origin) for key, item in zip(keys, value, strict=True)}


def _gateway(value: object, key: str, problems: Problems, origin: Origin) -> GatewayPeer:
    table = decode(value, ClientGatewayTable, key, problems)
    read_carrier(table.carrier, key, problems)
    if not table.endpoints:
        problems.add(f"{key}.endpoints", 'is missing: at least one "host:port"')
    return GatewayPeer(
        public_key=read_public_key(table.public_key, key, problems),
        preshared_key=read_secret(table, "preshared_key", key, problems, origin),
        endpoints=problems.check_each(f"{key}.endpoints", configfields.endpoint, table.endpoints),
        allowed_ips=read_allowed_ips(table.allowed_ips, key, problems),
        keepalive_s=problems.check(f"{key}.keepalive", configfields.keepalive_s, table.keepalive, 0),
        protocol=table.protocol,
    )
