# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.demo [--size-mb N]``: see it work. The exit status says whether everything arrived.

Nothing is left behind, also after Ctrl-C: everything is in namespaces that `tests.net.lab` removes.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final, NamedTuple

from bench.demo import scene
from bench.demo.console import Console
from bench.demo.stage import perform
from tests.net.jvpn import JvpnGateway
from tests.net.lab import Lab, LabError, Namespace
from tests.net.traffic import MEGABYTE, TcpServer, Transfer, ping, tcp_recv, tcp_send, wait_reachable

SIZE_MB: Final = 256
# The other family of each direction: enough to see it work, small enough for half a minute in all.
SHARE_OF_SECOND: Final = 8
PROGRAMS: Final = ("ip", "sysctl", "ping", "nft", "wg", "wg-quick", "wireguard-go")
HEADER: Final = ("", "client", "direction", "inside", "size", "sha256", "time", "throughput")


class Client(NamedTuple):
    """A machine with a tunnel."""

    machine: Namespace
    name: str


class Leg(NamedTuple):
    """One transfer of the plan."""

    upwards: bool
    family: int
    size_bytes: int


def plan(size_bytes: int) -> list[Leg]:
    """Both directions in both families: one of each direction in full, the other family in part."""
    part = size_bytes // SHARE_OF_SECOND
    return [Leg(True, 4, size_bytes), Leg(False, 6, size_bytes), Leg(True, 6, part), Leg(False, 4, part)]


def main() -> int:
    """Run it; 0 when everything arrived, 1 when something did not, 130 when interrupted."""
    options = argparse.ArgumentParser(
        prog="python -m bench.demo", description="See it work, in half a minute."
    )
    options.add_argument(
        "--size-mb", type=int, default=SIZE_MB, help="megabytes per transfer (default %(default)s)"
    )
    size_bytes = options.parse_args().size_mb * MEGABYTE
    return perform(
        lambda lab, console: run(lab, console, size_bytes),
        PROGRAMS,
        success="everything arrived, nothing is left behind",
        failure="something did not arrive",
    )


def run(lab: Lab, console: Console, size_bytes: int) -> None:
    """The demo itself."""
    console.line(scene.PICTURE)
    console.step("Five machines as network namespaces of this one")
    machines = scene.build(lab)
    direct = ping(machines.laptop, scene.BACKEND[4], count=1, wait_s=0.3)
    console.result(not direct.received, "the backend cannot be reached without a tunnel")
    gateway, clients = connect(lab, console, machines)
    console.step("Ping through the tunnel")
    for client in clients:
        ping_backend(console, client)
    console.step("TCP transfers to and from the backend, checked by SHA-256 where they arrive")
    with TcpServer(machines.backend):
        rows = [transfer(console, client, leg) for client in clients for leg in plan(size_bytes)]
    console.step("What the gateway knows about its peers")
    console.command("jvpn status")
    console.quote(gateway.cli("status"))
    console.step("Summary")
    console.table(HEADER, rows)


def connect(
    lab: Lab, console: Console, machines: scene.Machines
) -> tuple[JvpnGateway, tuple[Client, Client]]:
    """Start the gateway, add a peer per client, connect both."""
    console.step("A gateway")
    console.command("jvpn gateway -c gateway.toml")
    gateway = scene.gateway(lab, machines).start()
    console.result(True, "ready", f"{gateway.ready_after_s * 1000:.0f} ms")
    console.step("A peer for each client; each gets a file, or a QR code for a phone")
    files = {}
    for name in ("laptop", "phone"):
        console.command(f"jvpn peer add {name} --psk > {name}.conf")
        files[name] = gateway.cli("peer", "add", name, "--psk")
    console.step("Two clients: ours, and stock WireGuard")
    console.command("jvpn connect -c laptop.conf")
    scene.our_client(lab, machines, files["laptop"]).start()
    console.command("wg-quick up phone.conf                  (wireguard-go)")
    scene.stock_client(lab, machines, files["phone"]).start()
    clients = (Client(machines.laptop, "jvpn connect"), Client(machines.phone, "wireguard-go"))
    for client in clients:
        took_s = wait_reachable(client.machine, scene.BACKEND[4])
        console.result(
            True, f"{client.name} reaches the backend", f"first answer after {took_s * 1000:.0f} ms"
        )
    return gateway, clients


def ping_backend(console: Console, client: Client) -> None:
    """Ping in both families."""
    for family, host in scene.BACKEND.items():
        answered = ping(client.machine, host, count=10, interval_s=0.02)
        detail = f"{answered.received}/{answered.sent} answered, median {answered.median_ms:.2f} ms"
        console.result(answered.ok, f"{client.name} → backend, IPv{family}", detail)


def transfer(console: Console, client: Client, leg: Leg) -> tuple[str, ...]:
    """One transfer; its row of the summary. A failed one is reported, and the demo goes on."""
    move, direction = (tcp_send, "to the backend") if leg.upwards else (tcp_recv, "from the backend")
    size = f"{leg.size_bytes / MEGABYTE:.0f} MB"
    label = f"{client.name}: {size} {direction}, IPv{leg.family}"
    moved: Transfer | None = None
    try:
        moved = move(client.machine, scene.BACKEND[leg.family], leg.size_bytes)
        console.result(moved.ok, label, f"{moved.seconds:.1f} s, {moved.mbit_per_s:.0f} Mbit/s")
    except LabError as error:
        console.result(False, label)
        console.quote(str(error))
    if moved is None:
        return ("✗", client.name, direction, f"IPv{leg.family}", size, "nothing", "-", "-")
    check = f"{moved.sha256[:8]}…" if moved.ok else "differs"
    pace = (f"{moved.seconds:.1f} s", f"{moved.mbit_per_s:.0f} Mbit/s")
    return ("✓" if moved.ok else "✗", client.name, direction, f"IPv{leg.family}", size, check, *pace)


if __name__ == "__main__":
    sys.exit(main())
