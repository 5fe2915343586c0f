# SPDX-License-Identifier: Apache-2.0
"""What can be changed on the host, as data: the same record makes the change, is journalled, and undoes it.

Rule: a step holds all that its undoing needs, also after the process that made the change was killed.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Final

import msgspec

TABLE_MAIN: Final = 254
TABLE_LOCAL: Final = 255


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Base of all steps."""


class Route(Step, frozen=True, kw_only=True, tag="route"):
    """A unicast route. ``metric`` 0 is the kernel's default (IPv4: 0, IPv6: 1024)."""

    prefix: str
    device: str = ""
    via: str = ""
    table: int = TABLE_MAIN
    metric: int = 0

    def __str__(self) -> str:
        hop = " ".join(
            word for word in (self.via and f"via {self.via}", self.device and f"dev {self.device}") if word
        )
        return f"route {self.prefix} {hop} table {self.table}"


class Rule(Step, frozen=True, kw_only=True, tag="rule"):
    """A policy-routing rule. ``priority`` is explicit so that undoing removes this rule and no look-alike."""

    family: int  # 4 or 6
    priority: int
    table: int
    fwmark: int = 0
    invert: bool = False
    suppress_prefixlength: int = -1

    def __str__(self) -> str:
        mark = f" {'not ' if self.invert else ''}fwmark {self.fwmark:#x}" if self.fwmark else ""
        return f"IPv{self.family} rule {self.priority}:{mark} lookup {self.table}"


class Link(Step, frozen=True, kw_only=True, tag="link"):
    """An interface that was created or configured. Its index tells it from a later one of the same name."""

    name: str
    index: int
    delete: bool = False  # False: take it down and remove its addresses (a TUN device goes with its process)

    def __str__(self) -> str:
        return f"interface {self.name}"


class Sysctl(Step, frozen=True, kw_only=True, tag="sysctl"):
    """A kernel setting. It returns to ``before`` only while it still is ``after`` ("": in any case)."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"sysctl {self.key} = {self.before}"


class NftTable(Step, frozen=True, kw_only=True, tag="nft_table"):
    """An nftables table of family inet."""

    name: str

    def __str__(self) -> str:
        return f"nftables table inet {self.name}"


class ResolvConf(Step, frozen=True, kw_only=True, tag="resolv_conf"):
    """A rewritten resolv.conf: what it was, and what we wrote (anything else found there is not ours)."""

    path: str
    written: bytes
    before: bytes | None = None  # None: there was no file
    link_target: str = ""  # it was a symbolic link to this
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    def __str__(self) -> str:
        return f"DNS in {self.path}"


class Resolvectl(Step, frozen=True, kw_only=True, tag="resolvectl"):
    """DNS servers of one link given to systemd-resolved."""

    interface: str

    def __str__(self) -> str:
        return f"DNS of {self.interface} in systemd-resolved"


class Resolvconf(Step, frozen=True, kw_only=True, tag="resolvconf"):
    """DNS servers handed to resolvconf under this record name."""

    record: str

    def __str__(self) -> str:
        return f"DNS record {self.record} in resolvconf"


AnyStep = Route | Rule | Link | Sysctl | NftTable | ResolvConf | Resolvectl | Resolvconf
# What outlives a reboot; all other steps changed the kernel of that boot.
FILE_STEPS: Final = (ResolvConf,)


def family_of(prefix: str) -> int:
    """4 or 6, of an address or prefix."""
    return ip_network(prefix, strict=False).version
