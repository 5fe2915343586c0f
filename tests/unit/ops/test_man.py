# SPDX-License-Identifier: Apache-2.0
"""The man pages are what `make man` writes now, say all there is, and are clean to mandoc."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import click
import msgspec
import pytest

from gateway.control import configschema
from gateway.control.configschema import Table
from gateway.ops.cli.main import cli
from tests.unit.ops.conftest import Jvpn

ROOT: Final = Path(__file__).resolve().parents[3]
MAN: Final = ROOT / "docs/man"
PAGES: Final = ("jvpn.1", "jvpn.toml.5")
SECTIONS: Final = {
    "jvpn.1": [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
    ],
    "jvpn.toml.5": ["NAME", "DESCRIPTION", "GATEWAY.TOML", "CLIENT.TOML", "ENVIRONMENT", "FILES", "EXAMPLES"],
}
needs_mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc here")


def text(page: str) -> str:
    """The page as somebody reads it, on lines that end nowhere."""
    argv = ["mandoc", "-Tutf8", "-Owidth=1000", str(MAN / page)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return re.sub(r".\x08", "", shown)


def test_they_are_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(MAN / "make.py"), str(tmp_path)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PAGES)
    for page in PAGES:
        assert (tmp_path / page).read_text() == (MAN / page).read_text(), "run: make man"


@needs_mandoc
@pytest.mark.parametrize("page", PAGES)
def test_mandoc_finds_nothing(page: str) -> None:
    found = subprocess.run(
        ["mandoc", "-Tlint", "-Wstyle", str(MAN / page)], capture_output=True, text=True, check=False
    )
    assert (found.stdout + found.stderr, found.returncode) == ("", 0)


@pytest.mark.parametrize("page", PAGES)
def test_the_sections_are_there_in_order(page: str) -> None:
    found = re.findall(r'^\.SH "?([^"\n]+)"?$', (MAN / page).read_text(), re.MULTILINE)
    wanted = [*SECTIONS[page], "SEE ALSO"]
    assert [name.replace(r"\-", "-") for name in found if name.replace(r"\-", "-") in wanted] == wanted


def every(command: click.Command, path: tuple[str, ...]) -> dict[tuple[str, ...], click.Command]:
    found = {path: command} if path else {}
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            found |= every(below, (*path, name))
    return found


@needs_mandoc
def test_every_command_and_option_is_on_the_page() -> None:
    shown = text("jvpn.1")
    for path, command in every(cli, ()).items():
        assert re.search(rf"^ +jvpn {' '.join(path)}$", shown, re.MULTILINE), path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert parameter.opts[-1] in shown, (path, parameter.opts)


@needs_mandoc
def test_every_key_is_on_the_page() -> None:
    shown = text("jvpn.toml.5")
    files = (configschema.GatewayFile, configschema.PeersDocument, configschema.ClientFile)
    kinds = [kind for kind in vars(configschema).values() if isinstance(kind, type)]
    tables = [kind for kind in kinds if issubclass(kind, Table) and kind not in files]
    keys = {field.encode_name for kind in tables for field in msgspec.structs.fields(kind)}
    assert len(keys) > 50
    for key in keys:
        assert re.search(rf"^ +{re.escape(key)}(?: |$)", shown, re.MULTILINE), key


@needs_mandoc
def test_the_example_of_a_configuration_is_one(jvpn: Jvpn, tmp_path: Path) -> None:
    shown = text("jvpn.toml.5").partition("\nEXAMPLES\n")[2]
    lines = [line.strip() for line in shown.splitlines()]
    begin = lines.index("[gateway]")
    toml = "\n".join(lines[begin : next(n for n, line in enumerate(lines) if line.startswith("Looked at"))])
    assert tomllib.loads(toml)["peer"][0]["protocol"] == "jump"
    (tmp_path / "gateway.toml").write_text(toml)
    assert jvpn("keys", "gen", "-o", tmp_path / "gateway.key").exit_code == 0
    checked = jvpn("config", "check", tmp_path / "gateway.toml")
    assert (checked.exit_code, checked.stderr) == (0, "")
