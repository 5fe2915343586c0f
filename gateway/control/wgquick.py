# SPDX-License-Identifier: Apache-2.0
"""wg-quick files: read one as a client's configuration, write one for a stock client.

Hooks (PreUp and its like) are refused, because they are shell commands run as root. Unlike our own TOML,
prefixes are masked silently and several endpoints per peer do not exist: this is WireGuard's format, with
WireGuard's rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from gateway.constants import DEFAULT_MTU_BYTES
from gateway.control import configfields, keysfile
from gateway.control.configclient import check_gateways
from gateway.control.configgateway import read_addresses, read_dns, read_mtu
from gateway.control.configmodel import ClientConfig, GatewayPeer
from gateway.control.configpeers import NO_KEY
from gateway.control.configreport import Problems, unknown_key
from gateway.control.configschema import DEFAULT_INTERFACE
from gateway.core.policy import Policy
from gateway.noise.timers import DEFAULT as DEFAULT_TIMERS

_HOOKS: Final = ("preup", "postup", "predown", "postdown")
_INTERFACE_KEYS: Final = {
    name.lower(): name
    for name in (
        *("PrivateKey", "ListenPort", "FwMark", "Address", "DNS", "MTU", "Table"),
        *("PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig"),
    )
}
_PEER_KEYS: Final = {
    name.lower(): name
    for name in ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive")
}
_LISTS: Final = frozenset(("Address", "DNS", "AllowedIPs"))
_NUMBER: Final = re.compile(r"(0[xX][0-9a-fA-F]{1,8}|\d{1,10})\Z", re.ASCII)
# What a stock client needs to stay reachable behind most NATs (WireGuard's own documentation).
PERSISTENT_KEEPALIVE_S: Final = 25


class _Row(NamedTuple):
    """One value: ``key`` is its path, such as ``Peer[0].AllowedIPs[1]``; a header's value is its text."""

    line: int
    section: str
    name: str
    key: str
    value: str


def is_wgquick(text: str) -> bool:
    """Whether a text is meant for wg-quick: its first statement is an [Interface] or [Peer] header."""
    for row in text.splitlines():
        statement = row.partition("#")[0].strip()
        if statement:
            return statement == "[Peer]" or statement.lower() == "[interface]"
    return False


def wgquick_lines(text: str) -> dict[str, int]:
    """Lines of all keys of a wg-quick text, as ``configlines.key_lines`` has them for TOML."""
    lines: dict[str, int] = {}
    for row in _rows(text):
        lines.setdefault(row.section, row.line)
        lines[row.key] = row.line
    return lines


def _rows(text: str) -> list[_Row]:
    """Every statement in file order; lists are taken apart and numbered, also over several rows."""
    rows: list[_Row] = []
    counts: dict[str, int] = {}
    section = ""
    for line, text_row in enumerate(text.splitlines(), 1):
        statement = text_row.partition("#")[0].strip()
        if statement.startswith("["):
            section = _section(statement, counts)
            rows.append(_Row(line, section, "", section, statement))
        elif statement:
            name, _, value = statement.partition("=")
            rows.extend(_values(line, section, _canonical(name.strip(), section), value, counts))
    return rows


def _section(header: str, counts: dict[str, int]) -> str:
    if header.lower() == "[interface]":
        return "Interface"
    if header.lower() != "[peer]":
        return header
    counts["Peer"] = counts.get("Peer", 0) + 1
    return f"Peer[{counts['Peer'] - 1}]"


def _values(line: int, section: str, name: str, value: str, counts: dict[str, int]) -> list[_Row]:
    path = f"{section}.{name}" if section else name
    if name not in _LISTS:
        return [_Row(line, section, name, path, value.strip())]
    rows = []
    for element in filter(None, map(str.strip, value.split(","))):
        rows.append(_Row(line, section, name, f"{path}[{counts.setdefault(path, 0)}]", element))
        counts[path] += 1
    return rows


def _canonical(name: str, section: str) -> str:
    known = _INTERFACE_KEYS if section == "Interface" else _PEER_KEYS
    return known.get(name.lower(), name)


def resolve_wgquick(text: str, file: str, problems: Problems) -> ClientConfig:
    """A client from wg-quick text; ``ConfigErrors`` with every mistake."""
    rows = _rows(text)
    _check_keys(rows, problems)
    own = _Section("Interface", rows)
    addresses = read_addresses(own.all("Address"), "Interface.Address", problems)
    if not addresses:
        problems.add("Interface.Address", "is missing")
    private_key = _private_key(own, problems)
    sections = dict.fromkeys(row.section for row in rows if row.section.startswith("Peer["))
    peers = {section: _peer(_Section(section, rows), problems) for section in sections}
    config = ClientConfig(
        path=Path(file),
        interface=_interface_name(file),
        private_key=private_key,
        public_key=keysfile.public_key(private_key),
        addresses=addresses,
        mtu=_mtu(own, addresses, problems),
        dns=read_dns(own.all("DNS"), "Interface.DNS", problems),
        table=problems.check("Interface.Table", configfields.table, own.last("Table") or "auto", "auto"),
        fwmark=problems.check("Interface.FwMark", _fwmark, own.last("FwMark") or "off", 0),
        listen_port=problems.check("Interface.ListenPort", _listen_port, own.last("ListenPort") or "0", 0),
        control_socket=None,
        gateways=tuple(peers.values()),
        timers=DEFAULT_TIMERS,
        policy=Policy(),
        warnings=tuple(problems.warnings),
    )
    check_gateways(peers, config.public_key, problems, ("PublicKey", "AllowedIPs"))
    problems.raise_if_any()
    return config


