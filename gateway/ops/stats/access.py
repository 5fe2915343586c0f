# SPDX-License-Identifier: Apache-2.0
"""Who may ask the stats endpoint: one pure decision per request, before anything of it is read.

Rule: a web page must not be able to ask. A browser names the page's site in Origin and the name it resolved in Host, so
both must be ours: a literal address only if the connection came to it, a name only if it was configured. A UNIX socket
is its file's permissions, and no browser reaches it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

METHODS: Final = ("GET", "HEAD")
_BEARER: Final = "bearer "


class Denied(NamedTuple):
    """An answer instead of a document."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Access:
    """The rule of one listener. ``token`` b"": none is asked for."""

    hosts: frozenset[str] = frozenset()
    token: bytes = field(repr=False, default=b"")
    local: bool = False  # a UNIX socket

    def judge(self, method: str, headers: Mapping[str, str], own_address: str, scheme: str) -> Denied | None:
        """None lets the request in. ``own_address`` is where the connection arrived."""
        if method not in METHODS:
            return Denied(405, "method", "this endpoint is only read: GET or HEAD")
        if headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers:
            return Denied(413, "body", "a request has no body here")
        if self.local:
            return None
        host = headers.get("Host", "")
        if not self._ours(host, own_address):
            return Denied(421, "host", "not a name of this endpoint; add it to stats.hosts")
        if not _same_site(headers, f"{scheme}://{host}"):
            return Denied(403, "origin", "other sites may not ask")
        if self.token and not self._known(headers.get("Authorization", "")):
            return Denied(401, "token", "send the token of stats.token_file: Authorization: Bearer TOKEN")
        return None

    def _ours(self, host: str, own_address: str) -> bool:
        name = _name_of(host).lower()
        try:
            return ip_address(name) == ip_address(own_address)
        except ValueError:
            return name == "localhost" or name in self.hosts

    def _known(self, header: str) -> bool:
        sent = header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""
        return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), self.token)


def _name_of(host: str) -> str:
    """A Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _same_site(headers: Mapping[str, str], own: str) -> bool:
    """Programs send none of both; a browser's address bar says "none", our own page "same-origin"."""
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != own.lower():
        return False
    return headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
