# SPDX-License-Identifier: Apache-2.0
"""Sends the machine's DNS questions to the tunnel's servers, with what the system has, and puts back what was
there.

In this order: a resolv.conf that is a mount of its own (containers, ``ip netns exec``) is what programs here
read, so it is rewritten; else systemd-resolved when it runs and resolv.conf leads to it; else resolvconf;
else the file.

Rule: what is found later and was not written by us is somebody's newer decision and stays.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from gateway.errors import HostError
from gateway.net import programs
from gateway.net.remedy import refused
from gateway.net.steps import ResolvConf, Resolvconf, Resolvectl

RESOLV_CONF: Final = Path("/etc/resolv.conf")
MOUNTS: Final = Path("/proc/thread-self/mountinfo")
RESOLVED_DIR: Final = "/run/systemd/resolve/"
RESOLVED_STUBS: Final = (b"127.0.0.53", b"127.0.0.54")
MARKER: Final = "# Written by jvpn for interface "
# resolv.conf(5): the C library reads at most three servers.
SERVERS_MAX: Final = 3

Record = Callable[[ResolvConf | Resolvectl | Resolvconf], None]


class Backend(Enum):
    """Who answers for DNS on this machine."""

    RESOLVED = "systemd-resolved"
    RESOLVCONF = "resolvconf"
    FILE = "resolv.conf"


@dataclass(frozen=True, slots=True)
class DnsPlan:
    """Servers (literal addresses) and search domains that hold while the interface is up."""

    interface: str
    servers: tuple[str, ...]
    search: tuple[str, ...] = ()


def detect(path: Path = RESOLV_CONF) -> Backend:
    """What configures DNS here."""
    if _is_mount(path):
        return Backend.FILE
    if programs.find("resolvectl") and _leads_to_resolved(path) and _resolved_serves_us():
        return Backend.RESOLVED
    program = programs.find("resolvconf")
    if program and Path(program).resolve().name != "resolvectl":
        return Backend.RESOLVCONF
    return Backend.FILE


def configure(plan: DnsPlan, record: Record, *, path: Path = RESOLV_CONF) -> Backend:
    """Make the plan hold, each change recorded first. Returns who was told; HostError when refused."""
    backend = detect(path)
    if backend is Backend.RESOLVED:
        record(Resolvectl(interface=plan.interface))
        programs.run(["resolvectl", "dns", plan.interface, *plan.servers])
        # "~." sends every question here; a name of its own is searched first.
        programs.run(["resolvectl", "domain", plan.interface, *plan.search, "~."])
    elif backend is Backend.RESOLVCONF:
        # Debian's resolvconf orders records by name and puts tun.* first; openresolv wants -m 0 -x for the
        # same.
        step = Resolvconf(record=f"tun.{plan.interface}")
        record(step)
        programs.run(["resolvconf", "-a", step.record, "-m", "0", "-x"], _lines(plan))
    else:
        _rewrite(path, plan, record)
    return backend


def undo_resolvectl(step: Resolvectl) -> bool:
    """Take the link's servers back. False when the link, and with it its servers, is gone."""
    with suppress(OSError):
        socket.if_nametoindex(step.interface)
        programs.run(["resolvectl", "revert", step.interface])
        return True
    return False


def undo_resolvconf(step: Resolvconf) -> bool:
    """Take the record back. False when resolvconf itself is gone."""
    if not programs.find("resolvconf"):
        return False
    programs.run(["resolvconf", "-d", step.record, "-f"])
    return True


def undo_resolv_conf(step: ResolvConf) -> bool:
    """Put the file back as it was: bytes, mode, owner, or the symbolic link. False when what is there is not
    ours.
    """
    path = Path(step.path)
    if not _is_ours(path, step):
        return False
    try:
        if step.link_target:
            _replace_by_link(path, step.link_target)
        elif step.before is None:
            path.unlink()
        else:
            _replace(path, step.before, step.mode, (step.uid, step.gid))
    except OSError as error:
        raise refused(f"cannot restore {path}", error) from error
    return True


