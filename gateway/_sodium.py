# SPDX-License-Identifier: Apache-2.0
"""The one place that imports pysodium, so that Python and C share one libsodium.

pysodium loads whatever ``ctypes.util.find_library("sodium")`` names, which is the system's library even when a
newer one lies in ``gateway/_lib``, and nothing at all where ldconfig and gcc are missing. So ``find_library``
answers with our choice for the time of that one import. Nothing else in the project may import pysodium.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gateway.errors import HostError

BUNDLED: Final = Path(__file__).resolve().parent / "_lib" / "libsodium.so.26"
# Debian 12 has .23, Debian 13 and Ubuntu 24.10 have .26; without a suffix it is a -dev package's link.
SYSTEM_SONAMES: Final = ("libsodium.so.26", "libsodium.so.23", "libsodium.so")

_IMPORT_LOCK: Final = threading.Lock()


class _DlInfo(ctypes.Structure):
    """``Dl_info`` of dladdr(3)."""

    _fields_ = (
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    )


def _file_of(library: ctypes.CDLL) -> str:
    """Return the file that a loaded libsodium came from, as dladdr(3) names it."""
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = (ctypes.c_void_p, ctypes.POINTER(_DlInfo))
    info = _DlInfo()
    address = ctypes.cast(library.sodium_version_string, ctypes.c_void_p)
    if not dladdr(address, ctypes.byref(info)) or not info.dli_fname:
        raise HostError("the dynamic loader does not tell where libsodium came from")
    return str(Path(info.dli_fname.decode()).resolve())


def _system_library() -> str:
    """Return the file of the system's libsodium; the loader itself is asked, so no ldconfig is needed."""
    # What the C side was linked against goes first, or the process would hold two libraries.
    linked = Path(__file__).resolve().parent / "_lib" / "libjv.so"
    for candidate in (str(linked), *SYSTEM_SONAMES):
        try:
            return _file_of(ctypes.CDLL(candidate))
        except OSError:
            continue
    raise HostError("no libsodium on this machine: run `make build`, or install Debian's libsodium23")


@contextmanager
def _find_library_answers(path: str) -> Iterator[None]:
    original = ctypes.util.find_library
    ctypes.util.find_library = lambda name: path if name in ("sodium", "libsodium") else original(name)
    try:
        yield
    finally:
        ctypes.util.find_library = original


def _load() -> Any:
    path = str(BUNDLED) if BUNDLED.exists() else _system_library()
    with _IMPORT_LOCK, _find_library_answers(path):
        import pysodium

    if pysodium.sodium_init() < 0:
        raise HostError(f"libsodium at {path} did not initialise")
    return pysodium


pysodium: Final[Any] = _load()


def library_path() -> str:
    """Return the file pysodium loaded."""
    return str(pysodium.sodium._name)


def library_version() -> str:
    """Return libsodium's version, e.g. ``1.0.20``."""
    version: bytes = pysodium.sodium.sodium_version_string()
    return version.decode("ascii")


def has_function(name: str) -> bool:
    """Tell whether the loaded libsodium exports ``name``."""
    return hasattr(pysodium.sodium, name)


def call_int(name: str) -> int:
    """Call a libsodium function without arguments that returns an int."""
    return int(getattr(pysodium.sodium, name)())
