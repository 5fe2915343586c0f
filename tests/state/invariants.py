# SPDX-License-Identifier: Apache-2.0
"""The invariants of session.md §9 as a verifier over audit records: what the log alone must prove (I37).

``verify`` takes the records of any number of sessions of one end, in journal order, and returns every violation found;
``verify_pair`` compares the two ends of one session. Both read plain JSON objects: records of a simulation or
the lines of an end-to-end journal. They share no code with the machine but the table they check against.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core.policy import Policy, from_json
from gateway.core.transitions import edges

Body = dict[str, Any]

EDGES = {(start.name, rule.row, rule.to.name) for start, _, rule in edges()}
REASONS: dict[tuple[str, str, str], set[str]] = defaultdict(set)
for _start, _, _rule in edges():
    REASONS[_start.name, _rule.row, _rule.to.name] |= {reason.name for reason in _rule.reasons}

ATTACHING = {"T1", "T8", "T12", "T13"}
BINDING_ROWS = {"T1", "T13"}
CLEARING_ROWS = {"T4", "T5", "T9", "T10", "T15", "T22"}
END_ROWS = {"T2", "T16", "T17", "T18", "T19", "T20", "T21"}
MINUTE = 60 * NS_PER_S
# A shell may be late with a timer by this much before a bound counts as broken.
SLACK_NS = 50 * NS_PER_MS
# What a track holds where records are missing: whatever comes next is taken as it is, once.
UNKNOWN = "?"
SECRETS = {
    "key",
    "private_key",
    "psk",
    "preshared_key",
    "payload",
    "plaintext",
    "token",
    "password",
    "secret",
}


@dataclass
class Track:
    """What was seen of one session so far."""

    state: str = ""
    version: int = 0
    event_version: int = 0
    epoch: int = 0
    bound: str | None = None
    born_ns: int = 0
    lost_ns: int | None = None
    recovering_ns: int | None = None
    mono_ns: int = 0
    role: str = ""
    accepted: set[int] = field(default_factory=set)
    last_attempt: int = 0
    switches: list[int] = field(default_factory=list)
    rebinds: list[int] = field(default_factory=list)
    policy: Policy = field(default_factory=Policy)
    windows: list[int] = field(default_factory=list)
    stock: bool = False
    last_input: str = ""
    version_known: bool = True


class Verifier:
    """Feed records in order; ``violations`` collects what they break."""

    def __init__(self, rebooted: bool = False) -> None:
        self._rebooted = rebooted
        self.violations: list[str] = []
        self.tracks: dict[str, Track] = {}
        self._policies: dict[str, Policy] = {}

    def feed(self, body: Body) -> None:
        name = body.get("event", "")
        if name == "POLICY":
            self._policies[body["policy"]] = from_json(body["values"])
            return
        if name == "AUDIT_GAP" and "session_id" not in body:
            for track in self.tracks.values():
                self._forget(track)
                track.version_known = False
            return
        if "session_id" not in body:
            return
        track = self.tracks.setdefault(body["session_id"], Track())
        self._secrets(body)
        if name == "RESTORE":
            self._restored(track, body)
        if name in ("CREATE", "RESTORE", "INPUT", "TIMER"):
            self._bounds(track, body)
            track.last_input = body.get("input", "")
            if track.last_input == "PlainWireguard":
                track.windows.append(track.policy.window_ns(stock=True))
            return
        self._ordered(track, body)
        handler = getattr(self, "_" + name.lower(), None)
        if handler is not None:
            handler(track, body)

    def _bad(self, body: Body, what: str) -> None:
        self.violations.append(
            f"{what}: {body.get('event')} v{body.get('state_version')} at {body['mono_ns']}"
        )

    # --- every record ---

    def _secrets(self, body: Body) -> None:
        stack: list[Any] = [body]
        while stack:
            one = stack.pop()
            if isinstance(one, dict):
                if SECRETS & set(one):
                    self._bad(body, "I35 secret in a record")
                stack += one.values()
            elif isinstance(one, list):
                stack += one

    def _ordered(self, track: Track, body: Body) -> None:
        if body["mono_ns"] < track.mono_ns:
            self._bad(body, "I8 time runs backwards")
        if body["state_version"] < track.event_version:
            self._bad(body, "I8 events out of version order")
        if body["binding_epoch"] < track.epoch:
            self._bad(body, "epoch went back")
        track.mono_ns, track.event_version = body["mono_ns"], body["state_version"]
        track.epoch = body["binding_epoch"]

    def _bounds(self, track: Track, body: Body) -> None:
        """Bounds in time, judged just before each input: they must have ended what they bound."""
        now = body["mono_ns"]
        if track.state in ("", "TERMINATED") or body["event"] in ("CREATE", "RESTORE"):
            return
        policy = self._policies.get(body["policy"], track.policy)
        if (
            track.recovering_ns is not None
            and now - track.recovering_ns > policy.attempt_timeout_ns + SLACK_NS
        ):
            self._bad(body, "I15 RECOVERING too long")
        longest = max([policy.window_ns(track.stock), *track.windows])
        if track.lost_ns is not None and now - track.lost_ns > longest + SLACK_NS:
            self._bad(body, "I16 unbound too long")
        if track.born_ns and now - track.born_ns > policy.max_lifetime_ns + SLACK_NS:
            self._bad(body, "I17 too old")

    # --- gaps ---

    @staticmethod
    def _forget(track: Track) -> None:
        """What cannot be known after a gap."""
        if track.state != "TERMINATED":
            track.state, track.bound = UNKNOWN, UNKNOWN
        track.lost_ns = track.recovering_ns = None

    def _audit_gap(self, track: Track, body: Body) -> None:
        """A gap explains the versions of its range and nothing else: one before or behind it must be there."""
        first, last = body["first_version"], body["last_version"]
        if not first and not last:  # inputs were lost, no transition
            return
        if track.version_known and first != track.version + 1:
            self._bad(body, f"I6 the gap begins at {first}, the version before was {track.version}")
        if not 0 < first <= last or last > body["state_version"]:
            self._bad(body, f"I6 a gap from {first} to {last}")
        state = track.state
        self._forget(track)
        track.version, track.version_known = max(track.version, last), True
        self._remembered(track, body, state)

    def _remembered(self, track: Track, body: Body, state: str) -> None:
        """The transitions of the gap that the session itself still knows, the latest ones."""
        first, last = body["first_version"], body["last_version"]
        version = last - len(body["history"])
        whole = version == first - 1 and state != ""
        expected = state if whole else UNKNOWN
        for row in body["history"]:
            version += 1
            if row["version"] != version or not any(
                (start, to) == (row["previous"], row["new"]) for start, _, to in EDGES
            ):
                self._bad(body, f"I5 the gap remembers {row['previous']} to {row['new']} as {row['version']}")
            if expected not in (UNKNOWN, row["previous"]):
                self._bad(body, f"I9 the gap remembers {row['previous']}, was {expected}")
            expected = row["new"]
        if body["history"]:
            track.state = expected

    # --- events ---

    def _session_created(self, track: Track, body: Body) -> None:
        if track.state:
            self._bad(body, "I2 a session was created twice")
        track.state, track.born_ns = "BIRTH", body["mono_ns"]
        track.role, track.stock = body["role"], body["stock"]
        track.policy = self._policies.get(body["policy"], Policy())
        track.windows = [track.policy.window_ns(track.stock)]

    def _restored(self, track: Track, body: Body) -> None:
        if self._rebooted:  # the clock begins anew with the machine
            track.mono_ns = body["mono_ns"]
        record = body["fields"]["record"]
        track.role, track.stock = record["role"], record["stock"]
        track.state = record["state"]
        highest = max(record["version"], body["fields"]["audited_version"])
        if highest < track.version:
            self._bad(body, "I6 the version went back over a restart")
        if track.state and track.version_known and highest > track.version:
            self._bad(body, f"I6 versions {track.version + 1} to {highest} are missing, and no gap says so")
        track.version_known = True
        track.version = highest
        track.event_version = 0
        track.born_ns = body["mono_ns"] - record["age_ns"] - body["fields"]["down_ns"]
        track.recovering_ns = None
        track.epoch = min(track.epoch, record["epoch"])
        if record["bound_id"] and track.bound is None:
            track.bound = "restored"

    def _state_change(self, track: Track, body: Body) -> None:
        edge = (body["previous_state"], body["row"], body["new_state"])
        if edge not in EDGES:
            self._bad(body, f"I5 not an edge of the table: {edge}")
        elif body["reason"] not in REASONS[edge]:
            self._bad(body, f"I5 row {body['row']} has no reason {body['reason']}")
        if track.state != UNKNOWN and body["previous_state"] != track.state:
            self._bad(body, f"I9 previous is {body['previous_state']}, was {track.state}")
        if track.state == "TERMINATED":
            self._bad(body, "I10 TERMINATED left")
        missing = body["state_version"] != track.version + 1
        if missing if track.version_known else body["state_version"] <= track.version:
            self._bad(body, f"I6 version after {track.version}")
        if body["new_state"] == "ATTACHED" and body["row"] not in ATTACHING:
            self._bad(body, "I4 ATTACHED by another row")
        self._binding(track, body)
        self._enter(track, body)

    def _binding(self, track: Track, body: Body) -> None:
        change, row, new = body["transport_change"], body["row"], body["new_state"]
        if new == "ATTACHED" and change["to"] is None:
            self._bad(body, "I3 ATTACHED without a binding")
        if new in ("BIRTH", "TERMINATED") and change["to"] is not None:
            self._bad(body, f"I3 {new} with a binding")
        if change["from"] != track.bound and track.bound not in ("restored", UNKNOWN) and row != "T22":
            self._bad(body, f"I11 the binding changed between transitions: {track.bound} to {change['from']}")
        if change["from"] != change["to"] and row not in BINDING_ROWS | CLEARING_ROWS | END_ROWS:
            self._bad(body, "I11 the binding changed in this row")
        if change["to"] is not None and change["from"] != change["to"] and row not in BINDING_ROWS:
            self._bad(body, "I11 bound by a row that may not bind")
        track.bound = change["to"]

    def _enter(self, track: Track, body: Body) -> None:
        now, new = body["mono_ns"], body["new_state"]
        if new == "RECOVERING" and track.state != "RECOVERING":
            track.recovering_ns = now
        elif new != "RECOVERING":
            if track.recovering_ns is not None:
                stay = now - track.recovering_ns
                if stay > track.policy.attempt_timeout_ns + SLACK_NS:
                    self._bad(body, f"I15 RECOVERING for {stay} ns")
            track.recovering_ns = None
        if track.bound is None and track.lost_ns is None and new not in ("BIRTH", "TERMINATED"):
            track.lost_ns = now
        elif track.bound is not None:
            track.lost_ns = None
        known = track.state != UNKNOWN
        if body["row"] == "T16" and body["reason"] != "POLICY" and known and track.lost_ns is None:
            self._bad(body, "I18 ended by a window that was not open")
        track.state, track.version, track.version_known = new, body["state_version"], True

    def _policy_event(self, track: Track, body: Body) -> None:
        if body["applied"] and body["policy_hash"] in self._policies:
            track.policy = self._policies[body["policy_hash"]]
            track.windows.append(track.policy.window_ns(track.stock))

    def _transport_switch(self, track: Track, body: Body) -> None:
        if not body["path_to"] or "reason" not in body or "scores" not in body or "switch_cap" not in body:
            self._bad(body, "I12 a switch without to, reason, scores or verdicts")
        now, kind = body["mono_ns"], body["switch_class"]
        slack = NS_PER_S if track.role == "GATEWAY" else 0
        if kind == "REBIND":
            self._rebind(track, body, now, slack)
            return
        if kind == "DISCRETIONARY" and track.switches:
            gap = now - track.switches[-1]
            if gap < track.policy.cooldown_ns - slack:
                self._bad(body, f"I14 discretionary after {gap} ns")
        track.switches = [t for t in track.switches if t > now - MINUTE + slack] + [now]
        if len(track.switches) > track.policy.switch_cap():
            self._bad(body, f"I13 {len(track.switches)} switches in a minute")

    def _rebind(self, track: Track, body: Body, now: int, slack: int) -> None:
        track.rebinds = [t for t in track.rebinds if t > now - MINUTE + slack]
        full = len(track.rebinds) >= track.policy.max_rebinds_per_min
        if full and now - track.rebinds[-1] < 3 * NS_PER_S - slack and not track.stock:
            self._bad(body, "I13 rebinds beyond their own limit")
        track.rebinds.append(now)

    def _reattach_result(self, track: Track, body: Body) -> None:
        handshake = body["attempt_id"] == 0 and track.last_input == "StockHandshake"
        if not body["accepted"] or track.stock or handshake:
            return
        if body["attempt_id"] in track.accepted:
            self._bad(body, "I20 an attempt was accepted twice")
        if body["attempt_id"] <= track.last_attempt:
            self._bad(body, "I20 attempt_id does not grow")
        track.accepted.add(body["attempt_id"])
        track.last_attempt = body["attempt_id"]


def verify(records: Iterable[Body], rebooted: bool = False) -> list[str]:
    """Every violation in the records of one end; empty when all invariants hold. ``rebooted``: the machine was."""
    verifier = Verifier(rebooted)
    for body in records:
        verifier.feed(body)
    return verifier.violations


def _commits(records: Iterable[Body]) -> dict[int, tuple[int, int]]:
    """attempt_id → (epoch, path) of every accepted attempt; 0 is a stock session's handshake, no agreement of two."""
    return {
        body["attempt_id"]: (body["binding_epoch"], body["path_id"])
        for body in records
        if body["event"] == "REATTACH_RESULT" and body["accepted"] and body["attempt_id"]
    }


def verify_pair(client: list[Body], gateway: list[Body]) -> list[str]:
    """I38 and I21 over both ends: what the client took for accepted, the gateway accepted."""
    theirs, found = _commits(gateway), []
    for attempt, what in _commits(client).items():
        if theirs.get(attempt) != what:
            found.append(f"I38 attempt {attempt}: client has {what}, gateway {theirs.get(attempt)}")
    epochs = [epoch for epoch, _ in theirs.values()]
    if len(set(epochs)) != len(epochs):
        found.append("I21 two attempts were accepted at one epoch")
    return found
