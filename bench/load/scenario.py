# SPDX-License-Identifier: Apache-2.0
"""A scenario file: how many clients, what load, what happens when, and what is promised.

    seed = 1                       keys of the clients, order of the packets
    title = "..."
    sessions = 1000                peers of the gateway
    attached = 1000                so many, the first, are attached before the clock starts; all without it
    warmup_s = 10                  the established load alone: what the events are compared with
    [load]                         share = 0.5 of what saturates this set-up, or rate_per_s = 2000; from, count: whose
    [gateway.policy.session]       tables of the gateway's configuration, under "gateway"
    audit = true                   in the end the gateway's journal is verified and replayed
    [[event]]                      at_s = 5.0 (from the end of the warm-up), do = "cut", and what DO says below;
                                   every_s, times, step: again and again, each time for clients `step` further on
    [[expect]]                     title, figure, at_most or at_least, unit

Rule: pure, and strict: an unknown key is an error that names it. An event with ``name`` puts its figures under it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

Table = Mapping[str, Any]
RANGE: Final = {"from": int, "count": int}
PACED: Final = {**RANGE, "rate_per_s": float, "order": str, "timeout_s": float}
# What an event may be, and the keys that it takes; the swarm does the first five.
DO: Final[Mapping[str, Mapping[str, type]]] = {
    "attach": PACED,
    "rekey": PACED,
    "restart": PACED,  # the clients' processes: keys forgotten, session ids kept
    "terminate": PACED,
    "rebind": {**PACED, "what": str, "path": int},
    "cut": {**RANGE, "uplink": int},  # nothing passes, nobody is told
    "mend": {**RANGE, "uplink": int},
    "rate": {"share": float, "rate_per_s": float},  # of the load, from now on
    "kill": {},  # the gateway, by SIGKILL
    "start": {},  # it again, with its state
    "flood": {"rate_per_s": float, "valid_share": float},  # initiations from sources that do not exist
    "calm": {},  # no flood any more
    "stock": {"within_s": float},  # a wireguard-go of Debian's comes in, from an address of its own
    "settle": {
        "within_s": float,
        "count": int,
    },  # wait until so many are attached; counts from the event before
}
SWARM: Final = ("attach", "rekey", "restart", "terminate", "rebind")
PLAIN: Final = {
    "seed": int,
    "title": str,
    "sessions": int,
    "attached": int,
    "warmup_s": float,
    "audit": bool,
}
# Of any event: it happens so many times, each time for clients further on.
REPEATED: Final = {"every_s": float, "times": int, "step": int}
LOAD: Final = {"share": float, "rate_per_s": float, "bytes": int, **RANGE}
EXPECT: Final = {"title": str, "figure": str, "at_most": float, "at_least": float, "unit": str}
# Largest scenario: the address ranges of population.py.
MOST: Final = 1_000_000


class ScenarioError(ValueError):
    """What is wrong with the file, in words."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens ``at_s`` after the warm-up."""

    at_s: float
    do: str
    name: str
    values: Table = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expect:
    """A promise about one figure."""

    title: str
    figure: str
    limit: float
    at_least: bool
    unit: str


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The established load: a share of what saturates the set-up, or packets a second."""

    share: float = 0.5
    rate_per_s: float = 0.0
    size_bytes: int = 36
    first: int = 0
    count: int = 0  # 0: all from ``first`` on


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file, checked."""

    title: str
    sessions: int
    attached: int = 0  # 0: all
    seed: int = 1
    warmup_s: float = 10.0
    audit: bool = False
    load: LoadPlan = LoadPlan()
    gateway: Table = field(default_factory=dict)
    events: Sequence[Event] = ()
    expects: Sequence[Expect] = ()

    @property
    def established(self) -> int:
        """Sessions before the first event."""
        return self.attached or self.sessions

    @property
    def loaded(self) -> int:
        """Sessions with traffic."""
        return self.load.count or self.established - self.load.first

    @property
    def seconds(self) -> float:
        """Until the last event begins."""
        return self.warmup_s + max((event.at_s for event in self.events), default=0.0)


