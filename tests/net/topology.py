# SPDX-License-Identifier: Apache-2.0
"""A client with two uplinks, each through its own impairment relay, to one gateway with a backend behind it.

Rule: both ways are alike (the relay's delay each way, nothing else) until a test changes one of them; every change
returns the time it took effect on CLOCK_BOOTTIME, the clock of the audit journals and of `tests.net.stream`.

                  upa 10.1.0.1 ── 10.1.0.2 relay A 10.11.0.1 ── 10.11.0.2 gwa
    client ──────┤                                                           ├── gateway ── 10.3.0.1 ── 10.3.0.2 backend
                  upb 10.2.0.1 ── 10.2.0.2 relay B 10.12.0.1 ── 10.12.0.2 gwb
    └──── tunnel 10.8.0.0/16 ───────────────────────────────────────────────── 10.8.0.1

Our client is given both relays as endpoints. A stock client knows one endpoint only: for it both relays also own
10.9.0.1, which its host reaches through upa and, with a worse metric, through upb (``shared=True``).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.net.lab import Lab, LabError, Link, Namespace
from tests.net.relay import Relay, Ways

Side = Literal["a", "b"]
SIDES: Final[tuple[Side, Side]] = ("a", "b")
NUMBER: Final = {"a": 1, "b": 2}
PORT: Final = 51820
DELAY_MS: Final = 10.0
SHARED: Final = "10.9.0.1"
BACKEND: Final = "10.3.0.2"
INNER_GATEWAY: Final = "10.8.0.1"
INNER_CLIENT: Final = "10.8.0.2"
INNER_PREFIX: Final = 16
ALLOWED: Final = ("10.8.0.0/16", "10.3.0.0/24")
ENDPOINTS: Final = (f"10.1.0.2:{PORT}", f"10.2.0.2:{PORT}")
# More addresses of each relay towards the gateway: what a NAT can rebind to, and where attackers live.
REBIND_HOSTS: Final = (11, 12)
ATTACKER_HOST: Final = 66

_IFINFO: Final = struct.Struct("=BBHiII")
_NLMSG: Final = struct.Struct("=IHHII")
_IFREQ: Final = struct.Struct("=16si20x")
_SIOCGIFINDEX: Final = 0x8933
_RTM_NEWLINK: Final = 16
_NLM_F_REQUEST_ACK: Final = 5
_IFF_UP: Final = 1
_NLMSG_ERROR: Final = 2


def boot_ns() -> int:
    """Now on CLOCK_BOOTTIME, in ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def from_monotonic_ns(at_ns: int) -> int:
    """A CLOCK_MONOTONIC time (the relay's) on CLOCK_BOOTTIME; they differ by the time this machine was suspended."""
    return at_ns + boot_ns() - time.monotonic_ns()


@dataclass(slots=True)
class Uplink:
    """One way from the client to the gateway."""

    side: Side
    device: str  # the client's
    near: Link
    router: Namespace
    far: Link
    relay: Relay

    @property
    def number(self) -> int:
        """1 or 2, as in its addresses."""
        return NUMBER[self.side]

    @property
    def attacker(self) -> str:
        """An address on the relay's side of the gateway that is nobody's."""
        return f"10.1{self.number}.0.{ATTACKER_HOST}"

    def mapping(self, flow: int = 0) -> str:
        """``HOST:PORT`` from which the gateway now sees the client's flow number ``flow``."""
        host, port = self.relay.upstream_sources()[flow]
        return f"{host}:{port}"

    # --- what happens to it; each returns when, on CLOCK_BOOTTIME -------------------------------------------------

    def blackhole(self, ways: Ways) -> int:
        """Swallow silently."""
        return from_monotonic_ns(self.relay.blackhole(ways))

    def heal(self) -> int:
        """As it was in the beginning."""
        self.relay.clear("both")
        return from_monotonic_ns(self.relay.set("both", delay_ms=DELAY_MS))

    def impair(self, ways: Ways, **values: float) -> int:
        """`Relay.set`."""
        return from_monotonic_ns(self.relay.set(ways, **values))  # type: ignore[arg-type]

    def rebind_port(self) -> int:
        """The NAT forgets its mappings: new ports."""
        return from_monotonic_ns(self.relay.rebind_port())

    def rebind_address(self) -> int:
        """The NAT moves to its next address."""
        return from_monotonic_ns(self.relay.rebind_address())


