# SPDX-License-Identifier: Apache-2.0
"""The policy: every bound of session.md §4 with its default, its unit and what makes a value invalid.

Rule: a policy tunes bounds, it cannot switch one off. There is no value that means "unlimited", "never expires" or
"do not check", and ``problems`` refuses a policy whose bounds contradict each other. Durations are int nanoseconds,
shares are parts per million and penalties are thousandths, so that a decision never depends on a float's last bit.

Live change: a valid policy replaces the old one between two inputs. What already runs keeps the end it began with (an
open recovery window, a running episode, a birth timer), everything judged afterwards is judged by the new one, and the
lifetime counts from birth under the new value. An invalid one is refused with its reasons and changes nothing.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from gateway.constants import NS_PER_MS, NS_PER_S

_MINUTE: Final = 60 * NS_PER_S
_HOUR: Final = 60 * _MINUTE
MINUTE_NS: Final = _MINUTE

# What no policy may exceed: a session older than 30 days or a window longer than an hour is not a session any more.
MAX_LIFETIME_NS: Final = 30 * 24 * _HOUR
MAX_WINDOW_NS: Final = _HOUR
# A switch a second is the most that make-before-break can drain (RETIRING lasts at least 300 ms).
MAX_SWITCHES_PER_MIN: Final = 60
EXISTING_CARRIERS: Final = frozenset({"udp"})
# A process has a policy for each way of roaming and each profile a client asks for, and keeps a reload's old ones.
POLICIES_KEPT: Final = 64
# Fastest first, as both ends prefer them; the names of gateway/suites.py.
EXISTING_SUITES: Final = ("aegis-128l", "aes-256-gcm", "chacha20-poly1305")


class Profile(enum.Enum):
    """Liveness profiles: probe interval (ns) and how many misses in a row make a path dead."""

    CRITICAL = (100 * NS_PER_MS, 3)
    DEFAULT = (300 * NS_PER_MS, 3)
    METERED = (3 * NS_PER_S, 3)
    BATTERY = (25 * NS_PER_S, 3)

    @property
    def interval_ns(self) -> int:
        return self.value[0]

    @property
    def misses(self) -> int:
        return self.value[1]


class Roaming(enum.Enum):
    """What moves the address of a stock peer (protocol.md §2)."""

    HANDSHAKE = "handshake"
    WIREGUARD = "wireguard"
    NEVER = "never"


def agreed_profile(ours: Profile, theirs: Profile) -> Profile:
    """Both ends use the larger interval asked for; every profile counts 3 misses, the fewest allowed."""
    return max(ours, theirs, key=lambda profile: profile.interval_ns)


def _p(key: str, default: Any) -> Any:
    return field(default=default, metadata={"key": key})


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy snapshot. Field metadata ``key`` is its dotted name in the configuration."""

    max_lifetime_ns: int = _p("session.max_lifetime", 8 * _HOUR)
    transport_lost_ttl_ns: int = _p("session.transport_lost_ttl", 30 * NS_PER_S)
    stock_lost_ttl_ns: int = _p("session.stock_lost_ttl", 180 * NS_PER_S)
    birth_timeout_ns: int = _p("session.birth_timeout", 5 * NS_PER_S)
    profile: Profile = _p("liveness.profile", Profile.DEFAULT)  # noqa: RUF009
    probe_budget: int = _p("liveness.probe_budget", 20_000)
    loss_enter_ppm: int = _p("volatility.loss_enter", 50_000)
    loss_exit_ppm: int = _p("volatility.loss_exit", 20_000)
    latency_enter_ns: int = _p("volatility.latency_enter", 300 * NS_PER_MS)
    latency_factor: int = _p("volatility.latency_factor", 3)
    jitter_enter_ns: int = _p("volatility.jitter_enter", 80 * NS_PER_MS)
    exit_ratio_ppm: int = _p("volatility.exit_ratio", 800_000)
    persist_ns: int = _p("volatility.persist", 500 * NS_PER_MS)
    to_degraded_ns: int = _p("volatility.to_degraded", 4 * NS_PER_S)
    stability_window_ns: int = _p("stability.window", 3 * NS_PER_S)
    max_switches_per_min: int = _p("switching.max_switches_per_min", 8)
    reserved: int = _p("switching.reserved", 3)
    max_rebinds_per_min: int = _p("switching.max_rebinds_per_min", 20)
    cooldown_ns: int = _p("switching.cooldown", 1500 * NS_PER_MS)
    attempt_timeout_ns: int = _p("switching.attempt_timeout", 5 * NS_PER_S)
    backoff_min_ns: int = _p("switching.backoff_min", 200 * NS_PER_MS)
    backoff_max_ns: int = _p("switching.backoff_max", 3 * NS_PER_S)
    max_attempts: int = _p("switching.max_attempts", 10)
    improvement_points: int = _p("switching.improvement", 10)
    reclaim: bool = _p("switching.reclaim", False)
    drain_ns: int = _p("switching.drain", 300 * NS_PER_MS)
    allowed: tuple[str, ...] = _p("transport.allowed", ("udp",))
    max_candidates: int = _p("transport.max_candidates", 8)
    candidate_ttl_ns: int = _p("transport.candidate_ttl", 15 * NS_PER_S)
    half_life_ns: int = _p("dampening.half_life", 30 * NS_PER_S)
    suppress_milli: int = _p("dampening.suppress", 3000)
    reuse_milli: int = _p("dampening.reuse", 1000)
    unvalidated_slots: int = _p("security.unvalidated_slots", 3)
    bytes_factor: int = _p("security.bytes_factor", 3)
    slot_ttl_ns: int = _p("security.slot_ttl", 5 * NS_PER_S)
    control_rate: int = _p("security.control_rate", 100)
    control_burst: int = _p("security.control_burst", 100)
    suites: tuple[str, ...] = _p("security.suites", EXISTING_SUITES)
    rekey_after_ns: int = _p("keys.rekey_after_time", 120 * NS_PER_S)
    reject_after_ns: int = _p("keys.reject_after_time", 180 * NS_PER_S)
    rekey_after_packets: int = _p("keys.rekey_after_packets", 1 << 60)
    rekey_after_bytes: int = _p("keys.rekey_after_bytes", 0)
    roaming: Roaming = _p("stock.roaming", Roaming.HANDSHAKE)  # noqa: RUF009
    evict_allowed: bool = _p("session.evict", False)

    def __hash__(self) -> int:
        """Of a few fields, in few instructions: every record and every session looks something up by its policy."""
        return hash((self.max_lifetime_ns, self.transport_lost_ttl_ns, self.rekey_after_ns, self.cooldown_ns))

    def reserve_gap_ns(self) -> int:
        """How far apart the reserved switches are, and so the longest a forced one ever waits.

        With no other token (``max_switches_per_min = 0``) the first is spaced as well, or the cap would add a wait.
        """
        return _MINUTE // (self.reserved + 1 if self.max_switches_per_min > self.reserved else self.reserved)

    def switch_cap(self) -> int:
        """Switches per sliding minute: at least the reserve, or ``max_switches_per_min = 0`` would forbid recovery."""
        return max(self.max_switches_per_min, self.reserved)

    def dead_after_ns(self) -> int:
        """The least span that the misses of a dead path cover: two intervals."""
        return 2 * self.profile.interval_ns

    def candidate_life_ns(self) -> int:
        return max(self.candidate_ttl_ns, 3 * self.profile.interval_ns)

    def window_ns(self, stock: bool) -> int:
        return self.stock_lost_ttl_ns if stock else self.transport_lost_ttl_ns


