# SPDX-License-Identifier: Apache-2.0
"""A checked configuration key by key: what two of them differ in, and what of it a running daemon takes over.

Rule 1: keys are named as the file names them; values are those that count, defaults and derived ones included.
Rule 2: a secret is compared and never shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control.configlines import join_key
from gateway.control.configmodel import ClientConfig, GatewayConfig, GatewayPeer, Operator, Peer, Stats
from gateway.control.configpolicy import ELSEWHERE
from gateway.core.policy import Policy
from gateway.net.devices import Settings
from gateway.noise.timers import Timers

Config = GatewayConfig | ClientConfig
Values = dict[str, Any]

# What a running daemon takes over from its file; "policy." and "peer." stand for everything below.
LIVE_GATEWAY: Final = (
    "gateway.endpoint",
    "gateway.advertise",
    "gateway.dns",
    "nat.enabled",
    "nat.out_interface",
    "forward.clients",
    "handshake.under_load_per_s",
    "log.level",
    "stats.hosts",
    "stats.token_file",
    "stats.operator_token_file",
    "stats.operator_certificates",
    "policy.",
    "peer.",
)
LIVE_CLIENT: Final = ("log.level", "policy.")
HIDDEN: Final = "(secret)"
_UNITS: Final = (("h", 3600 * NS_PER_S), ("m", 60 * NS_PER_S), ("s", NS_PER_S), ("ms", NS_PER_MS))


class Change(NamedTuple):
    """One key that differs. ``running`` and ``file`` are fit to be shown; ``None``: the key is not there."""

    key: str
    running: Any
    file: Any
    live: bool

    def document(self) -> dict[str, Any]:
        """For a JSON answer."""
        return self._asdict()


def changes(running: Config, file: Config, live: bool = False) -> list[Change]:
    """What differs, in the order of the file's tables. ``live`` is what every change says of itself."""
    return [
        *_between(values(running), values(file), live),
        *peer_changes(_peers_of(running), _peers_of(file), live),
    ]


def peer_changes(running: Iterable[Peer], file: Iterable[Peer], live: bool = True) -> list[Change]:
    """The same of peers, by their names: a list has no lasting numbers. One that came or went is one change."""
    before, after = ({join_key("peer", peer.name): peer for peer in peers} for peers in (running, file))
    found = []
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) == after.get(key):
            continue
        if key in before and key in after:
            one, other = (
                {f"{key}.{name}": value for name, value in _peer(peers[key]).items()}
                for peers in (before, after)
            )
            found += _between(one, other, live)
        else:
            found.append(Change(key, _summary(before.get(key)), _summary(after.get(key)), live))
    return found


def _summary(peer: Peer | None) -> list[str] | None:
    return None if peer is None else _texts(peer.allowed_ips)


