# SPDX-License-Identifier: Apache-2.0
"""systemd-networkd's files, made from the settings at each boot and after each change.

A LAN's DHCP gives it an address and routes to its own networks, never a default route or name servers: those are the
WAN's. What the operator keeps in /data/network is copied beside ours; a file of the same name wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from appliance.guest import files
from appliance.guest.nics import Assigned
from appliance.guest.settings import Link

_MARK: Final = "# Made by jvpn-appliance; own files go to /data/network.\n"
_PREFIX: Final = "10-jvpn-"
# The image has a file that asks every interface for DHCP, for a boot at which nothing made better ones.
FALLBACK: Final = "90-jvpn-fallback.network"
# Several uplinks: the first one has the best route, and the kernel takes the next when its carrier is lost.
_METRIC_STEP: Final = 100


def network_files(assigned: Sequence[Assigned]) -> dict[str, str]:
    """Name and text of each file."""
    found = {FALLBACK: f"{_MARK}[Match]\nName=none\n"}
    for position, one in enumerate(assigned):
        if one.nic is not None or one.link.match:
            found[f"{_PREFIX}{one.link.role}.network"] = _network(one, (position + 1) * _METRIC_STEP)
    return found


def _network(one: Assigned, metric: int) -> str:
    sections = [
        ("Match", _match(one)),
        ("Link", [f"MTUBytes={one.link.mtu}"] if one.link.mtu else []),
        ("Network", _addresses(one.link)),
        *((("Route", [f"Gateway={gateway}", f"Metric={metric}"])) for gateway in one.link.gateway),
        *_dhcp(one.link, metric),
    ]
    return _MARK + "".join(
        f"\n[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections if lines
    )


def _match(one: Assigned) -> list[str]:
    """By name where the interface is there: a MAC address is shared by what is stacked on it."""
    if one.nic is not None:
        return [f"Name={one.nic.name}"]
    return [f"MACAddress={one.link.match}" if ":" in one.link.match else f"Name={one.link.match}"]


def _addresses(link: Link) -> list[str]:
    automatic = link.is_lan and link.dhcp and not link.address
    return [
        *(f"Address={address}" for address in link.address),
        f"DHCP={'yes' if link.dhcp else 'no'}",
        f"IPv6AcceptRA={'yes' if link.dhcp else 'no'}",
        # A LAN without a DHCP server is reached by its link-local address.
        f"LinkLocalAddressing={'yes' if automatic else 'ipv6'}",
        *(f"DNS={server}" for server in link.dns),
        "LLMNR=no",
        "MulticastDNS=no",
        "LLDP=no",
    ]


def _dhcp(link: Link, metric: int) -> list[tuple[str, list[str]]]:
    if not link.dhcp:
        return []
    modest = ["UseDNS=no", "UseGateway=no"] if link.is_lan else [f"RouteMetric={metric}"]
    # The hardware's address as identifier: reservations are made by it, and a fresh machine-id must not change it.
    v4 = ["ClientIdentifier=mac", "UseHostname=no", "UseNTP=no", *modest]
    v6 = ["UseHostname=no", *(["UseDNS=no"] if link.is_lan else [])]
    announced = ["UseDNS=no", "UseGateway=no"] if link.is_lan else [f"RouteMetric={metric}"]
    return [("DHCPv4", v4), ("DHCPv6", v6), ("IPv6AcceptRA", announced)]


def write(directory: Path, wanted: Mapping[str, str], own: Path) -> bool:
    """Make ``directory`` hold exactly ``wanted`` and the operator's own files of ``own``. Whether anything changed."""
    files.folder(directory, 0o755)
    theirs = {path.name: path.read_text() for path in sorted(own.glob("*.network")) if path.is_file()}
    every = {**wanted, **theirs}
    stale = [path for path in directory.glob("*.network") if path.name not in every]
    for path in stale:
        path.unlink()
    changed = [files.write_changed(directory / name, text) for name, text in every.items()]
    return bool(stale) or any(changed)


def timesyncd(servers: Sequence[str]) -> str:
    """timesyncd's drop-in; without servers of our own Debian's pool is asked."""
    return f"{_MARK}[Time]\nNTP={' '.join(servers)}\n"
