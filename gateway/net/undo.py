# SPDX-License-Identifier: Apache-2.0
"""The journal of changes to the host that outlive the process: STATE/undo-IFACE.json.

Rule 1: a step is on the disk before its change is made, so what a killed process left can always be found.
Rule 2: undoing is idempotent and touches only what is still as we left it; what is gone or somebody else's is
passed. So is a kernel setting that another journal of the same folder and machine has too: the last one restores it.

What lives on the TUN device (addresses, routes through it) vanishes with it and needs no step.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, cast

import msgspec

from gateway.errors import HostError
from gateway.net import dns, nft, sysctl
from gateway.net.remedy import check_interface_name, refused
from gateway.net.rtnl import Rtnl
from gateway.net.steps import (
    FILE_STEPS,
    AnyStep,
    Link,
    NftTable,
    ResolvConf,
    Resolvconf,
    Resolvectl,
    Route,
    Rule,
    Sysctl,
)

VERSION: Final = 1
MODE: Final = 0o600
SO_NETNS_COOKIE: Final = (
    71  # Linux 5.14; unique for as long as the machine runs, unlike the inode of a namespace
)
NAMED_NAMESPACES: Final = Path("/run/netns")


class Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who made the changes. The start time (clock ticks, proc(5) field 22) tells it from a later process."""

    pid: int
    start_ticks: int
    boot_id: str
    netns_cookie: int
    netns_inode: int

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return self.boot_id == _boot_id() and _start_ticks(self.pid) == self.start_ticks


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    interface: str
    owner: Owner
    steps: tuple[AnyStep, ...]


@dataclass(frozen=True, slots=True)
class UndoReport:
    """What undoing did, in words, in the order in which it was done."""

    undone: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()  # already gone, or changed by somebody else since
    failed: tuple[str, ...] = ()  # still in the journal


