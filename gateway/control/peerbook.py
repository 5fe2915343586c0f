# SPDX-License-Identifier: Apache-2.0
"""All peers of a gateway: those of its configuration and those of peers.toml, added, removed and described.

The daemon keeps one PeerBook and serves it through the control socket; without a daemon the command line
makes one for a moment. Both do the same to the same file, so it does not matter who acts. The data plane is
not known here: ``add`` returns the peer that the caller then installs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.control import configfields, keysfile
from gateway.control.configfields import Network
from gateway.control.configlines import key_lines, line_of
from gateway.control.configmodel import GatewayConfig, Peer
from gateway.control.configpeers import Origin, PeerIndex, read_peer
from gateway.control.configreport import Problems, decode
from gateway.control.configschema import EVERYTHING, PeerTable
from gateway.control.peersfile import Contents, PeersFile
from gateway.control.pool import AddressPool
from gateway.errors import NotFound, Refused, UsageError

LIST_SCHEMA: Final = "jvpn.peers/1"
PEER_SCHEMA: Final = "jvpn.peer/1"
REMOVED_SCHEMA: Final = "jvpn.peer-removed/1"


class PeerBook:
    """One gateway's peers by name. Not safe to share between threads; other processes are fine."""

    def __init__(self, config: GatewayConfig, file: PeersFile) -> None:
        self._config = config
        self._file = file
        with file.locked():
            self._load()

    @property
    def peers(self) -> Mapping[str, Peer]:
        """Every peer by name; each has its allowed prefixes."""
        return self._peers

    def add(self, request: Mapping[str, Any]) -> Peer:
        """Add a managed peer from the fields of a [[peer]] table; without allowed_ips the pool gives some.

        ``UsageError`` for wrong fields, ``Refused`` when a name, key or prefix is taken or the pool is empty.
        """
        with self._file.locked():
            self._refresh()
            peer = self._with_prefixes(_peer_from(request))
            try:
                self._write((*self._managed(), peer))
            except BaseException:
                self._pool.release(peer.allowed_ips)
                raise
            self._peers[peer.name] = peer
            self._index.claim(peer, partial(_named, peer))
        return peer

    def remove(self, name: str) -> Peer:
        """Take a managed peer away. ``NotFound``; ``Refused`` for one that the configuration file defines."""
        with self._file.locked():
            self._refresh()
            peer = self.find(name)
            if not peer.managed:
                raise Refused(f'peer "{peer.name}" is defined in {self._config.path}; delete its table there')
            self._write([other for other in self._managed() if other is not peer])
            del self._peers[peer.name]
            self._index.release(peer)
            self._pool.release(peer.allowed_ips)
        return peer

    def sync(self) -> tuple[list[Peer], list[Peer]]:
        """Read what another writer changed: the peers that appeared and those that vanished; a changed one is both."""
        before = self._peers
        with self._file.locked():
            self._refresh()
        if self._peers is before:
            return [], []
        after = self._peers
        appeared = [peer for name, peer in after.items() if before.get(name) != peer]
        return appeared, [peer for name, peer in before.items() if after.get(name) != peer]

    def change(self, after: Peer) -> None:
        """Let the peer of that name be allowed something else. ``NotFound``; ``Refused`` when a prefix is taken.

        One of peers.toml is written there; of one that the configuration defines it holds until that is read again.
        """
        with self._file.locked():
            self._refresh()
            before = self.find(after.name)
            self._index.release(before)
            try:
                for holding in self._index.conflicts(after):
                    raise Refused(f"{holding.what} belongs to {holding.holder} already")
                self._replace(before, after)
            except BaseException:
                self._load()
                raise

    def _replace(self, before: Peer, after: Peer) -> None:
        self._index.claim(after, partial(_named, after))
        self._pool.release(before.allowed_ips)
        self._pool.take(after.allowed_ips)
        self._peers[after.name] = after
        if after.managed:
            self._write(self._managed())
        else:
            peers = (after if peer.name == after.name else peer for peer in self._config.peers)
            self._config = replace(self._config, peers=tuple(peers))

    @property
    def configured(self) -> tuple[Peer, ...]:
        """The peers of the configuration, as `change` has left them."""
        return self._config.peers

    def prepared(self, config: GatewayConfig) -> PeerBook:
        """The book of another configuration and of peers.toml as it is now, for ``follow``. May run on a thread.

        ``ConfigErrors`` when they do not agree.
        """
        return PeerBook(config, self._file)

    def follow(self, prepared: PeerBook) -> None:
        """Be that one from now on, and what was written to peers.toml meanwhile. ``ConfigErrors`` changes nothing."""
        stale = prepared._stamp != self._file.stamp()
        self.__dict__.update(vars(self.prepared(prepared._config) if stale else prepared))

    def find(self, name: str) -> Peer:
        """A peer by its name or its public key in base64. ``NotFound``."""
        if name in self._peers:
            return self._peers[name]
        for peer in self._peers.values():
            if keysfile.encode_key(peer.public_key) == name:
                return peer
        raise NotFound(f"there is no peer {configfields.shown(name)}; `jvpn peer list` shows all")

    def list_document(self) -> dict[str, Any]:
        """``jvpn.peers/1``."""
        return {
            "schema": LIST_SCHEMA,
            "interface": self._config.interface,
            "peers": [peer_document(peer) for peer in self._peers.values()],
        }

    def peer_document(self, name: str, *, reveal: bool = False) -> dict[str, Any]:
        """``jvpn.peer/1``: one peer and what its own configuration file needs to know of this gateway."""
        config = self._config
        return {
            "schema": PEER_SCHEMA,
            "peer": peer_document(self.find(name), reveal=reveal),
            "gateway": {
                "interface": config.interface,
                "public_key": keysfile.encode_key(config.public_key),
                "endpoint": str(config.endpoint or ""),
                "listen": [str(socket) for socket in config.listen],
                "mtu": config.mtu,
                "dns": config.dns.texts(),
                "routes": self._routes(),
            },
        }

    def _routes(self) -> list[str]:
        """What a peer should send here: everything if we translate it to the Internet, else our networks."""
        if self._config.nat_enabled:
            return list(EVERYTHING)
        return [str(address.network) for address in self._config.addresses]

    def _load(self) -> None:
        self._index = _index(self._config)
        contents = self._file.read(self._index)
        self._stamp = self._file.stamp()
        self._peers: dict[str, Peer] = {}
        self._given = dict(contents.assigned)
        self._pool = AddressPool(self._config.pools, [address.ip for address in self._config.addresses])
        for peer in (*self._config.peers, *contents.peers):
            self._peers[peer.name] = peer
            self._pool.take(peer.allowed_ips)
        self._assign_missing()

    def _assign_missing(self) -> None:
        """Peers without prefixes get them: those they had before, else new ones, which are written down."""
        missing = [peer for peer in self._peers.values() if not peer.allowed_ips]
        before = {key: networks for key, networks in self._given.items() if self._still_good(networks)}
        self._given = {peer.public_key: before.get(peer.public_key, ()) for peer in missing}
        for networks in self._given.values():
            self._pool.take(networks)
        fresh = [key for key, networks in self._given.items() if not networks]
        for key in fresh:
            self._given[key] = self._pool.assign()
        for peer in missing:
            self._peers[peer.name] = given = replace(peer, allowed_ips=self._given[peer.public_key])
            self._index.claim(given, partial(_named, given))
        if fresh:
            self._write(self._managed())

    def _still_good(self, networks: Sequence[Network]) -> bool:
        """Whether addresses given earlier are still in the pools, one in each, and nobody else's."""
        pools = self._config.pools
        return len(networks) == len(pools) and not any(
            self._index.holds(network) or not any(network.network_address in pool for pool in pools)
            for network in networks
        )

    def _refresh(self) -> None:
        if self._file.stamp() != self._stamp:
            self._load()

    def _managed(self) -> tuple[Peer, ...]:
        return tuple(peer for peer in self._peers.values() if peer.managed)

    def _write(self, managed: Sequence[Peer]) -> None:
        self._file.write(Contents(tuple(managed), self._given))
        self._stamp = self._file.stamp()

    def _with_prefixes(self, peer: Peer) -> Peer:
        for holding in self._index.conflicts(peer):
            raise Refused(f"{holding.what} belongs to {holding.holder} already")
        if not peer.allowed_ips:
            return replace(peer, allowed_ips=self._pool.assign())
        self._pool.take(peer.allowed_ips)
        return peer