def _between(before: Values, after: Values, live: bool) -> list[Change]:
    keys = [*before, *(key for key in after if key not in before)]
    return [
        Change(key, *_shown(before.get(key), after.get(key)), live)
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _peers_of(config: Config) -> Iterable[Peer]:
    return config.peers if isinstance(config, GatewayConfig) else ()


def compared(running: Config, taken: Config, file: Config) -> list[Change]:
    """All changes; ``taken`` is what ``running`` would be after a reload of ``file``."""
    found = {change.key: change for change in changes(taken, file)}
    found |= {change.key: change for change in changes(running, taken, live=True)}
    return sorted(found.values(), key=lambda change: not change.live)


def values(config: Config) -> Values:
    """Every key but those of peers, with its value. Secrets are bytes."""
    if isinstance(config, GatewayConfig):
        return _gateway(config)
    return _client(config)


def _gateway(config: GatewayConfig) -> Values:
    by_version = {pool.version: str(pool) for pool in config.pools}
    return {
        "gateway.interface": config.interface,
        "gateway.private_key": config.private_key,
        "gateway.listen": _texts(config.listen),
        "gateway.addresses": _texts(config.addresses),
        "gateway.mtu": config.mtu,
        "gateway.endpoint": str(config.endpoint or ""),
        "gateway.advertise": _texts(config.advertise),
        "gateway.dns": config.dns.texts(),
        "gateway.fwmark": config.fwmark,
        "gateway.wg_socket": config.wg_socket,
        "pool.ipv4": by_version.get(4, ""),
        "pool.ipv6": by_version.get(6, ""),
        "nat.enabled": config.nat_enabled,
        "nat.out_interface": config.nat_out_interface,
        "forward.enabled": config.forward_enabled,
        "forward.clients": config.forward_clients,
        "handshake.under_load_per_s": config.under_load_per_s,
        **_common(config),
        **_stats(config.stats),
    }


def _client(config: ClientConfig) -> Values:
    return {
        "client.interface": config.interface,
        "client.private_key": config.private_key,
        "client.addresses": _texts(config.addresses),
        "client.mtu": config.mtu,
        "client.dns": config.dns.texts(),
        "client.table": config.table,
        "client.fwmark": config.fwmark,
        "client.listen_port": config.listen_port,
        **_common(config),
        **_transport(config.transport),
        **_gateways(config.gateways),
    }


def _common(config: Config) -> Values:
    return {
        **_keys(config.timers),
        **_policy(config.policy),
        "offload.tun": config.offload.tun,
        "offload.udp_segment": config.offload.udp_segment,
        "offload.udp_gro": config.offload.udp_gro,
        "workers.count": config.workers.count,
        "workers.native": config.workers.native,
        "audit.max_bytes": config.audit.max_bytes,
        "audit.keep_files": config.audit.keep_files,
        "control.socket": _path(config.control_socket),
        "log.level": config.log_level,
    }


def _keys(timers: Timers) -> Values:
    return {
        "keys.rekey_after_time": duration(timers.rekey_after_time_ns),
        "keys.reject_after_time": duration(timers.reject_after_time_ns),
    }


def _policy(policy: Policy) -> Values:
    keys = {field.metadata["key"]: field.name for field in dataclasses.fields(Policy)}
    named = {key: name for key, name in keys.items() if key not in ELSEWHERE}
    return {f"policy.{key}": _bound(name, getattr(policy, name)) for key, name in named.items()}


def _bound(name: str, value: Any) -> Any:
    """A bound of the policy as the file writes it."""
    if hasattr(value, "name"):
        return value.name.lower()
    if name.endswith("_ns"):
        return duration(value)
    scale = {"ppm": 1_000_000, "milli": 1000}.get(name.rpartition("_")[2])
    if scale:
        return value / scale
    return list(value) if isinstance(value, tuple) else value


def _stats(stats: Stats) -> Values:
    tls = stats.tls
    return {
        "stats.enabled": stats.enabled,
        "stats.listen": _texts(stats.listen),
        "stats.socket": _path(stats.socket),
        "stats.hosts": sorted(stats.hosts),
        "stats.token_file": stats.token or None,
        "stats.tls_cert_file": _path(tls.cert if tls else None),
        "stats.tls_key_file": _path(tls.key if tls else None),
        "stats.tls_client_ca_file": _path(tls.client_ca if tls else None),
        "stats.per_session": stats.per_session,
        "stats.wireguard_names": stats.wireguard_names,
        "stats.operator_token_file": _tokens(stats.operators),
        "stats.operator_certificates": sorted(stats.operator_certificates),
        "stats.open_health": stats.open_health,
    }


def _tokens(operators: Iterable[Operator]) -> bytes | None:
    return b"\n".join(one.name.encode() + b" " + one.token for one in operators) or None


def _peer(peer: Peer) -> Values:
    return {
        "public_key": peer.public_key.hex(),
        "preshared_key": peer.preshared_key,
        "allowed_ips": _texts(peer.allowed_ips),
        "endpoint": str(peer.endpoint or ""),
        "keepalive": f"{peer.keepalive_s}s",
        "roaming": peer.roaming,
        "protocol": peer.protocol,
    }


def _gateways(gateways: Iterable[GatewayPeer]) -> Values:
    found: Values = {}
    for position, peer in enumerate(gateways):
        values = {
            "public_key": peer.public_key.hex(),
            "preshared_key": peer.preshared_key,
            "endpoints": _texts(peer.endpoints),
            "allowed_ips": _texts(peer.allowed_ips),
            "keepalive": f"{peer.keepalive_s}s",
            "protocol": peer.protocol,
        }
        found |= {f"gateway[{position}].{key}": value for key, value in values.items()}
    return found


def _transport(settings: Settings) -> Values:
    return {
        "transport.allowed": list(settings.allowed),
        "transport.max_candidates": settings.max_candidates,
        "transport.learn_endpoints": settings.learn_endpoints,
        "transport.include": list(settings.include),
        "transport.exclude": list(settings.exclude),
        "transport.device": [f"{rule.name}: {rule.priority}, cost {rule.cost}" for rule in settings.devices],
    }


def _texts(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]


def _path(path: Path | None) -> str:
    return "" if path is None else str(path)


def duration(value_ns: int) -> str:
    """As the file writes it, in the largest unit that divides it."""
    if not value_ns:
        return "0"
    return next(
        (f"{value_ns // size}{unit}" for unit, size in _UNITS if value_ns % size == 0), f"{value_ns}ns"
    )


def _shown(before: Any, after: Any) -> tuple[Any, Any]:
    return tuple(HIDDEN if isinstance(value, bytes) else value for value in (before, after))  # type: ignore[return-value]


def is_live(key: str, live: Iterable[str]) -> bool:
    """Whether a key is one of ``LIVE_GATEWAY`` or ``LIVE_CLIENT``."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in live)


# --- what a reload takes over -------------------------------------------------------------------------------------


def take_gateway(running: GatewayConfig, file: GatewayConfig) -> GatewayConfig:
    """``running`` with what it takes over from ``file``: the keys of LIVE_GATEWAY."""
    return dataclasses.replace(
        running,
        endpoint=file.endpoint,
        advertise=file.advertise,
        dns=file.dns,
        nat_enabled=file.nat_enabled,
        nat_out_interface=file.nat_out_interface,
        forward_clients=file.forward_clients,
        under_load_per_s=file.under_load_per_s,
        policy=_with_keys_of(running.policy, file.policy),
        peers=file.peers,
        stats=_take_stats(running.stats, file.stats),
        log_level=file.log_level,
        warnings=file.warnings,
    )


def _take_stats(running: Stats, file: Stats) -> Stats:
    """A token may become another one; whether one is asked for goes with the listeners, which stay as they are.

    Operators go at once. They come where the listeners are those that they were checked with.
    """
    guarded = bool(running.token) is bool(file.token)
    same = guarded and (running.listen, running.tls, running.open_health) == (
        file.listen,
        file.tls,
        file.open_health,
    )
    return dataclasses.replace(
        running,
        hosts=file.hosts,
        token=file.token if guarded else running.token,
        operators=tuple(one for one in file.operators if same or one in running.operators),
        operator_certificates=file.operator_certificates
        if same
        else file.operator_certificates & running.operator_certificates,
    )


def take_client(running: ClientConfig, file: ClientConfig) -> ClientConfig:
    """The same for the keys of LIVE_CLIENT."""
    policy = _with_keys_of(running.policy, file.policy)
    return dataclasses.replace(running, policy=policy, log_level=file.log_level, warnings=file.warnings)


def _with_keys_of(running: Policy, file: Policy) -> Policy:
    """The lifetimes of [keys] are the data plane's from its start on."""
    return dataclasses.replace(
        file, rekey_after_ns=running.rekey_after_ns, reject_after_ns=running.reject_after_ns
    )
