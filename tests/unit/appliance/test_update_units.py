# SPDX-License-Identifier: Apache-2.0
"""The units of updates: only a trial may restart the machine, and it has the time that it was promised."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from appliance.update.confirm import DEADLINE_S
from appliance.update.places import Places
from appliance.update.slotrule import GRUB_LINES

UNITS = Path(__file__).resolve().parents[3] / "appliance/rootfs/usr/lib/systemd/system"


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def test_only_a_trial_restarts_the_machine() -> None:
    confirm, slot = unit("jvpn-confirm.service"), unit("jvpn-slot.service")
    assert confirm["Unit"]["FailureAction"] == "reboot"
    assert confirm["Unit"]["ConditionKernelCommandLine"] == "jvpn.trial=1"
    assert "set trial=jvpn.trial=1" in GRUB_LINES
    assert "FailureAction" not in slot["Unit"]
    assert "ConditionKernelCommandLine=!jvpn.trial=1" in (UNITS / "jvpn-slot.service").read_text()


def test_a_trial_waits_for_nothing_and_has_its_time() -> None:
    """What the trial were ordered after could hang without end, and nobody would restart the machine."""
    confirm = unit("jvpn-confirm.service")
    assert confirm["Unit"]["DefaultDependencies"] == "no"
    assert not {"After", "Requires", "BindsTo", "Requisite"} & set(confirm["Unit"])
    assert DEADLINE_S < float(confirm["Service"]["TimeoutStartSec"]) < DEADLINE_S + 60


@pytest.mark.parametrize("name", ["jvpn-confirm.service", "jvpn-slot.service"])
def test_both_run_at_every_start(name: str) -> None:
    link = UNITS / "multi-user.target.wants" / name
    assert link.is_symlink() and link.resolve() == UNITS / name
    assert unit(name)["Service"]["ExecStart"] == "/usr/sbin/jvpn-appliance confirm --boot"


def test_the_boot_partition_is_where_the_code_looks() -> None:
    mount = unit("boot-esp.mount")["Mount"]
    assert Path(mount["Where"]) == Places().esp
    assert Path(mount["What"]) == Path("/dev/disk/by-partlabel/esp")


def test_updates_stand_on_their_own() -> None:
    """What repairs a box must not need the rest of it: no import of the guest's part, nor of the build's."""
    package = Path(__file__).resolve().parents[3] / "appliance/update"
    texts = {path.name: path.read_text() for path in package.glob("*.py")}
    assert len(texts) > 15
    assert [
        name for name, text in texts.items() if "appliance.guest" in text or "appliance.image" in text
    ] == []
