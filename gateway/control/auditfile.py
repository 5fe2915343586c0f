# SPDX-License-Identifier: Apache-2.0
"""The journal's files: sealed records appended to `audit-INTERFACE-FIRSTSEQ.jsonl`, rotated without breaking the chain.

Rule: a call either adds all its records or, with an OSError, none; the chain then stands where the last whole call
ended and the same call may be made again. One thread uses it (the writer of ``auditlog``).

Every file begins with a JOURNAL record, names each policy it refers to, and its first record's ``prev`` is the digest
of the last record of the file before. A CHECKPOINT signed with Ed25519 follows at least every 1,024 records.

A file has its name only when its first record is on disk: so one that holds none was cut, and one that says neither
``none`` nor ``rotated`` there follows records that are gone.

Files are removed only where a number of files to keep is set, the oldest first, and after a REMOVING record that names
them is on disk.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gateway import crypto
from gateway.control import keysfile, statedir
from gateway.control.keysfile import RandomBytes
from gateway.core import audit
from gateway.core.audit import Body
from gateway.core.policy import Policy, policy_hash
from gateway.errors import HostError, JumpError

Clock = Callable[[], int]
Record = tuple[Body, int]  # a body and its wall clock (Unix ns)

KEY_FILE: Final = "audit.key"
PUBLIC_FILE: Final = "audit.pub"
FOLDER: Final = "audit"
CHECKPOINT_RECORDS: Final = 1024
# A torn or damaged end is looked for in this much; a record has a few KB at most.
_TAIL_BYTES: Final = 1 << 20
# Policies a file may have to name again: one per reload of the configuration.
_POLICIES_MAX: Final = 256
_FILE_NAME: Final = re.compile(r"audit-(?P<interface>.+)-(?P<first>\d{12,})\.jsonl\Z")


class SigningKey(NamedTuple):
    """What checkpoints are signed with."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()}, secret=<hidden>)"


def load_signing_key(state_dir: Path, random_bytes: RandomBytes) -> SigningKey:
    """STATE/audit.key (0600), made on the first start; STATE/audit.pub beside it is what `jvpn audit verify` reads."""
    path = state_dir / KEY_FILE
    if not path.exists():
        keysfile.write_key_file(path, random_bytes(crypto.SEED_BYTES))
    try:
        public, secret = crypto.ed25519_seed_keypair(keysfile.read_key_file(path).key)
    except JumpError as error:
        raise HostError(f"{error}; restore it, or move it away: a new one signs from then on") from None
    text = keysfile.encode_key(public) + "\n"
    beside = state_dir / PUBLIC_FILE
    if not beside.exists() or beside.read_text() != text:
        statedir.write_file(beside, text, 0o644)
    return SigningKey(public, secret)


class Named(NamedTuple):
    """A journal file and what its name says."""

    interface: str
    first_seq: int
    path: Path


def journal_files(directory: Path, interface: str | None = None) -> list[Named]:
    """The journal files of a directory in the order of their chains; empty without the directory."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in directory.iterdir():
            named = _FILE_NAME.match(path.name)
            if named and interface in (None, named["interface"]):
                found.append(Named(named["interface"], int(named["first"]), path))
    return sorted(found)


class Tail(NamedTuple):
    """Where a chain ends. ``append_to`` None: its newest file is damaged or there is none, go on in a new one."""

    seq: int
    prev: str
    append_to: Path | None
    size_bytes: int
    torn_bytes: int
    previous: str  # how the last run ended: none (there was none), clean or unclean


def find_tail(files: Sequence[Named]) -> Tail:
    """The last whole record of these files. What follows it in its file was torn by a crash."""
    torn = 0
    for age, named in enumerate(reversed(files)):
        data, start = _last_part(named.path)
        whole = data.rfind(b"\n") + 1
        torn += len(data) - whole
        lines = data[:whole].split(b"\n")[:-1]
        for back, line in enumerate(reversed(lines)):
            body = _sound(line)
            if body is None:
                continue
            appendable = age == 0 and back == 0
            final = appendable and torn == 0 and body.get("final") is True
            return Tail(
                body["seq"] + 1,
                body["hash"],
                named.path if appendable else None,
                start + whole if appendable else 0,
                torn,
                "clean" if final else "unclean",
            )
    return Tail(0, audit.GENESIS, None, 0, torn, "unclean" if files else "none")


def _last_part(path: Path) -> tuple[bytes, int]:
    """The last part of a file and where it starts."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
        file.seek(start)
        return file.read(), start


