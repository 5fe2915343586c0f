# SPDX-License-Identifier: Apache-2.0
"""Further peers: nebula, OpenVPN and fastd as Debian packages them, each set up as its manual says.

Rule: defaults, but for what makes them comparable: inner MTU 1420, no compression, no fragmentation outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.tunnel.scene import CLIENT, GATEWAY, INSIDE, Peer, Scene
from tests.net.lab import Namespace, Proc

MTU_BYTES: Final = 1420
PORT: Final = 4242
OUTER: Final = "10.1.0.2"
DEVICE: Final = "bench0"

NEBULA: Final = """\
pki: {{ca: {folder}/ca.crt, cert: {folder}/{role}.crt, key: {folder}/{role}.key}}
static_host_map: {{"{gateway}": ["{outer}:{port}"]}}
lighthouse: {{am_lighthouse: {is_gateway}, hosts: [{lighthouses}]}}
listen: {{host: 0.0.0.0, port: {own_port}}}
tun: {{dev: {device}, mtu: {mtu}, unsafe_routes: [{routes}]}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""
OPENVPN: Final = """\
dev {device}
dev-type tun
proto udp
tun-mtu {mtu}
ifconfig {own} {other}
cert {folder}/{role}.crt
key {folder}/{role}.key
peer-fingerprint {fingerprint}
keepalive 10 60
verb 3
"""
FASTD: Final = """\
log to stderr level verbose;
mode tun;
interface "{device}";
method "salsa2012+umac";
mtu {mtu};
secret "{secret}";
on up "ip link set {device} up && {up}";
peer "other" {{ key "{key}"; {remote} }}
"""


class TwoDaemons:
    """A program at each end; what is in the folder is made by `prepare`."""

    client_address = CLIENT

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.folder = scene.lab.tmp / type(self).__name__.lower()
        self.folder.mkdir(exist_ok=True)
        self._running: list[Proc] = []

    def start(self) -> None:
        """The gateway first; returns when both have their device."""
        self.prepare()
        for role, machine in (("gateway", self.scene.gateway), ("client", self.scene.client)):
            self._running.append(machine.spawn(self.argv(role), f"{role}-{self.folder.name}"))
            self._running[-1].wait_line(self.ready())
            self.address(role, machine)

    def check(self) -> None:
        """Nothing to choose, nothing to check."""

    def stop(self) -> None:
        """In order, the client first."""
        for proc in reversed(self._running):
            proc.stop()
        self._running.clear()

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """One each."""
        gateway, client = self._running
        return (client.pid,), (gateway.pid,)

    def prepare(self) -> None:
        """Keys and configuration files."""
        raise NotImplementedError

    def argv(self, role: str) -> list[str]:
        """How it is started."""
        raise NotImplementedError

    def ready(self) -> str:
        """The line that says that its device is there."""
        raise NotImplementedError

    def address(self, role: str, machine: Namespace) -> None:
        """What it leaves to its user."""
        if role == "client":
            machine.ip("route", "replace", INSIDE, "dev", DEVICE)

    def run(self, *argv: str) -> str:
        """One of its tools; returns what it prints."""
        return self.scene.client.run(argv).stdout

    def file(self, name: str, text: str) -> Path:
        """A file in its folder."""
        path = self.folder / name
        path.write_text(text)
        return path


class Nebula(TwoDaemons):
    """The gateway is its own lighthouse."""

    def prepare(self) -> None:
        """A certificate authority, and a certificate each; the gateway's says that it routes."""
        ca = ("-ca-crt", f"{self.folder}/ca.crt", "-ca-key", f"{self.folder}/ca.key")
        self.run(
            "nebula-cert",
            "ca",
            "-name",
            "bench",
            "-out-crt",
            f"{self.folder}/ca.crt",
            "-out-key",
            f"{self.folder}/ca.key",
        )
        for role, address in (("gateway", GATEWAY), ("client", CLIENT)):
            is_gateway = role == "gateway"
            subnets = ["-subnets", INSIDE] if is_gateway else []
            out = ("-out-crt", f"{self.folder}/{role}.crt", "-out-key", f"{self.folder}/{role}.key")
            self.run("nebula-cert", "sign", *ca, "-name", role, "-ip", f"{address}/24", *subnets, *out)
            text = NEBULA.format(
                folder=self.folder,
                role=role,
                gateway=GATEWAY,
                outer=OUTER,
                port=PORT,
                own_port=PORT if is_gateway else 0,
                is_gateway=str(is_gateway).lower(),
                lighthouses="" if is_gateway else f'"{GATEWAY}"',
                device=DEVICE,
                mtu=MTU_BYTES,
                routes="" if is_gateway else f'{{route: "{INSIDE}", via: "{GATEWAY}"}}',
            )
            self.file(f"{role}.yml", text)

    def argv(self, role: str) -> list[str]:
        """It stays in the foreground."""
        return ["nebula", "-config", f"{self.folder}/{role}.yml"]

    def ready(self) -> str:
        """Its last line of the start."""
        return "Nebula interface is active"

    def address(self, role: str, machine: Namespace) -> None:
        """It does that itself."""


class OpenVpn(TwoDaemons):
    """Point to point under TLS, AES-256-GCM, without kernel support."""

    def prepare(self) -> None:
        """A self-signed certificate each; the other end knows its fingerprint."""
        prints = {role: self._certificate(role) for role in ("gateway", "client")}
        for role, own, other, of in (
            ("gateway", GATEWAY, CLIENT, "client"),
            ("client", CLIENT, GATEWAY, "gateway"),
        ):
            text = OPENVPN.format(
                device=DEVICE,
                mtu=MTU_BYTES,
                own=own,
                other=other,
                folder=self.folder,
                role=role,
                fingerprint=prints[of],
            )
            ends = f"local {OUTER}\nport {PORT}\ntls-server\ndh none\n"
            self.file(
                f"{role}.conf",
                text + (ends if role == "gateway" else f"remote {OUTER} {PORT}\nnobind\ntls-client\n"),
            )

    def _certificate(self, role: str) -> str:
        certificate, key = f"{self.folder}/{role}.crt", f"{self.folder}/{role}.key"
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
        self.run(
            "openssl", "req", "-x509", *kind, "-subj", f"/CN={role}", "-keyout", key, "-out", certificate
        )
        return (
            self.run("openssl", "x509", "-fingerprint", "-sha256", "-noout", "-in", certificate)
            .split("=")[1]
            .strip()
        )

    def argv(self, role: str) -> list[str]:
        """It stays in the foreground."""
        return ["openvpn", "--config", f"{self.folder}/{role}.conf"]

    def ready(self) -> str:
        """The device is there; the peer may not be."""
        return "TUN/TAP device .* opened"

    def address(self, role: str, machine: Namespace) -> None:
        """The gateway opens its device at once, the client when it has spoken with it."""
        if role == "client":
            self._running[-1].wait_line("Initialization Sequence Completed", 20.0)
            super().address(role, machine)


class Fastd(TwoDaemons):
    """Its fastest method."""

    def prepare(self) -> None:
        """A key pair each."""
        pairs = {
            role: re.findall(r": ([0-9a-f]{64})", self.run("fastd", "--generate-key"))
            for role in ("gateway", "client")
        }
        for role, own, other, of in (
            ("gateway", GATEWAY, CLIENT, "client"),
            ("client", CLIENT, GATEWAY, "gateway"),
        ):
            text = FASTD.format(
                device=DEVICE,
                mtu=MTU_BYTES,
                secret=pairs[role][0],
                key=pairs[of][1],
                up=f"ip address add {own} peer {other} dev {DEVICE}",
                remote="" if role == "gateway" else f"remote {OUTER}:{PORT};",
            )
            self.file(f"{role}.conf", (f"bind {OUTER}:{PORT};\n" if role == "gateway" else "") + text)

    def argv(self, role: str) -> list[str]:
        """It stays in the foreground."""
        return ["fastd", "--config", f"{self.folder}/{role}.conf"]

    def ready(self) -> str:
        """Its first line; the device comes with the connection."""
        return "fastd .* starting"

    def address(self, role: str, machine: Namespace) -> None:
        """The client's is there by then."""
        if role == "client":
            self._running[-1].wait_line("established")
            super().address(role, machine)


OTHER_PEERS: Final[Mapping[str, type[Peer]]] = {"nebula": Nebula, "openvpn": OpenVpn, "fastd": Fastd}
