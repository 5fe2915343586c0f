# SPDX-License-Identifier: Apache-2.0
"""Factory reset: a marker and a reboot; the boot wipes /data before anything reads it, and is then a first boot.

Rule: the marker goes last, so a power cut in between only makes the next boot go on. The update floor stays: a reset
must not make an older image acceptable.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance.guest import files
from appliance.guest.layout import Layout
from gateway.control.statedir import sync_dir

_KEPT: Final = "lost+found"
# What a secret file may have; larger ones are journals and databases, which hold none.
_OVERWRITE_MAX_BYTES: Final = 1 << 20


def request(layout: Layout) -> None:
    """The next boot wipes. The machine id goes at once: the initramfs reads it before anything else runs."""
    files.folder(layout.own, 0o700)
    files.write(layout.reset_marker, "", files.SECRET)
    files.remove(layout.machine_id)


def finish(layout: Layout) -> str:
    """Wipe when it was asked for; a sentence, '' when it was not."""
    if not layout.reset_marker.exists():
        return ""
    for path in list(_secrets(layout)):
        _overwrite(path)
    for path in list(layout.data.iterdir()):
        if path.name != _KEPT and path not in (layout.own, layout.machine_id):
            _remove(path)
    for path in list(layout.own.iterdir()):
        if path not in (layout.reset_marker, layout.floor):
            _remove(path)
    sync_dir(layout.data)
    files.remove(layout.reset_marker)
    return "factory reset: everything on /data was removed"


def _secrets(layout: Layout) -> Iterator[Path]:
    for folder in (layout.config, layout.own, layout.ssh, layout.state):
        found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        yield from (path for path in found if path != layout.floor)


def _overwrite(path: Path) -> None:
    """Zeros over the old blocks where the disk writes in place; flash and copy-on-write disks keep what they like."""
    if path.stat().st_size > _OVERWRITE_MAX_BYTES:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(descriptor, bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