def _sound(line: bytes) -> Body | None:
    """The record of a line whose own digest is right."""
    try:
        body: Body = msgspec.json.decode(line, type=dict)
        broken = audit.verify([line.decode()], str(body["prev"]), int(body["seq"]))
    except (ValueError, KeyError, TypeError):
        return None
    return None if broken else body


class _Mark(NamedTuple):
    """What a failed call goes back to."""

    seq: int
    prev: str
    unsigned: int
    size_bytes: int
    named: frozenset[str]
    opening: str


class Journal:
    """The open end of one interface's chain. ``open`` comes first; any call may raise OSError."""

    def __init__(
        self,
        directory: Path,
        interface: str,
        node: str,
        key: SigningKey,
        *,
        max_bytes: int,
        keep: int,
        unix_ns: Clock,
        now_ns: Clock,
    ) -> None:
        self._directory = directory
        self._interface = interface
        self._node = node
        self._key = key
        self._max_bytes = max_bytes
        self._keep = keep
        self._unix_ns = unix_ns
        self._now_ns = now_ns
        self._fd = -1
        self._path = directory / "unopened"
        self._draft = directory / f".audit-{interface}.jsonl"  # a file without its first record
        self._unnamed = False
        self._size_bytes = 0
        self._prev = audit.GENESIS
        self._named: set[str] = set()  # policies this file has named
        self._policies: dict[str, Body] = {}
        self._opening = ""  # what the next JOURNAL record says came before: Tail.previous, rotated or lost
        self.seq = 0
        self.unsigned = 0  # records since the last checkpoint
        self.dirty = False  # written but not synced

    def open(self) -> Tail:
        """Go on where the last run ended. A torn tail is cut off; the caller records the gap."""
        tail = find_tail(journal_files(self._directory, self._interface))
        self.seq, self._prev, self._opening = tail.seq, tail.prev, tail.previous
        if tail.append_to is None:
            self._new_file()
        else:
            self._path, self._size_bytes = tail.append_to, tail.size_bytes
            self._reopen()
        return tail

    def know(self, policy: Policy, mono_ns: int) -> None:
        """A policy that records are going to name."""
        name = policy_hash(policy)
        if name not in self._policies:
            while len(self._policies) >= _POLICIES_MAX:
                del self._policies[next(iter(self._policies))]
            self._policies[name] = audit.policy_body(policy, mono_ns)

    def write(
        self, records: Sequence[Record], *, sync: bool, sign: bool = False, final: bool = False
    ) -> None:
        """Add records, all or none. ``sync``: they survive a power cut when this returns. ``sign``: checkpoint."""
        self._ready()
        self._put(records, sync=sync, sign=sign or final, final=final)

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        if self.dirty and self._fd >= 0:
            os.fsync(self._fd)
        self.dirty = False

    def close(self) -> None:
        """Forget the file; ``write(final=True)`` comes before."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    # --- files ------------------------------------------------------------------------------------------------

    def _ready(self) -> None:
        if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
            self._opening = "lost"
            self._new_file()  # somebody removed the file: what it held is gone, the chain goes on
        if self._fd < 0:
            self._reopen()
        if self._size_bytes >= self._max_bytes:
            self._turn()

    def rotate(self) -> Path:
        """Begin a new file, whatever the size of this one; the one that is complete now. OSError as of ``write``."""
        self._ready()
        complete = self._path
        self._turn()
        self._put(
            (), sync=True, sign=True
        )  # its JOURNAL record: the next start finds where the chain goes on
        return complete

    def _turn(self) -> None:
        self._put((), sync=True, sign=True)
        self._opening = "rotated"
        self._new_file()
        self._drop_old()

    def _new_file(self) -> None:
        self.close()
        self._path = self._directory / f"audit-{self._interface}-{self.seq:012d}.jsonl"
        self._size_bytes = 0
        self._named.clear()
        if self._path.exists() and self._path.stat().st_size:
            self._path.replace(self._path.with_name(f"{self._path.name}.damaged-{self._unix_ns()}"))
        self._unnamed = True
        self._reopen()

    def _name(self) -> None:
        """The first records of a new file are written: now it may be found."""
        self.sync()
        self._draft.replace(self._path)
        statedir.sync_dir(self._directory)
        self._unnamed = False

    def _reopen(self) -> None:
        """Open the file where the chain ends, without what a failed call may have left behind it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._draft if self._unnamed else self._path, flags, 0o600)
        try:
            size_bytes = os.fstat(fd).st_size
            if size_bytes > self._size_bytes:
                os.ftruncate(fd, self._size_bytes)
            statedir.sync_dir(self._directory)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        if size_bytes < self._size_bytes:
            self._opening = "lost"
            self._new_file()  # its end is gone: go on in another, so that the loss shows where it is

    def _drop_old(self) -> None:
        """What is removed is written first: a reader who misses a file finds that it was meant."""
        known, others = journal_files(self._directory, self._interface), self._keep - self._unnamed
        old = known[: max(0, len(known) - others)] if self._keep else []
        if not old:
            return
        body = {"schema": audit.SCHEMA, "mono_ns": self._now_ns(), "event": "REMOVING"}
        body["files"] = [named.path.name for named in old]
        self._put([(body, self._unix_ns())], sync=True, sign=True)
        for named in old:
            named.path.unlink(missing_ok=True)

    # --- records ----------------------------------------------------------------------------------------------

    def _put(self, records: Sequence[Record], *, sync: bool, sign: bool, final: bool = False) -> None:
        mark = _Mark(
            self.seq, self._prev, self.unsigned, self._size_bytes, frozenset(self._named), self._opening
        )
        try:
            data = memoryview("".join(self._lines(records, sign, final)).encode())
            while data:
                written = os.write(self._fd, data)
                self._size_bytes += written
                data = data[written:]
            self.dirty = True
            if sync:
                self.sync()
            if self._unnamed:
                self._name()
        except Exception:
            self._undo(mark)
            raise

    def _undo(self, mark: _Mark) -> None:
        self.seq, self._prev, self.unsigned, self._size_bytes, named, self._opening = mark
        self._named = set(named)
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._size_bytes)
        with contextlib.suppress(OSError):
            self.close()
        self._fd = -1

    def _lines(self, records: Sequence[Record], sign: bool, final: bool) -> Iterator[str]:
        if self._opening or self._size_bytes == 0:
            yield self._seal(self._header(), self._unix_ns())
        for body, unix_ns in records:
            name = body.get("policy")
            if name in self._policies and name not in self._named:
                self._named.add(name)
                yield self._seal(self._policies[name], unix_ns)
            yield self._seal(body, unix_ns)
            if self.unsigned >= CHECKPOINT_RECORDS:
                yield self._checkpoint(False)
        if final or (sign and self.unsigned):
            yield self._checkpoint(final)

    def _seal(self, body: Body, unix_ns: int) -> str:
        enveloped = {**body, "ts": audit.wall(unix_ns), "node": self._node}
        line, self._prev = audit.seal(enveloped, self.seq, self._prev)
        self.seq += 1
        self.unsigned += 1
        return line + "\n"

    def _header(self) -> Body:
        body = {
            "schema": audit.SCHEMA,
            "mono_ns": self._now_ns(),
            "event": "JOURNAL",
            "interface": self._interface,
            "public_key": keysfile.encode_key(self._key.public),
            "previous": self._opening or "rotated",
        }
        self._opening = ""
        return body

    def _checkpoint(self, final: bool) -> str:
        body = audit.checkpoint_body(self.seq, self._prev, self._now_ns())
        signature = crypto.ed25519_sign(self._key.secret, audit.canonical(body).encode())
        line = self._seal({**body, "signature": signature.hex(), "final": final}, self._unix_ns())
        self.unsigned = 0
        return line
