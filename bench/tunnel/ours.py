# SPDX-License-Identifier: Apache-2.0
"""Our own tunnel in its variants, wireguard-go beside it, and one of each.

Rule: a variant is configured as a user would, differs from `Ours` in one thing, and is checked: a suite that was not
agreed on, or a table that this build refuses, is no figure under a wrong name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from bench.tunnel.scene import CLIENT, ENDPOINT, GATEWAY, INSIDE, NotAvailable, Peer, Scene, Veth
from tests.net.jvpn import CLI, Daemon, JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import LabError, python_module
from tests.net.wg import Keys, WgDevice, WgPeer

AEGIS: Final = "aegis-128l"
NO_OFFLOAD: Final = {"tun": "off", "udp_segment": False, "udp_gro": False}
AGREED_S: Final = 3.0
POLL_S: Final = 0.02
Tables = Mapping[str, Mapping[str, Any]]


class TwoProcesses:
    """A process at each end."""

    client_address = CLIENT
    client: JvpnClient | WgDevice
    gateway: JvpnGateway | WgDevice

    def start(self) -> None:
        """The gateway first."""
        self.gateway.start()
        self.client.start()

    def check(self) -> None:
        """Nothing to choose, nothing to check."""

    def stop(self) -> None:
        """In order."""
        self.client.stop()
        self.gateway.stop()

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """One each."""
        return (self.client.proc.pid,), (self.gateway.proc.pid,)


def our_gateway(scene: Scene, keys: Keys, peers: Sequence[JvpnPeer], tables: Tables) -> JvpnGateway:
    """`jvpn gateway`, not started."""
    addresses, listen = [f"{GATEWAY}/24"], ["0.0.0.0:51820"]
    return JvpnGateway(scene.lab, scene.gateway, keys, addresses, peers, listen=listen, **tables)


class Ours(TwoProcesses):
    """`jvpn connect` and `jvpn gateway`; ``crowd``: further peers that the gateway knows."""

    tables: ClassVar[Tables] = {}
    suite: str = AEGIS
    storms: bool = True  # whether a storm of handshakes says anything new about it

    client: JvpnClient
    gateway: JvpnGateway

    def __init__(self, scene: Scene, crowd: Sequence[JvpnPeer] = ()) -> None:
        self._scene, self.keys = scene, Keys.generate()
        client_keys = Keys.generate()
        known = JvpnPeer("client", client_keys.public, [f"{CLIENT}/32"])
        self.gateway = our_gateway(scene, self.keys, [known, *crowd], self.tables)
        there = {
            "public_key": self.keys.public,
            "endpoints": [ENDPOINT],
            "allowed_ips": [f"{GATEWAY}/32", INSIDE],
        }
        self.client = JvpnClient(scene.lab, scene.client, client_keys, [f"{CLIENT}/32"], there, **self.tables)

    def start(self) -> None:
        """NotAvailable when this build does not know what the variant asks for."""
        if self.tables:
            for daemon in (self.gateway, self.client):
                self._accepts(daemon)
        super().start()

    def _accepts(self, daemon: Daemon) -> None:
        argv = python_module(CLI, "config", "check", str(daemon.config_path))
        done = self._scene.gateway.run(argv, env=daemon.env, check=False)
        if done.returncode:
            said = (done.stderr + done.stdout).strip().replace(f"{daemon.config_path}", "configuration")
            raise NotAvailable(said.splitlines()[0] if said else f"status {done.returncode}")

    def check(self) -> None:
        """The suite that both ends say they use; it begins a moment after the first packet."""
        for daemon in (self.client, self.gateway):
            deadline_s = time.monotonic() + AGREED_S
            while (used := suites_in_use(daemon)) != [self.suite]:
                if time.monotonic() > deadline_s:
                    raise LabError(f"{daemon.command}: data goes under {used}, not {self.suite}")
                time.sleep(POLL_S)


def suites_in_use(daemon: Daemon) -> list[str]:
    """Of every peer that has a key."""
    return [peer["suite"] for peer in daemon.status()["peers"] if peer["suite"]]


class OursAesGcm(Ours):
    """AES-256-GCM alone."""

    suite, storms = "aes-256-gcm", False
    tables: ClassVar[Tables] = {"policy.security": {"suites": [suite, "chacha20-poly1305"]}}


class OursChaCha(Ours):
    """WireGuard's own cipher."""

    suite, storms = "chacha20-poly1305", False
    tables: ClassVar[Tables] = {"policy.security": {"suites": [suite]}}


class OursPlainTun(Ours):
    """Single packets at the TUN device, and trains outside."""

    storms = False
    tables: ClassVar[Tables] = {"offload": {"tun": "off"}}


class OursWithout(Ours):
    """Without any offload."""

    storms = False
    tables: ClassVar[Tables] = {"offload": NO_OFFLOAD}


class OursNative(Ours):
    """One native worker: packets do not wait for Python."""

    tables: ClassVar[Tables] = {"workers": {"count": 1, "native": True}}


class OursTwoWorkers(Ours):
    """Two native workers."""

    tables: ClassVar[Tables] = {"workers": {"count": 2}}


def stock_client(scene: Scene, keys: Keys, gateway: Keys) -> WgDevice:
    """Debian's wireguard-go as a client, not started."""
    there = WgPeer(gateway.public, [f"{GATEWAY}/32", INSIDE], ENDPOINT, None, None)
    return WgDevice(scene.lab, scene.client, keys, [f"{CLIENT}/24"], [there])


class OursForStock(TwoProcesses):
    """Debian's wireguard-go as the client of our gateway."""

    client: WgDevice
    gateway: JvpnGateway

    def __init__(self, scene: Scene) -> None:
        client_keys, keys = Keys.generate(), Keys.generate()
        self.gateway = our_gateway(scene, keys, [JvpnPeer("stock", client_keys.public, [f"{CLIENT}/32"])], {})
        self.client = stock_client(scene, client_keys, keys)


class WireguardGo(TwoProcesses):
    """Debian's wireguard-go at both ends."""

    def __init__(self, scene: Scene) -> None:
        client_keys, keys = Keys.generate(), Keys.generate()
        back = WgPeer(client_keys.public, [f"{CLIENT}/32"], None, None, None)
        self.gateway = WgDevice(scene.lab, scene.gateway, keys, [f"{GATEWAY}/24"], [back], listen_port=51820)
        self.client = stock_client(scene, client_keys, keys)


OUR_PEERS: Final[Mapping[str, type[Peer]]] = {
    "veth": Veth,
    "ours": Ours,
    "ours-aes-256-gcm": OursAesGcm,
    "ours-chacha20-poly1305": OursChaCha,
    "ours-plain-tun": OursPlainTun,
    "ours-without-offloads": OursWithout,
    "ours-native": OursNative,
    "ours-2-workers": OursTwoWorkers,
    "ours-for-stock": OursForStock,
    "wireguard-go": WireguardGo,
}
