# SPDX-License-Identifier: Apache-2.0
"""STATE/applied-INTERFACE/: the configuration files that were in force, so that `jvpn config rollback` can go back.

Rule 1: a text that holds a secret itself is never kept.
Rule 2: the folder's newest file is the configuration in force, its number grows, ten are kept. Files are written
whole and replaced at once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gateway.control import statedir
from gateway.control.configreport import read_toml
from gateway.errors import HostError, NotFound

KEPT: Final = 10
UNDONE: Final = "undone.toml"
_NAME: Final = re.compile(r"(\d{6})\.toml\Z")
_SECRET_KEYS: Final = ("private_key", "preshared_key")
# One that was commented out is still one, and wg-quick files have nothing else; keys that name a file end in _file.
_SECRET: Final = re.compile(r"(private_?key|preshared_?key)[\"']?\s*=", re.IGNORECASE)


def holds_secret(text: str) -> bool:
    """Whether a configuration holds a key and not only the name of its file."""
    return _SECRET.search(text) is not None or _named(read_toml(text, ""))


def _named(value: object) -> bool:
    """Keys may be written with escapes, which only the parsed document shows."""
    if isinstance(value, dict):
        return any((key in _SECRET_KEYS and item) or _named(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_named, value))


class History:
    """One interface's. Only its daemon writes."""

    def __init__(self, state_dir: Path, interface: str) -> None:
        self.folder = state_dir.absolute() / f"applied-{interface}"

    def paths(self) -> list[Path]:
        """What is kept, oldest first."""
        try:
            return sorted(path for path in self.folder.iterdir() if _NAME.match(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HostError(f"{self.folder}: {error.strerror}") from None

    def record(self, text: str) -> bool:
        """``text`` is in force from now on; whether it could be kept. HostError when the folder cannot be written.

        What is not kept ends the line: there is nothing to go back to from it or through it.
        """
        if holds_secret(text):
            self._remove(self.paths())
            return False
        found = self.paths()
        if found and self._read(found[-1]) == text:
            return True
        number = int(found[-1].stem) + 1 if found else 1
        self._write(self.folder / f"{number:06}.toml", text)
        self._remove(self.paths()[:-KEPT])
        return True

    def previous(self) -> str:
        """The text that was in force before this one. ``NotFound`` when there is none."""
        found = self.paths()
        if len(found) < 2:
            raise NotFound("no earlier configuration was kept")
        return self._read(found[-2])

    def step_back(self) -> tuple[Path, Path]:
        """The text before this one is in force again; where it lies, and where the newer one lies now."""
        undone = self.folder / UNDONE
        try:
            self.paths()[-1].replace(undone)
            statedir.sync_dir(self.folder)
        except OSError as error:
            raise HostError(f"{self.folder}: {error.strerror}") from None
        return self.paths()[-1], undone

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(f"{path} cannot be read: {error}") from None

    def _write(self, path: Path, text: str) -> None:
        statedir.ensure_dir(self.folder)
        try:
            statedir.write_file(path, text)
        except OSError as error:
            raise HostError(f"{path} cannot be written: {error.strerror}") from None

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
