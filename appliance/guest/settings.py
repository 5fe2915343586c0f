# SPDX-License-Identifier: Apache-2.0
"""What the appliance is told about itself: its name, networks, who manages it. One file, with its format's number.

The gateway's own configuration is gateway.toml and no part of this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from appliance.guest import files
from gateway.errors import JumpError

FORMAT: Final = 1
DEFAULT_HOSTNAME: Final = "jumping-vpn"
LAN, TUNNEL = "lan", "tunnel"


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """One network. ``role``: wan, wan2, lan, …; ``match``: a MAC address, a name, or '' for the next free one."""

    role: str
    match: str = ""
    address: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dhcp: bool = True
    mtu: int = 0

    @property
    def is_lan(self) -> bool:
        """Management may come from there, and no default route is learned there."""
        return self.role.startswith(LAN)


# The first interface calls out, the second one is for management. A machine without a second one has only the first.
DEFAULT_LINKS: Final = (Link("wan"), Link("lan"))


class Settings(msgspec.Struct, frozen=True):
    """Read and written whole."""

    format: int = FORMAT
    hostname: str = DEFAULT_HOSTNAME
    ssh_keys: tuple[str, ...] = ()
    management: tuple[str, ...] = (LAN,)
    ntp: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()

    def networks(self) -> tuple[Link, ...]:
        """The links that are configured, or the default ones."""
        return self.links or DEFAULT_LINKS


def read(path: Path) -> Settings:
    """The defaults without a file; JumpError when it cannot be understood."""
    data = files.read(path)
    if data is None:
        return Settings()
    try:
        found = msgspec.json.decode(data, type=Settings)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JumpError(f"{path}: {error}; configure the network again on the console") from None
    if found.format > FORMAT:
        raise JumpError(
            f"{path}: written by a newer version (format {found.format}); update, or configure it again"
        )
    return found


def encode(settings: Settings) -> bytes:
    """As it is stored: for people too."""
    return msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n"
