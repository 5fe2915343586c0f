# SPDX-License-Identifier: Apache-2.0
"""The machines of the demo and the programs on them.

Everything is done as a user would do it: the gateway from a short file, each client from the file that
`jvpn peer add` prints, the stock client by `wg-quick` and wireguard-go. The backend has no route back, so
its answers prove the gateway's translation (NAT), and the clients send everything through the tunnel, so
they prove that it does not swallow itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.net.jvpn import JvpnGateway, JvpnQuickClient
from tests.net.lab import Lab, Namespace
from tests.net.wg import Keys, WgQuick

PICTURE: Final = """\
    laptop  10.1.0.1 ──┐                                            ┌─ tunnel 10.99.0.1, fd99::1
    jvpn connect       ├── internet ── 10.3.0.2 ── gateway ─────────┤
    phone   10.2.0.1 ──┘               fd03::2     jvpn gateway     └─ 10.4.0.1 ── backend 10.4.0.2
    wireguard-go, wg-quick                                             fd04::1             fd04::2
"""
BACKEND: Final = {4: "10.4.0.2", 6: "fd04::2"}
ENDPOINT: Final = "10.3.0.2:51820"
INTERFACE: Final = "jv0"


@dataclass(frozen=True, slots=True)
class Machines:
    """The namespaces of the picture."""

    laptop: Namespace
    phone: Namespace
    gateway: Namespace
    backend: Namespace


def build(lab: Lab) -> Machines:
    """Namespaces, links, addresses and routes; no tunnel yet."""
    laptop, phone, internet, gateway, backend = (
        lab.namespace(role) for role in ("laptop", "phone", "internet", "gateway", "backend")
    )
    internet.forward()
    for number, (left, right) in enumerate(
        ((laptop, internet), (phone, internet), (internet, gateway), (gateway, backend)), start=1
    ):
        lab.link(left, right, f"10.{number}.0.0/24", f"fd0{number}::/64")
    for machine, hop in ((laptop, "10.1.0.2"), (phone, "10.2.0.2"), (gateway, "10.3.0.1")):
        machine.add_route("default", via=hop)
        machine.add_route("default", via=f"fd0{hop.split('.')[1]}::{hop[-1]}")
    return Machines(laptop, phone, gateway, backend)


def gateway(lab: Lab, machines: Machines) -> JvpnGateway:
    """The gateway with its configuration, not started."""
    return JvpnGateway(
        lab,
        machines.gateway,
        Keys.generate(),
        ["10.99.0.1/24", "fd99::1/64"],
        interface=INTERFACE,
        gateway={"endpoint": ENDPOINT},
        pool={"ipv4": "10.99.0.0/24", "ipv6": "fd99::/64"},
        nat={"enabled": True},
    )


def our_client(lab: Lab, machines: Machines, file_text: str) -> JvpnQuickClient:
    """Our client with the file of its peer, not started."""
    return JvpnQuickClient(lab, machines.laptop, file_text, interface=INTERFACE)


def stock_client(lab: Lab, machines: Machines, file_text: str) -> WgQuick:
    """A stock client with the file of its peer, not started."""
    return WgQuick(lab, machines.phone, file_text)
