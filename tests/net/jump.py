# SPDX-License-Identifier: Apache-2.0
"""Our gateway and our client on the two-uplink topology, with their sessions and journals.

Rule: states are asked for through the control socket, as `jvpn sessions` does; what happened is read from the audit
journals. Nothing looks into the processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.errors import JumpError
from tests.net import journal
from tests.net.journal import Journal
from tests.net.jvpn import Daemon, JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import Lab, LabError, Namespace
from tests.net.stream import Stream
from tests.net.topology import (
    ALLOWED,
    BACKEND,
    ENDPOINTS,
    INNER_GATEWAY,
    INNER_PREFIX,
    Side,
    Topology,
    Uplink,
)
from tests.net.wg import Keys

Which = Literal["client", "gateway"]
Tables = Mapping[str, Mapping[str, Any]]
READY_S: Final = 15.0
POLL_S: Final = 0.02
NETWORK_BITS: Final = 250


def inner_host(number: int) -> str:
    """The inner address of peer ``number``."""
    return f"10.8.{number // NETWORK_BITS}.{number % NETWORK_BITS + 2}"


def policy_tables(policy: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    """``{"session": {…}}`` as the tables ``[policy.session]`` …"""
    return {f"policy.{name}": values for name, values in (policy or {}).items()}


@dataclass(frozen=True, slots=True)
class PathView:
    """One path as `jvpn paths` shows it."""

    path_id: int
    status: str
    address: str
    loss: float | None
    srtt_ms: float | None


@dataclass(frozen=True, slots=True)
class SessionView:
    """One session as `jvpn sessions` and `jvpn paths` show it."""

    session_id: str
    peer: str
    state: str
    version: int
    epoch: int
    path_id: int | None
    path: str | None
    stock: bool
    paths: tuple[PathView, ...]

    def with_status(self, *statuses: str) -> list[PathView]:
        """Paths in one of these states."""
        return [path for path in self.paths if path.status in statuses]

    @property
    def settled(self) -> bool:
        """ATTACHED, with a validated standby beside the active path."""
        return self.state == "ATTACHED" and bool(self.with_status("STANDBY"))


def sessions(daemon: Daemon) -> list[SessionView]:
    """All living sessions of a daemon, their paths included."""
    return [session(daemon, row["session_id"]) for row in daemon.call("sessions")["sessions"]]


def session(daemon: Daemon, selector: str) -> SessionView:
    """One session."""
    row = daemon.call("session", {"session": selector})
    paths = tuple(
        PathView(p["path_id"], p["status"], p["address"], p["loss"], p["srtt_ms"]) for p in row["paths"]
    )
    return SessionView(
        row["session_id"],
        row["peer"],
        row["state"],
        row["state_version"],
        row["binding_epoch"],
        row["path_id"],
        row["path"],
        row["stock"],
        paths,
    )


@dataclass(frozen=True, slots=True)
class JumpPeer(JvpnPeer):
    """A [[peer]] table with what only our own peers know."""

    protocol: str | None = None

    def table(self) -> dict[str, Any]:
        """The keys that are set."""
        return JvpnPeer.table(self) | ({"protocol": self.protocol} if self.protocol else {})


class JumpGateway:
    """A gateway for many peers; peer ``number`` has the inner address `inner_host`."""

    def __init__(
        self,
        lab: Lab,
        topology: Topology,
        *,
        peers: int = 1,
        policy: Mapping[str, Mapping[str, Any]] | None = None,
        tables: Tables | None = None,
        peer_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.lab, self.topology = lab, topology
        self.policy = policy or {}
        self.peer_keys = [Keys.generate() for _ in range(peers)]
        known = [
            JumpPeer(f"peer{number}", keys.public, [f"{inner_host(number)}/32"], **(peer_options or {}))
            for number, keys in enumerate(self.peer_keys)
        ]
        own = {**policy_tables(policy), **(tables or {})}
        addresses = [f"{INNER_GATEWAY}/{INNER_PREFIX}"]
        self.daemon = JvpnGateway(
            lab, topology.gateway, Keys.generate(), addresses, known, listen=("0.0.0.0:51820",), **own
        )
        self.journal = Journal(self.daemon.state_dir)

    def client(
        self,
        number: int = 0,
        *,
        endpoints: Sequence[str] = ENDPOINTS,
        policy: Mapping[str, Mapping[str, Any]] | None = None,
        tables: Tables | None = None,
        namespace: Namespace | None = None,
        keepalive: str | None = None,
        protocol: str | None = None,
    ) -> JumpClient:
        """A client of this gateway with the keys of that peer; ``policy`` is the gateway's unless given."""
        return JumpClient(self, number, endpoints, policy, tables or {}, namespace, keepalive, protocol)

    def session_of(self, ident: str) -> SessionView:
        """The gateway's view of a session."""
        return session(self.daemon, ident)


