# SPDX-License-Identifier: Apache-2.0
"""Our own gateway and client as processes inside namespaces, started through the command line as a user does.

Rule: an instance has a folder of its own for configuration, state and runtime files; tests look at it only
through `jvpn` commands, the control socket and its output.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from gateway.control import ctlclient
from gateway.errors import JumpError
from tests.net.lab import Lab, LabError, Namespace, Proc, python_module
from tests.net.wg import Keys

CLI: Final = "gateway.ops.cli"
START_TIMEOUT_S: Final = 15.0
POLL_S: Final = 0.005
# The longest path of a UNIX socket is 107 bytes, so folders have short names.
RUNTIME: Final = "run"


@dataclass(frozen=True, slots=True)
class JvpnPeer:
    """A [[peer]] table of a gateway; durations are text with a unit, as in the file."""

    name: str
    public_key: str
    allowed_ips: Sequence[str] = ()
    preshared_key: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    keepalive: str | None = None
    roaming: str | None = None

    def table(self) -> dict[str, Any]:
        """The keys that are set."""
        keys = ("name", "public_key", "preshared_key", "endpoint", "keepalive", "roaming")
        values = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        return values | ({"allowed_ips": list(self.allowed_ips)} if self.allowed_ips else {})


class Daemon:
    """One `jvpn` daemon with its configuration file."""

    command: str
    module = CLI
    _count = 0

    def __init__(self, lab: Lab, namespace: Namespace, interface: str, file_name: str, text: str) -> None:
        Daemon._count += 1
        self.lab, self.namespace, self.interface = lab, namespace, interface
        self.folder = lab.tmp / f"j{Daemon._count}"
        self.state_dir, self.runtime_dir = self.folder / "state", self.folder / RUNTIME
        for folder in (self.state_dir, self.runtime_dir):
            folder.mkdir(parents=True)
        self.config_path = self.folder / file_name
        self.config_path.touch(mode=0o600)
        self.config_path.write_text(text)
        self.env = {"JVPN_STATE_DIR": str(self.state_dir), "JVPN_RUNTIME_DIR": str(self.runtime_dir)}
        self._proc: Proc | None = None
        self.ready_after_s = 0.0

    @property
    def proc(self) -> Proc:
        """The running process."""
        if self._proc is None:
            raise LabError(f"{self.command} is not running")
        return self._proc

    @property
    def control_socket(self) -> Path:
        """Its control socket."""
        return self.runtime_dir / f"{self.interface}.sock"

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Start it and wait until it answers on its control socket; ``ready_after_s`` says how long that
        took.
        """
        argv = [self.command, "-c", str(self.config_path), "--state-dir", str(self.state_dir)]
        name = f"{self.namespace.role}-{self.command}"
        start_s = time.monotonic()
        self._proc = self.namespace.spawn(python_module(self.module, *argv), name, self.env)
        self._wait_ready(start_s + timeout_s)
        self.ready_after_s = time.monotonic() - start_s
        return self

    def stop(self, timeout_s: float = 10.0) -> int:
        """SIGTERM; returns the exit status, 0 for a stop in order."""
        status = self.proc.stop(timeout_s)
        self._proc = None
        return status

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self.proc.kill()
        self._proc = None

    def restart(self) -> None:
        """Stop in order and start again."""
        self.stop()
        self.start()

    def call(self, command: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask through the control socket."""
        return ctlclient.call(self.control_socket, command, args)

    def status(self) -> dict[str, Any]:
        """The `jvpn.status/1` document."""
        return self.call("status")

    def peer(self, key: str | None = None) -> dict[str, Any]:
        """Status of one peer by name or public key; of the only one without ``key``."""
        peers = self.status()["peers"]
        found = [peer for peer in peers if key is None or key in (peer.get("name"), peer["public_key"])]
        if len(found) != 1:
            raise LabError(f"{len(found)} of {len(peers)} peers match {key}")
        return dict(found[0])

    def counter(self, name: str) -> int:
        """One of the data plane's counters, 0 when it was never touched."""
        return int(self.status().get("counters", {}).get(name, 0))

    def cli(self, *args: str, check: bool = True) -> str:
        """Run another `jvpn` command for this instance; returns its standard output."""
        done = self.namespace.run(python_module(CLI, *args), env=self.env, check=check)
        return done.stdout

    def cli_json(self, *args: str) -> Any:
        """The JSON document that a `jvpn` command with ``--json`` prints."""
        return json.loads(self.cli(*args, "--json"))

    def _wait_ready(self, deadline_s: float) -> None:
        while True:
            try:
                ctlclient.call(self.control_socket, "status", timeout_s=2.0)
                return
            except JumpError as error:
                if not self.proc.running or time.monotonic() > deadline_s:
                    raise LabError(
                        f"{self.proc.name} did not start: {error}\n{self.proc.output[-4000:]}"
                    ) from None
            time.sleep(POLL_S)


class JvpnGateway(Daemon):
    """`jvpn gateway`."""

    command = "gateway"

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        keys: Keys,
        addresses: Sequence[str],
        peers: Sequence[JvpnPeer] = (),
        /,
        *,
        interface: str = "jv0",
        listen: Sequence[str] = ("0.0.0.0:51820", "[::]:51820"),
        **tables: Mapping[str, Any],
    ) -> None:
        """``tables`` are further ones by name: ``pool={"ipv4": …}``, ``handshake={…}``; [gateway] is
        merged.
        """
        own = {
            "interface": interface,
            "private_key": keys.private,
            "listen": list(listen),
            "addresses": list(addresses),
        }
        merged = {**tables, "gateway": {**own, **tables.get("gateway", {})}}
        text = to_toml({**merged, "peer": [peer.table() for peer in peers]})
        super().__init__(lab, namespace, interface, "gateway.toml", text)
        self.keys = keys

    def add_peer(self, peer: JvpnPeer) -> dict[str, Any]:
        """Add a peer while running."""
        return self.call("peer.add", peer.table())

    def remove_peer(self, name: str) -> dict[str, Any]:
        """Remove a peer while running."""
        return self.call("peer.remove", {"name": name})


