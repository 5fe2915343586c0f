# SPDX-License-Identifier: Apache-2.0
"""Every path that updates touch, below one root: / on the appliance, a folder in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SLOTS: Final = ("a", "b")


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are below ``root``."""

    root: Path = Path("/")

    @property
    def command_line(self) -> Path:
        """What the kernel was started with: it names the slot."""
        return self.root / "proc/cmdline"

    @property
    def os_release(self) -> Path:
        """Says which kernel this image has: VARIANT_ID."""
        return self.root / "etc/os-release"

    @property
    def esp(self) -> Path:
        """The boot partition; mounted while it is needed."""
        return self.root / "boot/esp"

    @property
    def grubenv(self) -> Path:
        return self.esp / "grub/grubenv"

    @property
    def public_key(self) -> Path:
        """The key that bundles must be signed with, one line of base64."""
        return self.root / "usr/share/jumping-vpn/update.pub"

    @property
    def own(self) -> Path:
        """The appliance's own state on the data partition."""
        return self.root / "data/appliance"

    @property
    def runtime(self) -> Path:
        """The gateway's sockets."""
        return self.root / "run/jvpn"

    @property
    def medium(self) -> Path:
        """Where a medium with a bundle is mounted."""
        return self.root / "run/jvpn-update"

    def label(self, name: str) -> Path:
        """The file system with this label."""
        return self.root / "dev/disk/by-label" / name

    def partition(self, kind: str, slot: str) -> Path:
        """``kind`` is root or verity."""
        return self.root / "dev/disk/by-partlabel" / f"{kind}-{slot}"

    def on_esp(self, slot: str, name: str) -> Path:
        """vmlinuz, initrd or slot.cfg of a slot."""
        return self.esp / slot / name
