# SPDX-License-Identifier: Apache-2.0
"""An update as one file, signed.

    magic       8   "JVPNUP1\\n"
    length      4   of the manifest, little endian, at most 16 KiB
    manifest        JSON: keys sorted, no spaces, one spelling only
    signature  64   Ed25519 of magic and manifest
    files           those of the manifest, in its order, one after the other; nothing behind them

Rule 1: not a byte is interpreted before the signature has verified, and every length is checked before it is used.
Rule 2: a file's bytes go to whoever asked as they come, and its hash is judged at its end: what was written from them
counts for nothing before the reader came to the end without an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta, Struct

from appliance.update.disk import CHUNK_BYTES
from appliance.update.slotcfg import ROOTHASH_PATTERN, SERIAL_MAX, VERSION_PATTERN, SlotConfig
from gateway import crypto
from gateway.errors import AuthError, ProtocolError

MAGIC: Final = b"JVPNUP1\n"
SUFFIX: Final = ".jvpnup"
PRODUCT: Final = "jumping-vpn-appliance"
ARCHITECTURE: Final = "amd64"
MANIFEST_MAX_BYTES: Final = 16 * 1024
_LENGTH_BYTES: Final = 4
# What a slot is made of, in the order of the bundle, and the most that each may have.
FILES: Final = {
    "root.squashfs": 1 << 30,
    "root.verity": 16 << 20,
    "vmlinuz": 64 << 20,
    "initrd": 128 << 20,
    "slot.cfg": 1024,
}

# The cloud kernel knows no controllers of real machines.
Flavour = Literal["cloud", "generic"]
Progress = Callable[[str, int, int], None]
_Serial = Annotated[int, Meta(ge=0, le=SERIAL_MAX)]


class Stream(Protocol):
    """What a bundle is read from."""

    def read(self, size: int, /) -> bytes: ...


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the slot."""

    name: str
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size_bytes: Annotated[int, Meta(ge=1, le=1 << 30)]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed. ``floor``: the lowest serial that may follow once it was confirmed. ``flavour``: its kernel."""

    arch: str
    files: tuple[FileEntry, ...]
    flavour: Flavour
    floor: _Serial
    product: str
    roothash: Annotated[str, Meta(pattern=rf"^{ROOTHASH_PATTERN}\Z")]
    serial: _Serial
    version: Annotated[str, Meta(pattern=rf"^{VERSION_PATTERN}\Z")]

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="sorted")

    def slot_config(self) -> SlotConfig:
        return SlotConfig(self.roothash, self.version, self.serial)

    def entry(self, name: str) -> FileEntry:
        return next(entry for entry in self.files if entry.name == name)


def decode_manifest(data: bytes) -> Manifest:
    """``ProtocolError`` unless it is the one spelling of a manifest that we take."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"the update's manifest cannot be read: {error}") from None
    if manifest.encode() != data:
        raise ProtocolError("the update's manifest is not spelled as it must be")
    if (manifest.product, manifest.arch) != (PRODUCT, ARCHITECTURE):
        raise ProtocolError(
            f"the update is for {manifest.product} on {manifest.arch}, not for this appliance"
        )
    if tuple(entry.name for entry in manifest.files) != tuple(FILES):
        raise ProtocolError(f"the update must hold {', '.join(FILES)}, in this order")
    for entry in manifest.files:
        if entry.size_bytes > FILES[entry.name]:
            raise ProtocolError(f"the update's {entry.name} has more than {FILES[entry.name]} bytes")
    if manifest.floor > manifest.serial:
        raise ProtocolError("the update's floor is above its own serial")
    return manifest


class BundleReader:
    """Reads one bundle from front to end. The head is read and judged when it is made."""

    def __init__(self, stream: Stream, public_key: bytes) -> None:
        """``AuthError``: not signed with our key. ``ProtocolError``: no bundle."""
        self._stream = stream
        if self._exactly(len(MAGIC), "magic") != MAGIC:
            raise ProtocolError(f"this is no update: an update is a file *{SUFFIX} of `make image`")
        size_bytes = int.from_bytes(self._exactly(_LENGTH_BYTES, "head"), "little")
        if not 1 <= size_bytes <= MANIFEST_MAX_BYTES:
            raise ProtocolError("the update's manifest has no sensible length")
        manifest = self._exactly(size_bytes, "manifest")
        signature = self._exactly(crypto.SIGNATURE_BYTES, "signature")
        try:
            crypto.ed25519_verify(public_key, MAGIC + manifest, signature)
        except AuthError:
            raise AuthError("the update is not signed with the key of this appliance") from None
        self.manifest = decode_manifest(manifest)

    def files(self) -> Iterator[tuple[FileEntry, Iterator[bytes]]]:
        """Each file with its chunks. All chunks of one are taken before the next; the last step checks the end."""
        for entry in self.manifest.files:
            yield entry, self._chunks(entry)
        if self._stream.read(1):
            raise ProtocolError("the update goes on behind its end")

    def check(self, progress: Progress) -> None:
        """Read everything and keep nothing."""
        for entry, chunks in self.files():
            done_bytes = 0
            for chunk in chunks:
                done_bytes += len(chunk)
                progress(f"checking {entry.name}", done_bytes, entry.size_bytes)

    def _chunks(self, entry: FileEntry) -> Iterator[bytes]:
        digest = hashlib.sha256()
        left_bytes = entry.size_bytes
        while left_bytes:
            chunk = self._exactly(min(left_bytes, CHUNK_BYTES), entry.name)
            digest.update(chunk)
            left_bytes -= len(chunk)
            yield chunk
        if digest.hexdigest() != entry.sha256:
            raise ProtocolError(f"the update is damaged: {entry.name} is not what was signed")

    def _exactly(self, size_bytes: int, what: str) -> bytes:
        """A stream may give less than was asked for; its end may not come yet."""
        parts = []
        while size_bytes:
            part = self._stream.read(size_bytes)
            if not part:
                raise ProtocolError(f"the update is cut off in its {what}")
            parts.append(part)
            size_bytes -= len(part)
        return b"".join(parts)


def head(manifest: Manifest, secret_key: bytes) -> bytes:
    """Everything before the files, signed."""
    encoded = manifest.encode()
    decode_manifest(encoded)
    signature = crypto.ed25519_sign(secret_key, MAGIC + encoded)
    return MAGIC + len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded + signature


def total_bytes(manifest: Manifest) -> int:
    """Of the files alone."""
    return sum(entry.size_bytes for entry in manifest.files)


def file_entry(name: str, chunks: Iterable[bytes]) -> FileEntry:
    """The entry of a file with this content."""
    digest, size_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
    return FileEntry(name, digest.hexdigest(), size_bytes)
