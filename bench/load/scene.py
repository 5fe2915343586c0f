# SPDX-License-Identifier: Apache-2.0
"""The machines of the load generator.

                 172.16.0.0/12                192.0.2.1
    crowd  ──────────────────────  uplink 0  ──────────┐
    swarm, ──────────────────────  uplink 1  ────── gateway ── 10.3.0.1 ── 10.3.0.2 backend
    flows        100.64.0.0/10             198.51.100.1│                   echo: 10.48.0.0/12
    10.16.0.0/12                              203.0.113.1
    outside ───────────────────────────────────────────┘  (floods; any source address)

Whole ranges are local by a route, so any address of theirs can be a source and a destination; nobody holds a socket or
an address per client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.load.population import BEYOND, GATEWAYS, INSIDE, UPLINKS, nth
from tests.net import cprogram
from tests.net.lab import Lab, Namespace, Proc

FOLDER: Final = Path(__file__).parent
# First host of each is the gateway's.
LINKS: Final = ("192.0.2.0/24", "198.51.100.0/24")
DEVICES: Final = ("uplink0", "uplink1")
OUTSIDE: Final = "203.0.113.0/24"
OUTSIDE_GATEWAY: Final = "203.0.113.1"
BACKEND: Final = "10.3.0.0/24"
ECHO_PORT: Final = 7007
# Deep enough for what is due after a stall of 0.1 s at 100,000 packets a second.
QUEUE_PACKETS: Final = 10_000
# Before routing and before any socket hears of it: nobody is told that it was dropped.
CUT_RULES: Final = """\
table ip jvload {{
    set cut {{ type ipv4_addr; flags interval; }}
    chain cut {{ type filter hook prerouting priority -300; ip {field} @cut drop; }}
}}
"""


@dataclass(slots=True)
class Scene:
    """The namespaces of the picture, without any tunnel."""

    lab: Lab
    crowd: Namespace
    gateway: Namespace
    backend: Namespace
    outside: Namespace
    _cutting: bool = field(default=False)

    @classmethod
    def build(cls, lab: Lab) -> Scene:
        """Build it; the echo answers when this returns."""
        crowd, gateway, backend, outside = (
            lab.namespace(role) for role in ("crowd", "gateway", "backend", "outside")
        )
        made = cls(lab, crowd, gateway, backend, outside)
        made._join_uplinks()
        made._join_backend()
        outside_link = lab.link(gateway, outside, OUTSIDE)
        outside.add_route("default", via=outside_link.a.address4)
        gateway.add_route("default", via=outside_link.b.address4)
        gateway.forward()
        made._start_echo()
        return made

    def _join_uplinks(self) -> None:
        for subnet, device, range_ in zip(LINKS, DEVICES, UPLINKS, strict=True):
            link = self.lab.link(self.gateway, self.crowd, subnet, names=(device, device))
            make_local(self.crowd, str(range_))
            self.gateway.add_route(str(range_), via=link.b.address4)
            for namespace in (self.crowd, self.gateway):
                namespace.ip("link", "set", device, "txqueuelen", str(QUEUE_PACKETS))
        make_local(self.crowd, str(INSIDE))

    def _join_backend(self) -> None:
        link = self.lab.link(self.gateway, self.backend, BACKEND)
        self.backend.add_route("default", via=link.a.address4)
        self.gateway.add_route(str(BEYOND), via=link.b.address4)
        make_local(self.backend, str(BEYOND))

    def _start_echo(self) -> None:
        sources = (FOLDER / "echo.c",)
        binary = cprogram.build("echo", sources, headers=(FOLDER / "flows.h",))
        self.backend.spawn([str(binary), str(ECHO_PORT)], "echo").wait_line("ready")

    # --- an uplink of some clients fails ------------------------------------------------------------------------------

    def cut(self, uplink: int, first: int, count: int) -> None:
        """From now on nothing of these clients passes that uplink, either way; both ends go on sending."""
        if not self._cutting:
            for namespace, rule_field in self._ends():
                namespace.run(["nft", "-f", "-"], stdin=CUT_RULES.format(field=rule_field))
            self._cutting = True
        self._change("add", uplink, first, count)

    def mend(self, uplink: int, first: int, count: int) -> None:
        """The same clients and uplink that were cut."""
        self._change("delete", uplink, first, count)

    def _ends(self) -> tuple[tuple[Namespace, str], ...]:
        return (self.gateway, "saddr"), (self.crowd, "daddr")

    def _change(self, verb: str, uplink: int, first: int, count: int) -> None:
        network = UPLINKS[uplink]
        span = f"{nth(network, first)}-{nth(network, first + count - 1)}"
        for namespace, _ in self._ends():
            namespace.run(["nft", verb, "element", "ip", "jvload", "cut", f"{{ {span} }}"])

    # --- programs -----------------------------------------------------------------------------------------------------

    def flows(self, *words: object) -> Proc:
        """The traffic program among the clients."""
        return self.crowd.spawn([str(flows_binary()), *map(str, words)], "flows")


def flows_binary(sanitize: bool = False) -> Path:
    """Compiled on first use."""
    sources = (FOLDER / "flows.c", FOLDER / "histogram.c")
    headers = (FOLDER / "flows.h", FOLDER / "histogram.h")
    return cprogram.build("flows", sources, headers=headers, sanitize=sanitize)


def make_local(namespace: Namespace, network: str) -> None:
    """Every address of it is this machine's own."""
    namespace.ip("route", "add", "local", network, "dev", "lo")


def endpoints(port: int) -> tuple[str, ...]:
    """The gateway's, by uplink."""
    return tuple(f"{address}:{port}" for address in GATEWAYS)
