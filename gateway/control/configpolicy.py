# SPDX-License-Identifier: Apache-2.0
"""The session policy in a configuration: [policy.session], [policy.liveness] and so on, onto `core.policy.Policy`.

Rule: the names and sections are the policy's own (the `key` of each field), so a bound exists here exactly when the
core has it. What the core refuses is reported here with its line.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Final

from gateway.control import configfields
from gateway.control.configreport import Problems
from gateway.core.policy import Policy, Profile, Roaming, problems
from gateway.noise.timers import Timers

PolicyTables = dict[str, dict[str, Any]]

_FIELDS: Final[Mapping[str, str]] = {f.metadata["key"]: f.name for f in dataclasses.fields(Policy)}
# Set per peer (roaming) or from [keys]; standing here as well they could contradict.
ELSEWHERE: Final = {
    "stock.roaming": "peer.roaming",
    "keys.rekey_after_time": "keys",
    "keys.reject_after_time": "keys",
}
# What the data plane keeps to, whatever stands here.
_FIXED: Final = {
    "security.bytes_factor": "has no effect yet: the data plane keeps to 3",
    "security.control_rate": "only bounds `jvpn ping` yet: the data plane takes 100 frames a second",
    "security.control_burst": "only bounds `jvpn ping` yet: the data plane takes 100 frames at once",
}
_DEFAULT: Final = Policy()
_PPM: Final = 1_000_000
_MILLI: Final = 1000


def read_policy(tables: PolicyTables, report: Problems, base: Policy = _DEFAULT) -> Policy:
    """The policy with what the tables change; every mistake is reported, and then `base` comes back."""
    changes: dict[str, Any] = {}
    for section, table in tables.items():
        for name, value in table.items():
            _read(f"{section}.{name}", value, changes, report)
    policy = dataclasses.replace(base, **changes)
    wrong = problems(policy)
    for problem in wrong:
        report.add(f"policy.{problem.key}", problem.text)
    return base if wrong else policy


def with_keys(policy: Policy, timers: Timers) -> Policy:
    """The lifetimes of [keys] are the policy's too."""
    return dataclasses.replace(
        policy, rekey_after_ns=timers.rekey_after_time_ns, reject_after_ns=timers.reject_after_time_ns
    )


def _read(key: str, value: Any, changes: dict[str, Any], report: Problems) -> None:
    where = f"policy.{key}"
    if key in ELSEWHERE:
        report.add(where, f"belongs to {ELSEWHERE[key]}")
    elif key not in _FIELDS:
        report.add(where, "is no policy parameter")
    else:
        try:
            changes[_FIELDS[key]] = _value(_FIELDS[key], value)
        except (ValueError, TypeError) as error:
            report.add(where, str(error))
            return
        if key in _FIXED and changes[_FIELDS[key]] != getattr(_DEFAULT, _FIELDS[key]):
            report.warn(where, _FIXED[key])


def _value(name: str, value: Any) -> Any:
    """One value by its kind, which the field's name and default tell."""
    default = getattr(Policy(), name)
    if isinstance(default, Profile | Roaming):
        return _choice(type(default), value)
    if isinstance(default, bool):
        return _instance(value, bool, "true or false")
    if isinstance(default, tuple):
        return tuple(_instance(one, str, "text") for one in _instance(value, list, "a list of texts"))
    if name.endswith("_ns"):
        return configfields.duration_ns(_instance(value, str, "a duration such as 300ms"))
    if name.endswith("_ppm"):
        return round(_number(value) * _PPM)
    if name.endswith("_milli"):
        return round(_number(value) * _MILLI)
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return _instance(value, int, "a whole number")


def _choice(kind: type[enum.Enum], value: Any) -> enum.Enum:
    names = {member.name.lower(): member for member in kind}
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return names[value]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return float(value)


def _instance(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"must be {what}")
    return value
