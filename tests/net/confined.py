# SPDX-License-Identifier: Apache-2.0
"""Run a program as a unit file confines it, without systemd.

    python -m tests.net.confined UNIT UID [PATH]... -- PROGRAM [ARGUMENT]...

What is read from the unit: capabilities, ReadWritePaths, RestrictAddressFamilies and SystemCallFilter. What is done for
it: another user without groups, ambient capabilities and a bounding set, no_new_privs, a file system that is read-only
but for each PATH and the unit's own, /proc that hides other users' processes, memory that is never both writable and
executable, no new namespaces, and the list of system calls. What is not done: DevicePolicy (a cgroup's), PrivateTmp,
RestrictSUIDSGID, LockPersonality, and of RestrictRealtime, ProtectHostname and ProtectClock only what the list of calls
and lacking capabilities do.

A PATH written A:B is A seen at B.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

# <linux/capability.h>
CAPABILITIES: Final = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19}
_CAPABILITY_VERSION_3: Final = 0x20080522
# <linux/prctl.h>
_PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 22, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_SET_MDWE = 47, 2, 65
# <sched.h>, <sys/mount.h>, <linux/mount.h>
_NEW_NAMESPACES: Final = 0x7E020080
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
# <linux/filter.h>, <linux/seccomp.h>, <linux/audit.h>
_LOAD, _JEQ, _JSET, _JGE, _RET = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NR_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16

Filter = list[tuple[int, int, int, int]]


def settings(unit: Path, key: str) -> list[str]:
    """The values of a key, in order."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# --- files --------------------------------------------------------------------------------------------------------


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None), f"mount {target}")


def _set_read_only(path: str, on: bool, *, below: bool) -> None:
    attributes = struct.pack("QQQQ", *((_MOUNT_ATTR_RDONLY, 0) if on else (0, _MOUNT_ATTR_RDONLY)), 0, 0)
    flags = _AT_RECURSIVE if below else 0
    done = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes))
    _check(done, f"mount_setattr {path}")


def confine_files(writable: list[str]) -> None:
    """Nothing can be written but these."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", _MS_NOSUID_NODEV_NOEXEC, "hidepid=invisible")
    seen = []
    for path in writable:
        source, _, target = path.partition(":")
        _mount(source, target or source, None, _MS_BIND)
        seen.append(target or source)
    _set_read_only("/", True, below=True)
    for path in seen:
        _set_read_only(path, False, below=False)


# --- rights -------------------------------------------------------------------------------------------------------


def drop_rights(unit: Path, uid: int) -> None:
    """Be this user, with the unit's capabilities and no others."""
    kept = [CAPABILITIES[name] for line in settings(unit, "CapabilityBoundingSet") for name in line.split()]
    ambient = [CAPABILITIES[name] for line in settings(unit, "AmbientCapabilities") for name in line.split()]
    for number in range(64):
        if number not in kept and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # this kernel has no more
    _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    mask = sum(1 << number for number in kept)
    header, data = (
        struct.pack("Ii", _CAPABILITY_VERSION_3, 0),
        struct.pack("IIIIII", mask, mask, mask, 0, 0, 0),
    )
    _check(_libc.capset(header, data), "capset")
    for number in ambient:
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0), "ambient capability")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0), "memory: write or execute")


# --- system calls -------------------------------------------------------------------------------------------------


def numbers() -> dict[str, int]:
    """The system calls of this machine, by name."""
    text = "#include <asm/unistd.h>\n"
    done = subprocess.run(["gcc", "-E", "-dM", "-"], input=text, capture_output=True, text=True, check=True)
    return {
        name: int(value)
        for name, value in re.findall(r"^#define __NR_(\w+) (\d+)$", done.stdout, re.MULTILINE)
    }


def expand(name: str) -> Iterator[str]:
    """The system calls of one of systemd's sets."""
    if name[0] != "@":
        yield name
        return
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", name], capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines()[1:]:
        if line.strip() and not line.strip().startswith("#"):
            yield from expand(line.strip())


def allowed(unit: Path) -> set[str]:
    """The names that SystemCallFilter leaves."""
    found: set[str] = set()
    for line in settings(unit, "SystemCallFilter"):
        named = {call for name in line.lstrip("~").split() for call in expand(name)}
        found = found - named if line[0] == "~" else found | named
    return found


def program(unit: Path) -> Filter:
    """A BPF program as systemd makes them: what is not allowed fails with EPERM."""
    known, names = numbers(), allowed(unit)
    refused, ok = (_RET, 0, 0, _ERRNO | errno.EPERM), (_RET, 0, 0, _ALLOW)
    made: Filter = [(_LOAD, 0, 0, _ARCH_AT), (_JEQ, 1, 0, _ARCH[platform.machine()]), refused]
    made += [(_LOAD, 0, 0, _NR_AT), (_JGE, 0, 1, 0x40000000), refused]  # the x32 calls of x86_64
    families = [getattr(socket, name) for name in settings(unit, "RestrictAddressFamilies")[0].split()]
    kinds = [part for family in families for part in ((_JEQ, 0, 1, family), ok)]
    body: Filter = [(_LOAD, 0, 0, _FIRST_ARGUMENT_AT), *kinds, (_RET, 0, 0, _ERRNO | errno.EAFNOSUPPORT)]
    made += [(_JEQ, 0, len(body), known["socket"]), *body]
    # Namespaces: by clone's flags; clone3 hides its own, so the C library is told to do without.
    made += [(_JEQ, 0, 4, known["clone"]), (_LOAD, 0, 0, _FIRST_ARGUMENT_AT)]
    made += [(_JSET, 0, 1, _NEW_NAMESPACES), refused, ok]
    made += [(_JEQ, 0, 1, known["clone3"]), (_RET, 0, 0, _ERRNO | errno.ENOSYS)]
    for name in sorted(names - {"socket", "clone", "clone3", "unshare", "setns"}):
        if name in known:
            made += [(_JEQ, 0, 1, known[name]), ok]
    return [*made, refused]


def confine_calls(made: Filter) -> None:
    """From now on only these."""
    code = b"".join(struct.pack("HBBI", *one) for one in made)
    held = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HxxxxxxP", len(made), ctypes.addressof(held))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, described, 0, 0), "seccomp")


def main() -> None:
    split = sys.argv.index("--")
    unit, uid, *paths = sys.argv[1:split]
    command = sys.argv[split + 1 :]
    made = program(Path(unit))
    os.umask(0o077)
    confine_files([*paths, *settings(Path(unit), "ReadWritePaths")])
    drop_rights(Path(unit), int(uid))
    confine_calls(made)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
