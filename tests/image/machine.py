# SPDX-License-Identifier: Apache-2.0
"""One virtual machine: hardware as data, QEMU as a process of the laboratory, its console and its power button.

Rule: an image is never written to. Every disk is an overlay in the machine's own folder, firmware variables are a copy.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal
from weakref import WeakSet

from tests.image.accel import Accelerator
from tests.image.console import Console
from tests.image.qmp import Qmp, separate
from tests.net.lab import Lab, LabError, Namespace
from tests.net.proc import Proc

Firmware = Literal["bios", "uefi"]
# Emulated and shared with others: the slowest boot that was seen is a third of this.
BOOT_TIMEOUT_S: Final = 300.0
OFF_TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.05
# No guest starts and restarts in less.
ONE_RESTART_S: Final = 5.0
# Room for the data partition to grow into.
DISK_MIB: Final = 2048
LOGS: Final = Path(__file__).resolve().parents[2] / "build" / "test-image"
OVMF_CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
PROGRAMS: Final = (
    "qemu-system-x86_64",
    "qemu-img",
    "genisoimage",
    "mcopy",
    "ssh",
    "ssh-keygen",
    "busybox",
    "unsquashfs",
    "sfdisk",
)


@dataclass(frozen=True, slots=True)
class Card:
    """A network card whose other end is a tap device of the namespace that QEMU runs in."""

    tap: str
    mac: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the machine is made of. Paths are images; ``credentials`` are given by SMBIOS, ``fw_cfg`` by fw_cfg."""

    disks: Sequence[Path] = ()
    cdrom: Path | None = None
    media: Sequence[Path] = ()
    cards: Sequence[Card] = ()
    firmware: Firmware = "bios"
    memory_mib: int = 512
    processors: int = 2
    kernel: Sequence[str] = ()
    smbios: Path | None = None
    fw_cfg: dict[str, Path] = field(default_factory=dict)

    def argv(self, folder: Path) -> list[str]:
        """QEMU's words for it, without accelerator, console and control line."""
        # Two chipsets instead of one: what boots on the old one with BIOS and on the new one with UEFI boots anywhere.
        chipset = "q35" if self.firmware == "uefi" else "pc"
        words = ["-machine", chipset, "-m", str(self.memory_mib), "-smp", str(self.processors)]
        words += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "std", *self.kernel]
        words += ["-device", "virtio-rng-pci"]
        words += self._firmware(folder) + self._drives() + self._network()
        words += ["-smbios", f"type=11,path={self.smbios}"] if self.smbios else []
        for name, path in self.fw_cfg.items():
            words += ["-fw_cfg", f"name=opt/io.systemd.credentials/{name},file={path}"]
        return words

    def _firmware(self, folder: Path) -> list[str]:
        if self.firmware == "bios":
            return []
        variables = folder / "ovmf-vars.fd"
        if not variables.exists():
            shutil.copy(OVMF_VARS, variables)
        return [
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
        ]

    def _drives(self) -> list[str]:
        # A device each, so that every one has its place in the order of booting.
        words: list[str] = []
        for number, disk in enumerate(self.disks):
            form = "qcow2" if disk.suffix == ".qcow2" else "raw"
            words += ["-drive", f"if=none,id=disk{number},format={form},file={disk},cache=writeback"]
            words += ["-device", f"virtio-blk-pci,drive=disk{number},bootindex={number + 1}"]
        if self.cdrom is not None:
            bus = "" if self.firmware == "bios" else ",bus=ide.2"
            words += ["-drive", f"if=none,id=cd,media=cdrom,readonly=on,format=raw,file={self.cdrom}"]
            words += ["-device", f"ide-cd,drive=cd,bootindex=0{bus}"]
        for number, medium in enumerate(self.media):
            words += ["-drive", f"if=none,id=medium{number},format=raw,readonly=on,file={medium}"]
            words += ["-device", f"virtio-blk-pci,drive=medium{number}"]
        return words

    def _network(self) -> list[str]:
        words: list[str] = []
        for number, card in enumerate(self.cards):
            words += ["-netdev", f"tap,id=net{number},ifname={card.tap},script=no,downscript=no"]
            words += ["-device", f"virtio-net-pci,netdev=net{number},mac={card.mac},romfile="]
        return words