class UndoJournal:
    """The journal of one interface. One process at a time holds it, from ``begin`` to ``undo_all``."""

    def __init__(self, state_dir: Path, interface: str) -> None:
        self.interface = check_interface_name(interface)
        self.path = state_dir / f"undo-{interface}.json"
        self._steps: list[AnyStep] = []
        self._owner: Owner | None = None

    def owner(self) -> Owner | None:
        """Who holds or left the journal; None when there is none."""
        file = self._read()
        return file.owner if file else None

    def begin(self, rtnl: Rtnl | None = None) -> UndoReport:
        """Undo what a dead owner left, then take the journal. HostError while its owner lives."""
        report = self.recover(rtnl)
        if report.failed:
            raise HostError(
                f"{self.interface}: the last run left what cannot be undone: {'; '.join(report.failed)}. "
                f"Undo it by hand, then remove {self.path}"
            )
        self._owner, self._steps = _myself(), []
        self._save(create=True)
        return report

    def recover(self, rtnl: Rtnl | None = None) -> UndoReport:
        """Undo what a dead owner left. HostError while it lives."""
        file = self._read()
        if file is None:
            return UndoReport()
        if file.owner.alive() and file.owner != self._owner:
            raise HostError(
                f"interface {self.interface} belongs to the running process {file.owner.pid}; "
                f"`jvpn disconnect {self.interface}` ends it"
            )
        return self._undo(file, rtnl)

    def record(self, step: AnyStep) -> None:
        """Have the step on the disk. Call it before the change it describes."""
        if self._owner is None:
            raise HostError(f"the undo journal of {self.interface} was not begun")
        if step not in self._steps:
            self._steps.append(step)
            self._save()

    @contextmanager
    def settings(self) -> Iterator[tuple[Sysctl, ...]]:
        """While kernel settings are made: those that other journals hold. Nobody undoes one meanwhile."""
        with _alone_in(self.path.parent):
            yield self._others()

    def _others(self) -> tuple[Sysctl, ...]:
        """Kernel settings in the other journals of this folder, as far as they are about this very machine."""
        here, found = _myself(), []
        for path in sorted(self.path.parent.glob("undo-*.json")):
            file = _decode(path) if path != self.path else None
            if file is not None and _same_namespace(here, file.owner):
                found += [step for step in file.steps if isinstance(step, Sysctl)]
        return tuple(found)

    def undo_all(self, rtnl: Rtnl | None = None) -> UndoReport:
        """Undo all steps, latest first, and give the journal up. What fails stays in the journal."""
        file = self._read()
        self._owner, self._steps = None, []
        return self._undo(file, rtnl) if file else UndoReport()

    def _undo(self, file: _File, rtnl: Rtnl | None) -> UndoReport:
        with _alone_in(self.path.parent):
            return self._undo_alone(file, rtnl)

    def _undo_alone(self, file: _File, rtnl: Rtnl | None) -> UndoReport:
        claimed = {step.key for step in self._others()}
        steps = tuple(
            step
            for step in _still_there(file, self.path)
            if not (isinstance(step, Sysctl) and step.key in claimed)
        )
        skipped = tuple(str(step) for step in file.steps if step not in steps)
        if rtnl is not None or not any(isinstance(step, Route | Rule | Link) for step in steps):
            report, failed = _undo_steps(steps, rtnl)
        else:
            with closing(Rtnl()) as own:
                report, failed = _undo_steps(steps, own)
        if failed:
            self._write(msgspec.structs.replace(file, steps=failed))
        else:
            self._forget()
        return UndoReport(report.undone, report.passed + skipped, report.failed)

    # --- the file -------------------------------------------------------------------------------------------

    def _read(self) -> _File | None:
        try:
            file = msgspec.json.decode(self.path.read_bytes(), type=_File)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refused(f"cannot read {self.path}", error) from error
        except msgspec.MsgspecError as error:
            raise HostError(
                f"{self.path} is damaged ({error}); undo by hand what it lists, then remove it"
            ) from None
        if file.version != VERSION:
            raise HostError(
                f"{self.path} has version {file.version}, this program writes {VERSION}; use the newer one"
            )
        return file

    def _save(self, *, create: bool = False) -> None:
        owner = cast("Owner", self._owner)
        file = _File(version=VERSION, interface=self.interface, owner=owner, steps=tuple(self._steps))
        self._write(file, create=create)

    def _write(self, file: _File, *, create: bool = False) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write_durably(temporary, msgspec.json.encode(file))
            if create:
                # Unlike a rename, a link fails when another process has taken the journal meanwhile.
                os.link(temporary, self.path)
                temporary.unlink()
            else:
                temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except FileExistsError:
            temporary.unlink(missing_ok=True)
            raise HostError(f"another process is just taking interface {self.interface}") from None
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise refused(
                f"cannot write {self.path}", error, "the state directory must be writable"
            ) from error

    def _forget(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise refused(f"cannot remove {self.path}", error) from error


def journals(state_dir: Path) -> list[str]:
    """Interfaces that have a journal, held or left behind."""
    return sorted(path.stem.removeprefix("undo-") for path in state_dir.glob("undo-*.json"))


# --- undoing ------------------------------------------------------------------------------------------------


def _undo_steps(steps: tuple[AnyStep, ...], rtnl: Rtnl | None) -> tuple[UndoReport, tuple[AnyStep, ...]]:
    undone: list[str] = []
    passed: list[str] = []
    failures: list[str] = []
    failed: list[AnyStep] = []
    for step in reversed(steps):
        try:
            (undone if _undo_one(step, rtnl) else passed).append(str(step))
        except HostError as error:
            failures.append(str(error))
            failed.insert(0, step)
    return UndoReport(tuple(undone), tuple(passed), tuple(failures)), tuple(failed)


def _undo_one(step: AnyStep, rtnl: Rtnl | None) -> bool:
    match step:
        case Sysctl():
            return sysctl.undo(step)
        case NftTable():
            return nft.remove_table(step.name)
        case ResolvConf():
            return dns.undo_resolv_conf(step)
        case Resolvectl():
            return dns.undo_resolvectl(step)
        case Resolvconf():
            return dns.undo_resolvconf(step)
        case Route():
            return _need(rtnl).del_route(step)
        case Rule():
            return _need(rtnl).del_rule(step)
        case Link():
            return _need(rtnl).undo_link(step)


T = TypeVar("T")


def _need(value: T | None) -> T:
    if value is None:
        raise HostError("no rtnetlink socket")
    return value


def _still_there(file: _File, path: Path) -> tuple[AnyStep, ...]:
    """Steps whose object can still exist: after a reboot or when its namespace is gone, only files."""
    here = _myself()
    if _same_namespace(here, file.owner):
        return file.steps
    if here.boot_id == file.owner.boot_id and _namespace_exists(file.owner.netns_inode):
        raise HostError(f"{path} belongs to another network namespace: run this there (ip netns exec NAME …)")
    return tuple(step for step in file.steps if isinstance(step, FILE_STEPS))


def _same_namespace(one: Owner, other: Owner) -> bool:
    """Whether both stand for the same boot of the same network namespace."""
    if (one.boot_id, one.netns_cookie) != (other.boot_id, other.netns_cookie):
        return False
    return bool(one.netns_cookie) or one.netns_inode == other.netns_inode


def _decode(path: Path) -> _File | None:
    """Another owner's journal; None for one that goes just now or cannot be read, which claims nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError):
        return None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time makes or undoes kernel settings. The lock is on the folder, so no file stays behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(f"cannot open {folder}", error, "the state directory must be writable") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _namespace_exists(inode: int) -> bool:
    """Whether a process is in it, or a name of `ip netns` holds it."""
    for place in (*Path("/proc").glob("[0-9]*/ns/net"), *NAMED_NAMESPACES.glob("*")):
        with suppress(OSError):
            if place.stat().st_ino == inode:
                return True
    return False


# --- who we are ---------------------------------------------------------------------------------------------


def _myself() -> Owner:
    return Owner(
        pid=os.getpid(),
        start_ticks=_start_ticks(os.getpid()) or 0,
        boot_id=_boot_id(),
        netns_cookie=_netns_cookie(),
        netns_inode=Path("/proc/thread-self/ns/net").stat().st_ino,
    )


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> int | None:
    with suppress(OSError):
        # The command name may hold spaces and parentheses; fields are counted from the last ")".
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else int(fields[19])
    return None


def _netns_cookie() -> int:
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0])
    return 0


def _write_durably(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
