# SPDX-License-Identifier: Apache-2.0
"""How long things took beside how long they may take, printed and kept in build/test-image/times.json.

Rule: an emulated guest on shared processors proves no time, so a miss is an error only where JVPN_STRICT=1 says that
the processors are quiet, or where guests really run (KVM).
"""

from __future__ import annotations

import json
import os
from typing import Final, NamedTuple

from tests.image.accel import Accelerator
from tests.image.machine import LOGS

# Seconds from switching on to serving: where guests run, and where they are emulated on two quiet processors.
KVM_S: Final = 10.0
TCG_S: Final = {"bios": 60.0, "uefi": 100.0}


class Judgement(NamedTuple):
    """One time beside its target."""

    name: str
    seconds: float
    target_s: float
    judged: bool

    def __str__(self) -> str:
        verdict = "ok" if self.seconds <= self.target_s else "MISSED"
        rest = verdict if self.judged else f"{verdict}, not judged: emulated on shared processors"
        return f"{self.name}: {self.seconds:.1f} s (target {self.target_s:.0f} s: {rest})"


def judge_boot(name: str, seconds: float, firmware: str, accelerator: Accelerator) -> Judgement:
    """Print and keep the time; AssertionError where it is judged and missed."""
    judged = accelerator.quick or os.environ.get("JVPN_STRICT") == "1"
    made = Judgement(name, seconds, KVM_S if accelerator.quick else TCG_S[firmware], judged)
    print(f"\n{made}")
    path = LOGS / "times.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {"seconds": round(seconds, 1), "target_s": made.target_s, "judged": judged}
    LOGS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")
    assert not judged or seconds <= made.target_s, str(made)
    return made
