# SPDX-License-Identifier: Apache-2.0
"""`jvpn config diff|reload|rollback` on a daemon's real control socket and configuration life."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

import pytest
import structlog

from gateway.control import config
from gateway.control.confighistory import History
from gateway.control.configkeys import take_gateway
from gateway.control.configlife import ConfigLife
from gateway.control.configmodel import GatewayConfig
from gateway.control.keysfile import write_key_file
from tests.unit.control import samples
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import serving

FILE = '[gateway]\nprivate_key_file = "own.key"\n'
LIMIT = "[handshake]\nunder_load_per_s = 7\n"


async def applied(_wanted: GatewayConfig) -> Sequence[str]:
    return ()


@pytest.fixture
def file(places: Path) -> Path:
    """The file of the daemon that serves for the test."""
    path = places / "gateway.toml"
    write_key_file(places / "own.key", bytes([5]) * 32)
    path.write_text(FILE)
    path.chmod(0o640)
    return path


@pytest.fixture
def daemon(places: Path, file: Path) -> Iterator[History]:
    """A gateway's configuration life behind its socket; the file it began with is recorded."""
    history = History(places / "state", "jvpn0")
    history.record(file.read_text())
    life = ConfigLife(
        config.load_gateway(file),
        history,
        structlog.wrap_logger(structlog.PrintLogger(StringIO())),  # its own output, not the command's
        read=lambda text, path: config.parse_gateway(text, str(path), path.parent),
        take=take_gateway,
        apply=applied,
    )
    with serving(places / "run/jvpn0.sock", life.handlers()):
        yield history


def test_without_a_daemon(jvpn: Jvpn) -> None:
    for command in ("diff", "reload", "rollback"):
        found = jvpn("config", command)
        assert (found.exit_code, found.stdout) == (3, "")
        assert found.stderr.startswith("jvpn: no gateway or client runs here")


def test_diff_names_each_key_and_when_it_counts(jvpn: Jvpn, daemon: History, file: Path) -> None:
    assert jvpn("config", "diff").stdout == f"{file}: nothing differs from what jvpn0 uses\n"
    file.write_text(FILE + 'mtu = 1300\nendpoint = "vpn.example.net:9"\n' + LIMIT)
    found = jvpn("config", "diff")
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        'reload   gateway.endpoint: "" -> "vpn.example.net:9"',
        "reload   handshake.under_load_per_s: 2000 -> 7",
        "restart  gateway.mtu: 1404 -> 1300",
    ]
    document = json.loads(jvpn("config", "diff", "--json").stdout)
    assert document["schema"] == "jvpn.config-diff/1"
    assert [change["live"] for change in document["changes"]] == [True, True, False]


def test_diff_of_another_file_and_of_one_too_long_for_a_request(
    jvpn: Jvpn, daemon: History, places: Path
) -> None:
    other = places / "other.toml"
    peers = "".join(samples.peer(number) for number in range(6, 250))
    for text in (FILE + LIMIT, FILE + LIMIT + peers + "# padding\n" * 5000):
        other.write_text(text)
        found = jvpn("config", "diff", other)
        assert "reload   handshake.under_load_per_s: 2000 -> 7" in found.stdout.splitlines()
    assert found.stdout.count("peer.p") == 244
    assert jvpn("config", "diff", places / "absent.toml").exit_code == 2


def test_diff_never_shows_a_secret(jvpn: Jvpn, daemon: History, file: Path) -> None:
    file.write_text(samples.GATEWAY)
    found = jvpn("config", "diff")
    assert found.stdout == 'restart  gateway.private_key: "(secret)" -> "(secret)"\n'
    assert samples.OWN not in jvpn("config", "diff", "--json").stdout


def test_reload_says_what_it_did(jvpn: Jvpn, daemon: History, file: Path) -> None:
    assert jvpn("config", "reload").stdout == "jvpn0: nothing had changed\n"
    file.write_text(FILE + "mtu = 1300\n" + LIMIT)
    assert jvpn("config", "reload").stdout == "applied  handshake.under_load_per_s\nrestart  gateway.mtu\n"
    document = json.loads(jvpn("config", "reload", "--json").stdout)
    assert (document["schema"], document["ok"]) == ("jvpn.config-reload/1", True)
    assert (document["applied"], document["needs_restart"]) == ([], ["gateway.mtu"])


def test_a_bad_file_is_refused_with_file_line_and_key(jvpn: Jvpn, daemon: History, file: Path) -> None:
    file.write_text(FILE + 'listn = ["0.0.0.0:9"]\n' + LIMIT.replace("7", "0"))
    for command in ("diff", "reload"):
        found = jvpn("config", command)
        assert found.exit_code == 2
        assert found.stderr.splitlines()[0] == f'{file}:3: gateway.listn: unknown key; did you mean "listen"?'
        assert found.stderr.splitlines()[1].startswith(f"{file}:5: handshake.under_load_per_s: ")
        as_json = jvpn("config", command, "--json")
        assert as_json.exit_code == 2
        assert [error["line"] for error in json.loads(as_json.stdout)["errors"]] == [3, 5]
    assert len(daemon.paths()) == 1


def test_rollback_puts_the_file_back_as_it_was(jvpn: Jvpn, daemon: History, file: Path, places: Path) -> None:
    file.write_text(FILE + LIMIT)
    jvpn("config", "reload")
    found = jvpn("config", "rollback")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[0] == "applied  handshake.under_load_per_s"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (FILE, 0o640)
    assert (daemon.folder / "undone.toml").read_text() == FILE + LIMIT
    assert [path.name for path in places.glob(".gateway*")] == []
    again = jvpn("config", "rollback")
    assert (again.exit_code, again.stderr) == (4, "jvpn: no earlier configuration was kept\n")


def test_rollback_leaves_a_file_that_was_edited_since_or_is_to_be_kept(
    jvpn: Jvpn, daemon: History, file: Path
) -> None:
    for words, edit in (((), "# edited\n"), (("--keep-file",), "")):
        text = FILE + LIMIT
        file.write_text(text)
        jvpn("config", "reload")
        file.write_text(text + edit)
        found = jvpn("config", "rollback", *words, "--json")
        document = json.loads(found.stdout)
        assert (found.exit_code, document["file_written"]) == (0, False)
        assert document["file_problem"]
        assert file.read_text() == text + edit


def test_a_file_with_a_key_in_it_leaves_no_copy(
    jvpn: Jvpn, daemon: History, file: Path, places: Path
) -> None:
    file.write_text(samples.GATEWAY)
    found = jvpn("config", "reload")
    assert "no copy was kept" in found.stdout
    assert jvpn("config", "rollback").exit_code == 4
    kept = [path.read_text() for path in (places / "state").rglob("*") if path.is_file()]
    assert not any(samples.OWN in text for text in kept)


def test_several_daemons_ask_for_a_choice(jvpn: Jvpn, daemon: History, places: Path) -> None:
    async def nothing(_args: dict[str, object]) -> dict[str, object]:
        await asyncio.sleep(0)
        return {}

    with serving(places / "run/jvpn1.sock", {"status": nothing}):
        assert jvpn("config", "diff").exit_code == 2
        assert jvpn("config", "diff", "-i", "jvpn0").exit_code == 0
