# SPDX-License-Identifier: Apache-2.0
"""Restoring a backup: opened, checked as a whole and staged; the next boot puts it in place before anything reads it.

Rule: until the marker is written nothing of the box has changed; after it every boot finishes the work, whatever was
cut off.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from appliance.guest import backup, files, gatewayfile, password, sealed, settings
from appliance.guest.backup import Manifest
from appliance.guest.layout import Layout
from gateway.control import keysfile
from gateway.errors import HostError, JumpError, UsageError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9._@-]{0,127}){0,3}\Z")


def stage(layout: Layout, source: BinaryIO, passphrase: str) -> Manifest:
    """Open and check a backup, and lay it ready for ``approve``. JumpError says what is wrong."""
    _clear(layout.restore_staging)
    files.folder(layout.restore_staging, 0o700)
    try:
        manifest = _unpack(layout, source, passphrase)
        _check(layout.restore_staging)
    except BaseException:
        _clear(layout.restore_staging)
        raise
    return manifest


def approve(layout: Layout) -> None:
    """The next boot puts in place what is staged. Without this it forgets it."""
    files.write(layout.restore_marker, "", files.SECRET)


def from_file(layout: Layout, path: Path, passphrase: str) -> Manifest:
    """``stage`` of a file."""
    try:
        with path.open("rb") as source:
            return stage(layout, source, passphrase)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None


def _unpack(layout: Layout, source: BinaryIO, passphrase: str) -> Manifest:
    opener = sealed.Opener(source, passphrase)
    manifest = None
    try:
        with tarfile.open(fileobj=cast("BinaryIO", opener), mode="r|") as tar:
            for count, entry in enumerate(tar):
                data = _content(tar, entry, count, layout)
                if count == 0:
                    manifest = _manifest(entry.name, data)
                else:
                    _put(layout.restore_staging / entry.name, data, entry.mode)
        while opener.read(sealed.CHUNK_BYTES):
            pass  # to the end: a backup that was cut is none
    except tarfile.TarError as error:
        raise JumpError(f"not a backup of this product: {error}") from None
    if manifest is None:
        raise JumpError("not a backup of this product: it is empty")
    return manifest


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo, count: int, layout: Layout) -> bytes:
    place = any(entry.name == name or entry.name.startswith(f"{name}/") for name in backup.places(layout))
    fine = _NAME.match(entry.name) and ".." not in entry.name.split("/") and (place or count == 0)
    if not entry.isreg() or not fine or entry.size > backup.FILE_MAX_BYTES or count > backup.FILES_MAX:
        raise JumpError(f"this backup holds what none of ours does: {entry.name[:80]!r}")
    content = tar.extractfile(entry)
    return content.read() if content is not None else b""


def _manifest(name: str, data: bytes) -> Manifest:
    try:
        found = msgspec.json.decode(data if name == backup.MANIFEST else b"", type=Manifest)
    except msgspec.DecodeError:
        raise JumpError("not a backup of this product: it does not begin with its manifest") from None
    if found.format > backup.FORMAT:
        raise JumpError(f"this backup is of version {found.version}, which is newer; update this box first")
    return found


def _put(path: Path, data: bytes, mode: int) -> None:
    files.folder(path.parent, 0o700)
    files.write(path, data, mode & 0o755)


def _check(staging: Path) -> None:
    """Everything that the next boot will read is read here first."""
    config = staging / "config"
    key = files.read_text(config / "gateway.key")
    try:
        keysfile.decode_key(key)
    except ValueError as error:
        raise JumpError(f"this backup has no gateway key: {error}") from None
    gatewayfile.check(
        (files.read(config / "gateway.toml") or b"").decode("utf-8", "replace"),
        "gateway.toml",
        config,
        staging / "state",
    )
    settings.read(staging / "appliance/settings.json")
    if hash_ := files.read_text(staging / "appliance/admin.hash"):
        try:
            password.check_hash(hash_)
        except ValueError as error:
            raise JumpError(f"this backup's administrator password: {error}") from None


# --- the next boot --------------------------------------------------------------------------------------------------


def finish(layout: Layout) -> str:
    """Put a staged backup in place; a sentence, '' when there is none. Done twice, it is done once."""
    if not layout.restore_marker.exists():
        _clear(layout.restore_staging)
        return ""
    for name, place in backup.places(layout).items():
        _replace(layout.restore_staging / name, place)
    _adopt(layout)
    files.remove(layout.restore_marker)
    _clear(layout.restore_staging)
    return "restored a backup"


def _replace(staged: Path, place: Path) -> None:
    """``place`` is then as in the backup: a folder keeps nothing else. What is staged stays until the end."""
    if staged.is_dir() or (place.is_dir() and not staged.exists()):
        wanted = {path.relative_to(staged) for path in staged.rglob("*") if path.is_file()}
        for path in [
            path for path in place.rglob("*") if path.is_file() and path.relative_to(place) not in wanted
        ]:
            path.unlink()
        for inside in sorted(wanted):
            _copy(staged / inside, place / inside)
    elif staged.exists():
        _copy(staged, place)
    else:
        files.remove(place)


def _copy(source: Path, target: Path) -> None:
    # Folders of secrets are for root alone; datadir gives each its own mode later in this boot.
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(target, source.read_bytes(), source.stat().st_mode & 0o777)


def _adopt(layout: Layout) -> None:
    """The gateway's user must be able to read its peers; sessions of another key or other peers are of no use."""
    if layout.state.exists():
        owner = layout.state.stat()
        if layout.peers_file.exists():
            os.chown(layout.peers_file, owner.st_uid, owner.st_gid)
        for path in layout.state.glob("sessions-*.db*"):
            path.unlink()


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
