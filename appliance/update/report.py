# SPDX-License-Identifier: Apache-2.0
"""What there is to say about slots and updates: for the status page, `jvpn-appliance status` and people."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from appliance.update.disk import RealDisk
from appliance.update.places import SLOTS, Places
from appliance.update.programs import Run, mounted_esp, run
from appliance.update.record import LastUpdate, Record
from appliance.update.slots import LIVE, Slots
from gateway.errors import JumpError


class SlotReport(NamedTuple):
    """One slot; ``version`` is '' when it holds nothing whole."""

    name: str
    version: str
    serial: int
    runs: bool
    confirmed: bool
    tried_next: bool


class UpdateReport(NamedTuple):
    """Everything. ``problem``: why the slots are not known."""

    running: str
    slots: tuple[SlotReport, ...]
    last: LastUpdate | None
    floor: int
    problem: str = ""

    def lines(self) -> tuple[str, ...]:
        """For people, a line each."""
        if self.problem:
            return (self.problem,)
        return (*map(_slot_line, self.slots), *([_last_line(self.last)] if self.last else []))


def describe(root: Path = Path("/"), run_: Run = run) -> UpdateReport:
    """Never fails: a problem is part of the report."""
    places, disk = Places(root), RealDisk()
    record = Record(places, disk)
    try:
        slots = Slots(places, disk)
        if slots.running == LIVE:
            return UpdateReport(LIVE, (), record.last(), record.floor())
        with mounted_esp(places, run_):
            return UpdateReport(slots.running, _slots(slots), record.last(), record.floor())
    except (JumpError, OSError) as error:
        return UpdateReport("", (), None, 0, str(error))


def _slots(slots: Slots) -> tuple[SlotReport, ...]:
    state, configs = slots.state(), slots.configs()
    reports = []
    for name in SLOTS:
        config = configs[name]
        reports.append(
            SlotReport(
                name=name,
                version=config.version if config else "",
                serial=config.serial if config else 0,
                runs=name == slots.running,
                confirmed=name == state.slot,
                tried_next=state.trial_is_due and name == state.next,
            )
        )
    return tuple(reports)


def _slot_line(slot: SlotReport) -> str:
    words = [word for word, said in (("runs", slot.runs), ("confirmed", slot.confirmed)) if said]
    words += ["tried at the next start"] if slot.tried_next else []
    held = f"version {slot.version} (serial {slot.serial})" if slot.version else "empty"
    return f"slot {slot.name}: {held}{': ' if words else ''}{', '.join(words)}"


def _last_line(last: LastUpdate) -> str:
    result = "waits for a restart" if last.result == "written" else last.result
    return f"last update: version {last.version} in slot {last.slot}: {result}{f' ({last.why})' if last.why else ''}"
