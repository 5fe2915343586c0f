# SPDX-License-Identifier: Apache-2.0
"""What every answer of the stats endpoint has: its headers, and JSON that names its schema."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.ops.stats.access import Denied

ERROR: Final = "jvpn.error/1"
HEADERS: Final = {"Server": "jvpn", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_MORE: Final = {401: {"WWW-Authenticate": 'Bearer realm="jvpn"'}}


class Denial(Exception):
    """A document that is not given."""

    def __init__(self, status: int, code: str, message: str, *more: tuple[str, str]) -> None:
        super().__init__(message)
        self.denied = Denied(status, code, message, more)


def plain(body: bytes, content_type: str, status: int = 200, **headers: str) -> web.Response:
    """An answer of any type."""
    return web.Response(
        body=body, status=status, headers={**HEADERS, "Content-Type": content_type, **headers}
    )


def document(body: dict[str, Any], status: int = 200, **headers: str) -> web.Response:
    """A JSON answer."""
    return plain(msgspec.json.encode(body), "application/json", status, **headers)


def refusal(denied: Denied) -> web.Response:
    """An error in the words of the command line's errors."""
    error = {"code": denied.code, "message": denied.message}
    more = _MORE.get(denied.status, {}) | dict(denied.more)
    return document({"schema": ERROR, "error": error}, denied.status, **more)
