# SPDX-License-Identifier: Apache-2.0
"""First boots and later ones: what is made, what is kept, what is taken from outside, and that nothing stops a boot."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.guest import firstboot, gatewayfile, restore, settings, sources
from appliance.guest.host import Done
from gateway.control import keysfile
from tests.unit.appliance.box import Box
from tests.unit.appliance.test_guest_document import KEY, WHOLE

SMALL = '#jvpn-config\n[appliance]\nhostname = "gw-test"\n[gateway]\nendpoint = "vpn.example.net:51820"\n'


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- without anything from outside ----------------------------------------------------------------------------------


def test_a_first_boot_makes_what_a_box_needs(box: Box) -> None:
    report = box.boot()
    layout = box.layout
    assert not report.problems
    assert mode(layout.gateway_key) == mode(layout.stats_token) == 0o600
    assert mode(layout.own) == mode(layout.ssh) == mode(layout.secrets) == mode(layout.state) == 0o700
    assert layout.machine_id.read_text() == layout.running_machine_id.read_text()
    keysfile.decode_key(layout.gateway_key.read_text().strip())
    found = gatewayfile.check(layout.gateway_file.read_text(), "gateway.toml", layout.config)
    assert (
        found.nat_enabled
        and gatewayfile.ports(found) == (51820,)
        and gatewayfile.stats_ports(found) == (51821,)
    )
    assert layout.hostname.read_text() == "jumping-vpn\n"


def test_the_second_boot_changes_nothing(booted: Box) -> None:
    before = booted.everything_stored()
    report = booted.boot()
    assert booted.everything_stored() == before
    assert not report.problems
    assert not report.notes


def test_two_boxes_have_nothing_in_common(tmp_path: Path) -> None:
    first, second = Box(tmp_path / "first"), Box(tmp_path / "second")
    second.random = type(second.random)("another")
    for one in (first, second):
        one.layout.machine_id.unlink()
        one.boot()
    for name in ("gateway_key", "stats_token", "gateway_file"):
        assert getattr(first.layout, name).read_bytes() != getattr(second.layout, name).read_bytes()


def test_without_a_machine_id_of_the_kernel_one_is_drawn(box: Box) -> None:
    box.layout.machine_id.unlink()
    box.layout.running_machine_id.write_text("uninitialized\n")
    firstboot.run_boot(box.layout, box.programs, box.random, {})
    assert len(box.layout.machine_id.read_text()) == 33


def test_without_keys_sshd_does_not_run(booted: Box) -> None:
    assert not booted.layout.ssh_wanted.exists()
    assert not booted.layout.authorized_keys.exists()
    assert not booted.layout.host_key.exists()


# --- a document ------------------------------------------------------------------------------------------------------


def test_a_document_is_taken_whole(box: Box) -> None:
    box.credential(WHOLE.replace('name = "phone"', f'name = "phone"\npublic_key = "{_public_key()}"'))
    report = box.boot()
    layout = box.layout
    assert not report.problems
    assert report.source == "credential jvpn.config"
    assert layout.hostname.read_text() == "gw-test\n"
    assert layout.kernel_hostname.read_text() == "gw-test"
    assert layout.stats_token.read_text() == "0123456789abcdef\n"
    assert KEY in layout.authorized_keys.read_text()
    assert mode(layout.authorized_keys) == mode(layout.host_key) == 0o600
    assert layout.ssh_wanted.exists()
    file = tomllib.loads(layout.gateway_file.read_text())
    assert file["gateway"] == {
        "endpoint": "vpn.example.net:51820",
        "private_key_file": "credential:gateway.key",
    }
    assert file["policy"] == {"session": {"transport_lost_ttl": "10m"}}
    assert [peer["name"] for peer in file["peer"]] == ["phone"]
    assert file["nat"] == {"enabled": True} and file["audit"]["keep_files"] == 8
    assert "Address=192.0.2.10/24" in (layout.networkd / "10-jvpn-wan.network").read_text()
    assert "NTP=ntp.example.net 2001:db8::7" in (layout.timesyncd / "10-jvpn.conf").read_text()


def _public_key() -> str:
    return keysfile.encode_key(keysfile.public_key(bytes(range(1, 33))))


def test_it_wins_only_on_a_box_that_nobody_has_configured(box: Box) -> None:
    box.credential(SMALL)
    box.boot()
    box.credential(SMALL.replace("gw-test", "other"))
    report = box.boot()
    assert box.layout.hostname.read_text() == "gw-test\n"
    assert any("passed over, this box is configured" in note for note in report.notes)


def test_a_box_that_had_its_defaults_takes_one_later(booted: Box) -> None:
    key = booted.layout.gateway_key.read_bytes()
    booted.credential(SMALL)
    booted.boot()
    assert booted.layout.hostname.read_text() == "gw-test\n"
    assert booted.layout.gateway_key.read_bytes() == key


def test_a_box_whose_file_was_edited_is_configured(booted: Box) -> None:
    with booted.layout.gateway_file.open("a") as file:
        file.write("# mine\n")
    booted.credential(SMALL)
    booted.boot()
    assert booted.layout.hostname.read_text() == "jumping-vpn\n"


def test_reapply_insists_and_is_idempotent(box: Box) -> None:
    box.credential(SMALL)
    box.boot()
    box.credential(SMALL.replace('"gw-test"', '"other"\nreapply = true'))
    box.boot()
    assert box.layout.hostname.read_text() == "other\n"
    before = box.everything_stored()
    box.boot()
    assert box.everything_stored() == before


def test_pools_that_it_leaves_open_stay_the_same(box: Box) -> None:
    box.credential(SMALL.replace('"gw-test"', '"gw-test"\nreapply = true'))
    box.boot()
    pool = tomllib.loads(box.layout.gateway_file.read_text())["pool"]
    box.boot()
    assert tomllib.loads(box.layout.gateway_file.read_text())["pool"] == pool


def test_a_key_of_its_own_replaces_the_made_one(booted: Box) -> None:
    key = keysfile.encode_key(keysfile.generate_private_key(lambda size: bytes(range(size))))
    booted.credential(f'#jvpn-config\n[appliance]\nprivate_key = "{key}"\n')
    assert not booted.boot().problems
    assert booted.layout.gateway_key.read_text() == f"{key}\n"
    assert mode(booted.layout.gateway_key) == 0o600


# --- wrong ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '#jvpn-config\n[appliance]\nhostnam = "x"\n',
            "configuration refused: user-data:3: appliance.hostnam",
        ),
        (
            '#jvpn-config\n[appliance]\nhostname = "x"\n[gateway]\nlistn = 3\n',
            "user-data:5: gateway.listn: unknown key",
        ),
        (
            '#jvpn-config\n[gateway]\nprivate_key_file = "gateway.key"\n',
            "user-data:3: gateway.private_key_file",
        ),
        ("#jvpn-config\n[[[\n", "user-data:2"),
        ("hello\n", "the first line must be #jvpn-config"),
        ("#jvpn-config\n" + "x" * (1 << 20), "larger than"),
    ],
)
def test_a_wrong_document_is_told_and_changes_nothing(booted: Box, text: str, said: str) -> None:
    before = booted.everything_stored()
    booted.credential(text)
    report = booted.boot()
    assert any(said in problem for problem in report.problems), report.problems
    assert booted.everything_stored() == before
    assert "DHCP=yes" in (booted.layout.networkd / "10-jvpn-wan.network").read_text()
    assert firstboot.last_report(booted.layout).problems == report.problems


def test_a_file_of_mistakes_is_cut_short(box: Box) -> None:
    lines = "".join(f"key{n} = 1\n" for n in range(100))
    box.credential(f"#jvpn-config\n[appliance]\n{lines}")
    problems = box.boot().problems
    assert len(problems) == firstboot.SHOWN_MAX + 1
    assert "92 more mistakes" in problems[-1]


def test_somebody_elses_user_data_is_passed_over(box: Box) -> None:
    box.credential("#cloud-config\nusers: []\n")
    report = box.boot()
    assert not report.problems
    assert "passed over" in report.notes[-1]


def test_settings_that_cannot_be_read_leave_the_box_reachable(booted: Box) -> None:
    booted.layout.settings.write_text("{")
    report = booted.boot()
    assert any("settings.json" in problem for problem in report.problems)
    assert "DHCP=yes" in (booted.layout.networkd / "10-jvpn-wan.network").read_text()


def test_settings_of_a_newer_version_are_not_guessed_at(booted: Box) -> None:
    booted.layout.settings.write_bytes(settings.encode(settings.Settings(format=99)))
    assert any("newer version" in problem for problem in booted.boot().problems)


def test_a_disk_that_is_not_in_use_is_told(box: Box) -> None:
    box.power_on()
    box.layout.data_verdict.parent.mkdir(parents=True)
    box.layout.data_verdict.write_text("no such partition\n")
    report = firstboot.run_boot(box.layout, box.programs, box.random, {})
    assert report.problems == ["nothing is kept: the data partition is not in use (no such partition)"]


# --- media ----------------------------------------------------------------------------------------------------------


def put_in(box: Box, label: str, content: dict[str, str], code: int = 0) -> None:
    """A medium: mounting it lays its files into the folder."""
    (box.layout.by_label / label).write_text("")

    def answer(command: Sequence[str], _text: str) -> Done | None:
        if command[0] == "mount":
            assert "ro," in command[4] and "noexec" in command[4]
            for name, text in content.items():
                Path(command[-1], name).write_text(text)
            return Done(code, "", "mount: wrong fs type" if code else "")
        return None

    box.programs.answer = answer


@pytest.mark.parametrize("label", ["cidata", "CIDATA", "JVPN-CFG", "jvpn-cfg"])
def test_a_medium_is_found_by_its_label(box: Box, label: str) -> None:
    put_in(box, label, {"user-data": SMALL})
    found = sources.find(box.layout, box.programs, {})
    assert found is not None and found.text == SMALL
    assert len(box.programs.ran("umount")) == 1


def test_the_credential_comes_before_the_medium(box: Box) -> None:
    put_in(box, "cidata", {"user-data": SMALL})
    box.credential(WHOLE)
    found = sources.find(box.layout, box.programs, box.environ)
    assert found is not None and found.text == WHOLE
    assert not box.programs.ran("mount")


def test_a_medium_without_user_data_is_nothing(box: Box) -> None:
    put_in(box, "cidata", {"meta-data": ""})
    assert sources.find(box.layout, box.programs, {}) is None


def test_a_medium_that_cannot_be_mounted_is_told(box: Box) -> None:
    put_in(box, "cidata", {}, code=32)
    found = sources.find(box.layout, box.programs, {})
    assert found is not None and "wrong fs type" in found.problem


def test_a_pipe_on_a_medium_does_not_hold_the_boot(box: Box) -> None:
    folder = box.layout.root / "credentials"
    folder.mkdir()
    os.mkfifo(folder / "jvpn.config")
    found = sources.find(box.layout, box.programs, {"CREDENTIALS_DIRECTORY": str(folder)})
    assert found is not None and "pipe" in found.problem


# --- power cuts -----------------------------------------------------------------------------------------------------


class Cut(BaseException):
    """The power is gone."""


def test_a_first_boot_that_is_cut_off_anywhere_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every rename in turn the power fails; the next boot must end as if it had not."""
    whole = Box(tmp_path / "whole")
    whole.credential(SMALL)
    whole.boot()
    names = set(whole.everything_stored())
    for cut_after in range(1, 40):
        one = Box(tmp_path / str(cut_after))
        one.credential(SMALL)
        if not _cut(one, cut_after, monkeypatch):
            break
        report = one.boot()
        assert not report.problems
        assert set(one.everything_stored()) == names, cut_after
        assert one.layout.hostname.read_text() == "gw-test\n"
        gatewayfile.check(one.layout.gateway_file.read_text(), "gateway.toml", one.layout.config)
    else:
        pytest.fail("a boot writes fewer than 40 files")
    assert cut_after > 8


def _cut(box: Box, after: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Boot with so many renames; False when that was enough for the whole boot."""
    left = [after]
    real = os.replace

    def replace(source: str | Path, target: str | Path) -> None:
        if left[0] == 0:
            raise Cut
        left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        try:
            box.boot()
        except Cut:
            return True
    return False


def test_a_staged_backup_is_no_leftover(booted: Box) -> None:
    booted.layout.restore_staging.mkdir()
    (booted.layout.restore_staging / "x").write_text("half of one")
    assert restore.finish(booted.layout) == ""
    assert not booted.layout.restore_staging.exists()
