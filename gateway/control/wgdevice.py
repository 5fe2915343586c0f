# SPDX-License-Identifier: Apache-2.0
"""A tunnel as WireGuard's own tools see an interface: empty at first, then whatever they set.

Rule 1: what the host may refuse (a port, a mark) comes first; a request it refuses has changed no peer.
Rule 2: sockets are open while the interface is up, as WireGuard's are; without a private key nobody is called.
"""

from __future__ import annotations

import errno
import itertools
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from gateway import crypto
from gateway.control import clock, keysfile
from gateway.control.configfields import Network
from gateway.control.configmodel import Peer as PeerConfig
from gateway.control.peers import Peer
from gateway.control.tunnel import Tunnel
from gateway.control.wgsocket import (
    NO_KEY,
    PEERS_MAX,
    PREFIXES_MAX,
    DeviceChange,
    DeviceState,
    Fault,
    HostPort,
    PeerChange,
    PeerState,
    handshake_unix_ns,
    shown,
)
from gateway.dataplane.engine import Endpoint
from gateway.errors import DataplaneError, JumpError
from gateway.net.tunwatch import Device
from gateway.net.udp import Sockets, close_all, open_listen, set_mark
from gateway.noise.handshake import NO_PSK, Identity

# The data plane takes nothing smaller; IPv4 itself asks for as much (RFC 791).
MTU_MIN_BYTES: Final = 576
MTU_MAX_BYTES: Final = 65_535