class JumpClient:
    """A client of a `JumpGateway`."""

    def __init__(
        self,
        gateway: JumpGateway,
        number: int,
        endpoints: Sequence[str],
        policy: Mapping[str, Mapping[str, Any]] | None,
        tables: Tables,
        namespace: Namespace | None,
        keepalive: str | None,
        protocol: str | None,
    ) -> None:
        self.gateway, self.number, self.topology = gateway, number, gateway.topology
        self.namespace = namespace or self.topology.client
        self.host = inner_host(number)
        own: dict[str, Mapping[str, Any]] = {"transport": {"include": ["up*"]}}
        own |= policy_tables(gateway.policy if policy is None else policy)
        table: dict[str, Any] = {
            "public_key": gateway.daemon.keys.public,
            "endpoints": list(endpoints),
            "allowed_ips": list(ALLOWED),
        }
        table |= {"keepalive": keepalive} if keepalive else {}
        table |= {"protocol": protocol} if protocol else {}
        keys = gateway.peer_keys[number]
        addresses = [f"{self.host}/{INNER_PREFIX}"]
        self.daemon = JvpnClient(gateway.lab, self.namespace, keys, addresses, table, **{**own, **tables})
        self.journal = Journal(self.daemon.state_dir)

    # --- asking -----------------------------------------------------------------------------------------------------

    def view(self) -> SessionView:
        """Its only session."""
        found = sessions(self.daemon)
        if len(found) != 1:
            raise LabError(f"the client has {len(found)} sessions")
        return found[0]

    def wait_view(
        self, wanted: Callable[[SessionView], bool], what: str, timeout_s: float = READY_S
    ) -> SessionView:
        """Wait until the session is as wanted."""
        return wait_for(self.view, wanted, what, timeout_s)

    def wait_settled(self, timeout_s: float = READY_S) -> SessionView:
        """Wait until both ends are ATTACHED on the same path with a validated standby; the client's view."""
        mine = self.wait_view(lambda seen: seen.settled, "ATTACHED with a standby", timeout_s)
        return self._agreed(mine, True, timeout_s)

    def wait_attached(self, timeout_s: float = READY_S) -> SessionView:
        """Wait until both ends are ATTACHED on the same path at the same epoch; the client's view."""
        mine = self.wait_view(lambda seen: seen.state == "ATTACHED", "ATTACHED", timeout_s)
        return self._agreed(mine, False, timeout_s)

    def wait_same_path(self, timeout_s: float) -> None:
        """Wait until both ends are bound to the same path at the same epoch, whatever they think of its quality."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            mine = self.view()
            theirs = self.gateway.session_of(mine.session_id)
            same = (mine.epoch, mine.path_id) == (theirs.epoch, theirs.path_id)
            if same and {mine.state, theirs.state} <= {"ATTACHED", "VOLATILE", "DEGRADED"}:
                return
            if time.monotonic() > deadline_s:
                raise LabError(f"the ends are not on one path within {timeout_s} s:\n{mine}\n{theirs}")
            time.sleep(POLL_S)

    def _agreed(self, mine: SessionView, settled: bool, timeout_s: float) -> SessionView:
        deadline_s = time.monotonic() + timeout_s
        while True:
            mine = self.view()
            theirs = self.gateway.session_of(mine.session_id)
            same = (mine.state, mine.epoch, mine.path_id) == (theirs.state, theirs.epoch, theirs.path_id)
            if same and mine.state == "ATTACHED" and (not settled or (mine.settled and theirs.settled)):
                return mine
            if time.monotonic() > deadline_s:
                raise LabError(f"the ends do not agree within {timeout_s} s:\n{mine}\n{theirs}")
            time.sleep(POLL_S)

    def active(self) -> Uplink:
        """The uplink that carries the session."""
        seen = self.view()
        if seen.path is None:
            raise LabError(f"nothing is bound: {seen}")
        return self.topology.uplinks[self.topology.side_of(seen.path)]

    def standby(self) -> Uplink:
        """The other uplink."""
        return self.topology.other(self.active().side)

    def path_on(self, side: Side) -> PathView:
        """The path over that uplink."""
        found = [path for path in self.view().paths if self.topology.side_of(path.address) == side]
        if len(found) != 1:
            raise LabError(f"{len(found)} paths over uplink {side}")
        return found[0]

    # --- acting -----------------------------------------------------------------------------------------------------

    def start(self, settled: bool = True) -> SessionView:
        """Start it and wait until the session stands."""
        self.daemon.start()
        return self.wait_settled() if settled else self.wait_attached()

    def switch(self, side: Side, end: Which = "client") -> dict[str, Any]:
        """The operator's switch to that uplink, at either end."""
        seen, path_id = self.view(), self.path_on(side).path_id
        daemon: Daemon = self.daemon if end == "client" else self.gateway.daemon
        return daemon.call("switch", {"session": seen.session_id, "path_id": path_id})

    def terminate(self, end: Which = "client") -> dict[str, Any]:
        """The operator's end of the session, at either end."""
        daemon: Daemon = self.daemon if end == "client" else self.gateway.daemon
        return daemon.call("terminate", {"session": self.view().session_id})

    def stream(self, rate_pps: float = 1000.0, port: int = 5010) -> Stream:
        """A measured stream between the client and the backend, from now on."""
        folder = self.gateway.lab.tmp
        return Stream(
            self.namespace, self.topology.backend, self.host, BACKEND, folder, rate_pps=rate_pps, port=port
        )


def wait_for(
    look: Callable[[], SessionView], wanted: Callable[[SessionView], bool], what: str, timeout_s: float
) -> SessionView:
    """Look until it is as wanted; LabError with the last look after ``timeout_s``."""
    deadline_s, seen, trouble = time.monotonic() + timeout_s, None, None
    while time.monotonic() < deadline_s:
        try:
            seen, trouble = look(), None
        except (JumpError, LabError) as error:
            trouble = error
        if seen is not None and trouble is None and wanted(seen):
            return seen
        time.sleep(POLL_S)
    raise LabError(f"not {what} within {timeout_s} s: {trouble or seen}")


def end(daemon: Daemon) -> None:
    """SIGKILL if it still runs."""
    with suppress(LabError):
        daemon.kill()


def verify_ends(client: JumpClient, gateway: JumpGateway, meant: str = "") -> list[str]:
    """Everything wrong with the journals of two stopped ends; ``meant`` is no fault of the gateway's chain."""
    mine, theirs = client.daemon.state_dir, gateway.daemon.state_dir
    found = [f"client {text}" for text in journal.problems(mine)]
    found += [f"gateway {text}" for text in journal.problems(theirs, meant)]
    return found + ([] if found else journal.pair_problems(mine, theirs))
