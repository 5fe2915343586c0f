# SPDX-License-Identifier: Apache-2.0
"""Where a bundle comes from: a file, a medium labelled JVPN-UPD, an https address.

Rule: a bundle is read whole and judged before the other slot is touched, so that a damaged one costs nothing. What is
downloaded waits on the data partition for that; where it has no room for it, it is written as it comes, and a
download that breaks off leaves the other slot empty.
"""

from __future__ import annotations

import contextlib
import shutil
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

from appliance.update.bundle import SUFFIX, BundleReader, Manifest, Progress, Stream, total_bytes
from gateway.errors import HostError, NotFound, Refused, UsageError

MEDIUM_LABEL: Final = "JVPN-UPD"
# Without a byte for so long a download is given up.
STALL_S: Final = 60.0
# Kept free of downloads on the data partition: the gateway's journal and store go on.
_KEPT_FREE_BYTES: Final = 16 << 20


# Says no to a manifest by raising; called once it is known to be signed, before the rest is read.
Judge = Callable[[Manifest], None]


def is_address(text: str) -> bool:
    """Whether it is fetched rather than opened."""
    return "://" in text


@contextlib.contextmanager
def from_file(path: Path, public_key: bytes, judge: Judge, progress: Progress) -> Iterator[BundleReader]:
    """A file, read twice: what the block gets was good once."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from None
    with file:
        if not path.is_file():
            raise UsageError(f"{path} is not a file")
        reader = BundleReader(file, public_key)
        judge(reader.manifest)
        reader.check(progress)
        yield _from_start(file, public_key)


def on_medium(folder: Path) -> Path:
    """The one bundle in a mounted medium's top folder."""
    found = sorted(folder.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise NotFound(
            f"the medium {MEDIUM_LABEL} must hold one file *{SUFFIX} in its top folder; found: {names}"
        )
    return found[0]


class _Keeping:
    """Hands on what it reads, and keeps it: in memory first, in a file once the head was judged."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._kept: IO[bytes] | None = BytesIO()

    def read(self, size: int, /) -> bytes:
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise HostError(f"the download broke off: {error}") from None
        if self._kept is not None:
            self._kept.write(data)
        return data

    def keep_in(self, file: IO[bytes] | None) -> None:
        if file is not None and isinstance(self._kept, BytesIO):
            file.write(self._kept.getvalue())
        self._kept = file


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """A server may send us elsewhere, but not out of TLS."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def require_https(url: str) -> None:
    """``Refused`` for any other scheme: who listens would learn what runs here."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise Refused(f"{url}: updates are fetched by https://HOST/... only")


@contextlib.contextmanager
def from_address(
    url: str,
    public_key: bytes,
    judge: Judge,
    progress: Progress,
    folder: Path,
    context: ssl.SSLContext | None = None,
) -> Iterator[BundleReader]:
    """An https address; ``folder`` is where the download waits while it is checked."""
    require_https(url)
    handler = urllib.request.HTTPSHandler(context=context or ssl.create_default_context())
    opener = urllib.request.build_opener(handler, _HttpsOnly())
    try:
        answer = opener.open(url, timeout=STALL_S)
    except (OSError, urllib.error.URLError) as error:
        raise HostError(f"{url}: {getattr(error, 'reason', error)}") from None
    with answer:
        stream = _Keeping(answer)
        reader = BundleReader(stream, public_key)
        judge(reader.manifest)
        if not _has_room(folder, total_bytes(reader.manifest)):
            stream.keep_in(None)
            yield reader
            return
        with tempfile.TemporaryFile(dir=folder) as file:
            stream.keep_in(file)
            reader.check(progress)
            yield _from_start(file, public_key)


def _from_start(file: IO[bytes], public_key: bytes) -> BundleReader:
    file.seek(0)
    return BundleReader(file, public_key)


def _has_room(folder: Path, size_bytes: int) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free >= size_bytes + _KEPT_FREE_BYTES
