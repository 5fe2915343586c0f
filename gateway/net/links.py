# SPDX-License-Identifier: Apache-2.0
"""Watches links, addresses and routes live: the kernel's messages are read on the event loop itself, because a link
that goes down must move a session within milliseconds.

Rule: what is known is the last full listing plus every message since. A listing (in the netlink thread: it may take
long) is asked for at the start, after messages were lost (ENOBUFS) or damaged, and where the kernel is known to be
silent. Messages that arrive meanwhile count at once, and again on top of the listing, which may be older than they.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.errors import HostError
from gateway.net.linkstate import Snapshot, Tables
from gateway.net.netlink import Netlink
from gateway.net.remedy import refused
from gateway.net.rtmessages import (
    GROUPS,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    Change,
    Damaged,
    parse,
    request,
)
from gateway.net.udp import SO_RCVBUFFORCE

# Some 10,000 messages: a routing daemon's burst while the loop is busy for 50 ms.
EVENT_BUFFER_BYTES: Final = 4 << 20
# The kernel fills listings up to 32 KiB a datagram when the reader's buffer allows it.
DATAGRAM_MAX_BYTES: Final = 65_536
KERNEL: Final = 0  # the netlink port it sends from
# A wakeup handles that many datagrams (some 10 µs each), then the loop has its turn.
DATAGRAMS_PER_TURN: Final = 64
# Messages kept while a listing runs; with more, the listing is worth nothing and is asked for again.
PENDING_MAX: Final = 4096
LIST_TRIES: Final = 5
LIST_TIMEOUT_S: Final = 5
# What leaves doubt comes in groups (a link up is an address and three routes): one listing for all of them.
LIST_DELAY_S: Final = 0.02
LIST_RETRY_S: Final = 1.0


class LinkWatch:
    """The machine's network as it is now, in the network namespace of the thread that calls ``start``.

    ``on_change`` gets each new snapshot, at most one per turn of the loop. ``netlink`` must have been made in the same
    namespace.
    """

    def __init__(self, netlink: Netlink, on_change: Callable[[Snapshot], None]) -> None:
        self.listings = 0
        self.losses = 0  # how often messages were lost or damaged
        self._netlink = netlink
        self._on_change = on_change
        self._tables = Tables()
        self._pending: list[Change] | None = None  # since the running listing was asked for
        self._again = False
        self._ready = False
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._snapshot = Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """The last one; empty before ``start``."""
        return self._snapshot

    async def start(self) -> Snapshot:
        """Subscribe, list everything and return it; ``on_change`` is called for what comes later. HostError."""
        self._loop = asyncio.get_running_loop()
        self._socket = _subscribe()
        self._pending = []
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        try:
            self._adopt(await self._netlink.run(lambda _: list_everything()))
        except BaseException:
            await self.stop()
            raise
        self._snapshot = self._tables.snapshot()
        self._ready = True
        self._list_again(LIST_DELAY_S)
        return self._snapshot

    async def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    # --- messages ---------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        changed = False
        for _ in range(DATAGRAMS_PER_TURN):
            data = self._receive()
            if not data:
                break
            changed = self._take(data) or changed
        if self._tables.doubtful:
            self._list_soon(LIST_DELAY_S)
        if changed and self._ready:
            self._publish()

    def _receive(self) -> bytes:
        """One datagram of the kernel, b"" when there is none now. What it had no room for is asked for again."""
        if self._socket is None:
            return b""
        try:
            data, (sender, _) = self._socket.recvfrom(DATAGRAM_MAX_BYTES)
            return data if sender == KERNEL else b""
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._lost()
            return b""

    def _take(self, data: bytes) -> bool:
        try:
            changes = parse(data).changes
        except Damaged:
            self._lost()
            return False
        if self._pending is not None:
            self._pending += changes[: PENDING_MAX + 1 - len(self._pending)]
        changed = False
        for change in changes:
            changed = self._tables.apply(change) or changed
        return changed

    def _lost(self) -> None:
        self.losses += 1
        self._list_soon(0)

    def _publish(self) -> None:
        fresh = self._tables.snapshot()
        if fresh != self._snapshot:
            self._snapshot = fresh
            self._on_change(fresh)

    # --- listings ---------------------------------------------------------------------------------------------

    def _list_soon(self, delay_s: float) -> None:
        self._tables.doubtful = False
        if self._pending is not None:
            self._again = True
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(delay_s, self._list)

    def _list(self) -> None:
        self._timer = None
        self._pending = []
        self._task = asyncio.ensure_future(self._refresh())

    async def _refresh(self) -> None:
        retry_s = LIST_DELAY_S
        try:
            self._adopt(await self._netlink.run(lambda _: list_everything()))
            self._publish()
        except HostError:
            self._pending, self._again, retry_s = None, True, LIST_RETRY_S
        self._list_again(retry_s)

    def _list_again(self, delay_s: float) -> None:
        if self._again:
            self._again = False
            self._list_soon(delay_s)

    def _adopt(self, listed: Tables) -> None:
        pending = self._pending or []
        self._again = self._again or len(pending) > PENDING_MAX
        self._pending = None
        for change in pending:
            listed.apply(change)
        listed.doubtful = False
        self._tables = listed
        self.listings += 1


def list_everything() -> Tables:
    """Links, addresses and routes of the calling thread's network namespace. Blocks; HostError."""
    with _open() as sock:
        sock.settimeout(LIST_TIMEOUT_S)
        for _ in range(LIST_TRIES):
            tables = Tables()
            try:
                if all(_list(sock, kind, tables) for kind in (RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE)):
                    return tables
            except OSError as error:
                raise refused("cannot list the machine's links", error) from error
            except Damaged as error:
                raise HostError(f"cannot list the machine's links: {error}") from error
    raise HostError("the machine's links change faster than they can be listed")


def _list(sock: socket.socket, kind: int, tables: Tables) -> bool:
    """Ask for one kind of rows; whether the kernel could list them in one piece."""
    sock.send(request(kind, kind))
    whole = True
    while True:
        batch = parse(sock.recv(DATAGRAM_MAX_BYTES))
        if batch.errno:
            raise OSError(batch.errno, os.strerror(batch.errno))
        for change in batch.changes:
            tables.apply(change)
        whole = whole and not batch.interrupted
        if batch.done:
            return whole


def _subscribe() -> socket.socket:
    sock = _open(GROUPS)
    sock.setblocking(False)
    with suppress(OSError):  # without CAP_NET_ADMIN the system's default has to do
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, EVENT_BUFFER_BYTES)
    return sock


def _open(groups: int = 0) -> socket.socket:
    sock = None
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        sock.bind((0, groups))
    except OSError as error:
        if sock is not None:
            sock.close()
        raise refused("cannot watch the machine's links", error) from error
    return sock
