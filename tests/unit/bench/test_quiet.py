# SPDX-License-Identifier: Apache-2.0
"""Who used the processors: arithmetic on snapshots, and a real neighbour that is seen."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bench.tunnel.quiet import (
    FOREIGN_MAX,
    STEAL_MAX,
    Snapshot,
    Task,
    descendants,
    judge,
    parse_task,
    read_tasks,
    snapshot,
)

SPIN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"
START = Snapshot(busy_s=100.0, steal_s=1.0, capacity_s=1000.0, own_s=50.0, kernel_s=5.0)


def later(
    busy: float, own: float, kernel: float = 0.0, steal: float = 0.0, capacity: float = 8.0
) -> Snapshot:
    return Snapshot(100 + busy, 1 + steal, 1000 + capacity, 50 + own, 5 + kernel)


@pytest.mark.parametrize(
    ("after", "foreign", "steal"),
    [
        (later(busy=6, own=6), 0.0, 0.0),
        (later(busy=6, own=5, kernel=1), 0.0, 0.0),
        (later(busy=6, own=4), 0.25, 0.0),
        (later(busy=6, own=6.5), 0.0, 0.0),
        (later(busy=6, own=6, steal=0.8), 0.0, 0.1),
        (later(busy=0.05, own=0, capacity=0.1), 0.0, 0.0),
    ],
    ids=["ours", "the kernel for us", "others", "more than was busy", "stolen", "a moment"],
)
def test_what_is_left_over_was_others(after: Snapshot, foreign: float, steal: float) -> None:
    found = judge(START, after)
    assert (found.foreign_share, found.steal_share) == (pytest.approx(foreign), pytest.approx(steal))
    assert found.disturbed == (foreign > FOREIGN_MAX or steal > STEAL_MAX)


def test_a_process_line_with_a_strange_name() -> None:
    fields = "S 7 1 1 0 -1 2129984 0 0 0 0 100 50 25 25 20 0 1 0 5 0 0"
    assert parse_task(f"12 (a) b (c) {fields}") == Task(7, True, 2.0)


def test_descendants_of_descendants_belong() -> None:
    tasks = {pid: Task(parent, False, 0.0) for pid, parent in {1: 0, 5: 1, 6: 5, 7: 6, 8: 1}.items()}
    assert descendants(tasks, 5) == {5, 6, 7}


def test_our_own_work_and_that_of_children_that_have_ended_is_not_somebody_elses() -> None:
    before, tasks = snapshot(), read_tasks()
    subprocess.run([sys.executable, "-c", SPIN.format(0.5)], check=True)
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    after = snapshot()
    assert after.own_s - before.own_s == pytest.approx(1.0, abs=0.25)
    assert any(task.kernel for task in tasks.values()) or tasks[1].parent == 0


def test_a_neighbour_is_seen() -> None:
    """A process that is no descendant of ours: its parent ends, so that it belongs to somebody else."""
    code = f"{SPIN.format(1.0)}\nprint('done', flush=True)"
    shell = ["sh", "-c", '"$0" -c "$1" &', sys.executable, code]
    before = snapshot()
    # The pipe stays open until the neighbour has ended.
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read() == "done\n"
    after = snapshot()
    ours_s = after.own_s - before.own_s + after.kernel_s - before.kernel_s
    assert after.busy_s - before.busy_s - ours_s > 0.7
