# SPDX-License-Identifier: Apache-2.0
"""Every JSON document of the command line is exactly what gateway/ops/cli/documents.py says, at both ends, for jump and
for stock sessions; docs/cli.md names it; none holds a secret. The machines are drawn in newcomer.py.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import pytest

from gateway.ops.cli.documents import COMMANDS, schema_name
from gateway.ops.cli.main import cli
from tests.e2e.newcomer import Newcomer, Place
from tests.net.lab import Lab, missing_requirements

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "nft", "wg", "wg-quick", "wireguard-go"))
lab_only = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")
ROOT: Final = Path(__file__).resolve().parents[2]
ROW: Final = re.compile(r"^\| `jvpn ([^`]+)` \| `([^`]+)` \|", re.MULTILINE)
# What is asked of a session; with a stock peer these are refused.
JUMP_ONLY: Final = ("ping SESSION", "switch SESSION PATH")


@pytest.fixture(scope="module")
def place(lab: Lab) -> Newcomer:
    """One for all tests here; what ends a session comes last."""
    return Newcomer(lab)


def fits(text: str, command: str) -> Any:
    """The document, which has all fields and no others."""
    kind = COMMANDS[command]
    msgspec.json.decode(text, type=kind)
    document = json.loads(text)
    assert document["schema"] == schema_name(kind)
    return document


def write(where: Place, command: str, session: str = "", **more: str) -> str:
    """What a command of the table writes."""
    words = {"SESSION": session, "PATH": "0", "NAME": "laptop", **more}
    line = " ".join(words.get(word, word) for word in command.split())
    return where.run(f"jvpn {line} --json{' -c 2 -i 0.05' if command.startswith('ping') else ''}")[1]


# --- the table -----------------------------------------------------------------------------------------------------


def readers(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that has --json."""
    if any("--json" in parameter.opts for parameter in command.params):
        yield " ".join(path)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from readers(below, (*path, name))


def test_every_command_with_json_is_in_the_table() -> None:
    named = {re.sub(r" (?:[A-Z]+|--\w+)\b", "", command) for command in COMMANDS}
    assert named == set(readers(cli))


def test_the_document_has_the_same_table() -> None:
    told = dict(ROW.findall((ROOT / "docs/cli.md").read_text()))
    assert told == {command: schema_name(kind) for command, kind in COMMANDS.items()}


def test_a_schema_has_one_meaning() -> None:
    by_name = {schema_name(kind): kind for kind in COMMANDS.values()}
    assert len(by_name) == len(set(COMMANDS.values()))


# --- the documents -------------------------------------------------------------------------------------------------


@lab_only
@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if "SESSION" in name and "terminate" not in name]
)
@pytest.mark.parametrize("peer", ["laptop", "phone"])
def test_of_a_session_at_the_gateway(place: Newcomer, command: str, peer: str) -> None:
    if peer == "phone" and command in JUMP_ONLY:
        line = command.replace("SESSION", peer).replace("PATH", "0")
        code, out, err = place.gateway.run(f"jvpn {line} --json", check=False)
        assert (code, out) == (5, "") and err.startswith("jvpn: ")
        return
    text = write(place.gateway, command, peer)
    document = fits(text, command)
    assert document["session_id"] == place.session_id(peer)
    assert not [secret for secret in place.secrets() if secret in text]


@lab_only
@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if "SESSION" in name and "terminate" not in name]
)
def test_of_a_session_at_the_client(place: Newcomer, command: str) -> None:
    ident = place.session_id("laptop")
    spare = str(place.standby(ident))
    document = fits(write(place.laptop, command, ident, PATH=spare), command)
    assert document["session_id"] == ident


@lab_only
@pytest.mark.parametrize("end", ["gateway", "laptop"])
@pytest.mark.parametrize(
    "command",
    ["status", "sessions", "events", "audit verify", "audit replay", "audit rotate", "doctor", "config diff"],
)
def test_of_a_daemon(place: Newcomer, command: str, end: str) -> None:
    text = write(getattr(place, end), command)
    fits(text, command)
    assert not [secret for secret in place.secrets() if secret in text]


