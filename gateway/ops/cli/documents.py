# SPDX-License-Identifier: Apache-2.0
"""Every JSON document of the command line: which command writes it, and all of its fields.

Rule: the number in ``schema`` grows when a field goes or changes its meaning. Records of the journal have further
fields by kind; all other documents have these and no others. Units are in the names, None is "not known".
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType


class Exact(Struct, frozen=True, forbid_unknown_fields=True):
    """These fields and no others."""


# --- sessions ----------------------------------------------------------------------------------------------------


class Summary(Exact, frozen=True):
    """A session in a line. Packets are datagrams and bytes are outer ones, both since it began here."""

    session_id: str
    peer: str
    role: Literal["client", "gateway"]
    stock: bool
    suite: str
    state: Literal["BIRTH", "ATTACHED", "VOLATILE", "DEGRADED", "RECOVERING", "TERMINATED"]
    since_s: float
    age_s: float
    state_version: int
    binding_epoch: int
    path_id: int | None
    path: str | None
    window_left_s: float | None
    reason: str | None
    switches_last_minute: int
    switches_per_minute_max: int
    cooldown_left_s: float
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


class Path(Exact, frozen=True):
    """A path with its measurement and its standing."""

    path_id: int
    address: str
    carrier: str
    status: str
    tier: str
    cost: int
    srtt_ms: float | None
    rttvar_ms: float | None
    jitter_ms: float | None
    loss: float | None
    score: float
    stability: int
    penalty: float
    heard_s: float


class Move(Exact, frozen=True):
    """A transition that memory still holds."""

    ago_s: float
    state_version: int
    binding_epoch: int
    previous_state: str
    new_state: str
    reason: str
    path_from: int | None
    path_to: int | None


class Sessions(Exact, frozen=True):
    """All living sessions."""

    schema: Literal["jvpn.sessions/1"]
    total: int
    more: bool
    sessions: list[Summary]


class Session(Summary, frozen=True, kw_only=True):
    """One session with its paths and its last transitions."""

    schema: Literal["jvpn.session/1"]
    paths: list[Path]
    last_transitions: list[Move]


class Paths(Exact, frozen=True):
    """The paths of one session."""

    schema: Literal["jvpn.session-paths/1"]
    session_id: str
    peer: str
    suite: str
    path_id: int | None
    paths: list[Path]


class Action(Summary, frozen=True, kw_only=True):
    """What an operator asked of a session, and the session after it."""

    schema: Literal["jvpn.action/1"]
    action: Literal["switch", "terminate"]
    result: Literal["started", "advised", "asked", "terminated"]


class Ping(Exact, frozen=True):
    """One ping; without ``rtt_ms`` nothing came back."""

    schema: Literal["jvpn.ping/1"]
    session_id: str
    peer: str
    path_id: int | None
    address: str | None
    rtt_ms: float | None


class RoundTrips(Exact, frozen=True):
    """The round trips of all that were answered."""

    min: float
    avg: float
    max: float


class Pings(Exact, frozen=True):
    """A run of pings."""

    schema: Literal["jvpn.pings/1"]
    session_id: str
    peer: str
    sent: int
    answered: int
    rtt_ms: RoundTrips | None
    pings: list[Ping]


# --- what happened -----------------------------------------------------------------------------------------------


class Record(Struct, frozen=True):
    """An event as the journal has it; further fields depend on its kind."""

    event: str
    ts: str
    mono_ns: int


class Event(Record, frozen=True, kw_only=True):
    """One line of ``--follow``."""

    schema: Literal["jvpn.event/1"]
    number: int
    session_id: str
    peer: str


class Events(Exact, frozen=True):
    """The latest events. From a daemon: ``next`` and ``instance`` go on from here, ``missed`` memory no longer has."""

    schema: Literal["jvpn.events/1"]
    events: list[Record]
    instance: int | UnsetType = UNSET
    next: int | UnsetType = UNSET
    missed: int | UnsetType = UNSET


class Timeline(Exact, frozen=True):
    """Every event of one session."""

    schema: Literal["jvpn.timeline/1"]
    session_id: str
    peer: str
    events: list[Record]


class Step(Exact, frozen=True):
    """One turn that moved a session: what went in before it and caused it, what came out."""

    ts: str
    cause: Record
    before: list[Record]
    transitions: list[Record]
    events: list[Record]


class Why(Exact, frozen=True):
    """The story of a transition. ``policy_values`` in the units of the names in the audit journal."""

    schema: Literal["jvpn.why/1"]
    session_id: str
    peer: str
    at: str
    policy: str
    policy_values: dict[str, Any]
    steps: list[Step]


# --- journal -----------------------------------------------------------------------------------------------------


class Fault(Exact, frozen=True):
    """What is wrong with a journal; line 0: with the file as a whole."""

    file: str
    line: int
    why: str


class VerifiedChain(Exact, frozen=True):
    """One interface's files."""

    interface: str
    files: int
    records: int
    first_seq: int
    checkpoints: int
    unsigned: int
    torn_bytes: int
    fault: Fault | None
    signatures: Literal["checked", "not checked"]


class Verified(Exact, frozen=True):
    """Whether a journal is whole."""

    schema: Literal["jvpn.audit.verify/1"]
    ok: bool
    chains: list[VerifiedChain]


class Rotated(Exact, frozen=True):
    """The journal's file that is complete now."""

    schema: Literal["jvpn.audit.rotate/1"]
    interface: str
    complete: str


class ReplayedChain(Exact, frozen=True):
    """One interface's decisions; ``written`` and ``replayed`` are the first that differ."""

    interface: str
    records: int
    sessions: int
    decisions: int
    partial: int
    fault: Fault | None
    written: str
    replayed: str


