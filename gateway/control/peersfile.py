# SPDX-License-Identifier: Apache-2.0
"""STATE/peers.toml: the peers that `jvpn peer add` made, and the addresses the pool gave to peers of the
configuration.

Rule: every change happens under one lock (peers.lock), on what the file holds at that moment, and replaces
the file whole (write, fsync, rename, fsync of the folder). So concurrent writers lose nothing and a crash
leaves the old file or the new.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from gateway.control import configfields, keysfile, statedir
from gateway.control.configfields import Network
from gateway.control.configlines import join_key
from gateway.control.configmodel import Peer
from gateway.control.configpeers import Origin, PeerIndex, read_peers
from gateway.control.configreport import Problems, decode, read_text, read_toml
from gateway.control.configschema import PeersDocument
from gateway.errors import HostError

HEADER: Final = """\
# Managed by jvpn: `jvpn peer add|remove` rewrite this file, comments are lost.
# You may edit it while no gateway runs; the [[peer]] tables are those of the gateway's own file.
"""


class Contents(NamedTuple):
    """What the file holds. ``assigned``: the pool's addresses of configured peers, by public key."""

    peers: tuple[Peer, ...] = ()
    assigned: Mapping[bytes, tuple[Network, ...]] = {}


class PeersFile:
    """One peers.toml. Several objects, processes and threads may use the same file."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / statedir.PEERS_FILE
        self._lock_path = state_dir / "peers.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive among all writers. Blocks for as long as another change takes: milliseconds."""
        statedir.ensure_dir(self.path.parent)
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"{self._lock_path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def stamp(self) -> tuple[int, int, int]:
        """Changes whenever another writer has replaced the file; zeros while there is none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def read(self, index: PeerIndex) -> Contents:
        """Everything in the file, checked against ``index``, which then knows it. ``ConfigErrors``."""
        if not self.path.exists():
            return Contents()
        file = str(self.path)
        text = read_text(self.path)
        problems = Problems(file, text)
        document = decode(read_toml(text, file), PeersDocument, "", problems)
        peers = read_peers(document.peer, problems, Origin(self.path.parent, os.environ), index, managed=True)
        assigned = _assigned(document.assigned, problems)
        problems.raise_if_any()
        return Contents(peers, assigned)

    def write(self, contents: Contents) -> None:
        """Replace the file. The caller holds the lock."""
        blocks = [HEADER, *map(peer_block, contents.peers), _assigned_block(contents.assigned)]
        try:
            statedir.write_file(self.path, "\n".join(filter(None, blocks)))
        except OSError as error:
            raise HostError(f"{self.path} cannot be written: {error.strerror}") from None


def _assigned(table: Mapping[str, list[str]], problems: Problems) -> dict[bytes, tuple[Network, ...]]:
    assigned = {}
    for text, networks in table.items():
        key = join_key("assigned", text)
        public_key = problems.check(key, keysfile.decode_public_key, text, b"")
        assigned[public_key] = problems.check_each(key, configfields.network, networks)
    return assigned


def peer_block(peer: Peer) -> str:
    """The [[peer]] table of one peer; what has its default value is left out."""
    lines = [
        "[[peer]]",
        f"name = {_string(peer.name)}",
        f"public_key = {_string(keysfile.encode_key(peer.public_key))}",
    ]
    if peer.preshared_key is not None:
        lines.append(f"preshared_key = {_string(keysfile.encode_key(peer.preshared_key))}")
    lines.append(f"allowed_ips = {_strings(peer.allowed_ips)}")
    if peer.endpoint is not None:
        lines.append(f"endpoint = {_string(str(peer.endpoint))}")
    if peer.keepalive_s:
        lines.append(f'keepalive = "{peer.keepalive_s}s"')
    if peer.roaming != "handshake":
        lines.append(f'roaming = "{peer.roaming}"')
    if peer.protocol != "auto":
        lines.append(f'protocol = "{peer.protocol}"')
    return "\n".join(lines) + "\n"


def _assigned_block(assigned: Mapping[bytes, tuple[Network, ...]]) -> str:
    if not assigned:
        return ""
    rows = [
        f"{_string(keysfile.encode_key(key))} = {_strings(networks)}" for key, networks in assigned.items()
    ]
    return "\n".join(
        ["# Addresses of peers whose table in the configuration names none.", "[assigned]", *rows, ""]
    )


def _string(text: str) -> str:
    """A TOML basic string; JSON escapes are TOML's for everything a checked value can hold."""
    return json.dumps(text)


def _strings(values: tuple[Network, ...]) -> str:
    return f"[{', '.join(_string(str(value)) for value in values)}]"