# --- the file -----------------------------------------------------------------------------------------------


def _rewrite(path: Path, plan: DnsPlan, record: Record) -> None:
    try:
        step = _snapshot(path, plan)
        record(step)
        _replace(path, step.written, 0o644, (step.uid, step.gid))
    except OSError as error:
        raise refused(
            f"cannot write {path}", error, "leave the DNS servers out, or make the file writable"
        ) from error


def _snapshot(path: Path, plan: DnsPlan) -> ResolvConf:
    target = os.readlink(path) if path.is_symlink() else ""
    before = path.read_bytes() if path.exists() else None
    other = re.match(re.escape(MARKER.encode()) + rb"(\S+)", before or b"")
    if other:
        name = other[1].decode(errors="replace").rstrip(":")
        raise HostError(f"{path} is already written for interface {name}: run `jvpn disconnect {name}` first")
    header = f"{MARKER}{plan.interface}: what was here returns when it disconnects.\n"
    written = (header + _lines(plan)).encode() + _options(before or b"")
    if before is None or target:
        return ResolvConf(path=str(path), written=written, link_target=target)
    info = path.stat()
    return ResolvConf(
        path=str(path),
        written=written,
        before=before,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
    )


def _lines(plan: DnsPlan) -> str:
    servers = "".join(f"nameserver {server}\n" for server in plan.servers[:SERVERS_MAX])
    return servers + (f"search {' '.join(plan.search)}\n" if plan.search else "")


def _options(before: bytes) -> bytes:
    """How to ask (timeout, edns0, …) was decided for this machine and goes on to hold."""
    return b"".join(line + b"\n" for line in before.splitlines() if line.startswith(b"options"))


def _is_ours(path: Path, step: ResolvConf) -> bool:
    """Also when a write in place was torn, there or back: the file is then a beginning of one of the two."""
    if path.is_symlink() or not path.exists():
        return False
    current = path.read_bytes()
    return current != step.before and (
        step.written.startswith(current) or (step.before or b"").startswith(current)
    )


def _replace(path: Path, content: bytes, mode: int, owner: tuple[int, int]) -> None:
    """By renaming, so that no reader sees half a file; in place where the file is a mount or its folder read-
    only.
    """
    temporary = path.with_name(f".{path.name}.jvpn")
    try:
        _write_new(temporary, content, mode, owner)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        if path.is_symlink():
            raise
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            with suppress(OSError):
                os.fchmod(file.fileno(), mode)


def _write_new(path: Path, content: bytes, mode: int, owner: tuple[int, int]) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        os.fchown(fd, *owner)
        file.write(content)
        file.flush()
        os.fsync(fd)


def _replace_by_link(path: Path, target: str) -> None:
    temporary = path.with_name(f".{path.name}.jvpn")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.replace(path)


# --- what the system has ------------------------------------------------------------------------------------


def _is_mount(path: Path) -> bool:
    with suppress(OSError):
        return any(line.split()[4] == str(path) for line in MOUNTS.read_text().splitlines())
    return False


def _leads_to_resolved(path: Path) -> bool:
    with suppress(OSError):
        servers = re.findall(rb"^\s*nameserver\s+(\S+)", path.read_bytes(), re.MULTILINE)
        return str(path.resolve()).startswith(RESOLVED_DIR) or any(stub in servers for stub in RESOLVED_STUBS)
    return False


def _resolved_serves_us() -> bool:
    """It runs, and in this network namespace: it would take our interface's index for one of its own."""
    if not programs.find("systemctl"):
        return False
    with suppress(HostError, ValueError, OSError):
        pid = int(
            programs.run(["systemctl", "show", "--property=MainPID", "--value", "systemd-resolved"]) or 0
        )
        return pid > 0 and os.path.samefile(f"/proc/{pid}/ns/net", "/proc/thread-self/ns/net")
    return False
