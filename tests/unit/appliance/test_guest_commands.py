# SPDX-License-Identifier: Apache-2.0
"""``jvpn-appliance`` as it is typed: exit codes, what is said where, and nothing without a word of consent."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from appliance.guest import password, sealed
from appliance.guest.main import main
from tests.unit.appliance.box import Box

PHRASE = "correct horse battery"


class Shell:
    """Types commands at a box."""

    def __init__(self, box: Box, capture: pytest.CaptureFixture[str]) -> None:
        self.box, self._capture = box, capture

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        self._capture.readouterr()
        try:
            code = main(["--root", str(self.box.layout.root), *map(str, words)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = self._capture.readouterr()
        return code, said.out, said.err


@pytest.fixture
def shell(booted: Box, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(booted, capsys)


@pytest.mark.parametrize(
    "command", ["", "config", "backup", "restore", "reset", "support", "password", "console", "status"]
)
def test_each_command_explains_itself(shell: Shell, command: str) -> None:
    code, out, _ = shell(*command.split(), "--help")
    assert code == 0
    assert "usage: jvpn-appliance" in out


def test_a_first_boot_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = Box(tmp_path)
    code, out, err = Shell(box, capsys)("firstboot")
    assert code == 0 and not err
    assert "made the gateway's key" in out
    assert box.layout.gateway_key.exists()


def test_a_refused_document_is_no_failed_unit_and_is_told_on_every_console(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.box.credential("#jvpn-config\n[appliance]\nhostnam = 1\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", shell.box.environ["CREDENTIALS_DIRECTORY"])
    code, out, _ = shell("firstboot")
    assert code == 0
    assert "configuration refused: user-data:3" in out
    said = shell.box.layout.kernel_log.read_text()
    assert said.startswith("<3>jvpn-appliance: configuration refused: user-data:3: appliance.hostnam")


def test_status_for_people_and_for_programs(shell: Shell) -> None:
    assert "gateway    not running" in shell("status")[1]
    found = json.loads(shell("status", "--json")[1])
    assert found["version"] == "9.9.9" and found["slot"] == "a" and found["serving"] is False
    assert [one["interface"] for one in found["networks"]] == ["ens3", "ens4"]
    assert isinstance(found["update"], str)
    assert "gateway    not running" in shell("console", "--once")[1]


def test_a_file_is_checked_without_being_taken(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text("[gateway]\nlistn = 3\n")
    before = shell.box.everything_stored()
    assert shell("config", "check", path)[0] == 2
    assert f"jvpn-appliance: {path}:2: gateway.listn: unknown key" in shell("config", "check", path)[2]
    assert shell("config", "apply", path)[0] == 2
    path.write_text("[nat]\nenabled = true\n")
    code, out, err = shell("config", "check", path)
    assert (code, out, err) == (0, f"{path}: ok\n", "")
    assert shell.box.everything_stored() == before


def test_what_is_in_force_already_and_what_does_not_wait(shell: Shell) -> None:
    code, _, err = shell("config", "apply", shell.box.layout.gateway_file)
    assert code == 5 and "in force already" in err
    assert shell("config", "keep")[0] == 4
    assert shell("config", "revert")[1] == "no change waited\n"


def test_backup_and_restore(shell: Shell, tmp_path: Path) -> None:
    phrase, path = tmp_path / "phrase", tmp_path / "a.jvpnbak"
    phrase.write_text(f"{PHRASE}\r\nmore\n")
    assert "files. Without the passphrase" in shell("backup", path, "--passphrase-file", phrase)[1]
    assert sealed.Opener(path.open("rb"), PHRASE).read(5)
    assert shell("backup", path, "--passphrase-file", phrase)[0] == 1
    code, out, _ = shell("restore", path, "--passphrase-file", phrase, "--yes", "--no-reboot")
    assert code == 0 and "a backup of jumping-vpn" in out
    assert shell.box.layout.restore_marker.exists()
    phrase.write_text("something else\n")
    code, _, err = shell("restore", path, "--passphrase-file", phrase, "--yes", "--no-reboot")
    assert code == 1 and "wrong passphrase" in err


def test_nothing_is_removed_or_replaced_without_consent(shell: Shell, tmp_path: Path) -> None:
    phrase, path = tmp_path / "phrase", tmp_path / "a.jvpnbak"
    phrase.write_text(PHRASE)
    shell("backup", path, "--passphrase-file", phrase)
    for words in (("reset",), ("restore", path, "--passphrase-file", phrase)):
        code, _, err = shell(*words)
        assert code == 2 and "nobody is here to ask; say --yes" in err
    assert not shell.box.layout.reset_marker.exists()
    assert not shell.box.layout.restore_marker.exists()
    assert shell("reset", "--yes", "--no-reboot")[0] == 0
    assert shell.box.layout.reset_marker.exists()


def test_a_password_by_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))
    code, out, _ = shell("password", "--stdin", "--print")
    assert code == 0 and password.verify(out.strip(), "correct horse")
    assert not shell.box.layout.admin_hash.exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert shell("password", "--stdin")[0] == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))
    shell("password", "--stdin")
    assert password.verify(password.stored(shell.box.layout.admin_hash), "correct horse")
