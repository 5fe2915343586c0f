# SPDX-License-Identifier: Apache-2.0
"""Which of this machine's devices may carry the tunnel, and how they rank: the client's [transport] as data.

Rule: names only. What a device can do at the moment is for ``candidates``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

Priority = Literal["primary", "secondary", "backup", "never"]

# Containers' and virtual machines' ends of this machine's own bridges lead nowhere of their own.
UNWANTED: Final = ("lo", "docker*", "veth*", "virbr*", "br-*")
# Added to a metered device's cost: it decides between paths that are equal in everything that matters more.
METERED_COST: Final = 100


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """How paths over the devices whose name fits the glob ``name`` rank. ``cost`` counts a meter in."""

    name: str
    priority: Priority = "primary"
    cost: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """The client's [transport]. Globs are matched with fnmatch; the first device rule that fits counts."""

    allowed: tuple[str, ...] = ("udp",)
    max_candidates: int = 8
    include: tuple[str, ...] = ()  # when there is one, no other device is used
    exclude: tuple[str, ...] = ()  # stronger than include
    devices: tuple[DeviceRule, ...] = ()
    learn_endpoints: bool = True  # may the gateway name further addresses of its own

    def rule(self, device: str) -> DeviceRule:
        """How a device of that name ranks."""
        return next((rule for rule in self.devices if fnmatchcase(device, rule.name)), DeviceRule(device))

    def wants(self, device: str) -> bool:
        """Whether paths may use a device of that name."""
        if not device or _matches(device, self.exclude) or self.rule(device).priority == "never":
            return False
        return _matches(device, self.include) if self.include else not _matches(device, UNWANTED)


def _matches(device: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(device, glob) for glob in globs)
