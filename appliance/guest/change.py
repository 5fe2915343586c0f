# SPDX-License-Identifier: Apache-2.0
"""Changes that take themselves back: applied now, kept only when somebody says so in time (commit-confirm).

Rule: the former file is safe on disk before the new one replaces it, and a boot that finds an unconfirmed change takes
it back. So neither a lost connection nor a power cut leaves a box that nobody can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from appliance.guest import apply, files
from appliance.guest.host import Run
from appliance.guest.layout import Layout
from gateway.errors import JumpError, NotFound, Refused

KEEP_WITHIN_S: Final = 120
# A restart of the gateway on an emulated machine, and the wait until it serves.
APPLY_MAX_S: Final = 180
REVERT_UNIT: Final = "jvpn-revert"
GATEWAY, SETTINGS = "gateway.toml", "settings.json"


class Pending(msgspec.Struct):
    """A change that waits for its confirmation. ``existed``: whether there was a former file."""

    name: str
    existed: bool = True


class Kind(NamedTuple):
    """One of the files that can be changed so."""

    path: Path
    mode: int
    activate: Callable[[Layout, Run], tuple[str, ...]]


def kind(layout: Layout, name: str) -> Kind:
    """What belongs to a name."""
    if name == GATEWAY:
        return Kind(layout.gateway_file, files.PUBLIC, apply.activate_gateway)
    return Kind(layout.settings, files.SECRET, apply.activate_network)


def pending(layout: Layout) -> Pending | None:
    """The change that waits, None when there is none."""
    data = files.read(layout.pending)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Pending)
    except msgspec.DecodeError:
        return None


def begin(layout: Layout, name: str, content: str | bytes) -> None:
    """Store a change; nothing reads it yet."""
    if pending(layout) is not None:
        raise Refused(
            "another change waits: keep it (jvpn-appliance config keep) or take it back (config revert)"
        )
    which = kind(layout, name)
    former = files.read(which.path)
    files.folder(layout.previous, 0o700)
    if former is not None:
        files.write(layout.previous / name, former, files.SECRET)
    files.write(layout.pending, msgspec.json.encode(Pending(name, former is not None)), files.SECRET)
    files.write(which.path, content, which.mode)


def keep(layout: Layout) -> str:
    """The change stays; its name."""
    waiting = pending(layout)
    if waiting is None:
        raise NotFound("no change waits for a confirmation; it was kept or taken back already")
    files.remove(layout.pending)
    return waiting.name


def revert(layout: Layout) -> str:
    """Put the former file back; the name, '' when nothing waits."""
    waiting = pending(layout)
    if waiting is not None:
        which = kind(layout, waiting.name)
        former = files.read(layout.previous / waiting.name)
        if waiting.existed and former is not None:
            files.write(which.path, former, which.mode)
        elif not waiting.existed:
            files.remove(which.path)
    files.remove(layout.pending)
    return waiting.name if waiting is not None else ""


def revert_unconfirmed(layout: Layout) -> str:
    """For a boot: a sentence about what was taken back, '' for nothing."""
    name = revert(layout)
    return f"took back a change of {name} that nobody had confirmed" if name else ""


# --- on a running system --------------------------------------------------------------------------------------------


def commit(
    layout: Layout,
    run: Run,
    name: str,
    content: str | bytes,
    *,
    keep_within_s: int,
    healthy: Callable[[], str],
) -> tuple[str, ...]:
    """Apply a change; remarks. ``healthy`` waits and says '' or what is wrong: then it is taken back at once.

    With ``keep_within_s`` a timer of the service manager takes it back unless ``confirm`` comes first; 0 keeps it.
    """
    begin(layout, name, content)
    if keep_within_s:
        # Before anything is cut off; and anew below, so that applying does not use up the time to answer.
        _schedule(run, keep_within_s + APPLY_MAX_S)
    said = kind(layout, name).activate(layout, run)
    problem = healthy() if name == GATEWAY else ""
    if problem:
        take_back(layout, run)
        raise JumpError(f"taken back, the gateway does not serve with it: {problem}")
    if keep_within_s:
        _schedule(run, keep_within_s)
    else:
        keep(layout)
    return said


def confirm(layout: Layout, run: Run) -> str:
    """Keep what waits."""
    name = keep(layout)
    run(["systemctl", "stop", f"{REVERT_UNIT}.timer"], "")
    return name


def take_back(layout: Layout, run: Run) -> tuple[str, ...]:
    """Take back what waits, and make the system use the former file; remarks, or that nothing waited."""
    name = revert(layout)
    # Called by the timer's own unit the timer is gone already.
    run(["systemctl", "stop", f"{REVERT_UNIT}.timer"], "")
    if not name:
        return ("no change waited",)
    return (f"took back the change of {name}", *kind(layout, name).activate(layout, run))


def _schedule(run: Run, seconds: int) -> None:
    """In place of an earlier timer."""
    run(["systemctl", "stop", f"{REVERT_UNIT}.timer"], "")
    command = ["systemd-run", "--quiet", "--collect", f"--unit={REVERT_UNIT}", f"--on-active={seconds}"]
    done = run([*command, "/usr/sbin/jvpn-appliance", "config", "revert"], "")
    if done.code:
        # Without the timer the next boot still takes it back.
        run(["logger", "-t", "jvpn-appliance", f"no timer for the revert: {done.errors.strip()}"], "")
