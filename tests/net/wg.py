# SPDX-License-Identifier: Apache-2.0
"""Stock wireguard-go as a peer: Debian's package, configured only through wireguard-tools, as its users do.

Rule: nothing of ours is in it. An instance has its own interface name, because the folder of its control
sockets (/var/run/wireguard) is shared by all network namespaces.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple, Self

from tests.net.lab import Lab, LabError, Namespace, Proc, python_module

SOCKETS: Final = Path("/var/run/wireguard")
START_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.01


class Keys(NamedTuple):
    """An X25519 key pair in WireGuard's base64."""

    private: str
    public: str

    @classmethod
    def generate(cls) -> Keys:
        """A fresh pair, computed by wireguard-tools."""
        private = _wg("genkey")
        return cls(private, _wg("pubkey", stdin=private))

    def __repr__(self) -> str:
        return f"Keys({self.public})"


def generate_psk() -> str:
    """A pre-shared key, base64 of 32 random bytes."""
    return base64.b64encode(os.urandom(32)).decode()


@dataclass(frozen=True, slots=True)
class WgPeer:
    """A peer as wireguard-go is told about it."""

    public_key: str
    allowed_ips: Sequence[str]
    endpoint: str | None = None
    preshared_key: str | None = field(default=None, repr=False)
    keepalive_s: int | None = None

    def lines(self) -> list[str]:
        """The [Peer] section of a `wg setconf` file."""
        values = (
            ("PublicKey", self.public_key),
            ("PresharedKey", self.preshared_key),
            ("AllowedIPs", ", ".join(self.allowed_ips)),
            ("Endpoint", self.endpoint),
            ("PersistentKeepalive", self.keepalive_s),
        )
        return ["[Peer]", *(f"{key} = {value}" for key, value in values if value is not None)]


class PeerState(NamedTuple):
    """One peer of `wg show IF dump`. ``latest_handshake_s`` is Unix time, 0 for never."""

    public_key: str
    endpoint: str | None
    allowed_ips: tuple[str, ...]
    latest_handshake_s: int
    rx_bytes: int
    tx_bytes: int
    keepalive_s: int | None