@lab_only
def test_of_a_configuration_that_changes(place: Newcomer) -> None:
    file = place.gateway.state / "gateway.toml"
    before = file.read_text()
    assert fits(write(place.gateway, "config reload"), "config reload")["applied"] == []
    file.write_text(f"{before}[handshake]\nunder_load_per_s = 900\n")
    (change,) = fits(write(place.gateway, "config diff"), "config diff")["changes"]
    assert (change["key"], change["live"]) == ("handshake.under_load_per_s", True)
    assert fits(write(place.gateway, "config reload"), "config reload")["applied"] == [change["key"]]
    assert fits(write(place.gateway, "config rollback"), "config rollback")["file_written"]
    assert file.read_text() == before
    file.write_text("nonsense\n")
    for command in ("config diff", "config reload"):
        code, text, _ = place.gateway.run(f"jvpn {command} --json", check=False)
        assert (code, fits(text, command)["ok"]) == (2, False)
    file.write_text(before)


@lab_only
def test_of_a_drain(place: Newcomer) -> None:
    assert fits(write(place.gateway, "drain"), "drain")["phase"] == "draining"
    assert fits(write(place.gateway, "drain --stop"), "drain")["phase"] == "serving"


@lab_only
def test_of_the_peers(place: Newcomer) -> None:
    for command in ("peer list", "peer show NAME"):
        text = write(place.gateway, command)
        assert fits(text, command)["source"] == "daemon"
        assert not [secret for secret in place.secrets() if secret in text]
    preshared = re.findall(r"^PresharedKey = (\S+)", place.laptop_file, re.MULTILINE)
    shown = fits(place.gateway.run("jvpn peer show laptop --reveal --json")[1], "peer show NAME")
    assert [shown["peer"]["preshared_key"]] == preshared


@lab_only
def test_what_happens_line_by_line(place: Newcomer) -> None:
    follower = place.gateway.spawn("jvpn events --follow --json", "follower")
    follower.wait_line('"event"')
    lines = follower.stdout.splitlines()
    follower.signal(signal.SIGINT)
    assert follower.wait() == 0
    assert all(fits(line, "events --follow") for line in lines)


@lab_only
def test_without_a_daemon(place: Newcomer) -> None:
    """From files alone, and of what is wrong."""
    spare = place.spare()
    spare.run("jvpn peer add laptop")
    assert fits(write(spare, "peer list"), "peer list")["source"] == "file"
    assert fits(write(spare, "peer show NAME"), "peer show NAME")["source"] == "file"
    fits(write(spare, "config check FILE", FILE=str(spare.state / "gateway.toml")), "config check FILE")
    (spare.folder / "bad.toml").write_text("[gateway]\nlistn = []\n")
    code, text, _ = spare.run("jvpn config check bad.toml --json", check=False)
    assert (code, fits(text, "config check FILE")["ok"]) == (2, False)
    journal = place.gateway.state / "audit"
    spare.run(f"cp -r {journal} {place.gateway.state}/audit.pub .")
    for command in ("events", "timeline SESSION", "why SESSION"):
        line = command.replace("SESSION", "laptop")
        fits(spare.run(f"jvpn {line} --dir audit --json")[1], command)
    path = min((spare.folder / "audit").glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"HANDSHAKE_OK"', b'"HANDSHAKE_KO"', 1))
    for command in ("audit verify", "audit replay"):
        code, text, _ = spare.run(f"jvpn {command} --dir audit --json", check=False)
        assert (code, fits(text, command)["ok"]) == (1, False)


@lab_only
def test_the_journal_is_lines_with_a_schema(place: Newcomer) -> None:
    lines = place.gateway.run("jvpn audit export --session phone")[1].splitlines()
    assert lines and all(json.loads(line)["schema"] == 1 for line in lines)


@lab_only
def test_zz_terminate(place: Newcomer) -> None:
    """Last: it ends them."""
    for where, session in ((place.gateway, "phone"), (place.laptop, place.session_id("laptop"))):
        document = fits(where.run(f"jvpn terminate {session} --yes --json")[1], "terminate SESSION")
        assert (document["result"], document["state"]) == ("terminated", "TERMINATED")
