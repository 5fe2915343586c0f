# SPDX-License-Identifier: Apache-2.0
"""What a laboratory has created, on disk, so that a killed owner's leftovers can be found and removed.

Rule: a line is written before the thing it names exists. Lines: ``owner PID START``, ``ns NAME``, ``pid PID
START``, ``path PATH``. START is the process start time in clock ticks (proc(5), field 22): a reused pid is
not the owner.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

RUNTIME_DIR: Final = Path("/run/jvlab")
NETNS_ETC: Final = Path("/etc/netns")
TOKEN_BYTES: Final = 2


class Ledger:
    """The open ledger of one laboratory."""

    def __init__(self, runtime_dir: Path = RUNTIME_DIR) -> None:
        runtime_dir.mkdir(parents=True, exist_ok=True)
        self.token, self.path = _create(runtime_dir)
        self._write("owner", *_identity(os.getpid()))

    def namespace(self, name: str) -> None:
        """A namespace of this name is about to be created."""
        self._write("ns", name)

    def process(self, pid: int) -> None:
        """This process belongs to the laboratory."""
        self._write("pid", *_identity(pid))

    def remove_later(self, path: Path | str) -> None:
        """This file or folder goes when the laboratory goes."""
        self._write("path", str(path))

    def clear(self) -> None:
        """Remove everything written here, and the ledger itself."""
        _undo(self.path)

    def _write(self, *words: str) -> None:
        with self.path.open("a") as file:
            file.write(" ".join(words) + "\n")


def sweep(runtime_dir: Path = RUNTIME_DIR) -> list[str]:
    """Remove what dead owners left behind; returns the tokens of their laboratories."""
    return [path.stem for path in sorted(runtime_dir.glob("*.lab")) if _sweep_one(path)]


def owned_by(pid: int, runtime_dir: Path = RUNTIME_DIR) -> list[str]:
    """Tokens of the laboratories that a process owns now."""
    return [
        path.stem
        for path in runtime_dir.glob("*.lab")
        if ["owner", str(pid)] in [w[:2] for w in _lines(path)]
    ]


def remains(token: str, runtime_dir: Path = RUNTIME_DIR) -> list[str]:
    """What can still be found of a laboratory: namespaces, their folders, its ledger and its temporary
    folder.
    """
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    found = [line for line in listed.splitlines() if line.startswith(f"jv{token}")]
    found += map(str, NETNS_ETC.glob(f"jv{token}*"))
    found += map(str, runtime_dir.glob(f"{token}*"))
    return found + list(map(str, Path(tempfile.gettempdir()).glob(f"jvlab-{token}-*")))


def _sweep_one(path: Path) -> bool:
    # The lock keeps two starts from undoing the same ledger; the owner itself holds none.
    with suppress(FileNotFoundError, BlockingIOError), path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner = next((words for words in _lines(path) if words[0] == "owner"), None)
        if owner is None or _alive(owner[1], owner[2]):
            return False
        _undo(path)
        return True
    return False


def _create(runtime_dir: Path) -> tuple[str, Path]:
    while True:
        token = secrets.token_hex(TOKEN_BYTES)
        path = runtime_dir / f"{token}.lab"
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            return token, path


def _lines(path: Path) -> list[list[str]]:
    return [line.split(" ", 2) for line in path.read_text().splitlines() if " " in line]


def _undo(path: Path) -> None:
    lines = _lines(path)
    _kill(int(words[1]) for words in lines if words[0] == "pid" and _alive(words[1], words[2]))
    for words in lines:
        if words[0] == "ns":
            remove_namespace(words[1])
    for words in lines:
        if words[0] == "path":
            _remove(Path(" ".join(words[1:])))
    path.unlink(missing_ok=True)


def remove_namespace(name: str) -> None:
    """Kill what runs in a namespace, then remove it and its /etc/netns folder. Absent ones are ignored."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    _kill(int(pid) for pid in listed.stdout.split())
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    shutil.rmtree(NETNS_ETC / name, ignore_errors=True)
    with suppress(OSError):
        NETNS_ETC.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _identity(pid: int) -> tuple[str, str]:
    return str(pid), _start_time(pid) or "0"


def _alive(pid: str, start: str) -> bool:
    return _start_time(int(pid)) == start


def _start_time(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name may hold spaces and parentheses; fields are counted from the last ")".
    return stat.rpartition(")")[2].split()[19]
