# SPDX-License-Identifier: Apache-2.0
"""A running gateway as WireGuard's own tools see it: `wg show` shows all, `wg set` adds, changes and removes peers.

Rule: the gateway's configuration stays in charge. Peers are added and removed as `jvpn peer add` and `remove` would;
what a peer of the configuration is allowed changes until that is read again. Key, port, mark and a peer's endpoint are
not changed from here: a request that asks for it has changed nothing. Of several peers, those before one whose address
is taken stay as asked.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from gateway.control import clock, keysfile
from gateway.control.configfields import host_and_port
from gateway.control.configmodel import GatewayConfig
from gateway.control.configmodel import Peer as Config
from gateway.control.peers import Peer
from gateway.control.tunnel import Tunnel
from gateway.control.wgsocket import (
    DeviceChange,
    DeviceState,
    Fault,
    PeerChange,
    PeerState,
    handshake_unix_ns,
    shown,
)
from gateway.crypto import clamp

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Act = Callable[[], Awaitable[Any]]

# Of the public key: enough to tell a hundred thousand peers apart.
_NAME_CHARACTERS: Final = 12


class WgGateway:
    """The backend of a gateway's configuration socket. ``add`` and ``remove`` are the commands peer.add and .remove;
    ``change`` gives a peer that exists another configuration.
    """

    def __init__(
        self,
        config: GatewayConfig,
        tunnel: Tunnel,
        *,
        add: Command,
        remove: Command,
        change: Callable[[Config], Awaitable[None]],
    ) -> None:
        self._config = config
        self._tunnel = tunnel
        self._add = add
        self._remove = remove
        self._change = change

    def state(self) -> DeviceState:
        return DeviceState(
            clamp(self._config.private_key),
            self._port(),
            self._config.fwmark,
            (self._peer_state(peer) for peer in self._tunnel.peers),
        )

    def _port(self) -> int:
        return next((int(host_and_port(text)[1]) for text in self._tunnel.local_addresses()), 0)

    def _peer_state(self, peer: Peer) -> PeerState:
        stats = self._tunnel.engine.stats(peer.slot)
        endpoint = self._tunnel.engine.endpoint(peer.slot)
        return PeerState(
            public_key=peer.config.public_key,
            preshared_key=peer.keys.psk,
            endpoint=str(endpoint) if endpoint is not None else "",
            handshake_unix_ns=handshake_unix_ns(
                stats["latest_handshake_ns"], clock.now_ns(), clock.unix_ns()
            ),
            rx_bytes=stats["rx_bytes"],
            tx_bytes=stats["tx_bytes"],
            keepalive_s=peer.config.keepalive_s,
            allowed_ips=peer.config.allowed_ips,
        )

    async def apply(self, change: DeviceChange) -> None:
        self._check_device(change)
        acts = [act for act in map(self._act, change.peers) if act is not None]
        for act in acts:
            await act()

    def _check_device(self, change: DeviceChange) -> None:
        key = change.private_key
        same = (
            key is None or clamp(key) == clamp(self._config.private_key),
            change.listen_port in (None, self._port()),
            change.fwmark in (None, self._config.fwmark),
            not change.replace_peers,
        )
        if not all(same):
            raise Fault(errno.EOPNOTSUPP, "the gateway's configuration says this")

    def _act(self, change: PeerChange) -> Act | None:
        """What to do about one peer; None: nothing. Fault for what is not done from here."""
        peer = self._tunnel.peers.by_key(change.public_key)
        if peer is None:
            skip = change.remove or change.update_only
            return None if skip else partial(self._add, _request(change))
        if change.remove:
            if not peer.config.managed:
                raise Fault(errno.EPERM, "the gateway's configuration defines this peer")
            return partial(self._remove, {"name": peer.config.name})
        at = self._tunnel.engine.endpoint(peer.slot)
        if change.endpoint is not None and shown(change.endpoint) != str(at):
            raise Fault(errno.EOPNOTSUPP, "where a peer is, its session says")
        after = changed(peer.config, change)
        return None if after == peer.config else partial(self._change, after)


def changed(config: Config, change: PeerChange) -> Config:
    """The peer as the request wants it. Without any address it would get one of the pool: EINVAL."""
    allowed = dict.fromkeys(() if change.replace_allowed_ips else config.allowed_ips)
    for add, network in change.allowed_ips:
        if add:
            allowed[network] = None
        else:
            allowed.pop(network, None)
    if not allowed:
        raise Fault(errno.EINVAL, "a peer of a gateway has an address")
    same = set(allowed) == set(config.allowed_ips)
    psk = config.preshared_key if change.preshared_key is None else change.preshared_key
    return replace(
        config,
        allowed_ips=config.allowed_ips if same else tuple(allowed),
        preshared_key=psk if psk and any(psk) else None,
        keepalive_s=config.keepalive_s if change.keepalive_s is None else change.keepalive_s,
    )


def _request(change: PeerChange) -> dict[str, Any]:
    """A [[peer]] table. Without allowed addresses the gateway's pool gives some."""
    text = keysfile.encode_key(change.public_key)
    request: dict[str, Any] = {"name": f"wg-{_word(text)}", "public_key": text}
    if change.preshared_key is not None and any(change.preshared_key):
        request["preshared_key"] = keysfile.encode_key(change.preshared_key)
    if allowed := [str(net) for add, net in change.allowed_ips if add]:
        request["allowed_ips"] = allowed
    if change.endpoint is not None:
        request["endpoint"] = shown(change.endpoint)
    if change.keepalive_s:
        request["keepalive"] = f"{change.keepalive_s}s"
    return request


def _word(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum())[:_NAME_CHARACTERS]