def parse(text: str) -> Scenario:
    """ScenarioError unless everything in it is known and fits together."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(str(error)) from None
    known = {**PLAIN, "load": dict, "gateway": dict, "event": list, "expect": list}
    _check(table, known, "")
    for name in ("title", "sessions"):
        if name not in table:
            raise ScenarioError(f"{name} is missing")
    if not 1 <= table["sessions"] < MOST:
        raise ScenarioError(f"sessions = {table['sessions']}: 1 to {MOST - 1}")
    made = Scenario(
        **{name: table[name] for name in PLAIN if name in table},
        load=_load(table.get("load", {})),
        gateway=flattened(table.get("gateway", {})),
        events=_events(table.get("event", [])),
        expects=tuple(_expect(number, expect) for number, expect in enumerate(table.get("expect", []))),
    )
    _check_ranges(made)
    return made


def _check(table: Table, known: Mapping[str, type], where: str) -> None:
    for key, value in table.items():
        kind = known.get(key)
        if kind is None:
            raise ScenarioError(f"{where}{key}: unknown; known are {', '.join(known)}")
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or isinstance(value, bool) is not (kind is bool):
            raise ScenarioError(f"{where}{key} = {value!r} is no {kind.__name__}")
        if isinstance(value, (int, float)) and value < 0:
            raise ScenarioError(f"{where}{key} = {value!r} is less than nothing")


def _load(table: Table) -> LoadPlan:
    _check(table, LOAD, "load.")
    names = {"bytes": "size_bytes", "from": "first"}
    return LoadPlan(**{names.get(key, key): value for key, value in table.items()})


def flattened(table: Table, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Tables of TOML by their dotted names, as a configuration file writes them."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in table.items():
        if not isinstance(value, dict):
            raise ScenarioError(f"gateway.{prefix}{name}: a key outside of any table")
        plain = {key: held for key, held in value.items() if not isinstance(held, dict)}
        deeper = {key: held for key, held in value.items() if isinstance(held, dict)}
        if plain:
            found[prefix + name] = plain
        found |= flattened(deeper, f"{prefix}{name}.")
    return found


def _events(tables: Sequence[Table]) -> tuple[Event, ...]:
    """In the order of their time, repetitions among the others."""
    single = [_event(number, table) for number, table in enumerate(tables)]
    at_s = [event.at_s for event in single]
    if at_s != sorted(at_s):
        raise ScenarioError("events stand in the order of their time")
    return tuple(sorted((one for event in single for one in repeated(event)), key=lambda event: event.at_s))


def repeated(event: Event) -> Iterator[Event]:
    """All times that it happens."""
    values = {key: value for key, value in event.values.items() if key not in REPEATED}
    given = event.values
    for number in range(given.get("times", 1)):
        first = {"from": values.get("from", 0) + number * given["step"]} if "step" in given else {}
        yield replace(event, at_s=event.at_s + number * given.get("every_s", 0.0), values={**values, **first})


def _event(number: int, table: Table) -> Event:
    where = f"event {number + 1}: "
    do = table.get("do")
    if do not in DO:
        raise ScenarioError(f"{where}do = {do!r} is none of {', '.join(DO)}")
    _check(table, {"do": str, "at_s": float, "name": str, **DO[do], **REPEATED}, where)
    if "at_s" not in table:
        raise ScenarioError(f"{where}at_s is missing")
    values = {key: value for key, value in table.items() if key not in ("do", "at_s", "name")}
    return Event(table["at_s"], do, table.get("name", f"{do}{number + 1}"), values)


def _expect(number: int, table: Table) -> Expect:
    where = f"expect {number + 1}: "
    _check(table, EXPECT, where)
    if not {"title", "figure"} <= table.keys() or ("at_most" in table) == ("at_least" in table):
        raise ScenarioError(f"{where}title, figure and one of at_most and at_least are needed")
    at_least = "at_least" in table
    limit = table["at_least"] if at_least else table["at_most"]
    return Expect(table["title"], table["figure"], limit, at_least, table.get("unit", ""))


def _check_ranges(made: Scenario) -> None:
    load = made.load
    if made.established > made.sessions or made.loaded < 1 or load.first + made.loaded > made.established:
        raise ScenarioError(
            f"load: {made.established} of {made.sessions} clients are attached when it begins"
        )
    for event in made.events:
        first, count = event.values.get("from", 0), event.values.get("count", 0)
        if first >= made.sessions or first + count > made.sessions:
            raise ScenarioError(f"{event.name}: clients {first} to {first + count - 1} of {made.sessions}")


def scaled(made: Scenario, factor: float) -> Scenario:
    """The same with fewer clients, proportionally: for a small machine or a test."""

    def part(value: float) -> int:
        return int(value * factor)

    def of(event: Event) -> Event:
        values = {
            key: max(1, part(value))
            if key in ("count", "rate_per_s") and value
            else part(value)
            if key == "from"
            else value
            for key, value in event.values.items()
        }
        return replace(event, values=values)

    load = made.load
    fewer = replace(load, first=part(load.first), count=part(load.count), rate_per_s=load.rate_per_s * factor)
    smaller = replace(
        made,
        sessions=max(1, part(made.sessions)),
        attached=part(made.attached),
        load=fewer,
        events=tuple(of(event) for event in made.events),
    )
    _check_ranges(smaller)
    return smaller
