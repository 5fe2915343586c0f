# SPDX-License-Identifier: Apache-2.0
"""Completion in the shells themselves, with names that a running daemon knows, and silence when something is wrong."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import serving
from tests.unit.ops.sessionhost import host

PROGRAM: Final = '#!/bin/sh\nexec {python} -m gateway.ops.cli "$@"\n'
# Every line ends where the cursor is. What must be offered, whatever else is.
LINES: Final = [
    ("jvpn st", {"status"}),
    ("jvpn peer s", {"show"}),
    ("jvpn paths ", {"gw", "phone"}),
    ("jvpn sessions ph", {"phone"}),
    ("jvpn terminate a1b2c3d", {"a1b2c3d4"}),
    ("jvpn switch gw ", {"1", "2"}),
    ("jvpn ping gw --path ", {"1", "2"}),
    ("jvpn events --session g", {"gw"}),
    ("jvpn peer show la", {"laptop"}),
    ("jvpn peer remove ", {"laptop", "tablet"}),
    ("jvpn status -i jv", {"jvpn0"}),
    ("jvpn disconnect ", {"jvpn0"}),
    ("jvpn -", {"--help", "--version"}),
]


async def peer_list(_args: dict[str, Any]) -> dict[str, Any]:
    return {"peers": [{"name": name, "allowed_ips": ["10.99.0.2/32"]} for name in ("laptop", "tablet")]}


@contextmanager
def running(places: Path) -> Iterator[None]:
    """Sessions and peers behind the control socket that the command line finds."""
    with host(places / "state") as made:
        made.clocks.now += 1_000_000
        with serving(places / "run/jvpn0.sock", made.docs.handlers() | {"peer.list": peer_list}):
            yield


@pytest.fixture
def shell(places: Path, jvpn: Jvpn, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Run a script in a shell that finds `jvpn` and its completion script, $SCRIPT."""
    folder = places / "bin"
    folder.mkdir()
    (folder / "jvpn").write_text(PROGRAM.format(python=sys.executable))
    (folder / "jvpn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setenv("HOME", str(places))

    def run(program: str, script: str) -> str:
        path = places / f"completion.{program}"
        path.write_text(jvpn("completion", program).stdout)
        environ = {**os.environ, "SCRIPT": str(path)}
        arguments = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[program]
        found = subprocess.run(
            [program, *arguments, "-c", script],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert found.stderr == ""
        return found.stdout

    return run


BASH: Final = """
source "$SCRIPT"
{} && printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def in_bash(line: str) -> str:
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    return BASH.format(f"COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1} && _jvpn_completion jvpn")


@pytest.mark.parametrize(("line", "wanted"), LINES, ids=[line for line, _ in LINES])
def test_bash(places: Path, shell: Callable[[str, str], str], line: str, wanted: set[str]) -> None:
    with running(places):
        offered = shell("bash", in_bash(line)).split()
    assert wanted <= set(offered)
    assert all(word.startswith(line.rpartition(" ")[2]) for word in offered)
    assert len(offered) == len(set(offered))


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
@pytest.mark.parametrize(("line", "wanted"), LINES, ids=[line for line, _ in LINES])
def test_fish(places: Path, shell: Callable[[str, str], str], line: str, wanted: set[str]) -> None:
    with running(places):
        text = shell("fish", f"source $SCRIPT; complete --do-complete '{line}'")
    offered = {found.partition("\t")[0]: found.partition("\t")[2] for found in text.splitlines()}
    assert wanted <= offered.keys()
    if "switch" in line:
        assert offered["2"] == "STANDBY udp:127.0.0.1:10"


# Stand-ins that print what they are told to offer; the completion system itself needs a terminal.
ZSH: Final = """
compdef() {{ }}
compadd() {{ print -l -- "${{(@P)${{@[-1]}}}}" }}
_describe() {{ print -l -- "${{(@P)${{@[-1]}}}}" "${{(@P)${{@[-2]}}}}" }}
source "$SCRIPT"
words=({words}) CURRENT={current}
_jvpn_completion
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
@pytest.mark.parametrize(("line", "wanted"), LINES, ids=[line for line, _ in LINES])
def test_zsh(places: Path, shell: Callable[[str, str], str], line: str, wanted: set[str]) -> None:
    words = line.split(" ")
    script = ZSH.format(words=" ".join(f"'{word}'" for word in words), current=len(words))
    with running(places):
        text = shell("zsh", script)
    assert wanted <= {found.partition(":")[0] for found in text.split("\n")}, text


def test_tab_in_an_interactive_bash(places: Path, shell: Callable[[str, str], str]) -> None:
    """The key itself: the line is completed as far as it is unambiguous."""
    shell("bash", ":")
    leader, follower = pty.openpty()
    environ = {
        **os.environ,
        "SCRIPT": str(places / "completion.bash"),
        "TERM": "dumb",
        "PS1": "",
        "INPUTRC": "/dev/null",
    }
    with running(places):
        bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=follower, stdout=follower, stderr=follower, env=environ, start_new_session=True,
        )  # fmt: skip
        os.write(leader, b'source "$SCRIPT"; echo rea""dy\n')
        until(leader, b"ready")
        os.write(leader, b"echo jvpn\x01\x0b")  # an empty line again: Ctrl-A, Ctrl-K
        os.write(leader, b"jvpn terminate pho\t")
        until(leader, b"terminate phone")
        os.write(leader, b"\x01\x0bexit\n")
        assert bash.wait(20) == 0
    os.close(follower)
    os.close(leader)


def until(descriptor: int, wanted: bytes) -> None:
    data, deadline_s = b"", time.monotonic() + 30
    while wanted not in data:
        assert time.monotonic() < deadline_s, data
        if select.select([descriptor], [], [], 0.5)[0]:
            data += os.read(descriptor, 65_536)


@pytest.mark.parametrize(
    "line", ["jvpn paths ", "jvpn switch nobody ", "jvpn peer show x", "jvpn nonsense x"]
)
def test_silence_without_a_daemon(places: Path, shell: Callable[[str, str], str], line: str) -> None:
    assert shell("bash", in_bash(line)).strip() == ""


def test_silence_and_patience_with_one_that_does_not_answer(
    places: Path, shell: Callable[[str, str], str]
) -> None:
    (places / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(places / "run/jvpn0.sock"))
        deaf.listen(8)
        began_s = time.monotonic()
        assert shell("bash", in_bash("jvpn paths ")).strip() == ""
    assert time.monotonic() - began_s < 10


def test_several_daemons_are_all_asked(places: Path, shell: Callable[[str, str], str]) -> None:
    async def others(_args: dict[str, Any]) -> dict[str, Any]:
        return {"peers": [{"name": "printer", "allowed_ips": []}]}

    with running(places), serving(places / "run/wg9.sock", {"peer.list": others}):
        assert set(shell("bash", in_bash("jvpn peer show ")).split()) == {"laptop", "tablet", "printer"}
        assert shell("bash", in_bash("jvpn peer show -i wg9 ")).split() == ["printer"]
