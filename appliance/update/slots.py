# SPDX-License-Identifier: Apache-2.0
"""Two slots, a and b: which one runs, which one GRUB starts next, what the other holds.

Rule: which slot is started is GRUB's to say, by the slot rule (slotrule.py). A system that does not come up has had its
one try; only one that runs and has passed its test writes ``slot``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from appliance.update import grubenv, slotcfg
from appliance.update.disk import Disk, read_small
from appliance.update.places import SLOTS, Places
from appliance.update.slotcfg import SlotConfig
from gateway.errors import HostError, Refused, TryLater

_PARAMETER: Final = "jvpn.slot="
_COMMAND_LINE_MAX_BYTES: Final = 8192
LIVE: Final = "live"


class BootState(NamedTuple):
    """What stands in grubenv."""

    slot: str = ""
    next: str = ""
    try_: str = "0"

    def encode(self) -> bytes:
        return grubenv.encode({"slot": self.slot, "next": self.next, "try": self.try_})

    @property
    def trial_is_due(self) -> bool:
        """Whether the next start tries a slot."""
        return self.try_ == "1"


def decode_state(block: bytes) -> BootState:
    """What GRUB would read; of a block it refuses it reads nothing."""
    try:
        variables = grubenv.decode(block)
    except HostError:
        return BootState()
    return BootState(variables.get("slot", ""), variables.get("next", ""), variables.get("try", "0"))


def running_slot(command_line: str) -> str:
    """``a``, ``b`` or ``live``. ``HostError`` on a machine that is no appliance."""
    for word in command_line.split():
        if word.startswith(_PARAMETER) and word.removeprefix(_PARAMETER) in (*SLOTS, LIVE):
            return word.removeprefix(_PARAMETER)
    raise HostError("this system was not started from a slot: is it an appliance?")


class Slots:
    """The slots of one disk, seen from the system that runs."""

    def __init__(self, places: Places, disk: Disk) -> None:
        self.places = places
        self.disk = disk
        line = read_small(disk, places.command_line, _COMMAND_LINE_MAX_BYTES)
        self.running = running_slot(line.decode("utf-8", "replace"))

    @property
    def other(self) -> str:
        """The slot that may be written. The live system has none."""
        if self.running == LIVE:
            raise Refused(
                "this is the live system, which has no slots: `jvpn-appliance install` puts it on a disk"
            )
        return "b" if self.running == "a" else "a"

    def config(self, slot: str) -> SlotConfig | None:
        """What a slot holds; None when it holds nothing whole."""
        path = self.places.on_esp(slot, "slot.cfg")
        if not self.disk.exists(path):
            return None
        try:
            return slotcfg.decode(read_small(self.disk, path, slotcfg.MOST_BYTES).decode("ascii", "replace"))
        except HostError:
            return None

    def configs(self) -> Mapping[str, SlotConfig | None]:
        """Both."""
        return {slot: self.config(slot) for slot in SLOTS}

    def require_settled(self) -> None:
        """``TryLater`` while the other slot is the one to start: it is not ours to write then."""
        slot = self.state().slot
        if slot != self.running:
            raise TryLater(
                f"slot {self.running} is not confirmed, and a restart goes back to slot {slot or self.other}: "
                "wait for the end of its trial, or `jvpn-appliance confirm`"
            )

    def state(self) -> BootState:
        """What GRUB will read at the next start."""
        return decode_state(self.disk.read(self.places.grubenv, 0, grubenv.BLOCK_BYTES + 1))

    def set_state(self, state: BootState) -> None:
        """One sector, in place. Afterwards it is on the medium."""
        self.disk.overwrite(self.places.grubenv, 0, state.encode())
        self.disk.flush(self.places.grubenv)
        if self.state() != state:
            raise HostError(f"{self.places.grubenv} does not hold what was written: the disk fails")

    def disarm(self) -> None:
        """No trial is due any more. Comes before anything of the other slot is touched."""
        state = self.state()
        if state.next or state.trial_is_due:
            self.set_state(BootState(state.slot or self.running))

    def arm(self, slot: str) -> None:
        """The next start tries ``slot``, once."""
        self.set_state(BootState(self.state().slot or self.running, slot, "1"))

    def settle(self) -> None:
        """The slot that runs is the one to start from now on."""
        self.set_state(BootState(self.running))
