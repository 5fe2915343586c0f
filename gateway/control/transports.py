# SPDX-License-Identifier: Apache-2.0
"""The client's paths of one session: a port each, bound to its device, with a number the gateway knows it by. A port is
one socket, or one per native worker.

Rule: what happens to links, addresses, routes and sockets leaves here as inputs of the session's machine, each edge
once; whether a path is used is decided there. A path whose link is gone keeps its number and its socket (an address
translator on the way may still know its port) until it is back, its room is needed or GONE_KEEP_NS are over.

No loop, no clock: time is an argument, and whoever is given the sockets has them read.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.constants import NS_PER_S
from gateway.core.inputs import Input, LinkUp, PathAdded, PathHinted, PathLost, PathRemoved
from gateway.core.path import LINK_HOLD_NS
from gateway.core.states import Evidence
from gateway.dataplane import engine as dp
from gateway.errors import DataplaneError, HostError
from gateway.net.candidates import Candidate, Endpoint, candidates, lost_because
from gateway.net.devices import Settings
from gateway.net.linkstate import Snapshot
from gateway.net.udp import Sockets, close_all, open_shared

PATH_ID_MAX: Final = 255
# What the gateway still holds under a number must have died out before the number means something else.
PATH_ID_REST_NS: Final = 60 * NS_PER_S
# A train under a mountain, a lift, a laptop's lid: back with the same address, it is the same path.
GONE_KEEP_NS: Final = 300 * NS_PER_S
# A socket that could not be opened (an address not quite there yet, the engine's table full) is tried again.
OPEN_RETRY_NS: Final = NS_PER_S
# After an error that no link event explains the path is offered again, later each time.
ERROR_RETRY_MIN_NS: Final = NS_PER_S
ERROR_RETRY_MAX_NS: Final = 32 * NS_PER_S

# Only this host's own kernel says these: nothing left the machine.
LOCAL_ERRNOS: Final = frozenset(
    {
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.ENODEV,
        errno.ENXIO,
        errno.EPERM,
        errno.EACCES,
    }
)
# These may have come from the network: anybody there can forge them.
NETWORK_ERRNOS: Final = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EPROTO})


class SocketTable(Protocol):
    """What is needed of the tunnel. ``add_port`` raises DataplaneError when the engine's table is full.

    The sockets stay the caller's; when ``remove_port`` returns, nobody touches them any more.
    """

    def add_port(self, sockets: Sockets) -> int: ...
    def remove_port(self, socket_id: int) -> None: ...


@dataclass(slots=True)
class PathSocket:
    """One path. ``up`` is what this host's kernel thinks of it, not whether anybody answers."""

    path_id: int
    candidate: Candidate
    socket_id: int
    sockets: Sockets
    up: bool = True
    gone_ns: int = 0  # when the candidate vanished, 0 while it is there
    retry_ns: int = 0  # when it is offered again after a socket error, 0 for never
    pause_ns: int = 0  # how long the last such wait was
    back_ns: int = -LINK_HOLD_NS  # when it last came back

    @property
    def endpoint(self) -> Endpoint:
        """Where this path sends to."""
        return self.candidate.endpoint

    @property
    def to(self) -> dp.Endpoint:
        """The same for the data plane, by which socket included."""
        host, port = self.endpoint
        return dp.Endpoint.of(host, port, self.socket_id)

    @property
    def local(self) -> tuple[str, int]:
        """The address and port it sends from."""
        host, port, *_ = self.sockets[0].getsockname()
        return str(host), int(port)