Change = Callable[[Peer], None]
Command = Callable[[dict[str, Any]], dict[str, Any]]


def catch_up(book: PeerBook, install: Change, uninstall: Change) -> None:
    """Bring the data plane to what the files say, after somebody else changed peers.toml. Costs a stat() if not."""
    appeared, vanished = book.sync()
    for peer in vanished:
        uninstall(peer)
    for peer in appeared:
        install(peer)


def peer_commands(book: PeerBook, install: Change, uninstall: Change) -> dict[str, Command]:
    """The commands ``peer.*``; ``install`` and ``uninstall`` act on the data plane of a running gateway."""

    def add(args: dict[str, Any]) -> dict[str, Any]:
        catch_up(book, install, uninstall)
        peer = book.add(args)
        try:
            install(peer)
        except BaseException:
            book.remove(peer.name)
            raise
        return book.peer_document(peer.name)

    def remove(args: dict[str, Any]) -> dict[str, Any]:
        catch_up(book, install, uninstall)
        peer = book.remove(_name(args))
        uninstall(peer)
        return {"schema": REMOVED_SCHEMA, "peer": peer_document(peer)}

    def show(args: dict[str, Any]) -> dict[str, Any]:
        catch_up(book, install, uninstall)
        return book.peer_document(_name(args), reveal=args.get("reveal") is True)

    def list_all(_args: dict[str, Any]) -> dict[str, Any]:
        catch_up(book, install, uninstall)
        return book.list_document()

    return {"peer.add": add, "peer.remove": remove, "peer.show": show, "peer.list": list_all}


