# SPDX-License-Identifier: Apache-2.0
"""The machines of the benchmark, and what every tunnel in it is.

    client 10.1.0.1 ──── 10.1.0.2 gateway 10.3.0.1 ──── 10.3.0.2 backend
    └─ tunnel 10.8.0.2 ────── 10.8.0.1 ─┘    10.2.0.2
                                              └──────── 10.2.0.1 crowd (handshake storm only)

Rule: a peer is made, started, asked for its processes and stopped through the same names, and nothing of it is left
for the next one. What Debian does not install with the product is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tests.net.lab import Lab, LabError, Namespace

BACKEND: Final = "10.3.0.2"
ENDPOINT: Final = "10.1.0.2:51820"
INSIDE: Final = "10.3.0.0/24"
CLIENT: Final = "10.8.0.2"
GATEWAY: Final = "10.8.0.1"
CROWD_ENDPOINT: Final = ("10.2.0.2", 51820)


class NotAvailable(LabError):
    """This build, or this machine, has not what the peer needs; the text says what was refused."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The namespaces of the picture."""

    lab: Lab
    client: Namespace
    gateway: Namespace
    backend: Namespace

    @classmethod
    def build(cls, lab: Lab) -> Scene:
        """Build it, without any tunnel."""
        client, gateway, backend = (lab.namespace(role) for role in ("client", "gateway", "backend"))
        lab.link(client, gateway, "10.1.0.0/24")
        lab.link(gateway, backend, INSIDE)
        backend.add_route("default", via="10.3.0.1")
        gateway.forward()
        return cls(lab, client, gateway, backend)

    def add_crowd(self) -> Namespace:
        """A further machine at the gateway's outer side."""
        crowd = self.lab.namespace("crowd")
        self.lab.link(crowd, self.gateway, "10.2.0.0/24")
        return crowd


class Peer(Protocol):
    """One kind of tunnel. ``client_address`` is where the backend reaches the client through it."""

    client_address: str

    def __init__(self, scene: Scene) -> None: ...

    def start(self) -> None:
        """Returns when it is set up; the first packet may still have to wait for a handshake."""

    def check(self) -> None:
        """Once traffic has passed: LabError unless it is what its name says."""

    def stop(self) -> None:
        """End it; routes go with its devices."""

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """Process ids at the client and at the gateway."""


class Veth:
    """No tunnel: what the machine itself can do."""

    client_address = "10.1.0.1"

    def __init__(self, scene: Scene) -> None:
        self._client = scene.client

    def start(self) -> None:
        """A plain route."""
        self._client.add_route(INSIDE, via="10.1.0.2")

    def check(self) -> None:
        """It is the kernel's."""

    def stop(self) -> None:
        """Take it away."""
        self._client.del_route(INSIDE, via="10.1.0.2")

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """None: the kernel forwards."""
        return (), ()
