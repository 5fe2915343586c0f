# SPDX-License-Identifier: Apache-2.0
"""Which network interfaces the machine has, and which of them is which network.

Rule: the order is that of the bus, not that in which drivers came up, so it is the same at each boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from appliance.guest import files
from appliance.guest.settings import Link

_ETHERNET: Final = "1"  # ARPHRD_ETHER, include/uapi/linux/if_arp.h


class Nic(NamedTuple):
    """A physical (or virtual machine's) Ethernet interface."""

    name: str
    mac: str


class Assigned(NamedTuple):
    """A network and its interface; ``nic`` None: nothing here matches."""

    link: Link
    nic: Nic | None


def found(interfaces: Path) -> tuple[Nic, ...]:
    """All Ethernet interfaces with a device behind them, in the order of the bus. ``interfaces``: /sys/class/net."""
    try:
        entries = [entry for entry in interfaces.iterdir() if (entry / "device").exists()]
    except OSError:
        return ()
    wired = [entry for entry in entries if files.read_text(entry / "type") == _ETHERNET]
    return tuple(
        Nic(entry.name, files.read_text(entry / "address").lower()) for entry in sorted(wired, key=_place)
    )


def _place(entry: Path) -> tuple[list[tuple[int, int, str]], str]:
    """The path of the device with its numbers as numbers: slot 10 comes after slot 9. PCI's are hexadecimal."""
    where = str((entry / "device").resolve())
    parts = re.findall(r"[0-9a-f]+|[^0-9a-f]+", where)
    keys = [(0, int(part, 16), "") if re.fullmatch("[0-9a-f]+", part) else (1, 0, part) for part in parts]
    return keys, entry.name


def assign(nics: Sequence[Nic], links: Iterable[Link]) -> tuple[Assigned, ...]:
    """Who names an interface gets it; the others take what is left, in order. A free LAN without interface is none."""
    wanted = tuple(links)
    named = {link.role: _named(nics, link.match) for link in wanted if link.match}
    left = [nic for nic in nics if nic not in named.values()]
    result = []
    for link in wanted:
        if link.match:
            result.append(Assigned(link, named[link.role]))
        elif left:
            result.append(Assigned(link, left.pop(0)))
        elif not link.is_lan:
            result.append(Assigned(link, None))
    return tuple(result)


def _named(nics: Sequence[Nic], match: str) -> Nic | None:
    return next((nic for nic in nics if match in (nic.name, nic.mac)), None)


def names(assigned: Iterable[Assigned], *, lan: bool) -> tuple[str, ...]:
    """The interfaces of one side."""
    return tuple(one.nic.name for one in assigned if one.nic is not None and one.link.is_lan == lan)


def missing(assigned: Iterable[Assigned]) -> tuple[str, ...]:
    """A sentence for each network that has no interface."""
    return tuple(
        f"network.{one.link.role}: no interface {one.link.match} in this machine"
        if one.link.match
        else f"network.{one.link.role}: no interface left for it"
        for one in assigned
        if one.nic is None
    )