def peer_handlers(
    book: PeerBook, install: Change, uninstall: Change
) -> dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]]:
    """``peer_commands`` as handlers of the control socket."""

    def handler(command: Command) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
        async def handle(args: dict[str, Any]) -> dict[str, Any]:
            return command(args)

        return handle

    return {name: handler(command) for name, command in peer_commands(book, install, uninstall).items()}


def _name(args: Mapping[str, Any]) -> str:
    name = args.get("name")
    if not isinstance(name, str) or not name:
        raise UsageError("name is missing")
    return name


def peer_document(peer: Peer, *, reveal: bool = False) -> dict[str, Any]:
    """One peer for a JSON answer; the preshared key itself only when asked for."""
    document: dict[str, Any] = {
        "name": peer.name,
        "public_key": keysfile.encode_key(peer.public_key),
        "has_preshared_key": peer.preshared_key is not None,
        "allowed_ips": [str(network) for network in peer.allowed_ips],
        "endpoint": str(peer.endpoint or ""),
        "keepalive_s": peer.keepalive_s,
        "roaming": peer.roaming,
        "protocol": peer.protocol,
        "managed": peer.managed,
    }
    if reveal and peer.preshared_key is not None:
        document["preshared_key"] = keysfile.encode_key(peer.preshared_key)
    return document


def _peer_from(request: Mapping[str, Any]) -> Peer:
    problems = Problems("", "")
    table = decode(dict(request), PeerTable, "peer", problems)
    if not table.name:
        problems.add("peer.name", "is missing")
    if table.preshared_key_file:
        problems.add("peer.preshared_key_file", "cannot be given here; send preshared_key")
    table = msgspec.structs.replace(table, preshared_key_file="")
    peer = read_peer(table, "peer", problems, Origin(Path(), {}), managed=True)
    if problems.errors():
        raise UsageError("; ".join(f"{error.key}: {error.problem}" for error in problems.errors()))
    return peer


def _named(peer: Peer) -> str:
    return f'peer "{peer.name}"'


def _configured(peer: Peer, path: Path, position: int) -> str:
    """Where the configuration defines a peer; its line is looked up only now."""
    try:
        line = line_of(key_lines(path.read_text(encoding="utf-8-sig")), f"peer[{position}]")
    except (OSError, UnicodeDecodeError):
        line = 0
    return f"{_named(peer)} ({path}:{line})" if line else f"{_named(peer)} ({path})"


def check_peers_file(config: GatewayConfig, file: PeersFile) -> None:
    """Whether peers.toml is right and agrees with the configuration; changes nothing. ``ConfigErrors``."""
    file.read(_index(config))


def refuse_own(config: GatewayConfig) -> None:
    """``Refused`` when a peer of a configuration has what is the running gateway's own: its addresses or its key."""
    index = _own(config)
    for peer in config.peers:
        for holding in index.conflicts(peer):
            raise Refused(f"{_named(peer)}: {holding.what} belongs to {holding.holder} until it is restarted")


def _own(config: GatewayConfig) -> PeerIndex:
    index = PeerIndex()
    own = [ip_network(str(address.ip)) for address in config.addresses]
    index.reserve(config.public_key, own, "the gateway itself")
    return index


def _index(config: GatewayConfig) -> PeerIndex:
    index = _own(config)
    for position, peer in enumerate(config.peers):
        index.claim(peer, partial(_configured, peer, config.path, position))
    return index
