# SPDX-License-Identifier: Apache-2.0
"""The commands as people type them, on a machine below a folder."""

from __future__ import annotations

import argparse
import fcntl
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.update import commands
from appliance.update.commands import Meter, Updater
from appliance.update.places import Places
from appliance.update.report import describe
from appliance.update.slots import BootState
from gateway.errors import HostError, NotFound, Refused, TryLater, UsageError
from tests.unit.appliance.updating import NEW, Box, make_box, make_bundle, manifest_of, quiet


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return make_box(tmp_path)


class Asked:
    """Programs that would be run."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def run(self, command: Sequence[str], _text: str) -> str:
        self.commands.append(list(command))
        return ""


def updater(box: Box, said: list[str], asked: Asked | None = None) -> Updater:
    return Updater(box.root, said.append, (asked or Asked()).run, quiet)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jvpn-appliance")
    commands.add_commands(parser.add_subparsers(required=True))
    return parser.parse_args(words)


def run(box: Box, *words: str) -> int:
    asked = parse(*words)
    asked.root = box.root
    code: int = asked.run(asked)
    return code


def test_update_writes_and_says_what_comes_next(
    box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path)
    assert run(box, "update", str(bundle)) == 0
    assert box.holds("b", manifest_of(bundle))
    out = capsys.readouterr().out
    assert f"version 2.0.0, serial {NEW}: signed, for slot b" in out
    assert "the gateway passes no traffic now (no gateway runs" in out
    assert "the next start tries it" in out and "systemctl reboot" in out
    last = box.record.last()
    assert last is not None and not last.served


def test_reboot_is_systemd_s(box: Box) -> None:
    asked = Asked()
    updater(box, [], asked).restart()
    assert asked.commands == [["systemctl", "reboot"]]


@pytest.mark.parametrize("words", [["update"], ["update", "file", "--medium"]])
def test_update_wants_one_source(box: Box, words: list[str]) -> None:
    with pytest.raises(UsageError, match="name a file"):
        run(box, *words)


def test_help_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for name, word in (
        ("update", "within three minutes"),
        ("rollback", "takes an update back"),
        ("install", "lost"),
    ):
        with pytest.raises(SystemExit):
            parse(name, "--help")
        assert word in " ".join(capsys.readouterr().out.split())


def test_one_update_at_a_time(box: Box, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with (box.places.own / "update.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TryLater, match="under way"):
            updater(box, []).update(str(bundle), False)
    updater(box, []).update(str(bundle), False)


def test_a_medium_is_mounted_for_as_long_as_it_is_read(box: Box, tmp_path: Path) -> None:
    asked, said = Asked(), []
    bundle = make_bundle(tmp_path)
    with pytest.raises(NotFound, match="no medium with the label JVPN-UPD"):
        updater(box, said, asked).update_from_medium(False)
    device = box.places.label("JVPN-UPD")
    device.parent.mkdir()
    device.touch()
    box.places.medium.mkdir(parents=True)
    bundle.rename(box.places.medium / bundle.name)
    updater(box, said, asked).update_from_medium(False)
    folder = str(box.places.medium)
    assert asked.commands == [
        ["mount", "-o", "ro,nosuid,nodev,noexec", str(device), folder],
        ["umount", folder],
    ]
    assert said[0] == f"found {bundle.name}"
    assert box.slots.state().trial_is_due


def test_the_console_gets_an_exit_code(box: Box) -> None:
    said: list[str] = []
    assert commands.update_from_medium(box.root, said.append) == NotFound.exit_code
    assert said == ["error: no medium with the label JVPN-UPD is there"]


def test_the_boot_partition_is_mounted_when_it_is_not(box: Box) -> None:
    asked = Asked()
    box.places.grubenv.unlink()
    with pytest.raises(HostError):
        updater(box, [], asked).rollback()
    assert asked.commands == [["systemctl", verb, "boot-esp.mount"] for verb in ("start", "stop")]


def test_rollback_takes_an_update_back_before_the_restart(box: Box, tmp_path: Path) -> None:
    said: list[str] = []
    work = updater(box, said)
    work.update(str(make_bundle(tmp_path)), False)
    work.rollback()
    assert box.slots.state() == BootState("a")
    assert said[-1] == "slot b is not tried any more; slot a is started as before"


def test_rollback_tries_the_other_slot_once_it_is_verified(box: Box, tmp_path: Path) -> None:
    work = updater(box, [])
    work.update(str(make_bundle(tmp_path)), False)
    box.runs("b")
    box.slots.settle()
    work.rollback()
    assert box.slots.state() == BootState("b", "a", "1")
    box.slots.disarm()
    with box.places.partition("root", "a").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(Refused, match="slot a is damaged"):
        work.rollback()
    assert box.slots.state() == BootState("b")


def test_rollback_needs_another_slot(box: Box) -> None:
    with pytest.raises(Refused, match="slot b holds no whole system"):
        updater(box, []).rollback()


def test_confirm_by_hand_tests_first(box: Box, tmp_path: Path) -> None:
    work = updater(box, [])
    work.update(str(make_bundle(tmp_path)), False)
    box.runs("b")
    with pytest.raises(HostError, match="no gateway runs"):
        run(box, "confirm")
    assert box.slots.state().slot == "a"
    assert run(box, "confirm", "--without-test") == 0
    assert box.slots.state() == BootState("b")


def test_a_start_that_is_no_trial_asks_nothing(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(box, "confirm", "--boot") == 0
    assert capsys.readouterr().out == "slot: settled\n"


def test_install_refuses_what_is_no_disk(box: Box, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no block device"):
        run(box, "install", str(tmp_path), "--yes")


def test_the_report_says_which_slots_there_are(box: Box, tmp_path: Path) -> None:
    assert describe(box.root).lines() == (
        "slot a: version 1.0.0 (serial 1700000000): runs, confirmed",
        "slot b: empty",
    )
    updater(box, []).update(str(make_bundle(tmp_path)), False)
    assert describe(box.root).lines()[1:] == (
        "slot b: version 2.0.0 (serial 1800000000): tried at the next start",
        "last update: version 2.0.0 in slot b: waits for a restart",
    )
    box.disk.overwrite(box.places.grubenv, 0, BootState("a", "b", "0").encode())
    assert run(box, "confirm", "--boot") == 0
    assert (
        describe(box.root).lines()[-1] == "last update: version 2.0.0 in slot b: fell back (it did not start)"
    )


def test_a_report_never_fails(box: Box, tmp_path: Path) -> None:
    assert "is this the appliance's own disk" in describe(tmp_path / "nowhere").lines()[0]
    box.runs("live")
    assert describe(box.root).running == "live"


def test_progress_is_a_line_per_step_without_a_terminal() -> None:
    said: list[str] = []
    meter = Meter(said.append, terminal=False)
    for what in ("checking x", "writing x"):
        for done in range(0, 101, 10):
            meter(what, done, 100)
    assert said == ["checking x", "writing x"]


def test_places_are_below_the_root() -> None:
    places = Places(Path("/r"))
    paths = [
        places.grubenv,
        places.partition("root", "b"),
        places.on_esp("a", "initrd"),
        places.own,
        places.medium,
        places.public_key,
        places.os_release,
    ]
    assert all(path.is_relative_to("/r") for path in paths)
