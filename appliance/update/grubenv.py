# SPDX-License-Identifier: Apache-2.0
"""The block in which GRUB and we tell each other the slot: slot, next, try.

Rule: the file has 1024 bytes for ever and is only overwritten in place. GRUB writes it through the sectors it found, so
it must not move; and what we change lies in its first 512 bytes, so one sector is written, which a disk does whole or
not at all. FAT has no journal: a rename could lose both names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.errors import HostError

BLOCK_BYTES: Final = 1024
SECTOR_BYTES: Final = 512
_HEADER: Final = b"# GRUB Environment Block\n"


def encode(variables: Mapping[str, str]) -> bytes:
    """The block. ``HostError`` when a value could not be read back or the text leaves the first sector."""
    for name, value in variables.items():
        if not name.isidentifier() or not value.isascii() or not value.isprintable() or "\\" in value:
            raise HostError(f"grubenv: {name}={value!r} cannot be stored")
    text = _HEADER + "".join(f"{name}={value}\n" for name, value in variables.items()).encode("ascii")
    if len(text) > SECTOR_BYTES:
        raise HostError("grubenv: more than the first sector holds")
    return text.ljust(BLOCK_BYTES, b"#")


def decode(block: bytes) -> dict[str, str]:
    """The variables. ``HostError`` for what GRUB would not take either."""
    if len(block) != BLOCK_BYTES or not block.startswith(_HEADER):
        raise HostError("grubenv: not an environment block of 1024 bytes")
    variables = {}
    for line in block[len(_HEADER) :].split(b"\n"):
        name, equals, value = line.partition(b"=")
        if equals and not line.startswith(b"#"):
            variables[name.decode("ascii", "replace")] = value.decode("ascii", "replace")
    return variables
