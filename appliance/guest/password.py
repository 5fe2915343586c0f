# SPDX-License-Identifier: Apache-2.0
"""The administrator's password: Argon2id by libsodium, as text that ``argon2 -id -e`` writes too (RFC 9106).

Rule: a password is never stored, logged or given on a command line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from appliance.guest import files

LENGTH_MIN: Final = 8
# libsodium's own limit is 4 GiB; nobody types more than this.
LENGTH_MAX: Final = 512
_FORM: Final = re.compile(
    r"\$argon2id\$v=19\$m=(\d{1,10}),t=(\d{1,4}),p=1\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{22,86}\Z"
)
# A box of 512 MB must be able to check it beside the gateway.
MEMORY_MAX_KIB: Final = 128 * 1024
ROUNDS_MAX: Final = 16
# OPSLIMIT_INTERACTIVE and 64 MiB: a second on a slow machine, and who has the console has the disk.
ROUNDS, MEMORY_BYTES = 2, 64 * 1024 * 1024


def check_hash(text: str) -> str:
    """``text`` when it is such a hash and this machine can check it. ``ValueError`` without showing it."""
    found = _FORM.match(text)
    if found is None:
        raise ValueError("not an Argon2id hash; make one with: jvpn-appliance password --print")
    if int(found[1]) > MEMORY_MAX_KIB or int(found[2]) > ROUNDS_MAX:
        raise ValueError(f"needs too much: at most m={MEMORY_MAX_KIB}, t={ROUNDS_MAX}")
    return text


def acceptable(text: str) -> str:
    """``text`` as a new password; ``ValueError`` says why not."""
    if not LENGTH_MIN <= len(text) <= LENGTH_MAX:
        raise ValueError(f"a password has {LENGTH_MIN} to {LENGTH_MAX} characters")
    return text


def hashed(text: str) -> str:
    """The hash of a password, with a salt of its own."""
    found: bytes = _sodium().crypto_pwhash_str(text.encode(), ROUNDS, MEMORY_BYTES)
    return found.rstrip(b"\0").decode("ascii")


def verify(hash_: str, text: str) -> bool:
    """Whether ``text`` is the password behind ``hash_``."""
    if not 1 < len(text) <= LENGTH_MAX:
        return False
    sodium = _sodium()
    try:
        stored = check_hash(hash_).encode().ljust(sodium.crypto_pwhash_STRBYTES, b"\0")
    except ValueError:
        return False
    return bool(sodium.crypto_pwhash_str_verify(stored, text.encode()))


def stored(path: Path) -> str:
    """The hash in force, '' before there is a password."""
    return files.read_text(path)


def store(path: Path, hash_: str) -> None:
    """Put a hash in force."""
    files.write(path, check_hash(hash_) + "\n", files.SECRET)


def _sodium() -> Any:
    from gateway._sodium import pysodium  # only here: a boot without a password does without libsodium

    return pysodium
