# SPDX-License-Identifier: Apache-2.0
"""The slot rule, twice: the lines that stand in grub.cfg, and the same in Python for tests and readers.

Rule: GRUB starts ``slot``, except once after ``try=1``, when it starts ``next`` and tells the kernel so. It clears
``try`` before it boots; where it cannot, it tries nothing. A slot without slot.cfg is none: the other one is started.
A test interprets the lines over every state and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from appliance.update.slots import BootState

# ``pick`` and not ``chosen``: that one is GRUB's own.
GRUB_LINES: Final = """\
# --- slot rule ---
load_env --file ${envfile} slot next try
set pick=${slot}
set trial=
if [ "${try}" = "1" ]; then
    set try=0
    if save_env --file ${envfile} try; then
        set pick=${next}
        set trial=jvpn.trial=1
    fi
fi
if [ ! -f /${pick}/slot.cfg ]; then
    set trial=
    if [ "${pick}" = "a" ]; then set pick=b; else set pick=a; fi
fi
# --- end of slot rule ---
"""


class Start(NamedTuple):
    """What GRUB does: which slot, whether it tells the kernel of a trial, and what it leaves in grubenv."""

    slot: str
    trial: bool
    state: BootState


def boot_choice(state: BootState, is_slot: Callable[[str], bool], can_save: bool = True) -> Start:
    """The rule. ``is_slot``: whether the slot has a slot.cfg; ``can_save``: whether GRUB can write grubenv."""
    pick, trial = state.slot, False
    if state.trial_is_due and can_save:
        state = state._replace(try_="0")
        pick, trial = state.next, True
    if not is_slot(pick):
        pick, trial = ("b" if pick == "a" else "a"), False
    return Start(pick, trial, state)
