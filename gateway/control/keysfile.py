# SPDX-License-Identifier: Apache-2.0
"""WireGuard keys as text and as files: 32 bytes in canonical base64, private ones in files of mode 0600.

Functions that make keys take the randomness; no message here ever shows a key.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from gateway.control import regularfile
from gateway.errors import HostError, JumpError, NotFound

RandomBytes = Callable[[int], bytes]

KEY_BYTES: Final = 32
CREDENTIAL_PREFIX: Final = "credential:"
# A key file is 45 bytes; more than this is some other file given by mistake.
KEY_FILE_MAX_BYTES: Final = 4096
_TEXT_LENGTH: Final = 44
_CREDENTIAL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}\Z")
_P: Final = 2**255 - 19
# The u-coordinates of order 1, 2, 4 and 8 on the curve and its twist (RFC 7748 §6.1); X25519 ignores bit 255.
_LOW_ORDER: Final = frozenset(
    value.to_bytes(32, "little")
    for value in (
        0,
        1,
        _P - 1,
        _P,
        _P + 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)


class KeyFile(NamedTuple):
    """A key read from disk; ``warning`` is '' or what is wrong with the file's permissions."""

    key: bytes
    warning: str

    def __repr__(self) -> str:
        return f"KeyFile(key=<hidden>, warning={self.warning!r})"


def encode_key(key: bytes) -> str:
    """The 44 characters WireGuard tools print for 32 bytes."""
    return base64.b64encode(key).decode("ascii")


def decode_key(text: str) -> bytes:
    """32 bytes from canonical base64; ``ValueError`` says what is wrong without showing the text."""
    if len(text) != _TEXT_LENGTH:
        raise ValueError(f"not a WireGuard key: {len(text)} characters instead of {_TEXT_LENGTH}")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a WireGuard key: the text is not base64") from None
    if len(key) != KEY_BYTES or encode_key(key) != text:
        raise ValueError("not a WireGuard key: the base64 text does not hold exactly 32 bytes")
    return key


def decode_public_key(text: str) -> bytes:
    """A public key another side may hold; low-order points, which would fix the secret, are refused."""
    key = decode_key(text)
    if is_low_order(key):
        raise ValueError("a low-order point, nobody's public key (RFC 7748 §6.1)")
    return key


def is_low_order(public_key: bytes) -> bool:
    """True for the points with which X25519 gives all zeros whatever the private key."""
    return public_key[:31] + bytes((public_key[31] & 0x7F,)) in _LOW_ORDER


def generate_private_key(random_bytes: RandomBytes) -> bytes:
    """A clamped X25519 private key, as ``wg genkey`` makes them."""
    from gateway import crypto  # loads libsodium, which most commands do without

    return crypto.clamp(random_bytes(KEY_BYTES))


def generate_preshared_key(random_bytes: RandomBytes) -> bytes:
    """32 random bytes, as ``wg genpsk`` makes them."""
    return random_bytes(KEY_BYTES)


def public_key(private_key: bytes) -> bytes:
    """The public key of a private key."""
    from gateway import crypto

    return crypto.x25519_public(private_key)


def read_key_file(path: Path) -> KeyFile:
    """Read one base64 key. ``NotFound`` without the file, ``JumpError`` when it holds no readable key."""
    try:
        data, mode = regularfile.read(path, KEY_FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist; make it with: jvpn keys gen -o {path}") from None
    except OSError as error:
        raise JumpError(f"{path}: {error.strerror}") from None
    try:
        key = decode_key(data.decode("ascii").strip() if len(data) <= KEY_FILE_MAX_BYTES else "")
    except UnicodeDecodeError:
        raise JumpError(f"{path} holds no WireGuard key: it is not text") from None
    except ValueError as error:
        raise JumpError(f"{path}: {error}") from None
    return KeyFile(key, exposed(path, mode))


def exposed(path: Path, mode: int) -> str:
    """'' for a file that keeps a secret, else what is wrong with it and the remedy."""
    if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"{path} can be read by every user of this machine; fix it with: chmod 600 {path}"
    return ""


def write_key_file(path: Path, key: bytes, *, replace: bool = False) -> None:
    """Write a key to a new file of mode 0600, synced; an existing file is kept unless ``replace``."""
    data = encode_key(key).encode("ascii") + b"\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # fails when the file exists, unlike rename
    except FileExistsError:
        raise JumpError(f"{path} exists already; a key is never overwritten") from None
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_elsewhere(name: str, environ: Mapping[str, str]) -> bool:
    """Whether ``name`` is a credential of a unit that this process does not run in."""
    return name.startswith(CREDENTIAL_PREFIX) and not environ.get("CREDENTIALS_DIRECTORY")


def resolve_key_path(name: str, folder: Path, environ: Mapping[str, str]) -> Path:
    """The file behind ``private_key_file``: relative to the configuration, or a systemd credential by name.

    ``ValueError`` when a credential is named outside of a systemd unit or with a path in its name.
    """
    if not name.startswith(CREDENTIAL_PREFIX):
        return folder / name
    credential = name.removeprefix(CREDENTIAL_PREFIX)
    if not _CREDENTIAL_NAME.match(credential) or credential in (".", ".."):
        raise ValueError(f"{credential!r} is not the name of a systemd credential")
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        raise ValueError("CREDENTIALS_DIRECTORY is not set: a credential needs LoadCredential= in the unit")
    return Path(directory) / credential
