# SPDX-License-Identifier: Apache-2.0
"""The stats endpoint's listeners on the gateway's own loop, and the bounds that nobody who asks can exceed.

Rule 1: what it costs to be asked is bounded per listener: connections, sizes, and the time until a request is there and
its answer taken. Who is refused leaves nothing behind, no log line either.
Rule 2: the tunnel comes first. An address that is taken is logged and done without.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.control import statedir
from gateway.control.actor import Actor, uid_of
from gateway.control.configfields import Endpoint
from gateway.control.configmodel import Stats, Tls
from gateway.control.observed import Observed
from gateway.ops.stats.access import NOBODY, READING, Access, Caller, Denied
from gateway.ops.stats.answers import Pages
from gateway.ops.stats.listener import Listener
from gateway.ops.stats.reply import Denial, refusal

# Each listener's own: whoever fills the TCP one leaves the UNIX socket free.
CONNECTIONS_MAX: Final = 64
# For a whole request to arrive, its answer to be taken, and the next one to begin.
REQUEST_S: Final = 10.0
LINE_MAX_BYTES: Final = 4096
HEADERS_MAX: Final = 64
# Who is asked to stop has this long to finish its answer.
STOP_S: Final = 1.0
# A certificate without a common name proves its authority all the same; no name of a configuration is this one.
_NAMELESS: Final = " "

# Answers a request that was let in; who acts, or why he may not, goes along.
Ask = Callable[[web.BaseRequest, Actor | Denied], Awaitable[web.StreamResponse]]
# What is given without a token, if anything.
Unasked = Callable[[web.BaseRequest], web.StreamResponse | None]

# aiohttp would log every malformed request with its traceback.
_SILENT: Final = logging.Logger("stats", logging.CRITICAL + 1)


def make(seen: Observed, settings: Stats, log: structlog.stdlib.BoundLogger) -> StatsServer:
    """The endpoint of one gateway, not listening yet."""
    return StatsServer(seen, settings, log)


class Door(web.Server):
    """The connections of one listener. Each has a deadline; ``hold`` lifts it for an answer that has no end."""

    def __init__(
        self, ask: Ask, unasked: Unasked, access: Access, connections_max: int, request_s: float
    ) -> None:
        super().__init__(
            self._admit,
            handler_cancellation=True,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=request_s,
            lingering_time=0,
            max_line_size=LINE_MAX_BYTES,
            max_field_size=LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            auto_decompress=False,
        )
        self._ask = ask
        self._unasked = unasked
        self.access = access
        self._connections_max = connections_max
        self._request_s = request_s
        self._deadlines: dict[RequestHandler, asyncio.TimerHandle] = {}

    def room(self, shaking: int) -> bool:
        """Whether one more fits beside so many that are not connected yet."""
        return len(self.connections) + shaking < self._connections_max

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._arm(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.hold(handler)

    def _arm(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        self.hold(handler)
        loop = asyncio.get_running_loop()
        self._deadlines[handler] = loop.call_later(self._request_s, transport.abort)

    def hold(self, handler: RequestHandler) -> None:
        """No deadline from now on."""
        timer = self._deadlines.pop(handler, None)
        if timer is not None:
            timer.cancel()

    async def _admit(self, request: web.BaseRequest) -> web.StreamResponse:
        """Judge first; every refusal ends the connection."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        self._arm(request.protocol, transport)
        own = request.protocol.sockname
        address = own[0] if isinstance(own, tuple) else ""
        caller = _caller(transport, self.access)
        denied = self.access.judge(request.headers, address, request.scheme, request.path, caller)
        if denied is None:
            return await self._ask(request, self.access.operator(request.headers, caller))
        reads = request.method in READING and not request.body_exists
        if denied.code == "token" and reads and (shell := self._unasked(request)) is not None:
            return shell
        response = refusal(denied)
        response.force_close()
        return response


