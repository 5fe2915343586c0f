# SPDX-License-Identifier: Apache-2.0
"""Keeping secrets out of a support bundle, twice over: every secret of this box is known and removed wherever it turns
up, and what looks like one in a configuration is removed as well.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from appliance.guest import files
from appliance.guest.layout import Layout

REMOVED: Final = "<removed>"
# Shorter texts would remove words that are no secrets.
_LENGTH_MIN: Final = 8
_ASSIGNED: Final = re.compile(
    r"(?im)^(\s*[\"']?[\w.-]*(?:private|preshared|psk|secret|token|passw|hash)[\w.-]*(?<!_file)[\"']?\s*[=:]\s*).*$"
)
_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_ARGON: Final = re.compile(r"\$argon2\w*\$[^\s\"']+")
_PRESHARED: Final = re.compile(r"(?i)(?:private|preshared)_?key\s*=\s*[\"']?([A-Za-z0-9+/]{43}=)")
_FILE_MAX_BYTES: Final = 64 << 20


def secrets_of(layout: Layout) -> frozenset[str]:
    """Every secret text of this box, in each form in which it could be written."""
    found: set[str] = set()
    for path in _secret_files(layout):
        found.update(_forms(files.read(path) or b""))
    for path in (layout.gateway_file, layout.peers_file, layout.previous / "gateway.toml"):
        text = (files.read(path) or b"")[:_FILE_MAX_BYTES].decode("utf-8", "replace")
        for key in _PRESHARED.findall(text):
            found.update(_forms(key.encode()))
    return frozenset(text for text in found if len(text) >= _LENGTH_MIN)


def _secret_files(layout: Layout) -> Iterator[Path]:
    yield from (
        layout.gateway_key,
        layout.stats_token,
        layout.admin_hash,
        layout.state / "audit.key",
        layout.host_key,
    )
    for folder in (layout.secrets, layout.config, layout.ssh):
        for path in sorted(folder.glob("*")):
            if path.is_file() and path != layout.gateway_file and path.suffix != ".pub":
                yield path


def _forms(data: bytes) -> Iterator[str]:
    """The file whole, its lines, its words; of base64 the bytes in hexadecimal too."""
    text = data.decode("utf-8", "replace")
    for piece in {text.strip(), *re.split(r"[\s$]+", text)}:
        yield piece
        try:
            raw = base64.b64decode(piece, validate=True)
        except (binascii.Error, ValueError):
            continue
        if len(raw) >= 16:
            yield from (raw.hex(), raw.hex().upper(), base64.urlsafe_b64encode(raw).decode())
    if data and "\ufffd" in text:
        yield from (data.hex(), base64.b64encode(data).decode())


def cleaned(text: str, secrets: Iterable[str]) -> str:
    """``text`` without any of them."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REMOVED)
    text = _BLOCK.sub(REMOVED, text)
    text = _ARGON.sub(REMOVED, text)
    return _ASSIGNED.sub(rf"\g<1>{REMOVED}", text)
