# SPDX-License-Identifier: Apache-2.0
"""Where the appliance stands: between a provider with two ways from the client, and a LAN with a backend.

                upa ── relay A ── gwa                        ┌─────── appliance ───────┐
    client ────┤                     rack 198.51.100.1 ── tapwan                  taplan ── bridge ── backend
                upb ── relay B ── gwb                        └ 198.51.100.2   10.3.0.1 ┘             10.3.0.2

It is the topology of the scenarios (`tests.net.topology`) with a machine behind it: their gateway namespace is the
rack that QEMU runs in. The rack turns both relays' destinations (10.11.0.2, 10.12.0.2) into the appliance's one WAN
address and keeps the relays' own, so the appliance sees two paths of one client as it would on the Internet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.image.machine import Card
from tests.net.lab import Lab, Namespace
from tests.net.proc import Proc
from tests.net.topology import BACKEND, PORT, Topology

WAN: Final = Card("tapwan", "52:54:00:00:00:01")
LAN: Final = Card("taplan", "52:54:00:00:00:02")
WAN_ADDRESS: Final = "198.51.100.2"
WAN_ROUTER: Final = "198.51.100.1"
WAN_NET: Final = "198.51.100.0/24"
LAN_ADDRESS: Final = "10.3.0.1"
# What the provider's DHCP server gives, for an appliance that was told nothing.
LEASED: Final = "198.51.100.50"
_NAT: Final = f"""
table ip provider {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {{ 10.11.0.2, 10.12.0.2 }} udp dport {PORT} dnat to %s
    }}
}}
"""


@dataclass(slots=True)
class ApplianceSite:
    """The namespaces of the picture; a `Machine` with the cards `WAN` and `LAN` is started in ``rack``."""

    lab: Lab
    topology: Topology
    rack: Namespace
    backend: Namespace

    @classmethod
    def build(cls, lab: Lab, appliance: str = WAN_ADDRESS, prefix: str = "") -> ApplianceSite:
        """Build it for an appliance with that WAN address."""
        topology = Topology.build(lab, prefix)
        rack = topology.gateway
        for card in (WAN, LAN):
            rack.ip("tuntap", "add", "dev", card.tap, "mode", "tap")
            rack.ip("link", "set", card.tap, "up")
        rack.add_address(WAN.tap, f"{WAN_ROUTER}/24")
        # The backend's cable ends in the LAN, not at the rack: the appliance is its router.
        rack.ip("address", "flush", "dev", "inside")
        rack.ip("link", "add", "bridge", "type", "bridge")
        for device in ("inside", LAN.tap):
            rack.ip("link", "set", device, "master", "bridge")
        rack.ip("link", "set", "bridge", "up")
        for uplink in topology.uplinks.values():
            uplink.router.add_route(WAN_NET, via=uplink.far.b.address4)
        rack.run(["nft", "-f", "-"], stdin=_NAT % appliance)
        return cls(lab, topology, rack, topology.backend)

    def serve_dhcp(self) -> Proc:
        """The provider's DHCP server: one address, `LEASED`."""
        folder = self.lab.tmp / "dhcp"
        folder.mkdir(exist_ok=True)
        leases, configuration = folder / "leases", folder / "udhcpd.conf"
        leases.touch()
        configuration.write_text(
            f"interface {WAN.tap}\nstart {LEASED}\nend {LEASED}\nlease_file {leases}\n"
            f"pidfile {folder}/pid\nmax_leases 1\noption subnet 255.255.255.0\noption router {WAN_ROUTER}\n"
        )
        proc = self.rack.spawn(["busybox", "udhcpd", "-f", str(configuration)], "dhcp")
        proc.wait_line("started")
        return proc


__all__ = ["BACKEND", "LAN", "LAN_ADDRESS", "LEASED", "WAN", "WAN_ADDRESS", "ApplianceSite"]
