# SPDX-License-Identifier: Apache-2.0
"""Who answers a peer command: the running gateway through its control socket, else peers.toml under its lock.

A gateway that runs but does not answer is an error, never a reason to change its file behind its back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.control import ctlclient, statedir
from gateway.control.config import GatewayConfig, Peer, load_gateway
from gateway.control.peerbook import PeerBook, peer_commands
from gateway.control.peersfile import PeersFile
from gateway.errors import DaemonUnreachable, NotFound
from gateway.ops.cli.options import find_socket
from gateway.ops.cli.output import note


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway as the options of the command line name it."""

    config_path: Path | None
    state_dir: Path | None
    interface: str | None
    socket: Path | None

    def ask(self, command: str, args: dict[str, Any], *, create: bool = False) -> dict[str, Any]:
        """The command's result; its ``source`` is "daemon" or "file". ``create``: make a missing configuration."""
        path = self._socket()
        if path is not None:
            try:
                return {**ctlclient.call(path, command, args), "source": "daemon"}
            except DaemonUnreachable:
                if self.interface or self.socket or ctlclient.owner_pid(path):
                    raise
        return {**self._without_daemon(command, args, create), "source": "file"}

    def _socket(self) -> Path | None:
        chosen = self._config_path()
        if self.interface is None and self.socket is None and chosen is not None:
            config = load_gateway(chosen, outside=True)
            return config.control_socket or statedir.control_socket(config.interface)
        return find_socket(self.interface, self.socket)

    def _config_path(self) -> Path | None:
        """The configuration the options point to, ``None`` when they do not or it is not there yet."""
        if self.config_path is not None or self.state_dir is None:
            return self.config_path
        path = self.state_dir / statedir.GATEWAY_FILE
        return path if path.exists() else None

    def _without_daemon(self, command: str, args: dict[str, Any], create: bool) -> dict[str, Any]:
        directory = statedir.state_dir(self.state_dir)
        file = PeersFile(directory)
        book = PeerBook(self._config(directory, create), file)
        result = peer_commands(book, _nothing_runs, _nothing_runs)[command](args)
        if command in ("peer.add", "peer.remove"):
            note(f"no gateway runs here, changed {file.path}; the next start reads it")
        return result

    def _config(self, directory: Path, create: bool) -> GatewayConfig:
        path = self.config_path or directory / statedir.GATEWAY_FILE
        if self.config_path is None and create:
            for sentence in statedir.bootstrap_gateway(directory).created:
                note(sentence)
        elif not path.exists():
            raise NotFound(f"{path} does not exist: there is no gateway here yet; `jvpn gateway` makes one")
        return load_gateway(path)


def _nothing_runs(_peer: Peer) -> None:
    """There is no data plane to tell."""
