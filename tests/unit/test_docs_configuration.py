# SPDX-License-Identifier: Apache-2.0
"""The documents against the program: every key with its default and no other, links that lead somewhere, commands that
exist, variables and exit codes that are all told.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import click
import msgspec
import pytest

from appliance.guest.main import parser
from gateway import errors
from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.control import configkeys, configpolicy, configschema, wgquick
from gateway.control.configschema import Table
from gateway.core.policy import Policy
from gateway.ops.cli.main import INTERRUPTED, cli

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = ROOT / "docs/configuration.md"
TEXT: Final = DOCUMENT.read_text()
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Heading of a table of keys -> what it documents.
SECTIONS: Final[dict[str, type[Table]]] = {
    "[gateway]": configschema.GatewayTable,
    "[pool]": configschema.PoolTable,
    "[nat]": configschema.NatTable,
    "[forward]": configschema.ForwardTable,
    "[handshake]": configschema.HandshakeTable,
    "[keys]": configschema.KeysTable,
    "[offload]": configschema.OffloadTable,
    "[workers]": configschema.WorkersTable,
    "[audit]": configschema.AuditTable,
    "[control]": configschema.ControlTable,
    "[log]": configschema.LogTable,
    "[stats]": configschema.StatsTable,
    "[[peer]]": configschema.PeerTable,
    "peers.toml": configschema.PeersDocument,
    "[client]": configschema.ClientTable,
    "[gateway] of a client": configschema.ClientGatewayTable,
    "[transport]": configschema.TransportTable,
    "[[transport.device]]": configschema.DeviceTable,
}
FILES: Final = (configschema.GatewayFile, configschema.PeersDocument, configschema.ClientFile)
HEADING: Final = re.compile(r"^##+ (.*)$", re.MULTILINE)
KEY_ROW: Final = re.compile(r"^\| `([\w.]+)` \| ([^|]+) \| `([^`]*)` \| ([^|]+) \|$", re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """Heading -> what stands below it, up to the next heading of any depth."""
    parts = HEADING.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(heading: str) -> dict[str, str]:
    """Key -> default as written, of one table of keys; each row has all four columns."""
    rows = [line for line in sections(TEXT)[heading].splitlines() if line.startswith("| `")]
    found = [KEY_ROW.fullmatch(row) for row in rows]
    assert all(found), [row for row, match in zip(rows, found, strict=True) if match is None]
    keys = [match[1] for match in found if match]
    assert len(set(keys)) == len(keys)
    return {match[1]: match[3] for match in found if match}


def defaults(kind: type[Table]) -> dict[str, str]:
    """Key -> default as TOML writes it (its strings, numbers, booleans and lists are also JSON's); - for none."""
    fresh = kind()
    values = {field.encode_name: getattr(fresh, field.name) for field in msgspec.structs.fields(kind)}
    return {name: "-" if value is None else json.dumps(value) for name, value in values.items()}


def tables_of(kind: Any) -> Iterator[type[Table]]:
    """Every table that can stand in a file of this kind."""
    for field in msgspec.structs.fields(kind):
        inner = get_args(field.type)[0] if get_origin(field.type) is list else field.type
        if isinstance(inner, type) and issubclass(inner, Table):
            yield inner
            yield from tables_of(inner)


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_stands_there_with_its_default_and_no_other(heading: str) -> None:
    assert documented(heading) == defaults(SECTIONS[heading])


def test_every_table_of_every_file_is_documented() -> None:
    reachable = {table for file in FILES for table in tables_of(file)}
    assert reachable <= set(SECTIONS.values())
    others = {name for name, part in sections(TEXT).items() if KEY_ROW.search(part)} - SECTIONS.keys()
    assert others == {"[policy]"}
    named = {field.encode_name for file in FILES for field in msgspec.structs.fields(file)}
    assert {name for name in named if not re.search(rf"^#+ \[+{name}\]", TEXT, re.MULTILINE)} <= {"assigned"}


def written(name: str, value: Any) -> str:
    """A policy value as a configuration has it; its unit is the end of the field's name."""
    if isinstance(value, enum.Enum):
        return json.dumps(value.name.lower())
    if name.endswith("_ns"):
        units = (("h", 3600 * NS_PER_S), ("s", NS_PER_S), ("ms", NS_PER_MS))
        return next(f'"{value // size}{unit}"' for unit, size in units if value % size == 0)
    scale = {"ppm": 1_000_000, "milli": 1000}.get(name.rpartition("_")[2])
    return json.dumps(value / scale if scale else value)


def test_every_bound_of_the_policy_stands_there_with_its_default() -> None:
    defaults = {
        field.metadata["key"]: written(field.name, getattr(Policy(), field.name))
        for field in dataclasses.fields(Policy)
        if field.metadata["key"] not in configpolicy.ELSEWHERE
    }
    assert documented("[policy]") == defaults


def test_every_word_a_key_may_have_is_named() -> None:
    types = [field.type for kind in SECTIONS.values() for field in msgspec.structs.fields(kind)]
    words = {word for kind in types if get_origin(kind) is Literal for word in get_args(kind)}
    assert {word for word in words if f'`"{word}"`' not in TEXT} == set()


def test_every_key_of_a_wg_quick_file_is_named() -> None:
    part = sections(TEXT)["wg-quick files"]
    known = {*wgquick._INTERFACE_KEYS.values(), *wgquick._PEER_KEYS.values()}
    named = set(re.findall(r"`([A-Z]\w+)(?: = true)?`", part))
    assert named == known


def test_every_key_that_a_reload_applies_is_told_and_no_other() -> None:
    part = sections(TEXT)["Changing a running daemon"]
    rows = re.findall(r"^\| (`[^|]+`) \|", part, re.MULTILINE)
    told = {key.replace("*", "") for row in rows for key in re.findall(r"`([^`]+)`", row)}
    assert told == set(configkeys.LIVE_GATEWAY)
    client = re.search(r"A client applies ([^;]+);", part)
    assert client is not None
    assert {key.replace("*", "") for key in re.findall(r"`([^`]+)`", client[1])} == set(
        configkeys.LIVE_CLIENT
    )


def test_every_exit_code_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", sections(TEXT)["Exit codes"], re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    used = {kind.exit_code for kind in kinds if issubclass(kind, errors.JumpError)}
    assert told == used | {0, INTERRUPTED}


def test_every_variable_is_told() -> None:
    sources = [*ROOT.glob("gateway/**/*.py"), ROOT / "setup.py", ROOT / ".ci/setup"]
    sources.remove(ROOT / "gateway/control/journald.py")  # fields of journal entries, no variables
    read = {name for path in sources for name in re.findall(r"\bJVPN_[A-Z]+(?:_[A-Z]+)*\b", path.read_text())}
    assert set(re.findall(r"JVPN_[A-Z_]*[A-Z]", sections(TEXT)["Environment"])) == read


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


# --- commands -----------------------------------------------------------------------------------------------------

# In a block of code from the beginning of a line (after a prompt), in running text between backticks.
IN_BLOCK: Final = re.compile(
    r"^ {4,}(?:\$ )?(?:\.venv/bin/)?((?:jvpn(?:-appliance)?|make) [^\n#]*)", re.MULTILINE
)
IN_TEXT: Final = re.compile(r"`(?:\.venv/bin/)?((?:jvpn(?:-appliance)?|make) [^`\n]*)`")


def commands(page: Path) -> list[str]:
    """What stands in a second column says what the command is for."""
    text = page.read_text()
    return [
        re.split(r" {3,}", match.strip())[0] for kind in (IN_BLOCK, IN_TEXT) for match in kind.findall(text)
    ]


def check_jvpn(words: list[str]) -> None:
    """Every word of a `jvpn` line is a command, an option of it or an argument that it takes."""
    found: click.Command = cli
    context = click.Context(cli, info_name="jvpn")
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        # `peer add|list` in running text stands for both.
        names, *words = words
        below = [found.get_command(context, name) for name in names.split("|")]
        assert None not in below, names
        found = below[0] or found
    leaf = click.Context(found, info_name=found.name)
    _, rest, _ = found.make_parser(leaf).parse_args(list(words))
    assert rest == []


def check_appliance(words: list[str]) -> None:
    """A `jvpn-appliance` line is one that it takes; a name alone is that of a command."""
    for name in words[0].split("|"):
        given = [name, *(words[1:] or ["--help"])]
        code = 0
        try:
            parser().parse_args(given)
        except SystemExit as refused:
            code = refused.code
        assert code == 0, words


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_exist(page: Path) -> None:
    for line in commands(page):
        program, *words = shlex.split(re.split(r" [|>&]", line)[0])  # up to where the shell's part begins
        if program == "jvpn-appliance":
            check_appliance(words)
        elif program == "make":
            targets = [name for word in words for name in word.split("|")]
            assert set(targets) <= make_targets(), line
        else:
            check_jvpn(words)


def test_the_readme_names_the_commands_of_a_newcomer() -> None:
    found = " ; ".join(commands(ROOT / "README.md"))
    for wanted in ("make demo", "make test", "jvpn gateway", "jvpn peer add", "--qr", "jvpn connect -c"):
        assert wanted in found
    assert len((ROOT / "README.md").read_text().splitlines()) <= 70  # one screen