class Replayed(Exact, frozen=True):
    """Whether the machine decides the same again."""

    schema: Literal["jvpn.audit.replay/1"]
    ok: bool
    chains: list[ReplayedChain]


# --- the daemon and its peers --------------------------------------------------------------------------------------


class PeerStatus(Exact, frozen=True):
    """What a peer is doing."""

    name: str
    public_key: str
    endpoint: str
    allowed_ips: list[str]
    latest_handshake_s: float | None
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    suite: str | None
    keepalive_s: int
    state: Literal["handshaking", "never", "attached", "idle"]


class Workers(Exact, frozen=True):
    """Who moves the packets."""

    count: int
    native: bool
    each: list[dict[str, int]]


class Told(Exact, frozen=True):
    """What a gateway says of itself and of us."""

    inner_addresses: list[str]
    endpoints: list[str]
    observed: str


class Status(Exact, frozen=True):
    """A running gateway or client; only a client has ``told``, by its gateways' keys."""

    schema: Literal["jvpn.status/1"]
    role: Literal["client", "gateway"]
    interface: str
    public_key: str
    listen: list[str]
    uptime_s: float
    peers: list[PeerStatus]
    counters: dict[str, int]
    libsodium: dict[str, str | bool]
    offloads: dict[str, bool]
    workers: Workers
    told: dict[str, Told] | UnsetType = UNSET


class Peer(Exact, frozen=True):
    """A peer as it is configured; its preshared key only with ``--reveal``."""

    name: str
    public_key: str
    has_preshared_key: bool
    allowed_ips: list[str]
    endpoint: str
    keepalive_s: int
    roaming: Literal["handshake", "wireguard", "never"]
    protocol: Literal["auto", "jump", "wireguard"]
    managed: bool
    preshared_key: str | UnsetType = UNSET


class Peers(Exact, frozen=True):
    """All peers of a gateway, and who answered."""

    schema: Literal["jvpn.peers/1"]
    interface: str
    peers: list[Peer]
    source: Literal["daemon", "file"]


class PeersGateway(Exact, frozen=True):
    """What a peer's own file needs to know."""

    interface: str
    public_key: str
    endpoint: str
    listen: list[str]
    mtu: int
    dns: list[str]
    routes: list[str]


class OnePeer(Exact, frozen=True):
    """One peer and its gateway."""

    schema: Literal["jvpn.peer/1"]
    peer: Peer
    gateway: PeersGateway
    source: Literal["daemon", "file"]


# --- this machine --------------------------------------------------------------------------------------------------


class Mistake(Exact, frozen=True):
    """A mistake in a file; line 0: not known."""

    file: str
    key: str
    line: int
    problem: str


class CheckedFile(Exact, frozen=True):
    """One configuration file."""

    file: str
    kind: Literal["gateway", "client", ""]
    ok: bool
    errors: list[Mistake]
    warnings: list[str]


class Checked(Exact, frozen=True):
    """Whether configuration files are right."""

    schema: Literal["jvpn.config-check/1"]
    ok: bool
    files: list[CheckedFile]


class Change(Exact, frozen=True):
    """A key that differs; ``live``: a reload applies it."""

    key: str
    running: Any
    file: Any
    live: bool


class ConfigDiff(Exact, frozen=True):
    """A file against what the running daemon uses; ``changes`` are of a file without mistakes."""

    schema: Literal["jvpn.config-diff/1"]
    interface: str
    file: str
    ok: bool
    errors: list[Mistake]
    changes: list[Change]
    warnings: list[str] | UnsetType = UNSET


class Reload(Exact, frozen=True):
    """What a reload applied and what waits for a restart; ``kept``: it can be gone back to."""

    schema: Literal["jvpn.config-reload/1"]
    interface: str
    file: str
    ok: bool
    errors: list[Mistake]
    applied: list[str]
    needs_restart: list[str]
    warnings: list[str]
    kept: bool


class Rollback(Exact, frozen=True):
    """The same of a step back, and what became of the file."""

    schema: Literal["jvpn.config-rollback/1"]
    interface: str
    file: str
    ok: bool
    errors: list[Mistake]
    applied: list[str]
    needs_restart: list[str]
    warnings: list[str]
    kept: bool
    restored: str
    undone: str
    file_written: bool
    file_problem: str


class Drain(Exact, frozen=True):
    """Whether new sessions are taken, and how many there are."""

    schema: Literal["jvpn.drain/1"]
    phase: Literal["serving", "draining"]
    sessions: int


class Check(Exact, frozen=True):
    """One thing that the machine has or lacks."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str


class Doctor(Exact, frozen=True):
    """What this machine lacks."""

    schema: Literal["jvpn.doctor/1"]
    ok: bool
    checks: list[Check]


# A command as it is typed -> what it writes with --json. Options of their own stand behind it.
COMMANDS: Final[dict[str, type[Struct]]] = {
    "status": Status,
    "sessions": Sessions,
    "sessions SESSION": Session,
    "paths SESSION": Paths,
    "switch SESSION PATH": Action,
    "terminate SESSION": Action,
    "ping SESSION": Pings,
    "events": Events,
    "events --follow": Event,
    "timeline SESSION": Timeline,
    "why SESSION": Why,
    "audit verify": Verified,
    "audit replay": Replayed,
    "audit rotate": Rotated,
    "peer list": Peers,
    "peer show NAME": OnePeer,
    "config check FILE": Checked,
    "config diff": ConfigDiff,
    "config reload": Reload,
    "config rollback": Rollback,
    "drain": Drain,
    "doctor": Doctor,
}


def schema_name(kind: type[Struct]) -> str:
    """What a document of this kind has as its ``schema``."""
    field = next(field for field in msgspec.structs.fields(kind) if field.name == "schema")
    return str(get_args(field.type)[0])
