# SPDX-License-Identifier: Apache-2.0
"""After a start: is this slot on trial, did a trial fail, and does the gateway pass traffic here?

    runs == slot, nothing named next     nothing to do
    runs == slot, next is another        that one was tried and did not stay: it is recorded and forgotten
    runs == next                         on trial: self-test until it passes, then this slot is ``slot``
    neither, slot is a slot              started by hand from GRUB's menu: left alone
    neither, slot is none                grubenv was lost: written anew, since there is nothing known to go back to

Rule: not confirmed in time means that the unit fails, and its failure restarts the machine (jvpn-confirm.service). GRUB
cleared ``try`` before it started us, so that start is the old slot.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from appliance.update.places import SLOTS
from appliance.update.record import LastUpdate, Record
from appliance.update.slots import LIVE, BootState, Slots
from gateway.errors import HostError, JumpError

# The start of the gateway on a slow machine takes a minute; three are the promise to whoever updates.
DEADLINE_S: Final = 180.0
PAUSE_S: Final = 2.0

Test = Callable[[], str]
Mounted = Callable[[], AbstractContextManager[None]]
Say = Callable[[str], None]


class Standing(Enum):
    """How the running slot stands after this start."""

    SETTLED = "settled"
    FELL_BACK = "the slot that was tried did not stay"
    TRIAL = "on trial"
    BY_HAND = "started by hand"
    LOST = "grubenv was lost"


def standing(running: str, state: BootState) -> Standing:
    """Judge a start by what GRUB left. A trial that is due (try=1) was not this start."""
    if running == LIVE:
        return Standing.SETTLED
    if running == state.slot:
        tried = state.next and state.next != running and not state.trial_is_due
        return Standing.FELL_BACK if tried else Standing.SETTLED
    if running == state.next and not state.trial_is_due:
        return Standing.TRIAL
    return Standing.BY_HAND if state.slot in SLOTS else Standing.LOST


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial is made of: the two tests, each a sentence or a ``JumpError``, and time."""

    passes_traffic: Test
    comes_up: Test  # for a machine whose gateway did not serve before the update either
    monotonic_s: Callable[[], float]
    sleep_s: Callable[[float], None]


class Confirm:
    """One start of one slot."""

    def __init__(self, slots: Slots, record: Record, mounted: Mounted, say: Say) -> None:
        """``mounted`` gives the boot partition for a block: a trial takes minutes, and the power may fail."""
        self._slots = slots
        self._record = record
        self._mounted = mounted
        self._say = say

    def after_start(self, trial: Trial) -> Standing:
        """What the unit runs. ``HostError`` when a trial failed."""
        with self._mounted():
            found = standing(self._slots.running, self._slots.state())
            last = self._of_running()
            if found is Standing.FELL_BACK:
                self._forget_trial()
            elif found is Standing.LOST:
                self._settle()
        if found is Standing.TRIAL:
            self._say(
                f"slot {self._slots.running} is on trial: {DEADLINE_S:.0f} s for the gateway to pass traffic"
            )
            self._say(self._until_it_passes(trial, last))
            self.settle()
        return found

    def settle(self) -> None:
        """This slot is the one to start."""
        with self._mounted():
            self._settle()

    def _settle(self) -> None:
        """The floor follows: what it forbids counts from here on."""
        self._slots.settle()
        self._say(f"slot {self._slots.running} is confirmed: it is started from now on")
        last = self._of_running()
        if last is not None:
            self._record.raise_floor(last.floor)
            self._record.set_last(msgspec.structs.replace(last, result="confirmed", why=""))

    def _until_it_passes(self, trial: Trial, last: LastUpdate | None) -> str:
        test = trial.passes_traffic if last is None or last.served else trial.comes_up
        end_s = trial.monotonic_s() + DEADLINE_S
        while True:
            try:
                return test()
            except (JumpError, OSError) as error:
                if trial.monotonic_s() + PAUSE_S >= end_s:
                    self._remember_failure(last, str(error))
                    raise HostError(f"slot {self._slots.running} failed its trial: {error}") from None
            trial.sleep_s(PAUSE_S)

    def _of_running(self) -> LastUpdate | None:
        """The record of the update that wrote this slot, if it is the last one."""
        last, config = self._record.last(), self._slots.config(self._slots.running)
        if last is None or config is None or (last.slot, last.serial) != (self._slots.running, config.serial):
            return None
        return last

    def _remember_failure(self, last: LastUpdate | None, why: str) -> None:
        if last is not None:
            self._record.set_last(msgspec.structs.replace(last, result="fell back", why=why))

    def _forget_trial(self) -> None:
        state = self._slots.state()
        last = self._record.last()
        why = last.why if last and last.slot == state.next and last.why else "it did not start"
        if last is not None and last.slot == state.next:
            self._record.set_last(msgspec.structs.replace(last, result="fell back", why=why))
        self._slots.settle()
        self._say(f"slot {state.next} was tried and did not stay ({why}); slot {self._slots.running} runs on")
