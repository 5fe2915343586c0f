# SPDX-License-Identifier: Apache-2.0
"""A disk in memory that loses power: what was not flushed is there afterwards or not, sector by sector, name by name.

It is crueller than FAT on a real disk: names are kept or lost one by one in any order, and a rename that was not
flushed may leave the old name, the new one, both or neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

SECTOR_BYTES: Final = 512


class PowerCut(Exception):
    """The power is gone."""


@dataclass(slots=True)
class Medium:
    """What a power cut leaves: contents by number, names."""

    data: dict[int, bytearray] = field(default_factory=dict)
    names: dict[Path, int] = field(default_factory=dict)


NameStep = tuple[Path, Callable[[Medium, Random | None], None]]


class ModelDisk:
    """``Disk`` in memory. The power goes before the step number ``cut_at``."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._seen = deepcopy(medium)
        self._dirty: dict[int, set[int]] = {}
        self._pending: list[NameStep] = []
        self._next = max(medium.data, default=0) + 1
        self.steps = 0
        self.cut_at: int | None = None
        self.written: set[Path] = set()

    @classmethod
    def of_folder(cls, root: Path) -> ModelDisk:
        """A copy of the files of a folder, all of them on the medium."""
        medium = Medium()
        for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
            medium.data[number] = bytearray(path.read_bytes())
            medium.names[path] = number
        return cls(medium)

    def after_power_cut(self, random: Random | None, keep_all: bool = False) -> ModelDisk:
        """The disk as it is when the power is back. Without ``random`` all is lost, or all kept."""
        medium = deepcopy(self._medium)
        for folder_step in self._pending:
            if keep_all or random is not None:
                folder_step[1](medium, None if keep_all else random)
        for number, sectors in self._dirty.items():
            for sector in sorted(sectors):
                if keep_all or (random is not None and random.random() < 0.5):
                    self._keep(medium, number, sector)
        return ModelDisk(medium)

    # --- Disk ---------------------------------------------------------------------------------------------------

    def size_bytes(self, path: Path) -> int:
        return len(self._content(path))

    def exists(self, path: Path) -> bool:
        return path in self._seen.names

    def read(self, path: Path, offset_bytes: int, size_bytes: int) -> bytes:
        return bytes(self._content(path)[offset_bytes : offset_bytes + size_bytes])

    def overwrite(self, path: Path, offset_bytes: int, data: bytes) -> None:
        self._step(path)
        content = self._content(path)
        assert offset_bytes + len(data) <= len(content), "written behind the end"
        content[offset_bytes : offset_bytes + len(data)] = data
        self._soil(self._seen.names[path], offset_bytes, len(data))

    def write_new(self, path: Path, chunks: Iterable[bytes]) -> None:
        self._step(path)
        number, self._next = self._next, self._next + 1
        self._seen.names[path], self._seen.data[number] = number, bytearray()

        def link(medium: Medium, random: Random | None) -> None:
            if random is None or random.random() < 0.5:
                medium.names[path] = number
                medium.data.setdefault(number, bytearray())

        self._pending.append((path.parent, link))
        for chunk in chunks:
            self._step(path)
            at = len(self._seen.data[number])
            self._seen.data[number] += chunk
            self._soil(number, at, len(chunk))

    def flush(self, path: Path) -> None:
        self._step()
        number = self._seen.names[path]
        for sector in sorted(self._dirty.pop(number, ())):
            self._keep(self._medium, number, sector)

    def rename(self, old: Path, new: Path) -> None:
        self._step(new)
        number = self._seen.names.pop(old)
        self._seen.names[new] = number

        def move(medium: Medium, random: Random | None) -> None:
            if random is None or random.random() < 0.5:
                medium.names.pop(old, None)
            if random is None or random.random() < 0.5:
                medium.names[new] = number
                medium.data.setdefault(number, bytearray())
            elif random.random() < 0.5:
                medium.names.pop(new, None)

        self._pending.append((new.parent, move))

    def remove(self, path: Path) -> None:
        self._step(path)
        self._seen.names.pop(path, None)

        def unlink(medium: Medium, random: Random | None) -> None:
            if random is None or random.random() < 0.5:
                medium.names.pop(path, None)

        self._pending.append((path.parent, unlink))

    def flush_folder(self, path: Path) -> None:
        self._step()
        for folder, step in self._pending:
            if folder == path:
                step(self._medium, None)
        self._pending = [(folder, step) for folder, step in self._pending if folder != path]

    # --- inside -------------------------------------------------------------------------------------------------

    def _step(self, path: Path | None = None) -> None:
        if self.steps == self.cut_at:
            raise PowerCut
        self.steps += 1
        if path is not None:
            self.written.add(path)

    def _content(self, path: Path) -> bytearray:
        if path not in self._seen.names:
            raise FileNotFoundError(path)
        return self._seen.data[self._seen.names[path]]

    def _soil(self, number: int, offset_bytes: int, size_bytes: int) -> None:
        last = (offset_bytes + max(size_bytes, 1) - 1) // SECTOR_BYTES
        self._dirty.setdefault(number, set()).update(range(offset_bytes // SECTOR_BYTES, last + 1))

    def _keep(self, medium: Medium, number: int, sector: int) -> None:
        at = sector * SECTOR_BYTES
        piece = self._seen.data[number][at : at + SECTOR_BYTES]
        content = medium.data.setdefault(number, bytearray())
        content.extend(bytes(max(0, at + len(piece) - len(content))))
        content[at : at + len(piece)] = piece