class Problem(NamedTuple):
    """One reason a policy is refused: the configuration key and a sentence that says what to change."""

    key: str
    text: str


class _Range(NamedTuple):
    name: str
    low: int
    high: int


_RANGES: Final = (
    _Range("max_lifetime_ns", 10 * NS_PER_S, MAX_LIFETIME_NS),
    _Range("transport_lost_ttl_ns", NS_PER_S, MAX_WINDOW_NS),
    _Range("stock_lost_ttl_ns", 15 * NS_PER_S, MAX_WINDOW_NS),
    _Range("birth_timeout_ns", 100 * NS_PER_MS, _MINUTE),
    _Range("probe_budget", 100, 1_000_000),
    _Range("loss_enter_ppm", 1, 1_000_000),
    _Range("loss_exit_ppm", 1, 1_000_000),
    _Range("latency_enter_ns", NS_PER_MS, 60 * NS_PER_S),
    _Range("latency_factor", 2, 100),
    _Range("jitter_enter_ns", NS_PER_MS, 60 * NS_PER_S),
    _Range("exit_ratio_ppm", 100_000, 990_000),
    _Range("persist_ns", 0, 60 * NS_PER_S),
    _Range("to_degraded_ns", 100 * NS_PER_MS, 10 * _MINUTE),
    _Range("stability_window_ns", 100 * NS_PER_MS, 10 * _MINUTE),
    _Range("max_switches_per_min", 0, MAX_SWITCHES_PER_MIN),
    _Range("reserved", 1, MAX_SWITCHES_PER_MIN),
    _Range("max_rebinds_per_min", 1, MAX_SWITCHES_PER_MIN),
    _Range("cooldown_ns", 100 * NS_PER_MS, 10 * _MINUTE),
    _Range("attempt_timeout_ns", 300 * NS_PER_MS, _MINUTE),
    _Range("backoff_min_ns", 10 * NS_PER_MS, _MINUTE),
    _Range("backoff_max_ns", 10 * NS_PER_MS, _MINUTE),
    _Range("max_attempts", 1, 1000),
    _Range("improvement_points", 1, 100),
    _Range("drain_ns", 0, _MINUTE),
    _Range("max_candidates", 1, 32),
    _Range("candidate_ttl_ns", NS_PER_S, _HOUR),
    _Range("half_life_ns", NS_PER_S, _HOUR),
    _Range("suppress_milli", 1000, 100_000),
    _Range("reuse_milli", 1, 100_000),
    _Range("unvalidated_slots", 1, 16),
    _Range("bytes_factor", 1, 3),
    _Range("slot_ttl_ns", 500 * NS_PER_MS, _MINUTE),
    _Range("control_rate", 10, 10_000),
    _Range("control_burst", 10, 10_000),
    _Range("rekey_after_ns", NS_PER_S, 120 * NS_PER_S),
    _Range("reject_after_ns", 2 * NS_PER_S, 180 * NS_PER_S),
    _Range("rekey_after_packets", 1 << 10, 1 << 60),
    _Range("rekey_after_bytes", 0, 1 << 62),
)

