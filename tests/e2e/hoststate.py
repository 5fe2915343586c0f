# SPDX-License-Identifier: Apache-2.0
"""What our daemons may change on a machine, as one comparable value: it must be the same after them as before."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.net.lab import Namespace
from tests.net.ledger import NETNS_ETC

SETTINGS: Final = r"^net\.ipv[46]\.(ip_forward$|conf\..*\.(forwarding|src_valid_mark|rp_filter|accept_ra)$)"
COMMANDS: Final = {
    "routes": ("ip", "-j", "-4", "route", "show", "table", "all"),
    "routes6": ("ip", "-j", "-6", "route", "show", "table", "all"),
    "rules": ("ip", "-j", "-4", "rule"),
    "rules6": ("ip", "-j", "-6", "rule"),
    "addresses": ("ip", "-j", "addr"),
    "firewall": ("nft", "list", "ruleset"),
    "settings": ("sysctl", "-a", "-r", SETTINGS),
}


def host_state(namespace: Namespace) -> dict[str, Any]:
    """Routes, rules, addresses, firewall, settings and resolv.conf of a namespace."""
    state: dict[str, Any] = {}
    for name, argv in COMMANDS.items():
        text = namespace.run(argv).stdout
        state[name] = json.loads(text or "[]") if "-j" in argv else text
    state["resolv.conf"] = resolv_conf(namespace)
    return state


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Names of what differs."""
    return {name for name in before if before[name] != after[name]}


def resolv_conf(namespace: Namespace) -> bytes:
    """The namespace's /etc/resolv.conf."""
    return (NETNS_ETC / namespace.name / "resolv.conf").read_bytes()
