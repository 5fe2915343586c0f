# SPDX-License-Identifier: Apache-2.0
"""Writing files that a power cut must not tear: written beside, synced, renamed, the folder synced."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO, Final

from gateway.control.statedir import sync_dir
from gateway.errors import HostError, JumpError

SECRET: Final = 0o600
PUBLIC: Final = 0o644


def write(path: Path, content: str | bytes, mode: int = PUBLIC) -> None:
    """Replace a file at once and durably, with exactly this mode."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        sync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise HostError(f"{path} cannot be written: {error.strerror}") from None


def create(path: Path, remedy: str) -> BinaryIO:
    """A new file of mode 0600, open for writing; ``remedy`` says what to do about one that is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET)
    except FileExistsError:
        raise JumpError(f"{path} exists already; {remedy}") from None
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from None
    return os.fdopen(descriptor, "wb")


def write_changed(path: Path, content: str | bytes, mode: int = PUBLIC) -> bool:
    """``write``, unless the file says that already: boots do not wear the disk. Whether it was written."""
    data = content.encode() if isinstance(content, str) else content
    if read(path) == data and path.stat().st_mode & 0o7777 == mode:
        return False
    write(path, data, mode)
    return True


def read(path: Path) -> bytes | None:
    """A small file of ours; None when it is not there or cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def read_text(path: Path) -> str:
    """The same as text without surrounding space, '' for none."""
    return (read(path) or b"").decode("utf-8", "replace").strip()


def folder(path: Path, mode: int) -> None:
    """A folder with exactly this mode; its parents are made with 0755."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        path.chmod(mode)
    except OSError as error:
        raise HostError(f"{path} cannot be made: {error.strerror}") from None


def remove(path: Path) -> None:
    """Durably; what is not there is fine."""
    if path.is_symlink() or path.exists():
        path.unlink()
        sync_dir(path.parent)