_KEYS: Final = {f.name: f.metadata["key"] for f in dataclasses.fields(Policy)}


def _shown(name: str, value: int) -> str:
    """A value as the configuration spells it."""
    if name.endswith("_ns"):
        return f"{value // NS_PER_S}s" if value >= NS_PER_S else f"{value / NS_PER_MS:g}ms"
    for suffix, unit in (("_ppm", 1_000_000), ("_milli", 1000)):
        if name.endswith(suffix):
            return f"{value / unit:g}"
    return str(value)


def _out_of_range(policy: Policy) -> list[Problem]:
    found = []
    for name, low, high in _RANGES:
        value = getattr(policy, name)
        if not low <= value <= high:
            text = f"{_shown(name, value)} is out of range: {_shown(name, low)} to {_shown(name, high)}"
            found.append(Problem(_KEYS[name], text))
    return found


# Bounds that must fit each other: (the key to blame, what must hold, what to say when it does not).
_RELATIONS: Final[tuple[tuple[str, Callable[[Policy], bool], str], ...]] = (
    (
        "transport_lost_ttl_ns",
        lambda p: p.transport_lost_ttl_ns > p.reserve_gap_ns() + p.attempt_timeout_ns,
        "must exceed 60 s / (reserved + 1) + attempt_timeout, or the rate limit could outlast the recovery window",
    ),
    (
        "attempt_timeout_ns",
        lambda p: p.attempt_timeout_ns < p.transport_lost_ttl_ns,
        "must be shorter than session.transport_lost_ttl",
    ),
    (
        "max_lifetime_ns",
        lambda p: p.max_lifetime_ns > max(p.birth_timeout_ns, p.transport_lost_ttl_ns),
        "must exceed the birth timeout and the recovery window",
    ),
    ("loss_exit_ppm", lambda p: p.loss_exit_ppm < p.loss_enter_ppm, "must be below volatility.loss_enter"),
    (
        "backoff_max_ns",
        lambda p: p.backoff_min_ns <= p.backoff_max_ns,
        "must not be below switching.backoff_min",
    ),
    ("reuse_milli", lambda p: p.reuse_milli < p.suppress_milli, "must be below dampening.suppress"),
    (
        "reject_after_ns",
        lambda p: p.rekey_after_ns < p.reject_after_ns,
        "must exceed keys.rekey_after_time, or every rekey comes too late",
    ),
    (
        "max_switches_per_min",
        lambda p: p.max_switches_per_min == 0 or p.reserved < p.max_switches_per_min,
        "must leave a token beside switching.reserved, or be 0 for no discretionary switch at all",
    ),
    (
        "stability_window_ns",
        lambda p: p.stability_window_ns >= p.profile.interval_ns,
        "must hold at least one probe interval, or calm would be judged without evidence",
    ),
)


