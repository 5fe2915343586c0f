# SPDX-License-Identifier: Apache-2.0
"""The support bundle: what somebody who helps needs to see, as one tar.gz without secrets (``redact``)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from appliance.guest import files, redact, status
from appliance.guest.host import Run
from appliance.guest.layout import Layout

# What each part may have; the end is what counts, for a log.
PART_MAX_CHARACTERS: Final = 2 << 20
_COMMANDS: Final = (
    ("journal.txt", ("journalctl", "--no-pager", "-o", "short-iso", "-n", "4000")),
    ("kernel.txt", ("dmesg",)),
    ("units.txt", ("systemctl", "--no-pager", "list-units", "--all")),
    ("failed.txt", ("systemctl", "--no-pager", "--failed")),
    ("gateway-unit.txt", ("systemctl", "--no-pager", "status", "jvpn-gateway.service")),
    ("boot-times.txt", ("systemd-analyze", "blame", "--no-pager")),
    ("network.txt", ("networkctl", "--no-pager", "status", "--all")),
    ("addresses.txt", ("ip", "address")),
    ("routes.txt", ("ip", "route", "show", "table", "all")),
    ("routes6.txt", ("ip", "-6", "route", "show", "table", "all")),
    ("sockets.txt", ("ss", "-tulpn")),
    ("firewall.txt", ("nft", "list", "ruleset")),
    ("disks.txt", ("df", "-h")),
    ("memory.txt", ("free", "-m")),
    ("time.txt", ("timedatectl", "--no-pager")),
    ("jvpn-status.json", ("jvpn", "status", "--json")),
    ("jvpn-doctor.txt", ("jvpn", "doctor")),
    ("jvpn-events.txt", ("jvpn", "events", "--last", "500")),
)


def parts(layout: Layout, run: Run) -> Iterator[tuple[str, str]]:
    """Name and text of each part, secrets still in it."""
    yield "status.json", msgspec.json.format(msgspec.json.encode(status.collect(layout)), indent=2).decode()
    yield "os-release.txt", files.read_text(layout.os_release)
    yield "command-line.txt", files.read_text(layout.command_line)
    yield "settings.json", files.read_text(layout.settings)
    yield "applied.json", files.read_text(layout.applied)
    yield "gateway.toml", files.read_text(layout.gateway_file)
    yield "nftables.conf", files.read_text(layout.nftables)
    for path in sorted(layout.networkd.glob("*.network")):
        yield f"networkd/{path.name}", files.read_text(path)
    yield "stats.json", status.ask(layout, "/stats")[1].decode("utf-8", "replace")
    for name, command in _COMMANDS:
        done = run(command, "")
        yield name, done.output + (f"\n[exit status {done.code}] {done.errors}" if done.code else "")


def write(layout: Layout, run: Run, out: BinaryIO, *, unix_s: int) -> None:
    """Write the bundle."""
    secrets = redact.secrets_of(layout)
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in parts(layout, run):
            data = redact.cleaned(text, secrets)[-PART_MAX_CHARACTERS:].encode()
            entry = tarfile.TarInfo(f"support/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o644, unix_s
            tar.addfile(entry, io.BytesIO(data))


def to_file(layout: Layout, run: Run, path: Path, *, unix_s: int) -> None:
    """The same into a new file of mode 0600."""
    with files.create(path, "name another file") as out:
        write(layout, run, out, unix_s=unix_s)
