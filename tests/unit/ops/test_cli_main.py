# SPDX-License-Identifier: Apache-2.0
"""The frame of the command line: help, errors, exit codes, completion, what is imported when."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gateway import __version__
from gateway.errors import (
    ConfigError,
    ConfigErrors,
    DaemonUnreachable,
    HostError,
    JumpError,
    NotFound,
    Refused,
    TryLater,
    UsageError,
)
from gateway.ops.cli.main import cli, report
from tests.unit.ops.conftest import Jvpn

COMMANDS = [
    "gateway",
    "connect",
    "disconnect",
    "status",
    "ping",
    "peer",
    "keys",
    "config",
    "doctor",
    "completion",
]


def program(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.ops.cli", *args],
        env={**os.environ, **environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_version(jvpn: Jvpn) -> None:
    found = jvpn("--version")
    assert (found.exit_code, found.stdout) == (0, f"jvpn {__version__}\n")


def test_help_names_every_command_and_gives_examples(jvpn: Jvpn) -> None:
    found = jvpn("--help")
    assert found.exit_code == 0
    assert all(f"  {name} " in found.stdout for name in COMMANDS)
    assert "jvpn peer add phone --qr" in found.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(jvpn: Jvpn, name: str) -> None:
    found = jvpn(name, "--help")
    assert found.exit_code == 0
    assert found.stdout.startswith(f"Usage: jvpn {name}")
    assert found.stderr == ""


def test_every_option_and_sub_command_is_explained() -> None:
    def walk(command: click.Command, context: click.Context) -> None:
        assert command.get_short_help_str(), command.name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and command is not cli:
                explained = parameter.help or isinstance(parameter.type, click.Choice)
                assert explained, f"{command.name} {parameter.name}"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                walk(found, context)

    walk(cli, click.Context(cli))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["statu"], "jvpn: No such command 'statu'"),
        (["peer", "add"], "jvpn: Missing argument 'NAME'"),
        (["status", "--nope"], "jvpn: No such option '--nope'"),
        (["connect"], "jvpn: Missing option '-c'"),
        (["status", "--interval", "x"], "jvpn: Invalid value for '--interval'"),
    ],
)
def test_usage_errors(jvpn: Jvpn, args: list[str], message: str) -> None:
    found = jvpn(*args)
    assert found.exit_code == 2
    assert found.stderr.startswith(message)
    assert "--help` explains" in found.stderr
    assert found.stdout == ""


ERRORS = [
    (JumpError("it broke"), 1, "jvpn: it broke\n"),
    (HostError("no device"), 1, "jvpn: no device\n"),
    (UsageError("which?"), 2, "jvpn: which?\n"),
    (
        ConfigErrors((ConfigError("f", "a", 1, "x"), ConfigError("f", "b", 2, "y"))),
        2,
        "jvpn: f:1: a: x\njvpn: f:2: b: y\n",
    ),
    (DaemonUnreachable("nobody"), 3, "jvpn: nobody\n"),
    (NotFound("no such"), 4, "jvpn: no such\n"),
    (Refused("no"), 5, "jvpn: no\n"),
    (TryLater("soon"), 75, "jvpn: soon\n"),
    (PermissionError(13, "Permission denied", "/x"), 1, "jvpn: /x: Permission denied\n"),
    (RuntimeError("odd"), 1, "jvpn: internal error: RuntimeError: odd (JVPN_DEBUG=1 shows the traceback)\n"),
    (KeyboardInterrupt(), 130, ""),
    (click.Abort(), 130, ""),
    (SystemExit(7), 7, ""),
    (SystemExit(None), 0, ""),
]


@pytest.mark.parametrize(
    ("error", "code", "text"), ERRORS, ids=[type(case[0]).__name__ + str(n) for n, case in enumerate(ERRORS)]
)
def test_exit_codes(
    error: BaseException,
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("JVPN_DEBUG", raising=False)
    assert report(error) == code
    captured = capsys.readouterr()
    assert captured.err == text
    assert captured.out == ""


def test_a_traceback_only_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JVPN_DEBUG", "1")
    report(RuntimeError("odd"))
    assert "RuntimeError: odd" in capsys.readouterr().err.partition("jvpn:")[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(jvpn: Jvpn, shell: str) -> None:
    found = jvpn("completion", shell)
    assert found.exit_code == 0
    assert "_JVPN_COMPLETE" in found.stdout
    assert f"{shell}_complete" in found.stdout


@pytest.mark.parametrize(("word", "command"), [("pe", "peer"), ("pi", "ping")])
def test_completion_completes(word: str, command: str) -> None:
    found = program(_JVPN_COMPLETE="bash_complete", COMP_WORDS=f"jvpn {word}", COMP_CWORD="1")
    assert found.stdout == f"plain,{command}\n"


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m gateway.ops.cli --help | true; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


HEAVY = {"uvloop", "asyncio", "aiohttp", "structlog", "pyroute2", "rich", "segno", "pysodium", "psutil"}


def imported(tmp_path: Path, args: list[str], **environ: str) -> set[str]:
    """Every module a command has imported when it ends."""
    script = (
        "import sys\n"
        "from gateway.ops.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**os.environ, "JVPN_RUNTIME_DIR": str(tmp_path), **environ},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return set(found.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["status"], ["sessions"], ["ping", "x"]])
def test_quick_commands_import_nothing_heavy(tmp_path: Path, args: list[str]) -> None:
    heavy = HEAVY - {"pysodium"} if args == ["--help"] else HEAVY  # `peer` and `config` show their help
    assert imported(tmp_path, args) & heavy == set()


@pytest.mark.parametrize("line", ["jvpn ", "jvpn paths ", "jvpn switch x ", "jvpn status -i "])
def test_completion_imports_nothing_heavy(tmp_path: Path, line: str) -> None:
    words = line.split(" ")
    environ = {"_JVPN_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    found = imported(tmp_path, [], **environ)
    assert found & HEAVY == (set() if line != "jvpn " else found & {"pysodium"})  # as for --help


def test_an_early_look_is_quick(tmp_path: Path) -> None:
    """By the modules it imports, not by a clock on a busy machine: nine tenths of the time are these."""
    assert len(imported(tmp_path, ["--version"])) < 300