class Transports:
    """All paths of one session. Their inputs go to ``emit``, which must not call back in here."""

    def __init__(
        self,
        tunnel: SocketTable,
        *,
        settings: Settings,
        emit: Callable[[Input], None],
        own_device: str = "",
        fwmark: int = 0,
        listen_port: int = 0,
        workers: int = 1,
    ) -> None:
        self._tunnel, self._settings, self._emit = tunnel, settings, emit
        self._workers = workers
        self._own_device, self._fwmark, self._listen_port = own_device, fwmark, listen_port
        self._paths: dict[str, PathSocket] = {}  # by the candidate's key
        self._due: dict[str, int] = {}  # candidates without a socket: when to open one
        self._wanted: dict[str, Candidate] = {}  # best first
        self._rested: dict[int, int] = {}  # path_id to when it may be used again
        self._snapshot = Snapshot()
        self._endpoints: frozenset[Endpoint] = frozenset()

    # --- what the tunnel calls --------------------------------------------------------------------------------

    def update(self, now_ns: int, snapshot: Snapshot, endpoints: Sequence[Endpoint]) -> None:
        """Bring the paths in line with the machine's network and the gateway's literal addresses.

        Losses leave first. What an endpoint makes possible is opened at once; what a link or address makes possible
        must hold 200 ms before it gets a socket (session.md §6). A path that is back is announced at once: the
        session's machine lets it hold.
        """
        found = candidates(
            snapshot, endpoints, self._settings, own_device=self._own_device, keep=self._paths.keys()
        )
        self._snapshot, self._wanted = snapshot, {each.key: each for each in found}
        for path in [path for key, path in self._paths.items() if key not in self._wanted]:
            self._vanished(now_ns, path)
        self._due = {key: due_ns for key, due_ns in self._due.items() if key in self._wanted}
        for key, candidate in self._wanted.items():
            if key in self._paths:
                self._present(now_ns, self._paths[key], candidate)
            else:
                hold_ns = LINK_HOLD_NS if candidate.endpoint in self._endpoints else 0
                self._due.setdefault(key, now_ns + hold_ns)
        self._endpoints = frozenset(endpoints)
        self.timer_due(now_ns)

    @property
    def next_deadline_ns(self) -> int | None:
        """When ``timer_due`` is to be called, None for never."""
        return min(self._deadlines(), default=None)

    def timer_due(self, now_ns: int) -> None:
        """Open what has held long enough, offer again what failed, forget what is gone for too long."""
        for path in [path for path in self._paths.values() if 0 < path.gone_ns <= now_ns - GONE_KEEP_NS]:
            self._remove(now_ns, path)
        for path in self._paths.values():
            if 0 < path.retry_ns <= now_ns:
                self._return(now_ns, path)
        for key in [key for key in self._wanted if self._due.get(key, now_ns + 1) <= now_ns]:
            self._open(now_ns, self._wanted[key])

    def socket_failed(self, now_ns: int, socket_id: int, error: int) -> bool:
        """A send or receive failed with this errno; whether it says anything about the path."""
        path = self.by_socket(socket_id)
        if path is None or error not in LOCAL_ERRNOS | NETWORK_ERRNOS:
            return False
        if error in NETWORK_ERRNOS:
            self._emit(PathHinted(path.path_id))
        elif path.up:
            if now_ns - path.back_ns > ERROR_RETRY_MAX_NS:
                path.pause_ns = 0
            path.pause_ns = min(max(2 * path.pause_ns, ERROR_RETRY_MIN_NS), ERROR_RETRY_MAX_NS)
            path.retry_ns = now_ns + path.pause_ns
            self._lose(path, Evidence.LOCAL_ERROR)
        return True

    def close(self) -> None:
        """Close every socket. Nothing is emitted: the session ends, or outlives this process."""
        for path in self._paths.values():
            self._close_socket(path)
        self._paths.clear()
        self._due.clear()
        self._wanted.clear()

    # --- what there is ----------------------------------------------------------------------------------------

    def paths(self) -> tuple[PathSocket, ...]:
        """All paths by number, those that are down included."""
        return tuple(sorted(self._paths.values(), key=lambda path: path.path_id))

    def by_id(self, path_id: int) -> PathSocket | None:
        """The path of that number."""
        return next((path for path in self._paths.values() if path.path_id == path_id), None)

    def by_socket(self, socket_id: int) -> PathSocket | None:
        """The path whose socket has that number in the engine."""
        return next((path for path in self._paths.values() if path.socket_id == socket_id), None)

    def ranked(self, now_ns: int) -> tuple[PathSocket, ...]:
        """The paths that are up, best first: the order in which a gateway that knows no paths is tried.

        One that is back for less than 200 ms comes behind those that never went.
        """
        found = [self._paths[key] for key in self._wanted if key in self._paths and self._paths[key].up]
        return tuple(sorted(found, key=lambda path: now_ns - path.back_ns < LINK_HOLD_NS))

    def best(self, now_ns: int) -> PathSocket | None:
        """The one path for a stock WireGuard gateway, None when no path is up."""
        return next(iter(self.ranked(now_ns)), None)

    # --- edges ------------------------------------------------------------------------------------------------

    def _present(self, now_ns: int, path: PathSocket, candidate: Candidate) -> None:
        if candidate.ifindex != path.candidate.ifindex:
            self._move(now_ns, path, candidate)
        elif path.gone_ns:
            path.gone_ns = path.pause_ns = 0
            self._return(now_ns, path)

    def _vanished(self, now_ns: int, path: PathSocket) -> None:
        evidence = lost_because(self._snapshot, path.candidate)
        if evidence is None:  # not the network's doing: the gateway's address or the settings changed
            self._remove(now_ns, path)
            return
        path.gone_ns = path.gone_ns or now_ns
        path.retry_ns = 0
        if path.up:
            self._lose(path, evidence)

    def _lose(self, path: PathSocket, evidence: Evidence) -> None:
        path.up = False
        self._emit(PathLost(path.path_id, evidence))

    def _return(self, now_ns: int, path: PathSocket) -> None:
        path.up, path.retry_ns, path.back_ns = True, 0, now_ns
        self._emit(LinkUp(path.path_id))

    def _remove(self, now_ns: int, path: PathSocket) -> None:
        del self._paths[path.candidate.key]
        self._rested[path.path_id] = now_ns + PATH_ID_REST_NS
        self._close_socket(path)
        self._emit(PathRemoved(path.path_id))

    # --- sockets ----------------------------------------------------------------------------------------------

    def _open(self, now_ns: int, candidate: Candidate) -> None:
        """Open a socket; when that is refused now, it is tried again."""
        self._due[candidate.key] = now_ns + OPEN_RETRY_NS
        self._make_room(now_ns)
        path_id = self._free_id(now_ns)
        opened = self._socket(candidate) if path_id and self._has_room() else None
        if opened is None:
            return
        del self._due[candidate.key]
        self._paths[candidate.key] = PathSocket(path_id, candidate, *opened)
        self._emit(PathAdded(path_id, candidate.key, candidate.carrier, candidate.tier, candidate.cost))

    def _move(self, now_ns: int, path: PathSocket, candidate: Candidate) -> None:
        """The device was plugged in again and is another one to the kernel: same path, new socket."""
        if path.up:
            self._lose(path, Evidence.LINK_DOWN)
        opened = self._socket(candidate)
        if opened is None:
            self._remove(now_ns, path)
            self._due[candidate.key] = now_ns + OPEN_RETRY_NS
            return
        self._close_socket(path)
        path.socket_id, path.sockets = opened
        path.candidate, path.gone_ns, path.pause_ns = candidate, 0, 0
        self._return(now_ns, path)

    def _socket(self, candidate: Candidate) -> tuple[int, Sockets] | None:
        try:
            sockets = self._open_udp(candidate)
        except HostError:
            return None
        try:
            return self._tunnel.add_port(sockets), sockets
        except DataplaneError:
            close_all(sockets)
            return None

    def _open_udp(self, candidate: Candidate) -> Sockets:
        """With the configured port where it is free: one local address can have it once."""
        host, device = candidate.local_ip, candidate.device
        if self._listen_port and all(
            path.local != (host, self._listen_port) for path in self._paths.values()
        ):
            try:
                return self._shared(host, self._listen_port, device)
            except HostError:
                pass
        return self._shared(host, 0, device)

    def _shared(self, host: str, port: int, device: str) -> Sockets:
        return open_shared(host, port, workers=self._workers, fwmark=self._fwmark, device=device)

    def _close_socket(self, path: PathSocket) -> None:
        self._tunnel.remove_port(path.socket_id)
        close_all(path.sockets)

    # --- room and numbers -------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return len(self._paths) < self._settings.max_candidates

    def _make_room(self, now_ns: int) -> None:
        """Those that are gone give way, the longest gone first."""
        gone = sorted((path for path in self._paths.values() if path.gone_ns), key=lambda path: path.gone_ns)
        for path in gone:
            if self._has_room():
                return
            self._remove(now_ns, path)

    def _free_id(self, now_ns: int) -> int:
        """The smallest number free for 60 s, 0 when there is none."""
        self._rested = {path_id: until_ns for path_id, until_ns in self._rested.items() if until_ns > now_ns}
        taken = {path.path_id for path in self._paths.values()} | self._rested.keys()
        return next((path_id for path_id in range(1, PATH_ID_MAX + 1) if path_id not in taken), 0)

    def _deadlines(self) -> Iterator[int]:
        yield from self._due.values()
        for path in self._paths.values():
            if path.gone_ns:
                yield path.gone_ns + GONE_KEEP_NS
            elif path.retry_ns:
                yield path.retry_ns
