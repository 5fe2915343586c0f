# SPDX-License-Identifier: Apache-2.0
"""Kernel settings through /proc/sys. Keys are paths below it (``net/ipv4/ip_forward``): interface names hold
dots.

Rule 1: a setting that is already right is never written, so a read-only /proc (containers) is no error then.
Rule 2: one that is right because another of our journals has made it so is recorded here too, with what it was before
that (``others``): whoever is the last to need it puts it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.net.remedy import refused
from gateway.net.steps import Sysctl

ROOT: Final = Path("/proc/sys")

Record = Callable[[Sysctl], None]


def read(key: str) -> str | None:
    """The value, or None when this kernel has no such setting."""
    try:
        return (ROOT / key).read_text().strip()
    except OSError:
        return None


def write(key: str, value: str) -> None:
    """Set it. HostError when the kernel or the container refuses."""
    try:
        (ROOT / key).write_text(value)
    except OSError as error:
        raise refused(f"cannot set {key.replace('/', '.')} = {value}", error) from error


def ensure(key: str, value: str, record: Record, others: Sequence[Sysctl] = ()) -> None:
    """Set ``key`` unless it has the value; what it was is recorded first."""
    before = read(key)
    if before == value:
        _claim((step for step in others if (step.key, step.after) == (key, value)), record)
        return
    record(Sysctl(key=key, before=before or "", after=value))
    write(key, value)


def _claim(steps: Iterable[Sysctl], record: Record) -> None:
    for step in steps:
        record(step)


def undo(step: Sysctl) -> bool:
    """Return to the earlier value. False when somebody else has changed it since, or nothing to do."""
    current = read(step.key)
    if current is None or current == step.before or (step.after and current != step.after):
        return False
    write(step.key, step.before)
    return True


def interfaces(family: int) -> list[str]:
    """Interfaces with settings of their own for IPv``family``."""
    with suppress(OSError):
        return sorted(
            path.name
            for path in (ROOT / f"net/ipv{family}/conf").iterdir()
            if path.name not in ("all", "default")
        )
    return []


def enable_forwarding(family: int, own: str, record: Record, others: Sequence[Sysctl] = ()) -> None:
    """Forward packets of IPv``family`` between all interfaces; ``own`` is the tunnel's interface.

    Setting the global switch rewrites the switch of every interface, so those that differ are recorded first
    and return last. A host that forwards IPv6 ignores router advertisements (accept_ra = 1) and would lose
    its own default route: interfaces that listened keep listening (accept_ra = 2, kernel ip-sysctl
    documentation).
    """
    switch = "net/ipv4/ip_forward" if family == 4 else "net/ipv6/conf/all/forwarding"
    if read(switch) == "1":
        if any((step.key, step.after) == (switch, "1") for step in others):
            _claim((step for step in others if _forwards(step, family)), record)
        return
    for name in interfaces(family):
        conf = f"net/ipv{family}/conf/{name}"
        if read(f"{conf}/forwarding") == "1" and name != own:
            record(Sysctl(key=f"{conf}/forwarding", before="1", after=""))
        elif family == 6 and name not in ("lo", own) and read(f"{conf}/accept_ra") == "1":
            ensure(f"{conf}/accept_ra", "2", record)
    ensure(switch, "1", record)


def _forwards(step: Sysctl, family: int) -> bool:
    """Whether it belongs to what ``enable_forwarding`` changes."""
    name = step.key.rpartition("/")[2]
    return step.key.startswith(f"net/ipv{family}/") and name in ("ip_forward", "forwarding", "accept_ra")
