# SPDX-License-Identifier: Apache-2.0
"""What each boot does before the network and the gateway start. A first boot is one that finds nothing on /data.

Rule 1: whatever is wrong with a configuration that came from outside, the box comes up with what it has, or with its
defaults, and says what was wrong: on the console, on the status page, in the journal.
Rule 2: every step may be cut off by a power loss and is done again by the next boot.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from appliance.guest import (
    apply,
    change,
    datadir,
    document,
    files,
    gatewayfile,
    grow,
    password,
    reset,
    settings,
    sources,
)
from appliance.guest.document import Document
from appliance.guest.host import Run
from appliance.guest.layout import Layout
from appliance.guest.sources import Source
from gateway.control import keysfile
from gateway.control.keysfile import RandomBytes
from gateway.errors import ConfigErrors, JumpError

REFUSED: Final = "configuration refused"
DEFAULTS: Final = "defaults"
TAKING: Final = "a configuration that was cut off"
# What gateway.control.statedir.random_pools takes.
POOL_BYTES: Final = 7
# A wrong file can hold thousands of mistakes; the first ones are what somebody at a console reads.
SHOWN_MAX: Final = 8


class Applied(msgspec.Struct):
    """Where the configuration came from. ``gateway_sha256``: of the gateway.toml that was written then."""

    source: str
    sha256: str = ""
    gateway_sha256: str = ""


class Report(msgspec.Struct):
    """What a boot found, for the status page."""

    problems: list[str] = []
    notes: list[str] = []
    source: str = ""


def run_boot(layout: Layout, run: Run, random_bytes: RandomBytes, environ: Mapping[str, str]) -> Report:
    """All of it; the report is stored too."""
    report = Report()
    layout.data.mkdir(exist_ok=True)
    _grow(layout, run, report)
    for step in (reset.finish, _finish_restore, change.revert_unconfirmed):
        if said := step(layout):
            report.notes.append(said)
    report.notes += datadir.prepare(layout, random_bytes)
    _remember_defaults(layout)
    found = sources.find(layout, run, environ)
    if found is not None:
        _consider(layout, found, random_bytes, report)
    report.source = applied(layout).source
    report.problems += [*_data_problem(layout), *apply.render(layout, run).problems]
    files.write(layout.report, msgspec.json.encode(report))
    return report


def _grow(layout: Layout, run: Run, report: Report) -> None:
    """Before anything is mounted from the partition a second time. A small one is no reason not to serve."""
    try:
        if said := grow.grow(layout, run):
            report.notes.append(said)
    except (JumpError, OSError) as error:
        report.problems.append(f"the data partition keeps its size: {error}")


def _finish_restore(layout: Layout) -> str:
    if not layout.restore_marker.exists() and not layout.restore_staging.exists():
        return ""
    from appliance.guest import restore  # libsodium and tarfile: a boot on a slow machine does without

    return restore.finish(layout)


def _data_problem(layout: Layout) -> list[str]:
    """Without its disk the box works until it is switched off, and forgets everything."""
    said = files.read_text(layout.data_verdict)
    return (
        [] if said in ("", "ok", "live") else [f"nothing is kept: the data partition is not in use ({said})"]
    )


def applied(layout: Layout) -> Applied:
    """What is in force."""
    data = files.read(layout.applied)
    with contextlib.suppress(msgspec.DecodeError):
        if data is not None:
            return msgspec.json.decode(data, type=Applied)
    return Applied("")


def last_report(layout: Layout) -> Report:
    """What this boot said; an empty one before it did."""
    data = files.read(layout.report)
    with contextlib.suppress(msgspec.DecodeError):
        if data is not None:
            return msgspec.json.decode(data, type=Report)
    return Report()


def is_configured(layout: Layout) -> bool:
    """Whether somebody has configured this box: from outside, on the console, or by editing gateway.toml."""
    said = applied(layout)
    if said.source == TAKING:
        return False
    return said.source not in ("", DEFAULTS) or said.gateway_sha256 != _digest(
        files.read(layout.gateway_file)
    )


def remember(layout: Layout, source: str, text: str = "") -> None:
    """Say what the configuration is from now on."""
    said = Applied(source, _digest(text.encode()), _digest(files.read(layout.gateway_file)))
    files.write(layout.applied, msgspec.json.encode(said), files.SECRET)


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def _remember_defaults(layout: Layout) -> None:
    if not layout.applied.exists():
        remember(layout, DEFAULTS)


def _consider(layout: Layout, found: Source, random_bytes: RandomBytes, report: Report) -> None:
    """Take a document, pass it over or refuse it."""
    if found.foreign:
        report.notes.append(f"{found.name}: passed over, it does not begin with {document.FIRST_LINE}")
        return
    try:
        if found.problem:
            raise JumpError(f"{found.name}: {found.problem}")
        read = document.parse(found.text)
        if is_configured(layout) and not read.reapply:
            report.notes.append(
                f"{found.name}: passed over, this box is configured (reapply = true would take it)"
            )
            return
        text = judged(layout, read, random_bytes)
        # A power cut in the midst of it leaves a box that nobody has configured yet: the next boot takes it again.
        remember(layout, TAKING)
        take(layout, read, text)
        remember(layout, found.name, found.text)
        report.notes.append(f"configured from {found.name}")
    except ConfigErrors as errors:
        report.problems += refusal([str(error) for error in errors.errors])
    except JumpError as error:
        report.problems += refusal([str(error)])


def refusal(mistakes: Sequence[str]) -> list[str]:
    """Mistakes as the console shows them; where one stands several times there is nothing to add."""
    left = len(mistakes) - SHOWN_MAX
    shown = [f"{REFUSED}: {mistake}" for mistake in mistakes[:SHOWN_MAX]]
    return [*shown, f"{REFUSED}: and {left} more mistakes"] if left > 0 else shown


def judged(layout: Layout, read: Document, random_bytes: RandomBytes) -> str:
    """The gateway.toml that a document makes, '' when it says nothing of it. ``ConfigErrors``; nothing is written."""
    if not read.gateway_text:
        return ""
    gatewayfile.check(read.gateway_text, document.FILE, layout.config, layout.state)
    text = gatewayfile.completed(read.gateway_text, document.FILE, _drawn(layout, random_bytes)).lstrip("\n")
    gatewayfile.check(text, document.FILE, layout.config, layout.state)
    return text


def take(layout: Layout, read: Document, text: str) -> None:
    """Store all of a document and the gateway.toml that it made. Done twice, it is done once."""
    if read.private_key:
        _replace_key(layout, keysfile.decode_key(read.private_key))
    if read.stats_token:
        files.write_changed(layout.stats_token, read.stats_token + "\n", files.SECRET)
    if read.admin_password_hash:
        files.write_changed(
            layout.admin_hash, password.check_hash(read.admin_password_hash) + "\n", files.SECRET
        )
    if text:
        files.write_changed(layout.gateway_file, text)
    files.write_changed(layout.settings, settings.encode(read.settings))


def _replace_key(layout: Layout, key: bytes) -> None:
    if files.read_text(layout.gateway_key) != keysfile.encode_key(key):
        keysfile.write_key_file(layout.gateway_key, key, replace=True)


def _drawn(layout: Layout, random_bytes: RandomBytes) -> RandomBytes:
    """Pools that a document leaves open are drawn once: applied again, it must not move every client."""
    seed = layout.own / "pools"
    if len(files.read(seed) or b"") < POOL_BYTES:
        files.write(seed, random_bytes(POOL_BYTES), files.SECRET)
    return lambda count: (files.read(seed) or b"")[:count]