class WgDevice:
    """One wireguard-go process with its interface, addresses and routes inside a namespace."""

    command: Sequence[str] = ("wireguard-go", "-f")

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        keys: Keys,
        addresses: Sequence[str],
        peers: Sequence[WgPeer] = (),
        *,
        listen_port: int | None = None,
        mtu: int = 1420,
        fwmark: int | None = None,
    ) -> None:
        self.namespace, self.keys, self.addresses = namespace, keys, tuple(addresses)
        self.listen_port, self.mtu, self.fwmark = listen_port, mtu, fwmark
        self.interface = f"wg{secrets.token_hex(4)}"
        self._lab = lab
        self._peers = {peer.public_key: peer for peer in peers}
        self._proc: Proc | None = None
        lab.remove_later(self._socket)

    @property
    def proc(self) -> Proc:
        """The running process."""
        if self._proc is None:
            raise LabError(f"{self.interface} is not running")
        return self._proc

    @property
    def _socket(self) -> Path:
        return SOCKETS / f"{self.interface}.sock"

    def start(self) -> Self:
        """Start, configure, address and route; returns when the interface is up."""
        env = {
            "WG_PROCESS_FOREGROUND": "1",
            "LOG_LEVEL": "verbose",
            "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1",
        }
        argv = [*self.command, self.interface]
        self._proc = self.namespace.spawn(argv, f"{self.namespace.role}-{self.interface}", env)
        self._wait_ready()
        self._configure(
            "setconf", self._interface_lines() + [line for p in self._peers.values() for line in p.lines()]
        )
        self.namespace.add_address(self.interface, *self.addresses)
        self.namespace.ip("link", "set", self.interface, "mtu", str(self.mtu), "up")
        for peer in self._peers.values():
            self._route(peer)
        return self

    def stop(self) -> None:
        """End it in order; the interface goes with it."""
        self.proc.stop()
        self._gone()

    def kill(self) -> None:
        """SIGKILL."""
        self.proc.kill()
        self._gone()

    def restart(self) -> None:
        """Stop and start with the same keys and peers: its sessions and its learned endpoints are lost."""
        self.stop()
        self.start()

    def set_peer(self, peer: WgPeer) -> None:
        """Add a peer or replace what is configured of it, while running."""
        self._peers[peer.public_key] = peer
        self._configure("addconf", peer.lines())
        self._route(peer)

    def change_peer(self, public_key: str, **changes: object) -> None:
        """Change fields of a known peer, e.g. ``endpoint=…``."""
        self.set_peer(replace(self._peers[public_key], **changes))  # type: ignore[arg-type]

    def remove_peer(self, public_key: str) -> None:
        """Forget a peer while running."""
        del self._peers[public_key]
        self.namespace.run(["wg", "set", self.interface, "peer", public_key, "remove"])

    def set_listen_port(self, port: int) -> None:
        """Move to another UDP port while running: its peers see it roam."""
        self.namespace.run(["wg", "set", self.interface, "listen-port", str(port)])

    def dump(self) -> dict[str, PeerState]:
        """State of every peer, by public key."""
        text = self.namespace.run(["wg", "show", self.interface, "dump"]).stdout
        states = [_peer_state(line.split("\t")) for line in text.splitlines()[1:]]
        return {state.public_key: state for state in states}

    def peer(self, public_key: str | None = None) -> PeerState:
        """State of one peer; of the only one when no key is given."""
        states = self.dump()
        if public_key is None and len(states) != 1:
            raise LabError(f"{self.interface} has {len(states)} peers")
        return states[public_key] if public_key is not None else next(iter(states.values()))

    def wait_handshake(
        self, public_key: str | None = None, after_s: int = 0, timeout_s: float = 10.0
    ) -> PeerState:
        """Wait for a handshake later than ``after_s`` (Unix time, whole seconds as the tool reports them)."""
        deadline_s = time.monotonic() + timeout_s
        while (state := self.peer(public_key)).latest_handshake_s <= after_s:
            if time.monotonic() > deadline_s:
                raise LabError(f"{self.interface}: no handshake in {timeout_s} s\n{self.proc.output[-4000:]}")
            time.sleep(0.05)
        return state

    def handshakes(self) -> int:
        """How many handshakes have completed since the start, initiated by either side (from its verbose
        log).
        """
        log = self.proc.output
        return log.count("Received handshake response") + log.count("Sending handshake response")

    def _interface_lines(self) -> list[str]:
        port = [] if self.listen_port is None else [f"ListenPort = {self.listen_port}"]
        mark = [] if self.fwmark is None else [f"FwMark = {self.fwmark}"]
        return ["[Interface]", f"PrivateKey = {self.keys.private}", *port, *mark]

    def _configure(self, how: str, lines: Sequence[str]) -> None:
        # Through standard input: a private key in an argument list would be visible to every user.
        self.namespace.run(["wg", how, self.interface, "/dev/stdin"], stdin="\n".join(lines) + "\n")

    def _route(self, peer: WgPeer) -> None:
        own = [ipaddress.ip_interface(address).network for address in self.addresses]
        for prefix in peer.allowed_ips:
            network = ipaddress.ip_network(prefix)
            family = ["-6"] if network.version == 6 else ["-4"]
            if network not in own:
                self.namespace.ip(*family, "route", "replace", str(network), "dev", self.interface)

    def _wait_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (self._socket.exists() and self.interface in self.namespace.devices()):
            if not self.proc.running or time.monotonic() > deadline_s:
                raise LabError(f"{self.command[0]} did not start\n{self.proc.output[-4000:]}")
            time.sleep(POLL_S)

    def _gone(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._proc = None


class JvpnWgDevice(WgDevice):
    """The same with `jvpn wg` in place of wireguard-go."""

    command = (*python_module("gateway.ops.cli"), "wg", "-f")


class WgQuick:
    """A stock client from a wg-quick file: `wg-quick up` with wireguard-go below it, default route and
    all.
    """

    def __init__(
        self, lab: Lab, namespace: Namespace, text: str, *, implementation: str = "wireguard-go"
    ) -> None:
        """``implementation`` is one word: a name or a path."""
        self.namespace, self._implementation = namespace, implementation
        self.interface = f"wq{secrets.token_hex(4)}"
        self._file = lab.tmp / f"{self.interface}.conf"
        self._file.touch(mode=0o600)
        self._file.write_text(text)
        # wg-quick detaches wireguard-go, which then goes with its namespace; its socket would not.
        lab.remove_later(SOCKETS / f"{self.interface}.sock")

    def start(self) -> Self:
        """`wg-quick up`."""
        env = {"WG_QUICK_USERSPACE_IMPLEMENTATION": self._implementation}
        self.namespace.run(["wg-quick", "up", str(self._file)], env=env)
        return self

    def stop(self) -> None:
        """`wg-quick down`."""
        self.namespace.run(["wg-quick", "down", str(self._file)])

    def show(self) -> str:
        """`wg show`."""
        return self.namespace.run(["wg", "show", self.interface]).stdout


def _peer_state(fields: Sequence[str]) -> PeerState:
    key, _psk, endpoint, allowed, handshake, rx, tx, keepalive = fields
    return PeerState(
        public_key=key,
        endpoint=None if endpoint == "(none)" else endpoint,
        allowed_ips=() if allowed == "(none)" else tuple(allowed.split(",")),
        latest_handshake_s=int(handshake),
        rx_bytes=int(rx),
        tx_bytes=int(tx),
        keepalive_s=None if keepalive == "off" else int(keepalive),
    )


def _wg(*args: str, stdin: str = "") -> str:
    done = subprocess.run(["wg", *args], input=stdin, capture_output=True, text=True, check=True)
    return done.stdout.strip()
