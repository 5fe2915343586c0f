# SPDX-License-Identifier: Apache-2.0
"""Whether anything else used the processors during a measurement.

What the machine was busy with, less what this process and all its descendants used, less the kernel's own threads,
was somebody else's; time that the hypervisor took away (steal) counts beside it.

Rule: reading is all that is done here; nobody is stopped or moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Shares of all processors' time above which a measurement is taken again. Ticks are counted by sampling: two seconds
# on two processors are known to about two per cent.
FOREIGN_MAX: Final = 0.06
STEAL_MAX: Final = 0.03
# Of less processor time than this the ticks say nothing.
JUDGED_S: Final = 1.0
# Fields of /proc/PID/stat behind the name: ppid; flags; utime, stime, cutime, cstime.
PPID: Final = 1
FLAGS: Final = 6
TIMES: Final = slice(11, 15)
PF_KTHREAD: Final = 0x00200000


class Task(NamedTuple):
    """A process: its parent, whether it is the kernel's, and its CPU time with that of the children it waited for."""

    parent: int
    kernel: bool
    used_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """CPU seconds so far."""

    busy_s: float
    steal_s: float
    capacity_s: float
    own_s: float
    kernel_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who used the processors between two snapshots, as shares of all their time."""

    foreign_share: float
    steal_share: float

    @property
    def disturbed(self) -> bool:
        """Too much was not ours."""
        return self.foreign_share > FOREIGN_MAX or self.steal_share > STEAL_MAX


def snapshot() -> Snapshot:
    """Now."""
    tasks = read_tasks()
    own = descendants(tasks, os.getpid())
    kernel = {pid for pid, task in tasks.items() if task.kernel}
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(field) / TICKS_PER_S for field in first.split()[1:9]
    )
    busy = user + nice + system + irq + softirq
    return Snapshot(busy, steal, busy + steal + idle + iowait, _used(tasks, own), _used(tasks, kernel))


def judge(before: Snapshot, after: Snapshot) -> Verdict:
    """The time between them; of a moment nothing can be said."""
    capacity_s = after.capacity_s - before.capacity_s
    if capacity_s < JUDGED_S:
        return Verdict(0.0, 0.0)
    ours_s = (after.own_s - before.own_s) + (after.kernel_s - before.kernel_s)
    foreign_s = after.busy_s - before.busy_s - ours_s
    return Verdict(max(0.0, foreign_s / capacity_s), (after.steal_s - before.steal_s) / capacity_s)


def read_tasks() -> dict[int, Task]:
    """Every process there is."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found[int(entry.name)] = parse_task((entry / "stat").read_text())
    return found


def parse_task(text: str) -> Task:
    """A line of /proc/PID/stat; the name may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    kernel = bool(int(fields[FLAGS]) & PF_KTHREAD)
    return Task(int(fields[PPID]), kernel, sum(map(int, fields[TIMES])) / TICKS_PER_S)


def descendants(tasks: Mapping[int, Task], root: int) -> set[int]:
    """The process and everything below it."""
    children: dict[int, list[int]] = {}
    for pid, task in tasks.items():
        children.setdefault(task.parent, []).append(pid)
    found, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def _used(tasks: Mapping[int, Task], pids: Iterable[int]) -> float:
    return sum(tasks[pid].used_s for pid in pids if pid in tasks)
