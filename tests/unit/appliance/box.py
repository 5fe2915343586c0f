# SPDX-License-Identifier: Apache-2.0
"""A box in a folder: two network cards on a bus, the files of a kernel, and programs that are recorded.

What is recorded would change the machine that tests run on (networkctl, systemctl, mount). What can run on files alone,
ssh-keygen and nft's check, is the real program.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.guest import firstboot, host
from appliance.guest.host import Done
from appliance.guest.layout import Layout

CARDS = (("ens3", "52:54:00:00:00:01", 3), ("ens4", "52:54:00:00:00:02", 4))
REAL = ("ssh-keygen",)
Answer = Callable[[Sequence[str], str], Done | None]


@contextmanager
def cut_after(calls: int, owner: object, name: str) -> Iterator[None]:
    """The power fails at the call after so many of this function."""
    left, real = [calls], getattr(owner, name)

    def counted(*arguments: object) -> object:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield


class Programs:
    """Runs nothing but ``REAL``; ``answer`` may say how a program ends."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.answer: Answer = lambda _command, _text: None

    def __call__(self, command: Sequence[str], text: str) -> Done:
        self.calls.append(list(command))
        said = self.answer(command, text)
        if said is not None:
            return said
        return host.run(command, text) if command[0] in REAL else Done(0, "")

    def ran(self, *words: str) -> list[list[str]]:
        """The calls that begin so."""
        return [call for call in self.calls if call[: len(words)] == list(words)]


class Random:
    """Bytes that differ from call to call and are the same in each run."""

    def __init__(self, seed: str = "box") -> None:
        self._seed, self._count = seed, 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed}{self._count}".encode()).digest(size)


class Box:
    """One appliance below a folder."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.programs = Programs()
        self.random = Random()
        self.environ: dict[str, str] = {}
        self.power_on()

    def power_on(self) -> None:
        """What a kernel and an initramfs have made before the first unit; /etc and /run are new."""
        root = self.layout.root
        for name in ("etc", "run", "sys", "root", "proc", "dev"):
            shutil.rmtree(root / name, ignore_errors=True)
        for name in (
            "etc",
            "run",
            "root",
            "proc/sys/kernel",
            "dev/disk/by-label",
            "dev/disk/by-partlabel",
            "data",
        ):
            (root / name).mkdir(parents=True, exist_ok=True)
        for card in CARDS:
            self.add_card(*card)
        self.layout.command_line.write_text("boot=appliance jvpn.slot=a panic=30\n")
        self.layout.os_release.write_text('IMAGE_ID=jumping-vpn-appliance\nIMAGE_VERSION="9.9.9"\n')
        stored = self.layout.machine_id
        if not stored.exists():
            stored.write_text(self.random(16).hex() + "\n")
        self.layout.running_machine_id.write_text(stored.read_text())

    def add_card(self, name: str, mac: str, slot: int) -> None:
        """A card on the PCI bus."""
        root = self.layout.root
        device = root / f"sys/devices/pci0000:00/0000:00:{slot:02x}.0"
        device.mkdir(parents=True, exist_ok=True)
        entry = self.layout.interfaces / name
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "device").symlink_to(device)
        for file, text in (("type", "1"), ("address", mac), ("carrier", "1")):
            (entry / file).write_text(f"{text}\n")

    def boot(self) -> firstboot.Report:
        """Power on and do what jvpn-firstboot.service does."""
        self.power_on()
        return firstboot.run_boot(self.layout, self.programs, self.random, self.environ)

    def credential(self, text: str | None) -> None:
        """The credential that the next boot finds."""
        folder = self.layout.root / "credentials"
        folder.mkdir(exist_ok=True)
        path = folder / "jvpn.config"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        self.environ["CREDENTIALS_DIRECTORY"] = str(folder)

    def everything_stored(self) -> dict[str, bytes]:
        """Each file on the data partition."""
        data = self.layout.data
        return {
            str(path.relative_to(data)): path.read_bytes()
            for path in sorted(data.rglob("*"))
            if path.is_file()
        }