def _bad_carriers(policy: Policy) -> list[Problem]:
    key = _KEYS["allowed"]
    if not policy.allowed:
        return [Problem(key, "must allow at least one carrier")]
    found = []
    for carrier in policy.allowed:
        if carrier not in EXISTING_CARRIERS:
            found.append(Problem(key, f"the carrier {carrier!r} does not exist yet; only 'udp' can be used"))
    return found


def _bad_suites(policy: Policy) -> list[Problem]:
    key = _KEYS["suites"]
    if not policy.suites:
        return [Problem(key, "must permit at least one suite")]
    if len(set(policy.suites)) != len(policy.suites):
        return [Problem(key, "names a suite twice")]
    unknown = [suite for suite in policy.suites if suite not in EXISTING_SUITES]
    return [Problem(key, f"{suite!r} is none of {', '.join(EXISTING_SUITES)}") for suite in unknown]


@functools.lru_cache(maxsize=POLICIES_KEPT)
def problems(policy: Policy) -> tuple[Problem, ...]:
    """Everything wrong with a policy, empty when it may be used."""
    found = _out_of_range(policy) + _bad_carriers(policy) + _bad_suites(policy)
    if not found:  # relations between values that are themselves senseless would only confuse
        found += [Problem(_KEYS[name], text) for name, holds, text in _RELATIONS if not holds(policy)]
    return tuple(found)


def to_json(policy: Policy) -> dict[str, Any]:
    """The policy as plain JSON values under its configuration keys: what is hashed, audited and sent in WELCOME."""
    return {_KEYS[f.name]: _plain(getattr(policy, f.name)) for f in dataclasses.fields(policy)}


def from_json(values: dict[str, Any]) -> Policy:
    """The inverse of ``to_json``. Unknown keys raise KeyError; values are not judged here (see ``problems``)."""
    by_key = {key: name for name, key in _KEYS.items()}
    return Policy(**{by_key[key]: _typed(by_key[key], value) for key, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    return list(value) if isinstance(value, tuple) else value


def _typed(name: str, value: Any) -> Any:
    if name == "profile":
        return Profile[value]
    if name == "roaming":
        return Roaming[value]
    return tuple(value) if isinstance(value, list) else value


@functools.lru_cache(maxsize=POLICIES_KEPT)
def policy_hash(policy: Policy) -> str:
    """``sha256:`` and the hex digest of the canonical JSON: names the policy a decision followed."""
    text = json.dumps(to_json(policy), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
