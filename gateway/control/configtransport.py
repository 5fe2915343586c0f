# SPDX-License-Identifier: Apache-2.0
"""The client's [transport]: which devices carry the tunnel, and in which order of preference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.control import configfields
from gateway.control.configreport import Problems
from gateway.control.configschema import DeviceTable, TransportTable
from gateway.net.devices import METERED_COST, DeviceRule, Settings

# The data plane holds that many sockets.
CANDIDATES_MAX: Final = 16
# It only decides between paths that are equal otherwise, so a small scale is plenty.
COST_MAX: Final = 1000

_GLOB: Final = re.compile(r"[A-Za-z0-9_=+.*?!\[\]-]{1,32}\Z", re.ASCII)


def read_transport(table: TransportTable, problems: Problems) -> Settings:
    """The checked [transport]."""
    return Settings(
        allowed=_allowed(table.allowed, problems),
        max_candidates=problems.check(
            "transport.max_candidates",
            lambda n: configfields.bounded(n, 1, CANDIDATES_MAX),
            table.max_candidates,
            CANDIDATES_MAX,
        ),
        learn_endpoints=table.learn_endpoints,
        include=problems.check_each("transport.include", _glob, table.include),
        exclude=problems.check_each("transport.exclude", _glob, table.exclude),
        devices=tuple(_device(each, n, problems) for n, each in enumerate(table.device)),
    )


def _allowed(names: Sequence[str], problems: Problems) -> tuple[str, ...]:
    if not names:
        problems.add("transport.allowed", 'is empty; write ["udp"]')
    for position, name in enumerate(names):
        if problem := configfields.carrier_problem(name):
            problems.add(f"transport.allowed[{position}]", problem)
    return tuple(dict.fromkeys(names))


def _device(table: DeviceTable, position: int, problems: Problems) -> DeviceRule:
    key = f"transport.device[{position}]"
    if not table.name:
        problems.add(f"{key}.name", 'is missing: a device or a glob, such as "wwan*"')
    cost = problems.check(f"{key}.cost", lambda n: configfields.bounded(n, 0, COST_MAX), table.cost, 0)
    return DeviceRule(
        problems.check_text(f"{key}.name", _glob, table.name) or "",
        table.priority,
        cost + METERED_COST * table.metered,
    )


def _glob(text: str) -> str:
    if not _GLOB.match(text):
        raise ValueError(
            f'{configfields.shown(text)} is not a device name or a glob of one, such as "eth0" or "wwan*"'
        )
    return text
