# SPDX-License-Identifier: Apache-2.0
"""What leaves and enters the box on a medium: backups and support bundles, by the label JVPN-BAK."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance.guest import apply, backup, reset, restore, sealed, sources, support
from appliance.guest.console.desk import Desk
from gateway.errors import JumpError, NotFound, UsageError

LABEL: Final = "JVPN-BAK"


@contextlib.contextmanager
def medium(desk: Desk, *, writable: bool) -> Iterator[Path]:
    """The folder of the first medium with the label."""
    found = next(sources.labelled(desk.layout, (LABEL,)), None)
    if found is None:
        raise NotFound(f"no medium with the label {LABEL}; make one with: mkfs.vfat -n {LABEL} /dev/…")
    with sources.mounted(desk.layout, desk.run, found[1], writable=writable) as (folder, problem):
        if problem:
            raise JumpError(f"{LABEL}: {problem}")
        yield folder


def file_name(desk: Desk, suffix: str) -> str:
    """A name that no second one has."""
    settings, _ = apply.stored(desk.layout)
    return f"{settings.hostname}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(desk.unix_s()))}{suffix}"


def backups(desk: Desk) -> None:
    """The menu's entry."""
    chosen = desk.terminal.choose(
        f"Backup (a medium with the label {LABEL}; or by SSH: jvpn-appliance backup - > FILE)",
        [("1", "Write a backup to the medium"), ("2", "Restore one from the medium")],
    )
    if chosen == "1":
        save(desk)
    elif chosen == "2":
        put_back(desk)


def save(desk: Desk) -> None:
    """Write a backup."""
    phrase = new_passphrase(desk)
    with medium(desk, writable=True) as folder:
        path = folder / file_name(desk, backup.SUFFIX)
        count = backup.to_file(
            desk.layout, path, phrase, unix_s=desk.unix_s(), random_bytes=desk.random_bytes
        )
        desk.terminal.say(
            f"{path.name}: {count} files. Without the passphrase nobody can read it, you neither."
        )


def new_passphrase(desk: Desk) -> str:
    """Asked twice."""
    while True:
        first = desk.terminal.secret("Passphrase for this backup: ")
        try:
            sealed.check_passphrase(first)
        except UsageError as error:
            desk.terminal.say(f"  {error}")
            continue
        if desk.terminal.secret("Once more: ") == first:
            return first
        desk.terminal.say("  These two were not the same.")


def put_back(desk: Desk) -> None:
    """Choose a backup, check it, and put it in place with a reboot."""
    with medium(desk, writable=False) as folder:
        names = sorted(path.name for path in folder.glob(f"*{backup.SUFFIX}"))[:20]
        if not names:
            raise NotFound(f"{LABEL}: no file *{backup.SUFFIX} on it")
        chosen = desk.terminal.choose("Which one?", [(str(n), name) for n, name in enumerate(names, 1)])
        if not chosen:
            return
        phrase = desk.terminal.secret("Its passphrase: ")
        manifest = restore.from_file(desk.layout, folder / names[int(chosen) - 1], phrase)
    desk.terminal.say(f"A backup of {manifest.hostname}, version {manifest.version}.")
    if desk.terminal.yes("Replace configuration, keys and peers of this box, and reboot?"):
        restore.approve(desk.layout)
        desk.run(["systemctl", "reboot"], "")


def bundle(desk: Desk) -> None:
    """A support bundle onto the medium."""
    with medium(desk, writable=True) as folder:
        path = folder / file_name(desk, "-support.tar.gz")
        desk.terminal.say("Collecting…")
        support.to_file(desk.layout, desk.run, path, unix_s=desk.unix_s())
        desk.terminal.say(f"{path.name}: no keys, tokens or passwords are in it.")


def factory_reset(desk: Desk) -> None:
    """The menu's entry."""
    desk.terminal.say(
        "\nConfiguration, keys, peers and sessions are removed for good. Clients need new files."
    )
    if desk.terminal.line("Type reset to do it: ").strip() == "reset":
        reset.request(desk.layout)
        desk.run(["systemctl", "reboot"], "")
        desk.terminal.say("Restarting…")
