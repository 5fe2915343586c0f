# SPDX-License-Identifier: Apache-2.0
"""What updates remember on the data partition: the floor, and the last update with what it came to.

Losing both harms nothing but the memory: which slot boots stands in grubenv alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from appliance.update.disk import Disk, read_small, replace_file
from appliance.update.places import Places

_MOST_BYTES = 64 * 1024

Result = Literal["written", "confirmed", "fell back"]


class LastUpdate(Struct, frozen=True):
    """The last switch of slots that was asked for. ``served``: the gateway passed traffic before it."""

    slot: str
    version: str
    serial: int
    floor: int
    served: bool
    result: Result
    why: str = ""


class Record:
    """The two files. What cannot be read counts as absent."""

    def __init__(self, places: Places, disk: Disk) -> None:
        self._disk = disk
        self._floor = places.own / "floor"
        self._last = places.own / "update.json"

    def floor(self) -> int:
        """The lowest serial that may be installed; 0 when none was set."""
        text = self._text(self._floor).strip()
        return int(text) if text.isdigit() else 0

    def raise_floor(self, serial: int) -> None:
        """Never goes down."""
        if serial > self.floor():
            self._write(self._floor, f"{serial}\n".encode())

    def last(self) -> LastUpdate | None:
        try:
            return msgspec.json.decode(self._text(self._last), type=LastUpdate)
        except msgspec.DecodeError:
            return None

    def set_last(self, last: LastUpdate) -> None:
        self._write(self._last, msgspec.json.encode(last) + b"\n")

    def _text(self, path: Path) -> str:
        if not self._disk.exists(path):
            return ""
        return read_small(self._disk, path, _MOST_BYTES).decode("ascii", "replace")

    def _write(self, path: Path, data: bytes) -> None:
        replace_file(self._disk, path, [data])
