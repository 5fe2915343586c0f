# SPDX-License-Identifier: Apache-2.0
"""A backup: one encrypted file with everything that makes this box this gateway.

In it: configuration, keys, tokens, peers, settings, the administrator's hash, SSH host keys. Not in it: sessions, the
audit journal with its key (they are this box's own history), the update floor, logs.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from appliance.guest import files, sealed
from appliance.guest.layout import Layout
from gateway import __version__
from gateway.errors import JumpError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".jvpnbak"
# 100,000 peers are 13 MB; whatever is larger is none of these files.
FILE_MAX_BYTES: Final = 64 << 20
FILES_MAX: Final = 4096


class Manifest(msgspec.Struct):
    """The first member of a backup."""

    format: int
    version: str
    hostname: str
    made_unix_s: int


def places(layout: Layout) -> dict[str, Path]:
    """Folders and files of a backup by their names in it."""
    return {
        "config": layout.config,
        "network": layout.network,
        "ssh": layout.ssh,
        "appliance/settings.json": layout.settings,
        "appliance/applied.json": layout.applied,
        "appliance/admin.hash": layout.admin_hash,
        "appliance/pools": layout.own / "pools",
        "state/peers.toml": layout.peers_file,
    }


def members(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Name and file of everything that goes into a backup."""
    for name, place in places(layout).items():
        if place.is_dir():
            for path in sorted(place.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    yield f"{name}/{path.relative_to(place)}", path
        elif place.is_file():
            yield name, place


def write(
    layout: Layout, out: BinaryIO, passphrase: str, *, unix_s: int, random_bytes: Callable[[int], bytes]
) -> int:
    """Write a backup; how many files it has."""
    sealer = sealed.Sealer(out, sealed.check_passphrase(passphrase), random_bytes)
    count = 0
    with tarfile.open(fileobj=cast("BinaryIO", sealer), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        manifest = Manifest(FORMAT, __version__, files.read_text(layout.hostname), unix_s)
        _add(tar, MANIFEST, msgspec.json.encode(manifest), files.SECRET, unix_s)
        for name, path in members(layout):
            data = path.read_bytes()
            if len(data) > FILE_MAX_BYTES:
                raise JumpError(
                    f"{path}: larger than {FILE_MAX_BYTES} bytes, no file of this appliance; move it away"
                )
            _add(tar, name, data, path.stat().st_mode & 0o777, unix_s)
            count += 1
    sealer.close()
    return count


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int, unix_s: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), mode, unix_s
    tar.addfile(entry, io.BytesIO(data))


def to_file(
    layout: Layout, path: Path, passphrase: str, *, unix_s: int, random_bytes: Callable[[int], bytes]
) -> int:
    """The same into a new file of mode 0600; one that is not complete is not left behind."""
    sealed.check_passphrase(passphrase)
    created = files.create(path, "a backup never replaces a file")
    try:
        with created as out:
            count = write(layout, out, passphrase, unix_s=unix_s, random_bytes=random_bytes)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return count