class _Section:
    """The values of one section."""

    def __init__(self, key: str, rows: Sequence[_Row]) -> None:
        self.key = key
        self._rows = [row for row in rows if row.section == key]

    def all(self, name: str) -> list[str]:
        return [row.value for row in self._rows if row.name == name]

    def last(self, name: str) -> str:
        """The last one counts, as for wg-quick."""
        return (self.all(name) or [""])[-1]


def _check_keys(rows: Sequence[_Row], problems: Problems) -> None:
    for row in rows:
        if row.section != "Interface" and not row.section.startswith("Peer["):
            problems.add(row.key, "stands outside of an [Interface] or [Peer] section")
            continue
        problem = _key_problem(row) if row.name else ""
        if problem:
            problems.add(row.key, problem)


def _key_problem(row: _Row) -> str:
    known = _INTERFACE_KEYS if row.section == "Interface" else _PEER_KEYS
    if row.name.lower() not in known:
        return unknown_key(row.name, tuple(known.values()))
    if row.name.lower() in _HOOKS:
        return "refused: hooks run shell commands as root; delete this line"
    if row.name == "SaveConfig" and row.value.lower() != "false":
        return "refused: a file you wrote is never overwritten; delete this line"
    return "" if row.value else "has no value"


def _private_key(own: _Section, problems: Problems) -> bytes:
    text = own.last("PrivateKey")
    if not text:
        problems.add("Interface.PrivateKey", "is missing")
        return NO_KEY
    return problems.check("Interface.PrivateKey", keysfile.decode_key, text, NO_KEY)


def _peer(section: _Section, problems: Problems) -> GatewayPeer:
    key = section.key
    for name in ("PublicKey", "Endpoint"):
        if not section.last(name):
            problems.add(f"{key}.{name}", "is missing")
    endpoint = problems.check_text(f"{key}.Endpoint", configfields.endpoint, section.last("Endpoint"))
    allowed_ips = problems.check_each(
        f"{key}.AllowedIPs", configfields.masked_network, section.all("AllowedIPs")
    )
    return GatewayPeer(
        public_key=problems.check(
            f"{key}.PublicKey", keysfile.decode_public_key, section.last("PublicKey"), b""
        ),
        preshared_key=problems.check_text(
            f"{key}.PresharedKey", keysfile.decode_key, section.last("PresharedKey")
        ),
        endpoints=(endpoint,) if endpoint else (),
        allowed_ips=tuple(dict.fromkeys(allowed_ips)),
        keepalive_s=problems.check(
            f"{key}.PersistentKeepalive", _keepalive_s, section.last("PersistentKeepalive") or "off", 0
        ),
        protocol="auto",
    )


def _number(text: str) -> int:
    if not _NUMBER.match(text):
        raise ValueError(f"{configfields.shown(text)} is not a whole number")
    return int(text, 16) if text[:2] in ("0x", "0X") else int(text)


def _mtu(own: _Section, addresses: Sequence[configfields.Interface], problems: Problems) -> int:
    text = own.last("MTU")
    value = problems.check("Interface.MTU", _number, text, DEFAULT_MTU_BYTES) if text else 0
    return read_mtu(value, addresses, Policy(), "Interface.MTU", problems)


def _fwmark(text: str) -> int:
    return 0 if text == "off" else configfields.bounded(_number(text), 0, configfields.FWMARK_MAX)


def _listen_port(text: str) -> int:
    return configfields.bounded(_number(text), 0, 65_535)


def _keepalive_s(text: str) -> int:
    return 0 if text == "off" else configfields.bounded(_number(text), 0, configfields.KEEPALIVE_MAX_S)


def _interface_name(file: str) -> str:
    """wg-quick names the interface after the file."""
    try:
        return configfields.interface_name(Path(file).stem)
    except ValueError:
        return DEFAULT_INTERFACE


@dataclass(frozen=True, slots=True)
class StockClient:
    """What a stock client's file says. Keys are base64 text; ``private_key`` may be a placeholder."""

    private_key: str = field(repr=False)
    addresses: tuple[str, ...]
    gateway_public_key: str
    endpoint: str
    allowed_ips: tuple[str, ...]
    preshared_key: str = field(repr=False, default="")
    dns: tuple[str, ...] = ()
    mtu: int = DEFAULT_MTU_BYTES
    keepalive_s: int = PERSISTENT_KEEPALIVE_S


def wgquick_text(client: StockClient) -> str:
    """The file that wg-quick and the phone apps import."""
    interface = [
        ("PrivateKey", client.private_key),
        ("Address", ", ".join(client.addresses)),
        ("DNS", ", ".join(client.dns)),
        ("MTU", str(client.mtu)),
    ]
    peer = [
        ("PublicKey", client.gateway_public_key),
        ("PresharedKey", client.preshared_key),
        ("AllowedIPs", ", ".join(client.allowed_ips)),
        ("Endpoint", client.endpoint),
        ("PersistentKeepalive", str(client.keepalive_s) if client.keepalive_s else ""),
    ]
    return f"[Interface]\n{_lines(interface)}\n[Peer]\n{_lines(peer)}"


def _lines(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in pairs if value)
