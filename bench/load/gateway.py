# SPDX-License-Identifier: Apache-2.0
"""The gateway that is loaded: its configuration, when it first answers, what it costs and what it says of itself."""

from __future__ import annotations

import base64
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from bench.load.population import GATEWAYS, INSIDE, UPLINKS, Population, nth
from bench.load.scene import Scene
from gateway import crypto, wire
from gateway.errors import AuthError
from gateway.noise.cookie import add_macs
from gateway.noise.handshake import Initiator, PeerKeys
from gateway.noise.timestamp import tai64n
from tests.net.jvpn import Daemon, to_toml
from tests.net.lab import LabError, Namespace, python_module

PORT: Final = 51820
# Behind the last client that fits the range.
INNER: Final = "10.31.255.254/12"
ASK_EVERY_S: Final = 0.1
RECV_BYTES: Final = 2048
SCRAPE_TIMEOUT_S: Final = 60.0
ERROR_CHARS: Final = 2000
Tables = Mapping[str, Mapping[str, Any]]
NATIVE: Final[Tables] = {"workers": {"count": 1, "native": True}}
ON_LOOP: Final[Tables] = {"workers": {"count": 1}}


def encoded(key: bytes) -> str:
    """A key as configuration files hold it."""
    return base64.b64encode(key).decode()


def configuration(population: Population, tables: Tables) -> Iterator[str]:
    """Its file: every client with its one address, and one more peer, who asks whether it is there."""
    own = {
        "interface": "jv0",
        "private_key": encoded(population.gateway.private),
        "listen": [f"0.0.0.0:{PORT}"],
        "addresses": [INNER],
    }
    yield to_toml({**tables, "gateway": {**own, **tables.get("gateway", {})}})
    for number in range(population.count):
        yield peer_table(f"n{number}", population.private_key(number), str(nth(INSIDE, number)), "jump")
    asker = population.count
    yield peer_table("asker", population.private_key(asker), str(nth(INSIDE, asker)), "wireguard")


def peer_table(name: str, private: bytes, address: str, protocol: str) -> str:
    """One [[peer]]."""
    public = encoded(crypto.x25519_public(private))
    return (
        f'[[peer]]\nname = "{name}"\npublic_key = "{public}"\n'
        f'allowed_ips = ["{address}/32"]\nprotocol = "{protocol}"\n'
    )


class LoadGateway(Daemon):
    """`jvpn gateway` with a population of peers."""

    command = "gateway"

    def __init__(self, scene: Scene, population: Population, tables: Tables) -> None:
        text = "\n".join(configuration(population, tables))
        super().__init__(scene.lab, scene.gateway, "jv0", "gateway.toml", text)
        self._scene, self._population = scene, population

    def launch(self, timeout_s: float) -> float:
        """Start it; seconds until a handshake was answered."""
        argv = [self.command, "-c", str(self.config_path), "--state-dir", str(self.state_dir)]
        start_s = time.monotonic()
        self._proc = self.namespace.spawn(python_module(self.module, *argv), "gateway", self.env)
        asker = Asker(self._scene.crowd, self._population)
        with asker:
            while not asker.ask(ASK_EVERY_S):
                said = self.proc.output[-ERROR_CHARS:]
                if not self.proc.running:
                    raise LabError(f"the gateway has ended before it answered\n{said}")
                if time.monotonic() - start_s > timeout_s:
                    raise LabError(f"the gateway answered no handshake within {timeout_s:g} s\n{said}")
        self.ready_after_s = time.monotonic() - start_s
        return self.ready_after_s

    # --- what it costs ------------------------------------------------------------------------------------------------

    def cpu_s(self) -> float:
        """CPU time of all its threads."""
        # clock_getcpuclockid(3): the CPU time of another process, in nanoseconds, is a clock with this number.
        return time.clock_gettime_ns((~self.proc.pid << 3) | 2) / 1e9

    def rss_bytes(self) -> int:
        """Resident now; sockets' buffers are the kernel's and not in it."""
        for line in Path(f"/proc/{self.proc.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise LabError("the gateway has ended")

    def fds(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.proc.pid}/fd").iterdir()))

    # --- what it says -------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """/metrics by name and labels, as they stand there."""
        connection = UnixConnection(self.runtime_dir / "jv0.http")
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise LabError(f"/metrics: {answer.status} {body[:200]}")
        return samples(body)


def samples(text: str) -> dict[str, float]:
    """Series of a Prometheus exposition."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


class UnixConnection(HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SCRAPE_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """To the socket's file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SCRAPE_TIMEOUT_S)
        self.sock.connect(str(self._path))


class Asker:
    """Sends initiations of a peer of its own until one is answered; it never comes in."""

    def __init__(self, place: Namespace, population: Population) -> None:
        self._keys = PeerKeys(population.identity(population.count), population.gateway.public)
        self._sock = place.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((str(nth(UPLINKS[0], population.count)), 0))
        self._asked: dict[int, Initiator] = {}

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, wait_s: float) -> bool:
        """Whether an answer to this or an earlier initiation came in that time."""
        index = len(self._asked) + 1
        made = Initiator.start(
            self._keys,
            local_index=index,
            timestamp=tai64n(time.time_ns()),
            ephemeral_private=os.urandom(crypto.KEY_BYTES),
        )
        self._asked[index] = made
        self._send(add_macs(made.packet, self._keys.mac1_key, None))
        deadline_s = time.monotonic() + wait_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if select.select([self._sock], [], [], left_s)[0] and self._is_answer():
                return True
        return False

    def _send(self, message: bytes) -> None:
        # Nobody listens yet: the kernel says so with the next call.
        with suppress(ConnectionRefusedError):
            self._sock.sendto(message, (str(GATEWAYS[0]), PORT))

    def _is_answer(self) -> bool:
        with suppress(ConnectionRefusedError, AuthError, KeyError):
            message = self._sock.recv(RECV_BYTES)
            if wire.message_type(message) == wire.MSG_RESPONSE:
                self._asked[wire.receiver_index(message)].finish(message)
                return True
        return False
