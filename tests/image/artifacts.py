# SPDX-License-Identifier: Apache-2.0
"""What `make image` leaves in its folder, found by kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.net.lab import LabError


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The folder of one build."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel of the disk image."""
        return self.slot("vmlinuz")

    @property
    def qcow2(self) -> Path:
        """The disk image, compressed."""
        return self.one("jumping-vpn-*-amd64.qcow2")

    @property
    def raw(self) -> Path:
        """The disk image as it is written to a disk."""
        return self.one("jumping-vpn-*-amd64.raw")

    @property
    def iso(self) -> Path:
        """The image for a CD or a stick."""
        return self.one("jumping-vpn-*-amd64.iso")

    def slot(self, name: str) -> Path:
        """One of the files that make a slot."""
        return self.one(f"slot/{name}")

    def manifest(self) -> dict[str, Any]:
        """What the slot's files are said to be."""
        return dict(json.loads(self.slot("manifest.json").read_text()))

    def one(self, pattern: str) -> Path:
        """The only file of this name."""
        found = sorted(self.folder.glob(pattern))
        if len(found) != 1:
            raise LabError(f"{len(found)} files {pattern} in {self.folder}: run `make image` first")
        return found[0]
