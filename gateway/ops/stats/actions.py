# SPDX-License-Identifier: Apache-2.0
"""What an operator does through the endpoint: the very commands of the control socket, under addresses of their own.

Rule 1: nothing is decided here. An action is a command's name, and how a request becomes its arguments; the command
writes down who acted.
Rule 2: who may not act is refused before a byte of his body is read, and what one request may bring is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import web

from gateway.constants import NS_PER_S
from gateway.control import actor, clock
from gateway.control.actor import Actor
from gateway.control.ctlclient import code_of
from gateway.control.observed import Observed
from gateway.core.rates import Bucket
from gateway.errors import JumpError, NotFound, Refused, TryLater, UsageError
from gateway.ops.stats.access import Denied
from gateway.ops.stats.reply import Denial, document

BODY_MAX_BYTES: Final = 8192
# A person with a script. Adding a peer writes a file and waits for the disk.
BURST: Final = 20
PER_S: Final = 10
_RETRY_S: Final = "1"
_FOLDER: Final = "/api/v1/"
_JSON: Final = "application/json"
# How the errors of the commands are answered; the first that fits.
_STATUS: Final[tuple[tuple[type[JumpError], int], ...]] = (
    (NotFound, 404),
    (UsageError, 422),
    (Refused, 409),
    (TryLater, 429),
    (JumpError, 503),
)


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What a request may say; this one says nothing."""


class SwitchBody(Body):
    path: Annotated[int, msgspec.Meta(ge=0, le=255)]


class DrainBody(Body):
    on: bool


class Act(NamedTuple):
    """An action: the command, what the body is decoded as, and how both become its arguments."""

    command: str
    body: Any
    arguments: Callable[[str, Any], dict[str, Any]]
    status: int = 200


# {} stands for the one part of an address that is a name.
ACTS: Final[Mapping[str, Mapping[str, Act]]] = {
    "/api/v1/sessions/{}/switch": {
        "POST": Act("switch", SwitchBody, lambda name, body: {"session": name, "path_id": body.path})
    },
    "/api/v1/sessions/{}/terminate": {"POST": Act("terminate", Body, lambda name, _: {"session": name})},
    "/api/v1/drain": {"POST": Act("drain", DrainBody, lambda _, body: {"on": body.on})},
    "/api/v1/peers": {"POST": Act("peer.add", dict[str, Any], lambda _, body: body, 201)},
    "/api/v1/peers/{}": {"DELETE": Act("peer.remove", Body, lambda name, _: {"name": name})},
}


def place(raw_path: str) -> tuple[str, str]:
    """The address with {} for its name, and the name: "/api/v1/peers/a%40b" is ("/api/v1/peers/{}", "a@b")."""
    parts = raw_path.split("/")
    if not raw_path.startswith(_FOLDER) or len(parts) < 5 or not parts[4]:
        return raw_path, ""
    return "/".join((*parts[:4], "{}", *parts[5:])), unquote(parts[4])


class Actions:
    """The handlers. One limit for all who act."""

    def __init__(self, seen: Observed) -> None:
        self._seen = seen
        self._rate = Bucket(BURST, NS_PER_S // PER_S)

    async def answer(self, act: Act, name: str, request: web.BaseRequest, who: Actor) -> web.StreamResponse:
        """Carry out an action and answer as its command does; ``Denial`` says why not."""
        if not self._rate.take(clock.now_ns()):
            raise _too_soon(f"at most {PER_S} actions a second")
        body = _decoded(await _read(request), act.body)
        try:
            self._seen.require_running()
        except TryLater as error:
            raise Denial(503, "try_later", str(error), ("Retry-After", _RETRY_S)) from None
        with actor.acting(who):
            return document(await self._run(act.command, act.arguments(name, body)), act.status)

    async def _run(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._seen.commands[command](arguments)
        except JumpError as error:
            code = code_of(error)
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            if status == 429:
                raise _too_soon(str(error)) from None
            raise Denial(status, code, str(error)) from None


def _too_soon(message: str) -> Denial:
    return Denial(429, "try_later", message, ("Retry-After", _RETRY_S))


async def _read(request: web.BaseRequest) -> bytes:
    """The body, when it may be read at all. A form that a page could send elsewhere is never JSON by its type."""
    if "Transfer-Encoding" in request.headers:
        raise Denial(411, "length", "send the body with a Content-Length")
    if (request.content_length or 0) > BODY_MAX_BYTES:
        raise Denial(413, "body", f"a body has at most {BODY_MAX_BYTES} bytes")
    if request.method == "POST" and request.content_type != _JSON:
        raise Denial(415, "type", f"send Content-Type: {_JSON}")
    return await request.read()


def _decoded(data: bytes, kind: Any) -> Any:
    """The body as what the action takes. Nothing is an empty object."""
    try:
        raw = msgspec.json.decode(data or b"{}")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Denial(400, "json", "the body is no JSON") from None
    try:
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Denial(422, "usage", str(error)) from None


def refused(who: Denied) -> Denial:
    """The refusal of somebody who may not act."""
    return Denial(*who[:3], *who.more)
