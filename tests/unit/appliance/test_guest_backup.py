# SPDX-License-Identifier: Apache-2.0
"""Backup, restore and factory reset: what is in it, what is checked, and that a cut leaves one box or the other."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from appliance.guest import backup, files, reset, restore, sealed
from gateway.errors import AuthError, ConfigErrors, JumpError, UsageError
from tests.unit.appliance.box import Box, Random, cut_after
from tests.unit.appliance.test_guest_firstboot import SMALL

PHRASE = "correct horse battery"


def sealed_bytes(data: bytes) -> bytes:
    out = io.BytesIO()
    sealer = sealed.Sealer(out, PHRASE, Random())
    sealer.write(data)
    sealer.close()
    return out.getvalue()


def filled(box: Box) -> Box:
    """A box with everything that a backup may hold."""
    box.credential(SMALL.replace('"gw-test"', '"gw-test"\nssh_keys = ["ssh-ed25519 AAAAC3Nz me"]'))
    box.boot()
    files.write(box.layout.secrets / "phone.psk", "psk\n", files.SECRET)
    files.write(box.layout.network / "20-mine.network", "[Match]\nName=mine\n")
    files.write(box.layout.peers_file, "", files.SECRET)
    files.write(box.layout.floor, "7")
    (box.layout.state / "sessions-jvpn0.db").write_text("sessions")
    (box.layout.state / "audit.key").write_text("journal's key")
    return box


def taken(box: Box) -> bytes:
    out = io.BytesIO()
    backup.write(box.layout, out, PHRASE, unix_s=1_000_000_000, random_bytes=Random())
    return out.getvalue()


# --- the stream -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_what_was_sealed_is_read_back(size: int) -> None:
    data = os.urandom(size)
    assert sealed.Opener(io.BytesIO(sealed_bytes(data)), PHRASE).read() == data


@pytest.mark.usefixtures("real_price")
def test_the_price_that_is_shipped() -> None:
    data = sealed_bytes(b"x")
    assert data[25:33] == (3).to_bytes(4, "little") + (65536).to_bytes(4, "little")
    assert sealed.Opener(io.BytesIO(data), PHRASE).read() == b"x"


@pytest.fixture
def stream() -> bytes:
    return sealed_bytes(bytes(200_000))


@pytest.mark.parametrize("at", [10, 25, 30, 40, 60, 70_000, 150_000, -1])
def test_a_changed_byte_is_noticed_wherever_it_is(stream: bytes, at: int) -> None:
    data = bytearray(stream)
    data[at] ^= 1
    with pytest.raises(JumpError):
        sealed.Opener(io.BytesIO(data), PHRASE).read()


def test_cut_lengthened_and_reordered_streams_are_noticed(stream: bytes) -> None:
    head, chunk = 9 + 16 + 8 + 24, 65536 + 17
    first, second = stream[head : head + chunk], stream[head + chunk : head + 2 * chunk]
    rest = stream[head + 2 * chunk :]
    for data in (
        stream[:-1],
        stream[: head + chunk],
        stream[:head],
        stream + b"x",
        stream[:head] + second + first + rest,
        stream[:head] + first + rest,
    ):
        with pytest.raises(AuthError, match="wrong passphrase, or the file was changed or cut"):
            sealed.Opener(io.BytesIO(data), PHRASE).read()


def test_another_passphrase_opens_nothing(stream: bytes) -> None:
    with pytest.raises(AuthError):
        sealed.Opener(io.BytesIO(stream), PHRASE + " staple").read(1)


def test_a_file_may_not_ask_for_all_the_memory(stream: bytes) -> None:
    data = bytearray(stream)
    data[29:33] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(JumpError, match="too much memory"):
        sealed.Opener(io.BytesIO(data), PHRASE)


@pytest.mark.parametrize("data", [b"", b"JVPNBAK1\n", b"x" * 100])
def test_another_file_is_told_apart(data: bytes) -> None:
    with pytest.raises(JumpError, match="not a backup"):
        sealed.Opener(io.BytesIO(data), PHRASE)


# --- backup ---------------------------------------------------------------------------------------------------------


def test_what_is_in_it_and_what_is_not(box: Box) -> None:
    with tarfile.open(fileobj=sealed.Opener(io.BytesIO(taken(filled(box))), PHRASE), mode="r|") as tar:  # type: ignore[call-overload]
        names = tar.getnames()
    assert names[0] == "manifest.json"
    assert {
        "config/gateway.key",
        "config/gateway.toml",
        "config/stats.token",
        "config/secrets/phone.psk",
        "network/20-mine.network",
        "ssh/ssh_host_ed25519_key",
        "appliance/settings.json",
        "state/peers.toml",
    } <= set(names)
    assert not [name for name in names if "floor" in name or "session" in name or "audit" in name]


def test_no_secret_of_it_can_be_read_without_the_passphrase(box: Box) -> None:
    data = taken(filled(box))
    for path in (box.layout.gateway_key, box.layout.stats_token, box.layout.host_key):
        assert path.read_bytes()[:40] not in data


def test_a_backup_never_replaces_a_file_and_is_for_its_owner_alone(box: Box, tmp_path: Path) -> None:
    filled(box)
    path = tmp_path / "a.jvpnbak"
    backup.to_file(box.layout, path, PHRASE, unix_s=0, random_bytes=Random())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(JumpError, match="exists already"):
        backup.to_file(box.layout, path, PHRASE, unix_s=0, random_bytes=Random())
    with pytest.raises(UsageError, match="10 to 512"):
        backup.to_file(box.layout, tmp_path / "b", "short", unix_s=0, random_bytes=Random())
    assert not (tmp_path / "b").exists()


# --- restore --------------------------------------------------------------------------------------------------------


def test_another_machine_becomes_this_gateway(tmp_path: Path) -> None:
    old, new = filled(Box(tmp_path / "old")), Box(tmp_path / "new")
    new.random = Random("new")
    new.boot()
    files.write(new.layout.secrets / "stays.not", "x", files.SECRET)
    (new.layout.state / "sessions-jvpn0.db").write_text("of another key")
    manifest = restore.stage(new.layout, io.BytesIO(taken(old)), PHRASE)
    restore.approve(new.layout)
    assert manifest.hostname == "gw-test"
    key = new.layout.gateway_key.read_bytes()
    assert key != old.layout.gateway_key.read_bytes()
    report = new.boot()
    assert "restored a backup" in report.notes and not report.problems
    for name in ("gateway_key", "gateway_file", "stats_token", "settings", "host_key"):
        mine, theirs = getattr(new.layout, name), getattr(old.layout, name)
        assert mine.read_bytes() == theirs.read_bytes(), name
        assert mine.stat().st_mode == theirs.stat().st_mode, name
    assert (new.layout.secrets / "phone.psk").exists()
    assert not (new.layout.secrets / "stays.not").exists()
    assert not (new.layout.state / "sessions-jvpn0.db").exists()
    assert new.layout.hostname.read_text() == "gw-test\n"
    assert not new.layout.restore_staging.exists() and not new.layout.restore_marker.exists()


def test_the_floor_is_this_boxs_own(tmp_path: Path) -> None:
    old, new = filled(Box(tmp_path / "old")), filled(Box(tmp_path / "new"))
    files.write(new.layout.floor, "9")
    restore.stage(new.layout, io.BytesIO(taken(old)), PHRASE)
    restore.approve(new.layout)
    new.boot()
    assert new.layout.floor.read_text() == "9"


def test_what_nobody_approved_is_forgotten(box: Box) -> None:
    restore.stage(filled(box).layout, io.BytesIO(taken(box)), PHRASE)
    box.layout.settings.unlink()
    box.credential(None)
    box.boot()
    assert not box.layout.restore_staging.exists()
    assert not box.layout.settings.exists()


def archive(entries: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = (
                (len(data), tarfile.REGTYPE) if name == "manifest.json" else (len(data), kind)
            )
            entry.linkname = "/etc/passwd"
            tar.addfile(entry, io.BytesIO(data))
    return plain.getvalue()


MANIFEST = ("manifest.json", b'{"format":1,"version":"1","hostname":"x","made_unix_s":1}')


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (archive([MANIFEST, ("config/../../x", b"x")]), "holds what none of ours does"),
        (archive([MANIFEST, ("/etc/passwd", b"x")]), "holds what none of ours does"),
        (archive([MANIFEST, ("appliance/floor", b"0")]), "holds what none of ours does"),
        (archive([MANIFEST, ("config/gateway.key", b"")], tarfile.SYMTYPE), "holds what none of ours does"),
        (archive([MANIFEST, ("config/dev", b"")], tarfile.CHRTYPE), "holds what none of ours does"),
        (archive([("config/gateway.key", b"x")]), "does not begin with its manifest"),
        (archive([MANIFEST]), "no gateway key"),
        (archive([("manifest.json", MANIFEST[1].replace(b":1,", b":2,", 1))]), "which is newer"),
        (archive([]), "it is empty"),
        (b"no tar at all" * 100, "not a backup"),
    ],
)
def test_a_bad_backup_changes_nothing(booted: Box, plain: bytes, said: str) -> None:
    before = booted.everything_stored()
    with pytest.raises(JumpError, match=said):
        restore.stage(booted.layout, io.BytesIO(sealed_bytes(plain)), PHRASE)
    assert booted.everything_stored() == before
    booted.boot()
    assert booted.everything_stored() == before


def test_a_gateway_file_that_is_wrong_by_now_is_told(box: Box, booted: Box) -> None:
    files.write(booted.layout.gateway_file, "[gateway]\nunknown_key = 1\n")
    data = taken(booted)
    before = booted.everything_stored()
    with pytest.raises(ConfigErrors, match=r"gateway\.toml:2: gateway\.unknown_key"):
        restore.stage(booted.layout, io.BytesIO(data), PHRASE)
    assert booted.everything_stored() == before


def test_a_restore_that_is_cut_off_is_finished_by_the_next_boot(tmp_path: Path) -> None:
    old = filled(Box(tmp_path / "old"))
    data = taken(old)
    for writes in range(40):
        new = Box(tmp_path / f"new{writes}")
        new.random = Random("new")
        new.boot()
        restore.stage(new.layout, io.BytesIO(data), PHRASE)
        restore.approve(new.layout)
        finished = _restore_cut(new, writes)
        new.boot()
        assert new.layout.gateway_key.read_bytes() == old.layout.gateway_key.read_bytes()
        assert new.layout.settings.read_bytes() == old.layout.settings.read_bytes()
        assert not new.layout.restore_marker.exists()
        if finished:
            assert writes > 5
            return
    pytest.fail("a restore writes fewer than 40 files")


def _restore_cut(box: Box, after: int) -> bool:
    try:
        with cut_after(after, files, "write"):
            restore.finish(box.layout)
    except KeyboardInterrupt:
        return False
    return True


# --- factory reset --------------------------------------------------------------------------------------------------


def test_a_reset_leaves_nothing_but_the_floor(box: Box) -> None:
    filled(box)
    (box.layout.data / "lost+found").mkdir()
    before = box.everything_stored()
    reset.request(box.layout)
    assert not box.layout.machine_id.exists()
    box.credential(None)
    report = box.boot()
    assert report.notes[0] == "factory reset: everything on /data was removed"
    after = box.everything_stored()
    assert after["appliance/floor"] == b"7"
    assert (box.layout.data / "lost+found").is_dir()
    for name in ("etc/jvpn/gateway.key", "etc/jvpn/stats.token", "machine-id"):
        assert after[name] != before[name], name
    gone = {"var/lib/private-jvpn/peers.toml", "etc/jvpn/secrets/phone.psk", "ssh/ssh_host_ed25519_key"}
    assert not gone & set(after)
    assert box.layout.hostname.read_text() == "jumping-vpn\n"


def test_without_a_request_nothing_is_removed(booted: Box) -> None:
    before = booted.everything_stored()
    assert reset.finish(booted.layout) == ""
    assert booted.everything_stored() == before


def test_a_reset_that_is_cut_off_goes_on(box: Box) -> None:
    filled(box)
    reset.request(box.layout)
    with pytest.raises(KeyboardInterrupt), cut_after(2, reset, "_remove"):
        reset.finish(box.layout)
    assert box.layout.reset_marker.exists()
    box.credential(None)
    box.boot()
    assert not box.layout.peers_file.exists()
    assert not box.layout.reset_marker.exists()
