# SPDX-License-Identifier: Apache-2.0
"""A running gateway as WireGuard's own tools see it: `wg show` shows all of it, `wg set` adds and removes peers.

Rule: the gateway's configuration stays in charge. Peers are added and removed as `jvpn peer add` and `remove` would;
key, port, mark, and what a peer that exists is allowed, are not changed from here: a request that asks for it has
changed nothing. Of several peers to add, those before one whose address is taken stay.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.control import clock, keysfile
from gateway.control.configfields import host_and_port
from gateway.control.configmodel import GatewayConfig
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

# Of the public key: enough to tell a hundred thousand peers apart.
_NAME_CHARACTERS: Final = 12


class WgGateway:
    """The backend of a gateway's configuration socket. ``add`` and ``remove`` are the commands peer.add and .remove."""

    def __init__(self, config: GatewayConfig, tunnel: Tunnel, *, add: Command, remove: Command) -> None:
        self._config = config
        self._tunnel = tunnel
        self._add = add
        self._remove = remove

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
        for command, args in acts:
            await command(args)

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

    def _act(self, change: PeerChange) -> tuple[Command, dict[str, Any]] | None:
        """What to do about one peer; None: nothing. Fault for what is not done from here."""
        peer = self._tunnel.peers.by_key(change.public_key)
        if peer is None:
            skip = change.remove or change.update_only
            return None if skip else (self._add, _request(change))
        if change.remove:
            if not peer.config.managed:
                raise Fault(errno.EPERM, "the gateway's configuration defines this peer")
            return self._remove, {"name": peer.config.name}
        if not self._says_nothing_new(peer, change):
            raise Fault(errno.EOPNOTSUPP, "a peer that exists is changed with jvpn peer")
        return None

    def _says_nothing_new(self, peer: Peer, change: PeerChange) -> bool:
        held, named = set(peer.config.allowed_ips), {net for add, net in change.allowed_ips if add}
        taken = {net for add, net in change.allowed_ips if not add}
        endpoint = self._tunnel.engine.endpoint(peer.slot)
        return (
            change.preshared_key in (None, peer.keys.psk)
            and change.keepalive_s in (None, peer.config.keepalive_s)
            and (change.endpoint is None or shown(change.endpoint) == str(endpoint))
            and named <= held
            and not taken & held
            and (not change.replace_allowed_ips or named == held)
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
