# SPDX-License-Identifier: Apache-2.0
"""The machines of the benchmark and the tunnels it compares.

    client 10.1.0.1 ──── 10.1.0.2 gateway 10.3.0.1 ──── 10.3.0.2 backend
    └─ tunnel 10.8.0.2 ────── 10.8.0.1 ─┘

Rule: a peer is made, started, asked for its processes and stopped through the same four names, and nothing of it is
left for the next one. What Debian does not install with the product is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tests.net.jvpn import JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import Lab, Namespace
from tests.net.wg import Keys, WgDevice, WgPeer

BACKEND: Final = "10.3.0.2"
ENDPOINT: Final = "10.1.0.2:51820"
INSIDE: Final = "10.3.0.0/24"
CLIENT: Final = "10.8.0.2"
GATEWAY: Final = "10.8.0.1"
NOTHING: Final = {"tun": "off", "udp_segment": False, "udp_gro": False}


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


class Peer(Protocol):
    """One kind of tunnel."""

    def __init__(self, scene: Scene) -> None: ...

    def start(self) -> None:
        """Returns when it is set up; the first packet may still have to wait for a handshake."""

    def stop(self) -> None:
        """End it; routes go with its devices."""

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """Process ids at the client and at the gateway."""


class Veth:
    """No tunnel: what the machine itself can do."""

    def __init__(self, scene: Scene) -> None:
        self._client = scene.client

    def start(self) -> None:
        """A plain route."""
        self._client.add_route(INSIDE, via="10.1.0.2")

    def stop(self) -> None:
        """Take it away."""
        self._client.del_route(INSIDE, via="10.1.0.2")

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """None: the kernel forwards."""
        return (), ()


class TwoDaemons:
    """A process at each end."""

    _client: JvpnClient | WgDevice
    _gateway: JvpnGateway | WgDevice

    def start(self) -> None:
        """The gateway first."""
        self._gateway.start()
        self._client.start()

    def stop(self) -> None:
        """In order."""
        self._client.stop()
        self._gateway.stop()

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """One each."""
        return (self._client.proc.pid,), (self._gateway.proc.pid,)


class Ours(TwoDaemons):
    """`jvpn connect` and `jvpn gateway`."""

    offload: Mapping[str, Any] = {}

    def __init__(self, scene: Scene) -> None:
        client_keys, gateway_keys = Keys.generate(), Keys.generate()
        known = JvpnPeer("client", client_keys.public, [f"{CLIENT}/32"])
        tables = {"offload": dict(self.offload)} if self.offload else {}
        self._gateway = JvpnGateway(
            scene.lab,
            scene.gateway,
            gateway_keys,
            [f"{GATEWAY}/24"],
            [known],
            listen=["0.0.0.0:51820"],
            **tables,
        )
        gateway = {
            "public_key": gateway_keys.public,
            "endpoints": [ENDPOINT],
            "allowed_ips": [f"{GATEWAY}/32", INSIDE],
        }
        self._client = JvpnClient(scene.lab, scene.client, client_keys, [f"{CLIENT}/32"], gateway, **tables)


class OursWithout(Ours):
    """The same without any offload."""

    offload: Mapping[str, Any] = NOTHING


class OursPlainTun(Ours):
    """The same with single packets at the TUN device, and trains outside."""

    offload: Mapping[str, Any] = {"tun": "off"}


class WireguardGo(TwoDaemons):
    """Debian's wireguard-go at both ends."""

    def __init__(self, scene: Scene) -> None:
        client_keys, gateway_keys = Keys.generate(), Keys.generate()
        back = WgPeer(client_keys.public, [f"{CLIENT}/32"], None, None, None)
        there = WgPeer(gateway_keys.public, [f"{GATEWAY}/32", INSIDE], ENDPOINT, None, None)
        self._gateway = WgDevice(
            scene.lab, scene.gateway, gateway_keys, [f"{GATEWAY}/24"], [back], listen_port=51820
        )
        self._client = WgDevice(scene.lab, scene.client, client_keys, [f"{CLIENT}/24"], [there])


OUR_PEERS: Final[Mapping[str, type[Peer]]] = {
    "veth": Veth,
    "ours": Ours,
    "ours-plain-tun": OursPlainTun,
    "ours-without-offloads": OursWithout,
    "wireguard-go": WireguardGo,
}
