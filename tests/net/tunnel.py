# SPDX-License-Identifier: Apache-2.0
"""One tunnel between a client and a gateway, each either ours or wireguard-go, with a router in between.

Rule: both kinds are used through the same few names, so that a test reads the same whoever is at which end.

    client ─────── router ─────── server ─────── backend
    10.1.0.1     .2      10.2.0.1     .2      10.3.0.1     .2
    fd01::1     ::2      fd02::1     ::2      fd03::1     ::2      (the impairment relay runs on the router)
    └────── tunnel 10.8.0.2/24, fd08::2/64 ── 10.8.0.1, fd08::1
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.net.jvpn import JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import Lab, LabError, Link, Namespace
from tests.net.relay import Relay
from tests.net.traffic import wait_reachable
from tests.net.wg import Keys, WgDevice, WgPeer, generate_psk

Kind = Literal["jvpn", "wg"]
CLIENT: Final = ("10.8.0.2", "fd08::2")
SERVER: Final = ("10.8.0.1", "fd08::1")
BACKEND: Final = ("10.3.0.2", "fd03::2")
ROUTER_OUTER: Final = {4: "10.1.0.2", 6: "fd01::2"}
SERVER_OUTER: Final = {4: "10.2.0.2", 6: "fd02::2"}
PORT: Final = 51820
RELAY_PORT: Final = 4500


@dataclass(slots=True)
class Site:
    """The namespaces of the picture above, without any tunnel."""

    lab: Lab
    client: Namespace
    router: Namespace
    server: Namespace
    backend: Namespace
    near: Link
    far: Link
    inside: Link

    @classmethod
    def build(cls, lab: Lab, prefix: str = "") -> Site:
        """Build it; several fit into one laboratory with different prefixes of the roles."""
        roles = ("client", "router", "server", "backend")
        client, router, server, backend = (lab.namespace(prefix + role) for role in roles)
        near = lab.link(client, router, "10.1.0.0/24", "fd01::/64")
        far = lab.link(router, server, "10.2.0.0/24", "fd02::/64")
        inside = lab.link(server, backend, "10.3.0.0/24", "fd03::/64")
        for namespace in (router, server):
            namespace.forward()
        routes = ((client, 1, 2), (server, 2, 1), (backend, 3, 1))
        for namespace, subnet, host in routes:
            namespace.add_route("default", via=f"10.{subnet}.0.{host}")
            namespace.add_route("default", via=f"fd0{subnet}::{host}")
        return cls(lab, client, router, server, backend, near, far, inside)


@dataclass(slots=True)
class Options:
    """What differs from test to test; ``*_tables`` go into the configuration of our end only."""

    outer: Literal[4, 6] = 4
    psk: bool = False
    client_keepalive_s: int | None = None
    server_keepalive_s: int | None = None
    roaming: str | None = None
    through_relay: bool = False
    relay_seed: int = 1
    relay_sources: tuple[str, ...] = ()
    allowed_ips: tuple[str, ...] = ("10.8.0.0/24", "fd08::/64", "10.3.0.0/24", "fd03::/64")
    client_port: int | None = None
    server_knows_client: bool = False
    server_tables: dict[str, Any] = field(default_factory=dict)
    client_tables: dict[str, Any] = field(default_factory=dict)


class Tunnel:
    """A client and a server of the given kinds on a `Site`. Nothing runs before `start`."""

    def __init__(self, site: Site, client: Kind, server: Kind, options: Options | None = None) -> None:
        self.site, self.kinds, self.options = site, (client, server), options or Options()
        self.client_keys, self.server_keys = Keys.generate(), Keys.generate()
        self.psk = generate_psk() if self.options.psk else None
        self.relay: Relay | None = None
        if self.options.through_relay:
            self.relay = self._make_relay()
        self.server: JvpnGateway | WgDevice = self._make_server()
        self.client: JvpnClient | WgDevice = self._make_client()

    @property
    def endpoint(self) -> str:
        """Where the client finds the server: the server itself or the relay."""
        hosts, port = (ROUTER_OUTER, RELAY_PORT) if self.options.through_relay else (SERVER_OUTER, PORT)
        return join(hosts[self.options.outer], port)

    def start(self) -> Tunnel:
        """Start both and wait for the first answer through the tunnel."""
        self.server.start()
        self.client.start()
        wait_reachable(self.site.client, SERVER[0])
        return self

    # --- the same questions to both kinds -------------------------------------------------------------------------

    def server_endpoint(self) -> str:
        """The client's address as the server knows it."""
        if isinstance(self.server, WgDevice):
            return self.server.peer(self.client_keys.public).endpoint or ""
        return str(self.server.peer(self.client_keys.public)["endpoint"] or "")

    def rx_bytes(self, end: Literal["client", "server"]) -> int:
        """What an end has received from the other."""
        device, other = self._end(end)
        if isinstance(device, WgDevice):
            return device.peer(other).rx_bytes
        return int(device.peer(other)["rx_bytes"])

    def handshakes(self) -> int:
        """Completed handshakes as the stock end counts them (either end when both are ours)."""
        for device in (self.client, self.server):
            if isinstance(device, WgDevice):
                return device.handshakes()
        raise LabError("no stock end to ask")

    def wait_server_endpoint(self, wanted: str, timeout_s: float) -> float:
        """Wait until the server sends to ``wanted``; returns the seconds it took."""
        start_s = time.monotonic()
        while (seen := self.server_endpoint()) != wanted:
            if time.monotonic() - start_s > timeout_s:
                raise LabError(f"the server sends to {seen}, not to {wanted}, after {timeout_s} s")
            time.sleep(0.05)
        return time.monotonic() - start_s

    def relayed(self) -> Relay:
        """The relay of this tunnel."""
        if self.relay is None:
            raise LabError("this tunnel has no relay")
        return self.relay

    def _end(self, end: Literal["client", "server"]) -> tuple[JvpnGateway | JvpnClient | WgDevice, str]:
        if end == "client":
            return self.client, self.server_keys.public
        return self.server, self.client_keys.public

    # --- making them ----------------------------------------------------------------------------------------------

    def _make_relay(self) -> Relay:
        options = self.options
        listen = join(ROUTER_OUTER[options.outer], RELAY_PORT)
        upstream = join(SERVER_OUTER[options.outer], PORT)
        given = {"seed": options.relay_seed, "sources": options.relay_sources}
        name = f"{self.site.router.role}-relay"
        return Relay(self.site.lab, self.site.router, listen, upstream, name=name, **given)  # type: ignore[arg-type]

    def _make_server(self) -> JvpnGateway | WgDevice:
        options, site = self.options, self.site
        allowed = [f"{CLIENT[0]}/32", f"{CLIENT[1]}/128"]
        known = options.server_knows_client and options.client_port is not None
        host = {4: "10.1.0.1", 6: "fd01::1"}[options.outer]
        endpoint = join(host, options.client_port) if known and options.client_port else None
        addresses = [f"{SERVER[0]}/24", f"{SERVER[1]}/64"]
        if self.kinds[1] == "wg":
            peer = WgPeer(self.client_keys.public, allowed, endpoint, self.psk, options.server_keepalive_s)
            return WgDevice(site.lab, site.server, self.server_keys, addresses, [peer], listen_port=PORT)
        ours = JvpnPeer(
            "client",
            self.client_keys.public,
            allowed,
            self.psk,
            endpoint,
            seconds(options.server_keepalive_s),
            options.roaming,
        )
        return JvpnGateway(
            site.lab, site.server, self.server_keys, addresses, [ours], **options.server_tables
        )

    def _make_client(self) -> JvpnClient | WgDevice:
        options, site = self.options, self.site
        addresses = [f"{CLIENT[0]}/24", f"{CLIENT[1]}/64"]
        if self.kinds[0] == "wg":
            peer = WgPeer(
                self.server_keys.public,
                options.allowed_ips,
                self.endpoint,
                self.psk,
                options.client_keepalive_s,
            )
            port = options.client_port
            return WgDevice(site.lab, site.client, self.client_keys, addresses, [peer], listen_port=port)
        gateway: dict[str, Any] = {
            "public_key": self.server_keys.public,
            "endpoints": [self.endpoint],
            "allowed_ips": list(options.allowed_ips),
        }
        gateway |= {"preshared_key": self.psk} if self.psk else {}
        gateway |= {"keepalive": f"{options.client_keepalive_s}s"} if options.client_keepalive_s else {}
        tables = dict(options.client_tables)
        if options.client_port is not None:
            tables["client"] = {**tables.get("client", {}), "listen_port": options.client_port}
        return JvpnClient(site.lab, site.client, self.client_keys, addresses, gateway, **tables)


def join(host: str, port: int) -> str:
    """``HOST:PORT`` or ``[HOST6]:PORT``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def seconds(value_s: int | None) -> str | None:
    """A duration as the configuration writes it."""
    return None if value_s is None else f"{value_s}s"
