# SPDX-License-Identifier: Apache-2.0
"""Who may ask the stats endpoint, and who may act through it: pure decisions, before anything of a request is read.

Rule 1: a web page must not be able to ask. A browser names the page's site in Origin and the name it resolved in Host,
so both must be ours: a literal address only if the connection came to it, a name only if it was configured. A UNIX
socket is its file's permissions, and no browser reaches it. There are no cookies: nothing goes along by itself.
Rule 2: who may read may not act. An operator is the gateway's own user or root on the UNIX socket; by TCP who holds an
operator's token, or shows a certificate whose name was configured. Without one of these actions are off there.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

from gateway.control.actor import Actor
from gateway.control.configmodel import Operator

READING: Final = ("GET", "HEAD")
# What an orchestrator asks, with ``open_health`` without a token.
HEALTH: Final = frozenset({"/livez", "/readyz"})
_VIA: Final = "http"
_BEARER: Final = "bearer "


class Denied(NamedTuple):
    """An answer instead of a document; ``more`` are headers of its own."""

    status: int
    code: str
    message: str
    more: tuple[tuple[str, str], ...] = ()


class Caller(NamedTuple):
    """What a connection says of the other end: its user on a UNIX socket, its certificate's common name under TLS."""

    uid: int | None = None
    certificate: str = ""


NOBODY: Final = Caller()


@dataclass(frozen=True, slots=True)
class Access:
    """The rule of one listener. ``token`` b"": none is asked for."""

    hosts: frozenset[str] = frozenset()
    token: bytes = field(repr=False, default=b"")
    local: bool = False  # a UNIX socket
    own_uid: int = 0
    operators: tuple[Operator, ...] = field(repr=False, default=())
    operator_certificates: frozenset[str] = frozenset()
    certified: bool = False  # who shows no certificate gets nothing but health, if that
    open_health: bool = False

    def judge(
        self,
        headers: Mapping[str, str],
        own_address: str,
        scheme: str,
        path: str = "",
        caller: Caller = NOBODY,
    ) -> Denied | None:
        """None lets the request in. ``own_address`` is where the connection arrived."""
        if self.local:
            return None
        host = headers.get("Host", "")
        if not self._ours(host, own_address):
            return Denied(421, "host", "not a name of this endpoint; add it to stats.hosts")
        if not same_site(headers, f"{scheme}://{host}"):
            return Denied(403, "origin", "other sites may not ask")
        if self.open_health and path in HEALTH:
            return None
        if self.certified and not caller.certificate:
            return Denied(401, "certificate", "show a certificate of stats.tls_client_ca_file")
        if self.token and not self._reads(headers):
            return Denied(401, "token", "send the token of stats.token_file: Authorization: Bearer TOKEN")
        return None

    def operator(self, headers: Mapping[str, str], caller: Caller = NOBODY) -> Actor | Denied:
        """Who acts, after ``judge`` let the request in."""
        if self.local:
            return self._local_operator(headers, caller)
        name = self._token_name(headers)
        if name:
            return Actor(f"token:{name}", _VIA)
        if caller.certificate and caller.certificate in self.operator_certificates:
            return Actor(f"cert:{caller.certificate}", _VIA)
        if not self.operators and not self.operator_certificates:
            return Denied(
                403, "off", "actions are off here; set stats.operator_token_file, or use the UNIX socket"
            )
        if self.operators and not (self.token and self._reads(headers)):
            return Denied(401, "token", "send an operator's token: Authorization: Bearer TOKEN")
        return Denied(403, "role", "whoever this is may read, not act")

    def _local_operator(self, headers: Mapping[str, str], caller: Caller) -> Actor | Denied:
        if not same_site(headers, f"http://{headers.get('Host', '')}"):
            return Denied(403, "origin", "other sites may not act")
        if caller.uid is None or caller.uid not in (0, self.own_uid):
            return Denied(403, "role", "root and the gateway's own user may act here")
        return Actor(f"uid:{caller.uid}", _VIA)

    def _ours(self, host: str, own_address: str) -> bool:
        name = _name_of(host).lower()
        try:
            return ip_address(name) == ip_address(own_address)
        except ValueError:
            return name == "localhost" or name in self.hosts

    def _reads(self, headers: Mapping[str, str]) -> bool:
        """Whether the token is the one for reading or an operator's."""
        reader = hmac.compare_digest(_token_of(headers), self.token)
        return bool(self._token_name(headers)) or reader

    def _token_name(self, headers: Mapping[str, str]) -> str:
        """Whose token was sent; all are compared, so that how long it takes says nothing."""
        sent, found = _token_of(headers), ""
        for one in self.operators:
            found = one.name if hmac.compare_digest(sent, one.token) else found
        return found


def _token_of(headers: Mapping[str, str]) -> bytes:
    header = headers.get("Authorization", "")
    sent = header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""
    return sent.encode("utf-8", "surrogateescape")


def _name_of(host: str) -> str:
    """A Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def same_site(headers: Mapping[str, str], own: str) -> bool:
    """Programs send none of both; a browser's address bar says "none", our own page "same-origin"."""
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != own.lower():
        return False
    return headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