class JvpnQuickClient(Daemon):
    """`jvpn connect` with a wg-quick file, as `jvpn peer add` prints it; the interface is named after
    the file.
    """

    command = "connect"

    def __init__(self, lab: Lab, namespace: Namespace, text: str, *, interface: str = "jv0") -> None:
        super().__init__(lab, namespace, interface, f"{interface}.conf", text)

    def disconnect(self) -> str:
        """`jvpn disconnect`."""
        return self.cli("disconnect", self.interface)


class JvpnClient(Daemon):
    """`jvpn connect` with a TOML file."""

    command = "connect"

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        keys: Keys,
        addresses: Sequence[str],
        gateway: Mapping[str, Any],
        /,
        *,
        interface: str = "jv0",
        **tables: Mapping[str, Any],
    ) -> None:
        """``gateway`` is the [gateway] table; ``tables`` are further ones, [client] is merged."""
        own = {"interface": interface, "private_key": keys.private, "addresses": list(addresses)}
        merged = {**tables, "client": {**own, **tables.get("client", {})}, "gateway": dict(gateway)}
        super().__init__(lab, namespace, interface, "client.toml", to_toml(merged))
        self.keys = keys

    def disconnect(self) -> str:
        """`jvpn disconnect`."""
        return self.cli("disconnect", self.interface)


def to_toml(tables: Mapping[str, Any]) -> str:
    """TOML of one level of tables: strings, numbers, booleans and lists of strings are all that we need."""
    lines: list[str] = []
    for name, content in tables.items():
        for table in content if isinstance(content, list) else [content]:
            lines.append(f"[[{name}]]" if isinstance(content, list) else f"[{name}]")
            # JSON's strings, numbers, booleans and arrays are also TOML's.
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
            lines.append("")
    return "\n".join(lines)
