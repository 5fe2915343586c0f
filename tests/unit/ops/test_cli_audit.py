# SPDX-License-Identifier: Apache-2.0
"""`jvpn audit verify|replay|export` on real journals, and what a line says of each kind of event."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from pathlib import Path

import pytest

from gateway.control import keysfile
from gateway.control.auditfile import journal_files, load_signing_key
from gateway.control.auditlog import AuditLog
from gateway.core import audit, driver, events
from gateway.core.policy import Policy
from gateway.core.states import Role
from gateway.ops.cli import eventline
from gateway.ops.cli.events import unix_ns
from tests.unit.control.journals import Clock, drive, lives
from tests.unit.ops.conftest import Jvpn


def journal(
    state: Path, *, interface: str = "jvpn0", max_bytes: int = 1 << 20, sessions: int = 2
) -> list[Path]:
    """A journal of some sessions in a state directory; its files."""
    state.mkdir(parents=True, exist_ok=True)
    key = load_signing_key(state, os.urandom)
    for number in range(1, sessions + 1):
        log = AuditLog(
            state / "audit",
            "gw-1",
            key,
            interface=interface,
            unix_ns=Clock(),
            now_ns=lambda: 1,
            max_bytes=max_bytes,
        )
        drive(log, lives()[0], number=number)
        assert log.close()
    return [named.path for named in journal_files(state / "audit", interface)]


@pytest.fixture
def state(places: Path) -> Path:
    return places / "state"


def test_verify_a_whole_journal(jvpn: Jvpn, state: Path) -> None:
    files = journal(state, max_bytes=8000)
    assert len(files) > 1
    found = jvpn("audit", "verify")
    assert found.exit_code == 0
    assert found.stdout.startswith("jvpn0: whole. ")
    assert f"in {len(files)} files" in found.stdout
    assert "signed by this key" in found.stdout
    document = json.loads(jvpn("audit", "verify", "--json").stdout)
    assert (document["schema"], document["ok"]) == ("jvpn.audit.verify/1", True)
    (chain,) = document["chains"]
    assert (chain["files"], chain["fault"], chain["signatures"]) == (len(files), None, "checked")


def test_verify_names_file_line_and_why(jvpn: Jvpn, state: Path) -> None:
    files = journal(state, max_bytes=8000)
    rows = files[1].read_text().splitlines(keepends=True)
    at = next(number for number, row in enumerate(rows) if '"peer":"peer' in row)
    rows[at] = rows[at].replace('"peer":"peer', '"peer":"evil')
    files[1].write_text("".join(rows))
    found = jvpn("audit", "verify")
    assert found.exit_code == 1
    assert f"{files[1]}:{at + 1}: the record was altered" in found.stderr
    document = json.loads(jvpn("audit", "verify", "--json").stdout)
    assert document["chains"][0]["fault"] == {
        "file": str(files[1]),
        "line": at + 1,
        "why": "the record was altered",
    }


def test_verify_some_files(jvpn: Jvpn, state: Path) -> None:
    files = journal(state, max_bytes=8000)
    assert jvpn("audit", "verify", *files).exit_code == 0
    assert jvpn("audit", "verify", files[0]).exit_code == 0
    last = jvpn("audit", "verify", files[-1])
    assert last.exit_code == 0
    assert "older files were rotated away" in last.stderr
    assert jvpn("audit", "verify", files[0], *files[2:]).exit_code == 1
    assert jvpn("audit", "verify", "--dir", state / "audit", files[0]).exit_code == 2


def test_verify_needs_a_key_or_says_that_it_did_without(jvpn: Jvpn, state: Path, tmp_path: Path) -> None:
    journal(state)
    public = keysfile.read_key_file(state / "audit.pub").key
    elsewhere = tmp_path / "copy" / "audit"
    elsewhere.parent.mkdir()
    (state / "audit").rename(elsewhere)
    (state / "audit.pub").rename(tmp_path / "their.pub")
    assert jvpn("audit", "verify", "--dir", elsewhere).exit_code == 4
    unsigned = jvpn("audit", "verify", "--dir", elsewhere, "--chain-only")
    assert unsigned.exit_code == 0
    assert "signatures not checked" in unsigned.stdout
    for given in (tmp_path / "their.pub", keysfile.encode_key(public)):
        assert jvpn("audit", "verify", "--dir", elsewhere, "--public-key", given).exit_code == 0
    stranger = load_signing_key(tmp_path, os.urandom).public
    found = jvpn("audit", "verify", "--dir", elsewhere, "--public-key", keysfile.encode_key(stranger))
    assert found.exit_code == 1
    assert "not signed by this key" in found.stderr
    assert jvpn("audit", "verify", "--dir", elsewhere, "--public-key", "nonsense").exit_code == 2


def test_each_interface_has_a_chain_of_its_own(jvpn: Jvpn, state: Path) -> None:
    journal(state)
    journal(state, interface="jvpn1")
    document = json.loads(jvpn("audit", "verify", "--json").stdout)
    assert [chain["interface"] for chain in document["chains"]] == ["jvpn0", "jvpn1"]
    only = json.loads(jvpn("audit", "verify", "-i", "jvpn1", "--json").stdout)
    assert [chain["interface"] for chain in only["chains"]] == ["jvpn1"]


def test_no_journal(jvpn: Jvpn, state: Path) -> None:
    for command in ("verify", "replay", "export"):
        assert jvpn("audit", command).exit_code == 4


def test_replay_decides_the_same(jvpn: Jvpn, state: Path) -> None:
    journal(state, max_bytes=8000)
    found = jvpn("audit", "replay")
    assert (found.exit_code, found.stderr) == (0, "")
    assert "of 2 sessions" in found.stdout
    document = json.loads(jvpn("audit", "replay", "--json").stdout)
    assert (document["schema"], document["ok"], document["chains"][0]["partial"]) == (
        "jvpn.audit.replay/1",
        True,
        0,
    )


def test_replay_names_the_first_divergence(jvpn: Jvpn, state: Path) -> None:
    (path,) = journal(state)
    rows = path.read_text().splitlines(keepends=True)
    at = next(number for number, row in enumerate(rows) if '"input":"PathLost"' in row)
    rows[at] = rows[at].replace('"path_id":1', '"path_id":2')
    path.write_text("".join(rows))
    found = jvpn("audit", "replay")
    assert found.exit_code == 1
    assert f"{path}:{at + 2}: the machine decides otherwise" in found.stderr
    assert "written:  {" in found.stderr
    document = json.loads(jvpn("audit", "replay", "--json").stdout)
    assert document["chains"][0]["fault"]["line"] == at + 2


def test_export_is_the_journal_again(jvpn: Jvpn, state: Path, tmp_path: Path) -> None:
    files = journal(state, max_bytes=8000)
    whole = jvpn("audit", "export").stdout
    assert whole == "".join(path.read_text() for path in files)
    copy = tmp_path / "audit-jvpn0-000000000000.jsonl"
    copy.write_text(whole)
    assert jvpn("audit", "verify", copy).exit_code == 0


def test_export_of_a_choice(jvpn: Jvpn, state: Path) -> None:
    journal(state)
    bodies = [
        json.loads(line)
        for line in jvpn("audit", "export", "-s", "peer2", "--events-only").stdout.splitlines()
    ]
    assert {body["peer"] for body in bodies} == {"peer2"}
    assert not {"INPUT", "TIMER", "CREATE"} & {body["event"] for body in bodies}
    middle = bodies[len(bodies) // 2]["ts"]
    later = jvpn("audit", "export", "-s", "peer2", "--events-only", "--since", middle).stdout.splitlines()
    sooner = jvpn("audit", "export", "-s", "peer2", "--events-only", "--until", middle).stdout.splitlines()
    assert json.loads(later[0])["ts"] == json.loads(sooner[-1])["ts"] == middle
    assert {json.loads(line)["seq"] for line in [*sooner, *later]} == {body["seq"] for body in bodies}


# --- words -------------------------------------------------------------------------------------------------------


def sample(kind: type[events.Event]) -> events.Event:
    """An event of a kind with plausible values for its fields."""
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and hasattr(hint, "__members__"):
            values[field.name] = next(iter(hint))
        else:
            values[field.name] = {int: 3, bool: True, str: "udp:192.0.2.1:9"}.get(hint, ())
    return kind(**values)


@pytest.mark.parametrize("kind", events.Event.__subclasses__(), ids=lambda kind: kind.name)
def test_every_kind_of_event_has_a_line(kind: type[events.Event]) -> None:
    first = driver.First(1, "udp:192.0.2.1:9")
    s, _ = driver.create(Role.CLIENT, bytes(16), "gw", Policy(), first, 1)
    body = {**audit.event_body(s, sample(kind)), "ts": "2026-01-02T03:04:05.678901Z"}
    line = eventline.line(body)
    assert line.startswith("03:04:05.678  00000000  ")
    assert "\n" not in line
    assert "None" not in line


def test_an_event_of_a_later_version_is_printed_with_its_fields() -> None:
    line = eventline.line(
        {"event": "NEWS", "ts": "2026-01-02T03:04:05.678901Z", "mono_ns": 1, "what": "that"}
    )
    assert line == "03:04:05.678  --------  NEWS         what=that"


def test_a_new_day_is_announced() -> None:
    bodies = [{"event": "X", "ts": f"2026-01-0{day}T03:04:05.678901Z"} for day in (1, 1, 2)]
    assert [line[:14] for line in eventline.lines(bodies) if line.startswith("---")] == [
        "--- 2026-01-01",
        "--- 2026-01-02",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", 1_000_000 - 300),
        ("1.5h", 1_000_000 - 5400),
        ("2d", 1_000_000 - 172_800),
        ("1000.5", 1000.5),
        ("1970-01-01T00:16:40Z", 1000),
        ("1970-01-01T02:16:40+02:00", 1000),
        ("1970-01-01 00:16:40", 1000),
    ],
)
def test_times(text: str, expected: float) -> None:
    assert unix_ns(text, 1_000_000 * 10**9) == int(expected * 10**9)
