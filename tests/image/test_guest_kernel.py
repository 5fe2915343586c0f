# SPDX-License-Identifier: Apache-2.0
"""What only the guest's kernel has: WireGuard of the kernel as a client of our gateway, and netem between the two ends.

The kernel's WireGuard device is made in the root namespace and then moved: its encrypted side stays behind and reaches
the gateway at 127.0.0.1, its plain side is a machine of its own. netem impairs what leaves by the WAN card, towards one
of the client's two uplinks or both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.image.appliance import SETTLE_S, Appliance, on_another_way
from tests.image.conftest import eventually
from tests.image.site import WAN
from tests.net import traffic_helper
from tests.net.jump import JumpClient, inner_host
from tests.net.topology import ALLOWED, BACKEND, ENDPOINTS, SIDES, Side, boot_ns
from tests.net.traffic import TcpServer, tcp_recv, wait_reachable

KERNEL: Final = 3
TRANSFER_BYTES: Final = 1_000_000
# The relays' addresses towards the appliance: where it sends to.
UPLINK: Final[dict[Side, str]] = {"a": "10.11.0.1", "b": "10.12.0.1"}


@pytest.fixture(scope="module")
def appliance(served: Appliance) -> Appliance:
    """The shared one."""
    return served


# --- WireGuard of the kernel ------------------------------------------------------------------------------------------


@pytest.fixture
def kernel_peer(appliance: Appliance) -> Iterator[str]:
    """A kernel WireGuard device in a namespace of the guest, configured with wireguard-tools; its namespace."""
    guest, public = appliance.guest, appliance.gateway().daemon.keys.public
    tool = shutil.which("wg")
    assert tool is not None
    guest.put(Path(tool), "/run/wg")
    # /run may not run anything.
    guest.run("install -m 755 /run/wg /usr/bin/wg-stock")
    guest.run("cat > /run/wgk.key", stdin=appliance.peer_keys[KERNEL].private + "\n")
    prefixes = ",".join(ALLOWED)
    guest.run(
        "set -e; ip link add wgk type wireguard; ip netns add kernel; ip link set wgk netns kernel;"
        f"ip netns exec kernel wg-stock set wgk private-key /run/wgk.key peer {public}"
        f" endpoint 127.0.0.1:51820 allowed-ips {prefixes} persistent-keepalive 5;"
        f"ip -n kernel address add {inner_host(KERNEL)}/16 dev wgk; ip -n kernel link set wgk up;"
        "ip -n kernel link set lo up; ip -n kernel route add 10.3.0.0/24 dev wgk"
    )
    yield "kernel"
    guest.run("ip netns del kernel; rm -f /run/wgk.key")


def test_wireguard_of_the_kernel_is_served(appliance: Appliance, kernel_peer: str) -> None:
    guest = appliance.guest
    assert "wireguard" in guest.out("ip -n kernel -d link show wgk")
    guest.put(Path(traffic_helper.__file__), "/run/helper.py")
    inside = f"ip netns exec {kernel_peer}"
    with TcpServer(appliance.site.backend) as server:
        for way in ("send", "recv"):
            words = f"python3 /run/helper.py tcp-{way} {BACKEND} {server.port} {TRANSFER_BYTES}"
            moved = json.loads(guest.out(f"{inside} {words}").splitlines()[-1])
            assert moved["sha256"] == moved["expected_sha256"] and moved["size_bytes"] == TRANSFER_BYTES
    peer = appliance.gateway().daemon.peer(f"peer{KERNEL}")
    assert peer["rx_bytes"] > TRANSFER_BYTES
    assert peer["tx_bytes"] > TRANSFER_BYTES


def test_a_new_handshake_of_the_kernel_is_the_same_session(appliance: Appliance, kernel_peer: str) -> None:
    guest, daemon = appliance.guest, appliance.gateway().daemon
    show = f"ip netns exec {kernel_peer} wg-stock show wgk latest-handshakes"
    first = guest.wait(f"{show} | grep -v '\t0$'", "a handshake")
    ident = session_of(daemon.call("sessions")["sessions"])
    # The kernel forgets its keys with its peer's, and comes again from a new port.
    guest.run(f"ip netns exec {kernel_peer} wg-stock set wgk listen-port 40001")
    guest.run(
        "ip -n kernel link set wgk down && ip -n kernel link set wgk up"
        " && ip -n kernel route replace 10.3.0.0/24 dev wgk"
    )
    eventually(lambda: guest.out(show) not in ("", first), "a later handshake", 60)
    eventually(lambda: session_of(daemon.call("sessions")["sessions"]) == ident, "the same session", 30)


def session_of(sessions: list[dict[str, str]]) -> str:
    """The kernel peer's only session."""
    (found,) = [one["session_id"] for one in sessions if one["peer"] == f"peer{KERNEL}"]
    return found


