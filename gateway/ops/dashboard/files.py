# SPDX-License-Identifier: Apache-2.0
"""The page's own files, and what keeps a browser to them: nothing from elsewhere, no inline script or style.

Rule: these files are the same for everybody and hold nothing of a gateway, so they are given without a token. Only what
was read at the start is given; a request's path is looked up, never opened.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent
FOLDER: Final = "/dashboard/"
# 'self' for images is the icon; connect-src is the page's reading of /stats and /api/v1.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class File(NamedTuple):
    """One file and the name of its content."""

    body: bytes
    content_type: str
    etag: str


def read_all() -> dict[str, File]:
    """Every file by its address."""
    root = HERE / "static"
    return {
        FOLDER + path.relative_to(root).as_posix(): _read(path)
        for path in sorted(root.rglob("*"))
        if path.suffix in _TYPES
    }


def _read(path: Path) -> File:
    body = path.read_bytes()
    return File(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
