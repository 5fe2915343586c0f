# SPDX-License-Identifier: Apache-2.0
"""Everything an update does to storage passes through here, so that tests can cut the power after each step.

Rule: nothing counts as written before its ``flush``, and no name before ``flush_folder``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from gateway.errors import HostError

# Read and written at once: large enough for a flash disk, small beside 512 MB.
CHUNK_BYTES: Final = 1 << 20


class Disk(Protocol):
    """What an update needs of storage; paths are partitions or files."""

    def size_bytes(self, path: Path) -> int: ...

    def exists(self, path: Path) -> bool: ...

    def read(self, path: Path, offset_bytes: int, size_bytes: int) -> bytes: ...

    def overwrite(self, path: Path, offset_bytes: int, data: bytes) -> None: ...

    def write_new(self, path: Path, chunks: Iterable[bytes]) -> None: ...

    def flush(self, path: Path) -> None: ...

    def rename(self, old: Path, new: Path) -> None: ...

    def remove(self, path: Path) -> None: ...

    def flush_folder(self, path: Path) -> None: ...


class RealDisk:
    """Storage as the kernel gives it."""

    def size_bytes(self, path: Path) -> int:
        """Of a file or of a block device, whose stat says 0."""
        descriptor = self._open(path, os.O_RDONLY)
        try:
            return os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def read(self, path: Path, offset_bytes: int, size_bytes: int) -> bytes:
        """Up to so many bytes; fewer at the end."""
        descriptor = self._open(path, os.O_RDONLY)
        try:
            parts = []
            while size_bytes > 0 and (part := os.pread(descriptor, size_bytes, offset_bytes)):
                parts.append(part)
                offset_bytes += len(part)
                size_bytes -= len(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def overwrite(self, path: Path, offset_bytes: int, data: bytes) -> None:
        """Write within what exists: nothing is made, moved or cut."""
        descriptor = self._open(path, os.O_WRONLY)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset_bytes)
                view = view[written:]
                offset_bytes += written
        finally:
            os.close(descriptor)

    def write_new(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Make the file, or make it anew."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)

    def flush(self, path: Path) -> None:
        """What was written is on the medium, and the next read comes from there, not from memory."""
        descriptor = self._open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def flush_folder(self, path: Path) -> None:
        if path.exists():
            descriptor = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @staticmethod
    def _open(path: Path, flags: int) -> int:
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            raise HostError(f"{path} is not there: is this the appliance's own disk?") from None


def replace_file(disk: Disk, path: Path, chunks: Iterable[bytes]) -> None:
    """Write beside it, flush, rename, flush the folder."""
    fresh = path.with_name(f"{path.name}.new")
    disk.write_new(fresh, chunks)
    disk.flush(fresh)
    disk.rename(fresh, path)
    disk.flush_folder(path.parent)


def read_small(disk: Disk, path: Path, most_bytes: int) -> bytes:
    """A file that must be small; ``HostError`` when it is not."""
    data = disk.read(path, 0, most_bytes + 1)
    if len(data) > most_bytes:
        raise HostError(f"{path} has more than {most_bytes} bytes")
    return data