class Machine:
    """A machine that is switched on and off; its folder, disks and log outlive that."""

    _count = 0
    _known: ClassVar[WeakSet[Machine]] = WeakSet()

    def __init__(
        self, lab: Lab, name: str, hardware: Hardware, accelerator: Accelerator, rack: Namespace | None = None
    ) -> None:
        """``rack``: the namespace it runs in, with the taps of its cards. ``name`` is that of its log."""
        Machine._count += 1
        Machine._known.add(self)
        self.lab, self.name, self.hardware, self.accelerator, self.rack = (
            lab,
            name,
            hardware,
            accelerator,
            rack,
        )
        self.folder = lab.tmp / f"m{Machine._count}"
        self.folder.mkdir()
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{name}.log"
        self.log.unlink(missing_ok=True)
        self._proc: Proc | None = None
        self._console: Console | None = None
        self._qmp: Qmp | None = None
        self.started_s = 0.0

    @classmethod
    def known(cls) -> list[Machine]:
        """Machines of this process that were switched on, in the order of their names."""
        return sorted((one for one in cls._known if one._console is not None), key=lambda one: one.name)

    @property
    def running(self) -> bool:
        """Whether it is switched on."""
        return self._proc is not None and self._proc.running

    @property
    def console(self) -> Console:
        """The serial line, of the last time it was on."""
        if self._console is None:
            raise LabError(f"{self.name} was never switched on")
        return self._console

    def start(self) -> Console:
        """Switch it on; returns its console, already connected."""
        if self.running:
            raise LabError(f"{self.name} is on")
        serial, control = self.folder / "serial", self.folder / "qmp"
        for path in (serial, control):
            path.unlink(missing_ok=True)
        argv = ["qemu-system-x86_64", *self.accelerator.argv, *self.hardware.argv(self.folder)]
        # No wait for the one who listens: a machine that cannot start ends, and its own words say why.
        argv += ["-serial", f"unix:{serial},server=on,wait=on"]
        argv += ["-qmp", f"unix:{control},server=on,wait=off"]
        spawn = self.lab.spawn if self.rack is None else self.rack.spawn
        self._proc = spawn(argv, f"qemu-{self.name}")
        self.started_s = time.monotonic()
        self._console = Console(serial, self.log, lambda: self.running)
        self._within(self.console.connect)
        self._qmp = Qmp(control, lambda: self.running)
        return self._console

    def press_power(self) -> None:
        """The power button: the guest decides."""
        self._control().execute("system_powerdown")

    def shut_down(self, timeout_s: float = OFF_TIMEOUT_S) -> None:
        """The power button, until it is off."""
        self.press_power()
        self.wait_off(timeout_s)

    def wait_off(self, timeout_s: float = OFF_TIMEOUT_S) -> None:
        """Wait until the guest has switched itself off."""
        proc = self._proc
        if proc is None:
            return
        try:
            proc.wait(timeout_s)
        except LabError:
            raise LabError(f"{self.name} is still on after {timeout_s} s\n{self.console.tail()}") from None
        self._closed()

    def pull_plug(self) -> None:
        """No power from one moment to the next: what the guest has not written is lost."""
        if self._proc is not None:
            self._proc.kill()
        self._closed()

    def reset(self) -> None:
        """The reset button."""
        self._control().execute("system_reset")

    def resets(self) -> int:
        """How often the guest was restarted, by itself or by the button, since it was switched on. SeaBIOS answers a
        warm restart with a reset of its own, a moment later.
        """
        return separate([at_s for name, at_s in self._control().poll() if name == "RESET"], ONE_RESTART_S)

    def wait_reset(self, before: int, timeout_s: float = OFF_TIMEOUT_S) -> None:
        """Wait for one more reset than ``before``."""
        deadline_s = time.monotonic() + timeout_s
        while self.resets() <= before:
            if time.monotonic() > deadline_s:
                raise LabError(f"{self.name} did not restart within {timeout_s} s\n{self.console.tail()}")
            time.sleep(POLL_S)

    def _control(self) -> Qmp:
        if self._qmp is None or not self.running:
            raise LabError(f"{self.name} is off")
        return self._qmp

    def _within(self, act: Callable[[], None]) -> None:
        try:
            act()
        except LabError as error:
            said = self._proc.output if self._proc else ""
            raise LabError(f"{self.name} did not start: {error}\n{said}") from None

    def _closed(self) -> None:
        if self._qmp is not None:
            self._qmp.close()
        if self._console is not None:
            self._console.close()
        self._qmp = self._proc = None


def overlay(base: Path, folder: Path, name: str = "disk", size_mib: int = DISK_MIB) -> Path:
    """A disk that begins as ``base`` and keeps what is written to itself; larger, as an operator makes it."""
    made = folder / f"{name}.qcow2"
    form = "qcow2" if base.suffix == ".qcow2" else "raw"
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(base.resolve()), "-F", form, str(made), f"{size_mib}M")
    return made


def blank(folder: Path, size_mib: int, name: str = "blank") -> Path:
    """An empty disk."""
    made = folder / f"{name}.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", str(made), f"{size_mib}M")
    return made


def qemu_img(*args: str) -> str:
    """Run ``qemu-img``; returns what it printed."""
    done = subprocess.run(["qemu-img", *args], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise LabError(f"qemu-img {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def missing_programs() -> list[str]:
    """What this needs and this machine lacks."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return absent + [str(path) for path in (OVMF_CODE, OVMF_VARS) if not path.exists()]
