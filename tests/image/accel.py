# SPDX-License-Identifier: Apache-2.0
"""Which accelerator QEMU is given: KVM where a guest has really run with it, else emulation on every processor.

Rule: /dev/kvm that opens proves nothing (a nested one may stop at the first kernel), so a guest is booted to find out.
"""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from tests.image.tiny import HELLO, make_initramfs

# A guest of one program is up in a second where KVM works.
PROBE_S: Final = 10.0


class Accelerator(NamedTuple):
    """How guests are run."""

    name: str
    argv: tuple[str, ...]

    @property
    def quick(self) -> bool:
        """Whether times measured with it mean anything for real machines."""
        return self.name == "kvm"


KVM: Final = Accelerator("kvm", ("-accel", "kvm", "-cpu", "host"))
# A processor with AES but without what emulation is slow at.
TCG: Final = Accelerator("tcg", ("-accel", "tcg,thread=multi", "-cpu", "Westmere"))


def choose(kernel: Path, folder: Path) -> Accelerator:
    """KVM if ``kernel`` comes up under it within seconds, else TCG. JVPN_ACCEL=kvm|tcg decides without a try."""
    wanted = os.environ.get("JVPN_ACCEL")
    if wanted:
        return {"kvm": KVM, "tcg": TCG}[wanted]
    return KVM if os.access("/dev/kvm", os.R_OK | os.W_OK) and runs(KVM, kernel, folder) else TCG


@lru_cache
def runs(accelerator: Accelerator, kernel: Path, folder: Path, limit_s: float = PROBE_S) -> bool:
    """Whether the smallest guest comes up within ``limit_s``."""
    argv = ["qemu-system-x86_64", *accelerator.argv, *tiny_argv(kernel, make_initramfs(folder))]
    argv += ["-nodefaults", "-display", "none", "-m", "256", "-serial", "stdio", "-no-reboot"]
    try:
        # The program reads one character and goes: it is there from the beginning.
        done = subprocess.run(argv, input=b"o\n", capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return False
    return HELLO.encode() in done.stdout


def tiny_argv(kernel: Path, initramfs: Path) -> list[str]:
    """QEMU's words for booting it directly."""
    line = "console=ttyS0,115200 panic=-1"
    return ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", line]
