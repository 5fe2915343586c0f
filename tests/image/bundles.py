# SPDX-License-Identifier: Apache-2.0
"""Update bundles as `make image` signs them, and such as nobody should take. All are made of the image's own slot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.image.artifacts import Artifacts
from tests.net.lab import REPO, LabError, python_module

SIGN: Final = "appliance.update.sign"
SLOT_FILES: Final = ("root.squashfs", "root.verity", "vmlinuz", "initrd")


@dataclass(frozen=True, slots=True)
class Bundles:
    """Makes bundles in a folder. ``key`` is the secret key whose public half the image holds."""

    artifacts: Artifacts
    folder: Path
    key: Path

    @classmethod
    def of(cls, artifacts: Artifacts, folder: Path) -> Bundles:
        """With the key of this checkout's image (build/image-key), or that of JVPN_UPDATE_KEY."""
        key = Path(os.environ.get("JVPN_UPDATE_KEY", REPO / "build" / "image-key" / "update.key"))
        if not key.exists():
            raise LabError(f"no {key}: without the image's key there are no updates for it")
        return cls(artifacts, folder, key)

    @property
    def serial(self) -> int:
        """The serial of the image."""
        return int(self.artifacts.manifest()["serial"])

    def newer(
        self, name: str, version: str, *, step: int = 1, replaced: dict[str, bytes] | None = None
    ) -> Path:
        """The image's slot as another version, ``step`` serials later, with some of its files replaced."""
        slot = self.folder / f"{name}.d"
        slot.mkdir()
        for one in SLOT_FILES:
            os.symlink(self.artifacts.slot(one).resolve(), slot / one)
        for one, content in (replaced or {}).items():
            (slot / one).unlink()
            (slot / one).write_bytes(content)
        config = self.artifacts.slot("slot.cfg").read_text()
        config = re.sub(r"(?m)^set version=.*$", f"set version={version}", config)
        config = re.sub(r"(?m)^set serial=.*$", f"set serial={self.serial + step}", config)
        (slot / "slot.cfg").write_text(config)
        return self._signed(slot, name, self.key)

    def by_stranger(self, name: str) -> Path:
        """A whole bundle, signed with a key that is not the image's."""
        stranger = self.folder / "stranger.key"
        run(python_module(SIGN, "keygen", str(stranger)))
        slot = self.folder / f"{name}.d"
        shutil.copytree(self.artifacts.slot("slot.cfg").parent, slot, symlinks=False)
        return self._signed(slot, name, stranger)

    def tampered(self, good: Path, name: str) -> Path:
        """One bit of the root file system is another one."""
        made = self.folder / f"{name}.jvpnup"
        shutil.copy(good, made)
        with made.open("r+b") as file:
            file.seek(made.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        return made

    def _signed(self, slot: Path, name: str, key: Path) -> Path:
        made = self.folder / f"{name}.jvpnup"
        run(python_module(SIGN, "--key", str(key), str(slot), "-o", str(made)))
        return made


def run(argv: list[str]) -> None:
    """Run a command of this checkout; LabError with its output when it fails."""
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")
