# SPDX-License-Identifier: Apache-2.0
"""Where a configuration may come from without anybody at the console, in this order:

1. the systemd credential ``jvpn.config`` (SMBIOS type 11, QEMU's fw_cfg),
2. a medium labelled JVPN-CFG or cidata (NoCloud) with a file ``user-data``.

A medium is mounted read-only and only for the moment in which it is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from appliance.guest import document, files
from appliance.guest.host import Run
from appliance.guest.layout import Layout
from gateway.control import regularfile

CREDENTIAL: Final = "jvpn.config"
CONFIG_LABELS: Final = ("JVPN-CFG", "cidata")
# vfat labels are upper case as some tools write them, and iso9660's keep theirs.
_FILESYSTEMS: Final = "vfat,iso9660,ext4"
_SAFELY: Final = "nosuid,nodev,noexec"


class Source(NamedTuple):
    """What was found: ``text`` or why there is none. ``foreign``: it is for somebody else, such as cloud-init."""

    name: str
    text: str
    problem: str = ""
    foreign: bool = False


def find(layout: Layout, run: Run, environ: Mapping[str, str]) -> Source | None:
    """The first source that is there; None when there is none."""
    return _credential(environ) or _medium(layout, run)


def _credential(environ: Mapping[str, str]) -> Source | None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / CREDENTIAL if directory else None
    if path is None or not path.exists():
        return None
    return _read(path, f"credential {CREDENTIAL}")


def _medium(layout: Layout, run: Run) -> Source | None:
    for label, device in labelled(layout, CONFIG_LABELS):
        with mounted(layout, run, device) as (folder, problem):
            if problem:
                return Source(f"medium {label}", "", problem)
            path = folder / document.FILE
            if path.exists():
                return _read(path, f"medium {label}")
    return None


def _read(path: Path, name: str) -> Source:
    try:
        data, _ = regularfile.read(path, document.MAX_BYTES + 1)
        if len(data) > document.MAX_BYTES:
            return Source(name, "", f"larger than {document.MAX_BYTES} bytes")
        text = data.decode("utf-8-sig")
    except OSError as error:
        return Source(name, "", error.strerror or "cannot be read")
    except UnicodeDecodeError:
        return Source(name, "", "not UTF-8 text")
    first = text.split("\n", 1)[0].strip()
    return Source(name, text, foreign=first.startswith(("#cloud-config", "#!", "Content-Type:")))


def labelled(layout: Layout, labels: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Label and device of every medium with one of these labels, whatever its case, in the order of ``labels``."""
    try:
        there = {path.name.lower(): path for path in layout.by_label.iterdir()}
    except OSError:
        return
    for label in labels:
        if label.lower() in there:
            yield label, there[label.lower()]


@contextlib.contextmanager
def mounted(layout: Layout, run: Run, device: Path, *, writable: bool = False) -> Iterator[tuple[Path, str]]:
    """The folder in which a medium is mounted for now, and '' or why it is not."""
    files.folder(layout.medium, 0o700)
    how = f"{'rw' if writable else 'ro'},{_SAFELY}"
    done = run(["mount", "-t", _FILESYSTEMS, "-o", how, str(device), str(layout.medium)], "")
    if done.code:
        yield layout.medium, done.errors.strip() or "cannot be mounted"
        return
    try:
        yield layout.medium, ""
    finally:
        run(["umount", str(layout.medium)], "")
