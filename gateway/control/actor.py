# SPDX-License-Identifier: Apache-2.0
"""Who acts: the operator behind the command that is being carried out, and what the audit journal says of the command.

Rule: whoever took the connection says who it is (the kernel's word for a UNIX socket's other end, a token that matched,
a certificate that verified), never the request. It travels with the task, so a handler has no argument for it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from gateway.control.ctlclient import code_of
from gateway.core import audit
from gateway.core.audit import Body
from gateway.errors import JumpError, UsageError

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
# Takes a record without its wall clock and its place in the chain.
Write = Callable[[Body], None]

ACTION_EVENT: Final = "OPERATOR_ACTION"
# The commands of a daemon that change something; those of sessions and of the configuration see to it themselves.
CHANGING: Final = ("audit.rotate", "drain", "peer.add", "peer.remove")
# Names of peers and sessions are shorter; what is not one need not be kept whole.
_TARGET_MAX: Final = 64
_UCRED: Final = struct.Struct("3i")


class Actor(NamedTuple):
    """Somebody who may act: ``uid:0``, ``token:NAME`` or ``cert:NAME``, and by which way he came."""

    name: str
    via: str

    def __str__(self) -> str:
        return f"{self.name} via {self.via}" if self.name else ""


NOBODY: Final = Actor("", "")
_CURRENT: Final[ContextVar[Actor]] = ContextVar("actor", default=NOBODY)


def current() -> Actor:
    """Who the running command is for; ``NOBODY`` when the process acts by itself."""
    return _CURRENT.get()


@contextlib.contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Commands inside of the block are this actor's."""
    token = _CURRENT.set(actor)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def uid_of(connection: Any) -> int | None:
    """The user at the other end of a UNIX socket (SO_PEERCRED); None when the kernel does not say."""
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except (AttributeError, OSError):
        return None
    uid = int(_UCRED.unpack(found)[1])
    return uid if uid >= 0 else None  # -1: no UNIX socket


def local(connection: Any, via: str) -> Actor:
    """Who is at the other end of a UNIX socket."""
    uid = uid_of(connection)
    return Actor("uid:unknown" if uid is None else f"uid:{uid}", via)


def audit_changes(handlers: dict[str, Handler], write: Write, now_ns: Callable[[], int]) -> None:
    """Have every changing command of a daemon written down."""
    for name in CHANGING:
        if name in handlers:
            handlers[name] = audited(name, handlers[name], write, now_ns)


@contextlib.contextmanager
def recorded(action: str, target: str, write: Write, now_ns: Callable[[], int]) -> Iterator[None]:
    """What is done inside of the block is an action on this target."""
    try:
        yield
    except JumpError as error:
        write(_body(action, target, code_of(error), now_ns()))
        raise
    write(_body(action, target, "done", now_ns()))


def audited(action: str, handler: Handler, write: Write, now_ns: Callable[[], int]) -> Handler:
    """The same command, each of whose runs is a record: who, what, to whom, and how it ended.

    A request that makes no sense (``UsageError``) did nothing and is none.
    """

    async def handle(args: dict[str, Any]) -> dict[str, Any]:
        try:
            result = await handler(args)
        except UsageError:
            raise
        except JumpError as error:
            write(_body(action, _target(args), code_of(error), now_ns()))
            raise
        write(_body(action, _target(result) or _target(args), "done", now_ns()))
        return result

    return handle


def _target(document: Mapping[str, Any]) -> str:
    """The session or the peer of a request or an answer."""
    peer = document.get("peer")
    if isinstance(peer, dict):
        peer = peer.get("name")
    found = document.get("session_id") or document.get("session") or document.get("name") or peer
    return found[:_TARGET_MAX] if isinstance(found, str) else ""


def _body(action: str, target: str, outcome: str, now_ns: int) -> Body:
    actor = current()
    return {
        "schema": audit.SCHEMA,
        "mono_ns": now_ns,
        "event": ACTION_EVENT,
        "action": action,
        "by": actor.name,
        "via": actor.via,
        "target": target,
        "outcome": outcome,
    }