# --- failover under netem ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(appliance: Appliance) -> Iterator[JumpClient]:
    """Our client with two uplinks."""
    made = appliance.gateway().client(endpoints=ENDPOINTS)
    made.daemon.start()
    made.wait_settled(SETTLE_S)
    yield made
    made.daemon.stop()


@contextmanager
def netem(appliance: Appliance, sides: tuple[Side, ...], *what: str) -> Iterator[None]:
    """Impair what the appliance sends to these uplinks."""
    guest = appliance.guest
    device = guest.out(
        f"ip -j link | python3 -c \"import json,sys; print(*[d['ifname'] for d in json.load(sys.stdin)"
        f" if d.get('address') == '{WAN.mac}'])\""
    )
    filters = "".join(
        f"tc filter add dev {device} parent 1: protocol ip u32 match ip dst {UPLINK[side]}/32 flowid 1:4;"
        for side in sides
    )
    guest.run(
        f"set -e; tc qdisc replace dev {device} root handle 1: prio bands 4 priomap {'0 ' * 16};"
        f"tc qdisc add dev {device} parent 1:4 handle 40: netem {' '.join(what)}; {filters}"
    )
    try:
        yield
    finally:
        guest.run(f"tc qdisc del dev {device} root")


def test_a_way_back_that_swallows_everything_is_left(appliance: Appliance, client: JumpClient) -> None:
    ident, bad = client.wait_settled(SETTLE_S).session_id, client.active()
    began_ns = boot_ns()
    with netem(appliance, (bad.side,), "loss", "100%"):
        client.wait_view(on_another_way(client, bad), "moved", SETTLE_S)
        wait_reachable(client.namespace, BACKEND)
    assert client.wait_attached(SETTLE_S).session_id == ident
    moved = client.journal.of("TRANSPORT_SWITCH", since_ns=began_ns)
    assert moved, "no switch was audited"


@pytest.mark.parametrize(
    "what",
    [("delay", "1500ms", "10ms"), ("loss", "60%"), ("delay", "700ms", "650ms", "distribution", "pareto")],
    ids=["late", "lossy", "jittery"],
)
def test_a_bad_way_is_left_for_the_good_one(
    appliance: Appliance, client: JumpClient, what: tuple[str, ...]
) -> None:
    ident, bad = client.wait_settled(SETTLE_S).session_id, client.active()
    with netem(appliance, (bad.side,), *what):
        client.wait_view(on_another_way(client, bad), "moved to the good way", SETTLE_S)
        wait_reachable(client.namespace, BACKEND)
    assert client.wait_attached(SETTLE_S).session_id == ident


def test_disorder_and_copies_on_both_ways_move_every_byte(appliance: Appliance, client: JumpClient) -> None:
    ident = client.wait_settled(SETTLE_S).session_id
    with (
        netem(appliance, SIDES, "delay", "20ms", "10ms", "reorder", "25%", "duplicate", "5%", "loss", "1%"),
        TcpServer(appliance.site.backend) as server,
    ):
        assert tcp_recv(client.namespace, BACKEND, TRANSFER_BYTES, server.port, timeout_s=120).ok
    assert client.wait_attached(SETTLE_S).session_id == ident


def test_nothing_at_all_for_ten_seconds_is_outlived(appliance: Appliance, client: JumpClient) -> None:
    ident = client.wait_settled(SETTLE_S).session_id
    with netem(appliance, SIDES, "loss", "100%"):
        client.wait_view(lambda seen: seen.state in ("DEGRADED", "RECOVERING"), "without a path", SETTLE_S)
    assert client.wait_attached(SETTLE_S).session_id == ident
    wait_reachable(client.namespace, BACKEND)
