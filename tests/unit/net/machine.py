# SPDX-License-Identifier: Apache-2.0
"""A machine as text: the snapshot that a listing of it would give.

machine("1 eth0 up", "1 192.0.2.2/24", "1 default via 192.0.2.1 metric 100")
"""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from gateway.net.linkstate import Snapshot, Tables
from gateway.net.rtmessages import Address, Change, Link, Route, Row

FLAGS = {"temporary": 0x01, "optimistic": 0x04, "dadfailed": 0x08, "deprecated": 0x20, "tentative": 0x40}
SCOPES = {"link": 253, "host": 254}
ANYWHERE = {"default": "0.0.0.0/0", "default6": "::/0"}


def row(text: str) -> Row:
    """One line: ``INDEX NAME up|down|off``, ``INDEX ADDRESS/BITS FLAG...`` or ``INDEX PREFIX KEY VALUE...``."""
    number, first, *rest = text.split()
    index = int(number)
    if rest and rest[0] in ("up", "down", "off"):
        return Link(index, first, rest[0] == "up", rest[0] != "off", "")
    if "/" in first and ip_interface(first).network.network_address != ip_interface(first).ip:
        address = ip_interface(first)
        flags = sum(FLAGS[word] for word in rest if word in FLAGS)
        scope = next((SCOPES[word] for word in rest if word in SCOPES), 0)
        return Address(index, address.ip, address.network.prefixlen, scope, flags)
    words = dict(zip(rest[::2], rest[1::2], strict=True))
    via, source = words.get("via"), words.get("src")
    return Route(
        ip_network(ANYWHERE.get(first, first)),
        index,
        int(words.get("table", 254)),
        int(words.get("metric", 0)),
        ip_address(via) if via else None,
        ip_address(source) if source else None,
    )


def machine(*lines: str) -> Snapshot:
    tables = Tables()
    for line in lines:
        tables.apply(Change(row(line)))
    return tables.snapshot()


WIFI = ("1 wlan0 up", "1 192.0.2.2/24", "1 192.0.2.0/24", "1 default via 192.0.2.1 metric 600")
MODEM = ("2 wwan0 up", "2 203.0.113.2/24", "2 203.0.113.0/24", "2 default via 203.0.113.1 metric 700")
