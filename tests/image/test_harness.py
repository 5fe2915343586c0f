# SPDX-License-Identifier: Apache-2.0
"""The harness itself, with a guest that is up in seconds: what it waits for, what it says when that does not come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.accel import Accelerator, tiny_argv
from tests.image.machine import Hardware, Machine
from tests.image.tiny import HELLO, make_initramfs
from tests.net.lab import Lab, LabError


@pytest.fixture
def machine(lab: Lab, accelerator: Accelerator, kernel: Path, tmp_path: Path) -> Iterator[Machine]:
    """The tiny guest, switched on."""
    words = tiny_argv(kernel, make_initramfs(tmp_path))
    made = Machine(lab, "harness", Hardware(kernel=words, memory_mib=256, processors=1), accelerator)
    made.start().wait(HELLO, 60)
    yield made
    made.pull_plug()


def test_a_guest_that_switches_itself_off_is_noticed(machine: Machine) -> None:
    machine.console.send("o\n")
    machine.wait_off(30)
    assert not machine.running


def test_a_restart_is_counted_and_its_output_told_from_the_first(machine: Machine) -> None:
    before, mark = machine.resets(), machine.console.mark()
    machine.console.send("r\n")
    machine.wait_reset(before, 30)
    machine.console.wait(HELLO, 60, mark=mark)
    assert machine.running


def test_what_is_never_said_is_an_error_that_shows_the_last_lines(machine: Machine) -> None:
    with pytest.raises(LabError, match=f"did not show 'appliance' within 1 s(.|\n)*{HELLO}"):
        machine.console.wait("appliance", 1)
    assert HELLO in machine.log.read_text()


def test_a_machine_that_is_off_is_not_waited_for(machine: Machine) -> None:
    machine.pull_plug()
    with pytest.raises(LabError, match="before the machine went off"):
        machine.console.wait("appliance", 60)


def test_hardware_that_does_not_exist_is_told_in_qemus_words(lab: Lab, accelerator: Accelerator) -> None:
    broken = Machine(lab, "broken", Hardware(disks=[Path("/nonexistent.qcow2")]), accelerator)
    with pytest.raises(LabError, match=r"did not start(.|\n)*nonexistent\.qcow2"):
        broken.start()
