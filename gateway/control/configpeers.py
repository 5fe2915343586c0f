# SPDX-License-Identifier: Apache-2.0
"""Peers: from their TOML table to a checked ``Peer``, and the rule that nothing belongs to two of them.

A name, a public key and an identical prefix have one holder each. Nested prefixes are fine: the longest wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.control import configfields, keysfile
from gateway.control.configfields import Network
from gateway.control.configmodel import Peer
from gateway.control.configreport import Problems
from gateway.control.configschema import PeerTable
from gateway.errors import JumpError

NO_KEY = bytes(32)


class Origin(NamedTuple):
    """Where relative paths start and where credentials are.

    ``outside``: a credential that only the unit has is no mistake; something stands for it.
    """

    folder: Path
    environ: Mapping[str, str]
    outside: bool = False

    def lacks(self, name: str, key: str, problems: Problems) -> bool:
        """Whether ``name`` is such a credential; then there is a warning."""
        found = self.outside and keysfile.is_elsewhere(name, self.environ)
        if found:
            problems.warn(key, f"{name} was not looked at: only the unit has it")
        return found


class Holding(NamedTuple):
    """A name, key or prefix that somebody holds already; ``field`` is the key it stands under."""

    field: str
    what: str
    holder: str


class PeerIndex:
    """Who holds which name, key and prefix. A holder is text, made only when there is a conflict."""

    def __init__(self) -> None:
        self._names: dict[str, Callable[[], str]] = {}
        self._keys: dict[bytes, Callable[[], str]] = {}
        self._networks: dict[Network, Callable[[], str]] = {}

    def reserve(self, public_key: bytes, networks: Sequence[Network], holder: str) -> None:
        """The gateway's own key and addresses, which no peer may have."""
        self._keys[public_key] = lambda: holder
        for network in networks:
            self._networks[network] = lambda: holder

    def holds(self, network: Network) -> bool:
        """Whether somebody has exactly this prefix."""
        return network in self._networks

    def conflicts(self, peer: Peer) -> Iterator[Holding]:
        """Everything of ``peer`` that somebody else holds."""
        if peer.name in self._names:
            yield Holding("name", f'the name "{peer.name}"', self._names[peer.name]())
        if peer.public_key in self._keys:
            yield Holding("public_key", "this public key", self._keys[peer.public_key]())
        for number, network in enumerate(peer.allowed_ips):
            if network in self._networks:
                yield Holding(f"allowed_ips[{number}]", str(network), self._networks[network]())

    def claim(self, peer: Peer, holder: Callable[[], str]) -> None:
        """``peer`` now holds what is its own; earlier holders keep theirs."""
        self._names.setdefault(peer.name, holder)
        self._keys.setdefault(peer.public_key, holder)
        for network in peer.allowed_ips:
            self._networks.setdefault(network, holder)

    def release(self, peer: Peer) -> None:
        """``peer`` is gone."""
        self._names.pop(peer.name, None)
        self._keys.pop(peer.public_key, None)
        for network in peer.allowed_ips:
            self._networks.pop(network, None)


def read_peers(
    tables: Sequence[PeerTable],
    problems: Problems,
    origin: Origin,
    index: PeerIndex,
    *,
    managed: bool = False,
) -> tuple[Peer, ...]:
    """All peers of one file; every mistake goes to ``problems``."""
    peers = []
    for position, table in enumerate(tables):
        key = f"peer[{position}]"
        peer = read_peer(table, key, problems, origin, managed=managed)
        if not peer.public_key:
            continue
        for holding in index.conflicts(peer):
            problems.add(f"{key}.{holding.field}", f"{holding.what} belongs to {holding.holder} already")
        index.claim(peer, partial(_place, problems, key, peer.name))
        peers.append(peer)
    return tuple(peers)


def _place(problems: Problems, key: str, name: str) -> str:
    return f'peer "{name}" ({problems.where(key)})'


def read_peer(table: PeerTable, key: str, problems: Problems, origin: Origin, *, managed: bool) -> Peer:
    """One peer; its ``public_key`` is empty when there is no usable one."""
    public_key = read_public_key(table.public_key, key, problems)
    read_carrier(table.carrier, key, problems)
    name = problems.check_text(f"{key}.name", configfields.peer_name, table.name)
    return Peer(
        name=name or default_name(public_key),
        public_key=public_key,
        preshared_key=read_secret(table, "preshared_key", key, problems, origin),
        allowed_ips=read_allowed_ips(table.allowed_ips, key, problems),
        endpoint=problems.check_text(f"{key}.endpoint", configfields.endpoint, table.endpoint),
        keepalive_s=problems.check(f"{key}.keepalive", configfields.keepalive_s, table.keepalive, 0),
        roaming=table.roaming,
        protocol=table.protocol,
        managed=managed,
    )


def default_name(public_key: bytes) -> str:
    """The name of a peer that was given none."""
    return f"peer-{public_key[:8].hex()}"


def read_public_key(text: str, key: str, problems: Problems) -> bytes:
    """The public key of a peer table, b'' after a mistake."""
    if not text:
        problems.add(f"{key}.public_key", "is missing")
        return b""
    return problems.check(f"{key}.public_key", keysfile.decode_public_key, text, b"")


def read_allowed_ips(texts: Sequence[str], key: str, problems: Problems) -> tuple[Network, ...]:
    """The prefixes of a peer table, each at most once."""
    networks = problems.check_each(f"{key}.allowed_ips", configfields.network, texts)
    if len(networks) > 1 and len(set(networks)) < len(networks):
        problems.add(f"{key}.allowed_ips", "names a prefix twice")
    return networks


def read_carrier(name: str, key: str, problems: Problems) -> None:
    """Only UDP exists."""
    problem = configfields.carrier_problem(name)
    if problem:
        problems.add(f"{key}.carrier", problem)


def read_secret(table: object, field: str, key: str, problems: Problems, origin: Origin) -> bytes | None:
    """The secret under ``field`` or in the file under ``field_file``; ``None`` when neither stands there."""
    inline, file = getattr(table, field), getattr(table, f"{field}_file")
    if inline and file:
        problems.add(f"{key}.{field}_file", f"{field} stands there too; keep one of them")
    if inline:
        return problems.check(f"{key}.{field}", keysfile.decode_key, inline, NO_KEY)
    if file:
        read = partial(_read_file, key=key, field=field, problems=problems, origin=origin)
        return problems.check(f"{key}.{field}_file", read, file, NO_KEY)
    return None


def _read_file(name: str, key: str, field: str, problems: Problems, origin: Origin) -> bytes:
    if origin.lacks(name, f"{key}.{field}_file", problems):
        return NO_KEY
    path = keysfile.resolve_key_path(name, origin.folder, origin.environ)
    try:
        found = keysfile.read_key_file(path)
    except JumpError as error:
        raise ValueError(str(error)) from None
    if found.warning:
        raise ValueError(found.warning)
    return found.key
