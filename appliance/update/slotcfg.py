# SPDX-License-Identifier: Apache-2.0
"""esp:/X/slot.cfg: what GRUB must know of a slot to boot it. A slot without this file is no slot.

Rule: GRUB runs the file as a script, so exactly our three lines are written and accepted, nothing else.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.errors import HostError

MOST_BYTES: Final = 1024
VERSION_PATTERN: Final = r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}"
ROOTHASH_PATTERN: Final = r"[0-9a-f]{64}"
SERIAL_MAX: Final = (1 << 53) - 1
_TEXT: Final = re.compile(
    rf"set roothash=({ROOTHASH_PATTERN})\nset version=({VERSION_PATTERN})\nset serial=(0|[1-9][0-9]{{0,15}})\n"
)


class SlotConfig(NamedTuple):
    """What a slot holds: the root of its verity tree, and which build it is."""

    roothash: str
    version: str
    serial: int


def encode(config: SlotConfig) -> str:
    """The file's text; ``HostError`` when a value is none that may stand there."""
    text = f"set roothash={config.roothash}\nset version={config.version}\nset serial={config.serial}\n"
    if _TEXT.fullmatch(text) is None or config.serial > SERIAL_MAX:
        raise HostError("slot.cfg: root hash, version or serial is not well-formed")
    return text


def decode(text: str) -> SlotConfig:
    """What a file says; ``HostError`` for anything but our three lines."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise HostError("slot.cfg: not the three lines of a slot")
    return SlotConfig(found[1], found[2], int(found[3]))