class Known:
    """What the tools have said of a peer."""

    __slots__ = ("allowed", "at", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.allowed: dict[Network, None] = {}  # in the order they came
        self.at: HostPort | None = None  # where it was last, for as long as no socket is open


class WgDevice:
    """The backend of the configuration socket; the tunnel has a TUN device and nothing else when it comes."""

    def __init__(self, tunnel: Tunnel, log: structlog.stdlib.BoundLogger) -> None:
        self._tunnel = tunnel
        self._log = log
        self._private_key = NO_KEY
        self._listen_port = 0
        self._fwmark = 0
        self._up = False
        self._mtu_bytes = 0
        self._ports: dict[int, Sockets] = {}
        self._known: dict[bytes, Known] = {}
        self._owners: dict[Network, Known] = {}
        tunnel.exchange.silenced = True

    # --- what it is -------------------------------------------------------------------------------------------

    def state(self) -> DeviceState:
        return DeviceState(
            self._private_key, self._port(), self._fwmark, (self._peer_state(k) for k in self._known.values())
        )

    def _port(self) -> int:
        for sockets in self._ports.values():
            return int(sockets[0].getsockname()[1])
        return self._listen_port

    def _peer_state(self, known: Known) -> PeerState:
        peer = known.peer
        stats = self._tunnel.engine.stats(peer.slot)
        return PeerState(
            public_key=peer.config.public_key,
            preshared_key=peer.keys.psk,
            endpoint=shown(self._where(known)),
            handshake_unix_ns=handshake_unix_ns(
                stats["latest_handshake_ns"], clock.now_ns(), clock.unix_ns()
            ),
            rx_bytes=stats["rx_bytes"],
            tx_bytes=stats["tx_bytes"],
            keepalive_s=peer.config.keepalive_s,
            allowed_ips=tuple(known.allowed),
        )

    def _where(self, known: Known) -> HostPort | None:
        at = self._tunnel.engine.endpoint(known.peer.slot) if self._ports else None
        return (at.host, at.port) if at is not None else known.at

    # --- what the host does -----------------------------------------------------------------------------------

    def follow(self, device: Device) -> None:
        """The interface has another MTU, or went up or down."""
        mtu_bytes = min(max(device.mtu_bytes, MTU_MIN_BYTES), MTU_MAX_BYTES)
        if mtu_bytes != self._mtu_bytes:
            self._mtu_bytes = mtu_bytes
            self._tunnel.set_mtu(mtu_bytes)
        if device.up != self._up:
            self._up = device.up
            self._log.debug("interface up" if device.up else "interface down")
            (self._wake if device.up else self._rest)()

    def close(self) -> None:
        """Give every socket back."""
        self._close_ports()

    def _wake(self) -> None:
        try:
            self._open_ports(self._listen_port)
        except JumpError as error:
            self._log.error("cannot listen", reason=str(error))
        for known in self._known.values():
            self._keep_alive(known.peer)
        self._tunnel.kick()

    def _rest(self) -> None:
        self._close_ports()
        for known in self._known.values():
            self._tunnel.forget_keys(known.peer)
            self._tunnel.engine.set_keepalive(known.peer.slot, 0, clock.now_ns())

    def _keep_alive(self, peer: Peer) -> None:
        if self._up and self._private_key != NO_KEY:
            self._tunnel.engine.set_keepalive(peer.slot, peer.config.keepalive_s, clock.now_ns())

    # --- sockets ----------------------------------------------------------------------------------------------

    def _open_ports(self, port: int) -> None:
        """Listen there instead of where it was. HostError leaves everything as it was."""
        opened = open_listen([f"0.0.0.0:{port}", f"[::]:{port}"], fwmark=self._fwmark)
        self._remember_where()
        before, self._ports = self._ports, {}
        try:
            for sockets in opened:
                self._ports[self._tunnel.add_port(sockets)] = sockets
        except DataplaneError:
            self._close_ports()
            close_all(itertools.chain.from_iterable(opened))
            self._ports = before
            raise
        self._close(before)
        for known in self._known.values():
            with suppress(Fault):  # an address of a kind that has no socket any more
                self._call(known)

    def _remember_where(self) -> None:
        for known in self._known.values():
            known.at = self._where(known)

    def _close_ports(self) -> None:
        self._remember_where()
        ports, self._ports = self._ports, {}
        self._close(ports)

    def _close(self, ports: dict[int, Sockets]) -> None:
        for socket_id, sockets in ports.items():
            self._tunnel.remove_port(socket_id)
            close_all(sockets)

    def _call(self, known: Known) -> None:
        """Send to where a peer was last, from any address of ours."""
        if known.at is None or not self._ports:
            return
        host, port = known.at
        try:
            socket_id = self._tunnel.engine.socket_for(":" in host)
            to = Endpoint.of(host, port, socket_id)
        except DataplaneError:
            raise Fault(errno.EAFNOSUPPORT, "endpoint") from None
        except OSError:
            raise Fault(errno.ENODEV, "the interface an endpoint names") from None
        self._tunnel.engine.set_endpoint(known.peer.slot, to, clock.now_ns())

    # --- what is asked ----------------------------------------------------------------------------------------

    async def apply(self, change: DeviceChange) -> None:
        self._check_room(change)
        if change.listen_port is not None:
            self._listen(change.listen_port)
        if change.fwmark is not None:
            self._mark(change.fwmark)
        if change.private_key is not None:
            self._set_key(change.private_key)
        if change.replace_peers:
            for known in list(self._known.values()):
                self._drop(known)
        for peer in change.peers:
            self._change_peer(peer)
        self._tunnel.kick()

    def _check_room(self, change: DeviceChange) -> None:
        held = 0 if change.replace_peers else len(self._owners)
        if held + sum(len(peer.allowed_ips) for peer in change.peers) > PREFIXES_MAX:
            raise Fault(errno.ENOSPC, "allowed addresses")
        peers = 0 if change.replace_peers else len(self._known)
        if peers + len(change.peers) > PEERS_MAX:
            raise Fault(errno.ENOSPC, "peers")

    def _listen(self, port: int) -> None:
        """0 draws another port, as WireGuard does."""
        if self._ports and not (port and port == self._port()):
            self._open_ports(port)
        self._listen_port = port
        if self._up and not self._ports:
            self._open_ports(port)

    def _mark(self, fwmark: int) -> None:
        for sock in itertools.chain.from_iterable(self._ports.values()):
            set_mark(sock, fwmark)
        self._fwmark = fwmark

    def _set_key(self, private_key: bytes) -> None:
        """All zeros: nobody is called, and nobody can call, for the identity is one that nobody has heard of."""
        private_key = NO_KEY if private_key == NO_KEY else crypto.clamp(private_key)
        if private_key == self._private_key:
            return
        self._private_key = private_key
        self._tunnel.exchange.silenced = self._private_key == NO_KEY
        identity = Identity(self._private_key if self._private_key != NO_KEY else secrets.token_bytes(32))
        self._tunnel.set_identity(identity)
        if identity.public in self._known:
            self._drop(self._known[identity.public])
        for known in self._known.values():
            self._keep_alive(known.peer)

    # --- peers ------------------------------------------------------------------------------------------------

    def _change_peer(self, change: PeerChange) -> None:
        known = self._known.get(change.public_key)
        if change.remove:
            if known is not None:
                self._drop(known)
            return
        if known is None:
            if change.update_only or self._is_nobody(change.public_key):
                return
            known = self._add(change.public_key)
        if change.preshared_key is not None:
            known.peer.keys.psk = change.preshared_key
        if change.endpoint is not None:
            known.at = change.endpoint
            self._call(known)
        self._allow(known, change)
        if change.keepalive_s is not None:
            known.peer.config = replace(known.peer.config, keepalive_s=change.keepalive_s)
            self._keep_alive(known.peer)

    def _is_nobody(self, public_key: bytes) -> bool:
        """Our own key and points of low order are passed over without a word, as WireGuard does."""
        ours = self._private_key != NO_KEY and public_key == self._tunnel.identity.public
        return ours or keysfile.is_low_order(public_key)

    def _add(self, public_key: bytes) -> Known:
        config = PeerConfig(
            name=keysfile.encode_key(public_key),
            public_key=public_key,
            roaming="wireguard",
            protocol="wireguard",
        )
        known = self._known[public_key] = Known(self._tunnel.peers.add(config, clock.now_ns()))
        known.peer.keys.psk = NO_PSK
        return known

    def _drop(self, known: Known) -> None:
        for network in known.allowed:
            self._tunnel.engine.remove_route(network, known.peer.slot)
            del self._owners[network]
        self._tunnel.peers.remove(known.peer)
        del self._known[known.peer.config.public_key]

    def _allow(self, known: Known, change: PeerChange) -> None:
        if change.replace_allowed_ips:
            wanted = {network for add, network in change.allowed_ips if add}
            for network in [network for network in known.allowed if network not in wanted]:
                self._disallow(known, network)
        for add, network in change.allowed_ips:
            if not add:
                self._disallow(known, network)
            elif self._owners.get(network) is not known:
                self._give(known, network)

    def _give(self, known: Known, network: Network) -> None:
        """A prefix has one holder, the last one to get it."""
        self._tunnel.engine.add_route(network, known.peer.slot)
        before = self._owners.get(network)
        if before is not None:
            del before.allowed[network]
        self._owners[network] = known
        known.allowed[network] = None

    def _disallow(self, known: Known, network: Network) -> None:
        if self._owners.get(network) is known:
            self._tunnel.engine.remove_route(network, known.peer.slot)
            del self._owners[network]
            del known.allowed[network]