@dataclass(slots=True)
class Topology:
    """The namespaces of the picture, without any tunnel."""

    lab: Lab
    client: Namespace
    gateway: Namespace
    backend: Namespace
    uplinks: dict[Side, Uplink]
    shared: bool
    second: Namespace | None = None
    _netlink: dict[str, socket.socket] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        lab: Lab,
        prefix: str = "",
        *,
        shared: bool = False,
        seed: int = 1,
        second_client: bool = False,
        delay_ms: float = DELAY_MS,
    ) -> Topology:
        """Build it; several fit into one laboratory with different prefixes of the roles."""
        client, gateway, backend = (lab.namespace(prefix + role) for role in ("client", "gateway", "backend"))
        uplinks = {side: _uplink(lab, prefix, side, client, gateway, shared, seed) for side in SIDES}
        inside = lab.link(gateway, backend, "10.3.0.0/24", names=("inside", "eth0"))
        backend.add_route("default", via=inside.a.address4)
        gateway.forward()
        for uplink in uplinks.values():
            uplink.relay.set("both", delay_ms=delay_ms)
        made = cls(lab, client, gateway, backend, uplinks, shared)
        if second_client:
            made._add_second(prefix)
        return made

    @property
    def a(self) -> Uplink:
        """The first way."""
        return self.uplinks["a"]

    @property
    def b(self) -> Uplink:
        """The second way."""
        return self.uplinks["b"]

    def other(self, side: Side) -> Uplink:
        """The way that is not ``side``."""
        return self.b if side == "a" else self.a

    def side_of(self, transport: str) -> Side:
        """The way that a transport's text (``upa 10.1.0.1 > …``, ``udp:10.11.0.1:…``) belongs to."""
        for side, number in NUMBER.items():
            if f"up{side}" in transport or f"10.{number}.0." in transport or f"10.1{number}.0." in transport:
                return side  # type: ignore[return-value]
        raise LabError(f"{transport!r} is on neither uplink")

    def set_link(self, side: Side, up: bool) -> int:
        """The client's own device, administratively; returns the time just before the kernel was asked.

        Two system calls on an open socket: a program started for it would take the processor from the stream.
        """
        uplink = self.uplinks[side]
        sock = self._netlink.get(side) or self._open_netlink(side)
        request = fcntl.ioctl(sock, _SIOCGIFINDEX, _IFREQ.pack(uplink.device.encode(), 0))
        index = _IFREQ.unpack(request)[1]
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, index, _IFF_UP if up else 0, _IFF_UP)
        message = _NLMSG.pack(_NLMSG.size + len(body), _RTM_NEWLINK, _NLM_F_REQUEST_ACK, 1, 0) + body
        at_ns = boot_ns()
        sock.send(message)
        reply = sock.recv(4096)
        kind, error = struct.unpack_from("=H", reply, 4)[0], struct.unpack_from("=i", reply, 16)[0]
        if kind != _NLMSG_ERROR or error:
            raise LabError(f"{uplink.device}: netlink error {error}")
        if up:
            self._restore_routes(uplink)
        return at_ns

    def pull_cable(self, side: Side, out: bool = True) -> int:
        """Take the far end of the client's cable down (or up): the client only loses its carrier."""
        near, at_ns = self.uplinks[side].near, boot_ns()
        if out:
            near.down("b")
        else:
            near.up("b")
        return at_ns

    def take_device(self, side: Side) -> None:
        """The client's device is unplugged, with its addresses, routes and settings."""
        self.lab.delete_link(self.uplinks[side].near)

    def bring_device(self, side: Side) -> None:
        """One of the same name, addresses and routes is plugged in."""
        uplink = self.uplinks[side]
        subnet, names = f"10.{uplink.number}.0.0/24", (uplink.device, "near")
        uplink.near = self.lab.link(self.client, uplink.router, subnet, names=names)
        self._restore_routes(uplink)

    def _open_netlink(self, side: str) -> socket.socket:
        sock = self.client.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        sock.settimeout(5.0)
        self._netlink[side] = sock
        return sock

    def _restore_routes(self, uplink: Uplink) -> None:
        """Going down took the routes through a gateway along; connected ones came back by themselves."""
        if self.shared:
            _shared_route(self.client, uplink.number, replace=True)

    def _add_second(self, prefix: str) -> None:
        """Another client machine behind both relays, with addresses .5 of two links of its own."""
        second = self.second = self.lab.namespace(prefix + "second")
        for uplink in self.uplinks.values():
            number = uplink.number
            self.lab.link(
                second, uplink.router, f"10.{20 + number}.0.0/24", names=(uplink.device, f"x{uplink.side}")
            )
            second.add_route(f"10.{number}.0.0/24", via=f"10.{20 + number}.0.2")
            uplink.router.forward()

    def close(self) -> None:
        """Close what this process holds open; namespaces end with the laboratory."""
        for sock in self._netlink.values():
            sock.close()
        self._netlink.clear()


def _uplink(
    lab: Lab, prefix: str, side: Side, client: Namespace, gateway: Namespace, shared: bool, seed: int
) -> Uplink:
    number = NUMBER[side]
    router = lab.namespace(f"{prefix}relay{side}")
    near = lab.link(client, router, f"10.{number}.0.0/24", names=(f"up{side}", "near"))
    far = lab.link(router, gateway, f"10.1{number}.0.0/24", names=("far", f"gw{side}"))
    extra = [f"10.1{number}.0.{host}" for host in (*REBIND_HOSTS, ATTACKER_HOST)]
    router.add_address("far", *(f"{address}/24" for address in extra))
    listen = f"10.{number}.0.2:{PORT}"
    if shared:
        router.add_address("lo", f"{SHARED}/32")
        listen = f"{SHARED}:{PORT}"
        _shared_route(client, number)
    relay = Relay(
        lab,
        router,
        listen,
        f"10.1{number}.0.2:{PORT}",
        seed=2 * seed + number,
        sources=[f"10.1{number}.0.1", *extra[: len(REBIND_HOSTS)]],
        name=f"{prefix}relay{side}",
    )
    return Uplink(side, f"up{side}", near, router, far, relay)


def _shared_route(client: Namespace, number: int, replace: bool = False) -> None:
    """Both uplinks lead to the shared address; the first one is preferred, as hosts with two links do it."""
    verb = "replace" if replace else "add"
    client.ip("route", verb, f"{SHARED}/32", "via", f"10.{number}.0.2", "metric", str(100 * number))