class StatsServer:
    """All listeners of one gateway, and what watches over it for them."""

    def __init__(
        self,
        seen: Observed,
        settings: Stats,
        log: structlog.stdlib.BoundLogger,
        *,
        connections_max: int = CONNECTIONS_MAX,
        request_s: float = REQUEST_S,
    ) -> None:
        self._seen = seen
        self._settings = settings
        self._log = log
        self._connections_max = connections_max
        self._request_s = request_s
        self._pages = Pages(
            seen,
            seen.watch,
            per_session=settings.per_session,
            wireguard_names=settings.wireguard_names,
        )
        self._doors: list[Door] = []
        self._listeners: list[Listener] = []
        self._socket_path: Path | None = None
        self._tls: ssl.SSLContext | None = None

    async def start(self) -> None:
        """Listen wherever that works."""
        if not self._settings.enabled:
            return
        self._seen.watch.start()
        self._pages.start()
        await self._try("its socket", self._listen_unix)
        context = await self._try("TLS", self._context)
        if self._settings.tls is not None and context is None:
            return
        for address in self._settings.listen:
            await self._try(str(address), partial(self._listen_tcp, address, context))

    async def stop(self) -> None:
        """Close everything; answers without an end are cut."""
        self._pages.stop()
        for listener in self._listeners:
            await listener.stop()
        for door in self._doors:
            door.pre_shutdown()
            await door.shutdown(STOP_S)
        self._listeners.clear()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
            self._socket_path = None

    def adopt(self, settings: Stats) -> None:
        """Other tokens, operators and names count from the next request on; listeners stay as they are.

        The files of a TLS listener are read again: a certificate that was renewed counts from the next connection on.
        """
        self._settings = replace(
            self._settings,
            token=settings.token,
            hosts=settings.hosts,
            operators=settings.operators,
            operator_certificates=settings.operator_certificates,
        )
        for door in self._doors:
            if not door.access.local:
                door.access = _access(self._settings)
        self._renew()

    def _renew(self) -> None:
        if self._tls is None or self._settings.tls is None:
            return
        try:
            tls_context(self._settings.tls)  # a chain without its key would leave the listener with neither
            self._tls.load_cert_chain(self._settings.tls.cert, self._settings.tls.key)
        except (OSError, ssl.SSLError) as error:
            self._log.error("the certificate before stays in use", reason=str(error))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens by TCP."""
        return [listener.name for listener in self._listeners if isinstance(listener.name, tuple)]

    # --- listeners --------------------------------------------------------------------------------------------

    async def _try(self, where: str, attempt: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await attempt()
        except (OSError, ssl.SSLError, ValueError) as error:
            self._log.error("stats endpoint does not listen", where=where, reason=str(error))
            return None

    async def _listen_tcp(self, at: Endpoint, context: ssl.SSLContext | None) -> None:
        family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
        sock = socket.create_server((at.host, at.port), family=family, backlog=CONNECTIONS_MAX)
        self._listen(sock, _access(self._settings), context)

    async def _listen_unix(self) -> None:
        path = self._settings.socket or statedir.stats_socket(self._seen.interface)
        statedir.ensure_dir(path.parent)
        sock = _bind_unix(path)
        self._socket_path = path
        self._listen(sock, Access(local=True, own_uid=os.geteuid()), None)

    def _listen(self, sock: socket.socket, access: Access, context: ssl.SSLContext | None) -> None:
        sock.setblocking(False)
        door = Door(self._answer, self._pages.open, access, self._connections_max, self._request_s)
        listener = Listener(sock, door, door.room, context, self._request_s)
        listener.start()
        self._doors.append(door)
        self._listeners.append(listener)

    async def _context(self) -> ssl.SSLContext | None:
        settings = self._settings
        self._tls = tls_context(settings.tls, settings.open_health) if settings.tls is not None else None
        return self._tls

    # --- answers ----------------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest, who: Actor | Denied) -> web.StreamResponse:
        try:
            return await self._pages.answer(request, self._hold, who)
        except Denial as denial:
            response = refusal(denial.denied)
            if request.body_exists:  # what was not read of it must not be taken for the next request
                response.force_close()
            return response
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # a document's fault must not end the connection without a word
            self._log.error("stats request failed", path=request.path, error=repr(error))
            return refusal(Denied(500, "internal", "the gateway's log has the details"))

    def _hold(self, request: web.BaseRequest) -> None:
        for door in self._doors:
            door.hold(request.protocol)


def _access(settings: Stats) -> Access:
    """The rule of a TCP listener."""
    return Access(
        hosts=settings.hosts,
        token=settings.token,
        operators=settings.operators,
        operator_certificates=settings.operator_certificates,
        certified=settings.tls is not None and settings.tls.client_ca is not None,
        open_health=settings.open_health,
    )


def _caller(transport: asyncio.BaseTransport, access: Access) -> Caller:
    """What the kernel or TLS says of the other end."""
    if access.local:
        return Caller(uid_of(transport.get_extra_info("socket")))
    subject = (transport.get_extra_info("peercert") or {}).get("subject", ())
    names = [value for part in subject for kind, value in part if kind == "commonName"]
    return Caller(certificate=names[-1] if names else _NAMELESS) if subject else NOBODY


def tls_context(files: Tls, open_health: bool = False) -> ssl.SSLContext:
    """TLS 1.2 or later; with a client CA nobody without a certificate of it gets in, but to an open health."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL if open_health else ssl.CERT_REQUIRED
    return context


def _bind_unix(path: Path) -> socket.socket:
    """The daemon holds its control socket's lock, so what lies here is a killed one's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.is_socket():
            path.unlink()
        os.fchmod(listener.fileno(), 0o600)  # before bind, so that the file is never open to others
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(CONNECTIONS_MAX)
    except OSError:
        listener.close()
        raise
    return listener
