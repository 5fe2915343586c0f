# SPDX-License-Identifier: Apache-2.0
"""`jvpn connect` on a whole machine: everything through the tunnel but the tunnel itself, and all of it put back.

    client ─── router ─── server (jvpn gateway with NAT) ─── backend          drawn in tests/net/tunnel.py

Rule: the machine is compared as a whole before and after (`host_state`), so that a thing nobody thought of counts.
"""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from gateway.errors import NotFound, Refused, TryLater, UsageError
from tests.e2e.hoststate import COMMANDS, changed, host_state, resolv_conf
from tests.net.jvpn import CLI, Daemon, JvpnClient, JvpnGateway, JvpnQuickClient
from tests.net.lab import Lab, Namespace, missing_requirements, python_module
from tests.net.ledger import NETNS_ETC
from tests.net.traffic import TcpServer, ping, tcp_recv, tcp_send, wait_reachable
from tests.net.tunnel import BACKEND, PORT, SERVER, SERVER_OUTER, Site, join
from tests.net.wg import Keys

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "wg", "nft"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

# Nothing that a rewrite would come up with by itself: no newline at the end, tabs, a comment.
RESOLV: Final = (
    b"# this machine's own\nnameserver\t127.0.0.1\noptions timeout:1 attempts:1\nsearch home.example"
)
DNS: Final = ["10.8.0.1", "fd08::1", "corp.example"]
SIZE_BYTES: Final = 3_000_001
INSIDE: Final = {4: "10.3.0.1", 6: "fd03::1"}
# <linux/if_ether.h>, <linux/if_packet.h>, <asm-generic/socket.h>; Python does not name them.
ETH_P_ALL: Final = 0x0003
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
SO_RCVBUFFORCE: Final = 33
DEVICE: Final = "jv0"
NUMBERS: Final = itertools.count()
EVERYTHING: Final = set(COMMANDS) | {"resolv.conf"}
HOOK_REFUSED: Final = "refused: hooks run shell commands as root; delete this line"


@pytest.fixture(scope="module")
def gateway(lab: Lab, site: Site) -> JvpnGateway:
    """A gateway that translates everything, with a peer for the machine under test."""
    (NETNS_ETC / site.client.name / "resolv.conf").write_bytes(RESOLV)
    # A file of its own for the names that a test makes known.
    (NETNS_ETC / site.client.name / "hosts").write_text("127.0.0.1 localhost\n")
    return JvpnGateway(
        lab,
        site.server,
        Keys.generate(),
        [f"{SERVER[0]}/24", f"{SERVER[1]}/64"],
        gateway={"dns": DNS},
        nat={"enabled": True},
    ).start()


@pytest.fixture
def file_text(gateway: JvpnGateway) -> str:
    """The wg-quick file that the gateway printed for the client, a new peer in every test.

    One peer that comes back with an empty state directory again and again is taken for two devices that fight.
    """
    return gateway.cli("peer", "add", f"laptop{next(NUMBERS)}", "--psk", "--gateway-endpoint", endpoint(4))


@pytest.fixture(scope="module", autouse=True)
def stranger(lab: Lab, site: Site, gateway: JvpnGateway) -> JvpnClient:
    """A client with a wrong key for the gateway, on another machine, silent from the beginning of the file on."""
    wrong = {
        "public_key": Keys.generate().public,
        "endpoints": [endpoint(4)],
        "allowed_ips": ["10.77.0.0/24"],
    }
    return JvpnClient(lab, site.router, Keys.generate(), ["10.77.0.2/32"], wrong, interface="jvs").start()


def endpoint(outer: int) -> str:
    return join(SERVER_OUTER[outer], PORT)


def own_file(text: str) -> tuple[str, str]:
    """Private and preshared key of a printed file."""
    found = [re.search(rf"^{name} = (\S+)$", text, re.MULTILINE) for name in ("PrivateKey", "PresharedKey")]
    return tuple(match[1] for match in found if match)  # type: ignore[return-value]


def toml_client(
    lab: Lab, site: Site, gateway: JvpnGateway, text: str, way_in: str = endpoint(4)
) -> JvpnClient:
    """The same client from a TOML file: everything inside, DNS, no interface address in common with the gateway's."""
    private, psk = own_file(text)
    tunnel = {"public_key": gateway.keys.public, "preshared_key": psk, "endpoints": [way_in]}
    addresses = re.findall(r"[\w.:]+/\d+", text.partition("Address = ")[2].partition("\n")[0])
    return JvpnClient(lab, site.client, Keys(private, ""), addresses, tunnel, client={"dns": DNS})


@contextmanager
def connected(client: Daemon, site: Site) -> Iterator[Daemon]:
    """Started, in traffic, and stopped in the end if it still runs."""
    client.start()
    try:
        wait_reachable(site.client, BACKEND[0])
        yield client
    finally:
        if client._proc is not None:
            client.kill()


class Wire:
    """What passes a device of a namespace from now on: (version, protocol, destination port), own packets alone."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        self._socket = namespace.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        # Megabytes pass while nobody reads here; a dropped packet would be one that was not checked.
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((device, ETH_P_ALL))
        self._socket.setblocking(False)

    def sent(self) -> set[tuple[int, int, int]]:
        """Everything this device sent; asked once."""
        with self._socket:
            seen = {
                outgoing(packet)
                for packet, (_, _, kind, *_) in self._received()
                if kind == socket.PACKET_OUTGOING and packet[0] >> 4 in (4, 6)
            }
            statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        assert int.from_bytes(statistics[4:], "little") == 0, "packets were not seen"
        return seen

    def _received(self) -> Iterator[tuple[bytes, tuple[str, int, int, int, bytes]]]:
        with suppress(BlockingIOError):
            while True:
                yield self._socket.recvfrom(256)


def outgoing(packet: bytes) -> tuple[int, int, int]:
    """Version, protocol and (for UDP) destination port of an IP packet without extension headers."""
    version = packet[0] >> 4
    protocol, header = (packet[9], (packet[0] & 15) * 4) if version == 4 else (packet[6], 40)
    port = int.from_bytes(packet[header + 2 : header + 4], "big") if protocol == socket.IPPROTO_UDP else 0
    return version, protocol, port


def source_seen_by_backend(site: Site, family: int) -> str:
    """Send a datagram from the client to the backend; who the backend takes for its sender."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with (
        site.client.open_socket(kind, socket.SOCK_DGRAM) as sender,
        site.backend.open_socket(kind, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("", 7007))
        receiver.settimeout(5.0)
        sender.sendto(b"who am I", (BACKEND[0 if family == 4 else 1], 7007))
        return str(receiver.recvfrom(64)[1][0])


# --- everything through the tunnel --------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", [4, 6])
def test_everything_goes_inside_but_the_tunnel_itself(
    lab: Lab, site: Site, file_text: str, outer: int
) -> None:
    before = host_state(site.client)
    text = file_text.replace(endpoint(4), endpoint(outer))
    with connected(JvpnQuickClient(lab, site.client, text, interface=DEVICE), site) as client:
        wires = Wire(site.client, "eth0"), Wire(site.client, DEVICE)
        with TcpServer(site.backend):
            for host in BACKEND:
                assert ping(site.client, host).ok
                assert tcp_send(site.client, host, SIZE_BYTES).ok
                assert tcp_recv(site.client, host, SIZE_BYTES).ok
        # The gateway's own outer address is inside for everybody but the tunnel's socket.
        assert ping(site.client, SERVER_OUTER[outer]).ok
        outside, inside = (wire.sent() for wire in wires)
        udp = socket.IPPROTO_UDP
        assert {seen for seen in outside if seen[1] != socket.IPPROTO_ICMPV6} == {(outer, udp, PORT)}
        assert {version for version, _, _ in inside} == {4, 6}
        assert not {seen for seen in inside if seen[2] == PORT}, "the tunnel runs through itself"
        for family, address in INSIDE.items():
            assert source_seen_by_backend(site, family) == address
        assert changed(before, host_state(site.client)) >= EVERYTHING
        assert client.stop() == 0
    assert changed(before, host_state(site.client)) == set()


def test_dns_is_the_tunnels_while_it_is_up(
    lab: Lab, site: Site, gateway: JvpnGateway, file_text: str
) -> None:
    with connected(toml_client(lab, site, gateway, file_text), site) as client:
        lines = resolv_conf(site.client).decode().splitlines()
        assert [line for line in lines if not line.startswith("#")] == [
            "nameserver 10.8.0.1",
            "nameserver fd08::1",
            "search corp.example",
            "options timeout:1 attempts:1",
        ]
        seen = site.client.run(["cat", "/etc/resolv.conf"]).stdout
        assert seen.splitlines() == lines
        client.stop()
    assert resolv_conf(site.client) == RESOLV


# --- its end ------------------------------------------------------------------------------------------------------


def test_disconnect_ends_a_running_client(lab: Lab, site: Site, gateway: JvpnGateway, file_text: str) -> None:
    before = host_state(site.client)
    with connected(toml_client(lab, site, gateway, file_text), site) as client:
        second = site.client.run(
            python_module(CLI, "connect", "-c", str(client.config_path)), env=client.env, check=False
        )
        assert second.returncode == Refused.exit_code
        assert f"already running, pid {client.proc.pid}" in second.stderr
        assert client.peer()["state"] == "attached"
        assert client.cli("disconnect") == f"{DEVICE}: disconnected\n"
        assert client.proc.wait(5.0) == 0
        assert "stopped" in client.proc.stdout
    assert changed(before, host_state(site.client)) == set()


def test_after_kill_9_disconnect_removes_everything(lab: Lab, site: Site, file_text: str) -> None:
    before = host_state(site.client)
    with connected(JvpnQuickClient(lab, site.client, file_text, interface=DEVICE), site) as client:
        client.kill()
    assert changed(before, host_state(site.client)) >= {"rules", "rules6", "firewall", "resolv.conf"}
    removed = client.cli("disconnect")
    assert changed(before, host_state(site.client)) == set()
    for what in ("DNS in /etc/resolv.conf", "nftables table", "IPv4 rule", "IPv6 rule"):
        assert f"{DEVICE}: removed {what}" in removed
    again = site.client.run(python_module(CLI, "disconnect", DEVICE), env=client.env, check=False)
    assert (again.returncode, again.stdout) == (NotFound.exit_code, "")
    assert "nothing was left behind" in again.stderr


def test_disconnect_finds_its_client_by_socket_and_state_directory(
    lab: Lab, site: Site, gateway: JvpnGateway, file_text: str
) -> None:
    """From surroundings that know neither directory, as another service manager has them."""
    before = host_state(site.client)

    def disconnect(client: Daemon, *words: str) -> tuple[int, str]:
        places = ["--socket", str(client.control_socket), "--state-dir", str(client.state_dir)]
        done = site.client.run(python_module(CLI, "disconnect", *places, *words), check=False)
        return done.returncode, done.stdout + done.stderr

    with connected(toml_client(lab, site, gateway, file_text), site) as client:
        code, text = disconnect(client, "-i", "other0")
        assert code == Refused.exit_code and "another interface than other0" in text
        assert disconnect(client, DEVICE, "--interface", "other0")[0] == 2
        assert disconnect(client) == (0, f"{DEVICE}: disconnected\n")
        assert client.proc.wait(5.0) == 0
        assert changed(before, host_state(site.client)) == set()
        client.start()
        client.kill()
    code, text = disconnect(client, "-i", DEVICE)
    assert (code, f"{DEVICE}: removed DNS in /etc/resolv.conf" in text) == (0, True)
    assert changed(before, host_state(site.client)) == set()
    assert disconnect(client)[0] == NotFound.exit_code


def test_after_kill_9_the_next_start_recovers(lab: Lab, site: Site, file_text: str) -> None:
    before = host_state(site.client)
    with connected(JvpnQuickClient(lab, site.client, file_text, interface=DEVICE), site) as client:
        client.kill()
        with connected(client, site):
            assert "removed what a killed run left" in client.proc.stdout
            assert b"10.8.0.1" in resolv_conf(site.client)
            assert client.stop() == 0
    assert changed(before, host_state(site.client)) == set()


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_hooks_are_refused_with_file_and_line(lab: Lab, site: Site, file_text: str, tmp_path: Path) -> None:
    before, mark = host_state(site.client), tmp_path / "ran"
    text = file_text.replace("[Peer]", f"PostUp = touch {mark}\nSaveConfig = true\n[Peer]")
    client = JvpnQuickClient(lab, site.client, text, interface=DEVICE)
    argv = python_module(CLI, "connect", "-c", str(client.config_path))
    refused = site.client.run(argv, env=client.env, check=False)
    line = text.splitlines().index("SaveConfig = true")
    assert refused.returncode == UsageError.exit_code
    hook, save = refused.stderr.splitlines()
    where = f"jvpn: {client.config_path}"
    assert hook == f"{where}:{line}: Interface.PostUp: {HOOK_REFUSED}"
    assert save.startswith(f"{where}:{line + 1}: Interface.SaveConfig: refused: ")
    assert not mark.exists()
    assert changed(before, host_state(site.client)) == set()


def test_a_name_that_does_not_resolve_is_tried_again(
    lab: Lab, site: Site, gateway: JvpnGateway, file_text: str
) -> None:
    before, hosts = host_state(site.client), NETNS_ETC / site.client.name / "hosts"
    client = toml_client(lab, site, gateway, file_text, f"gateway.jvpn.test:{PORT}")
    argv = python_module(CLI, "connect", "-c", str(client.config_path))
    client._proc = site.client.spawn(argv, "nameless", client.env)
    try:
        said = client.proc.wait_line("gateway not found, trying again").string
        assert "cannot resolve gateway.jvpn.test: " in said
        waiting = site.client.run(python_module(CLI, "status"), env=client.env, check=False)
        assert (waiting.returncode, waiting.stdout) == (TryLater.exit_code, "")
        assert "looking up" in waiting.stderr
        with hosts.open("a") as file:
            file.write(f"{SERVER_OUTER[4]} gateway.jvpn.test\n")
        client.proc.wait_line("handshake completed")
        assert ping(site.client, BACKEND[0]).ok
        assert client.stop() == 0
    finally:
        hosts.write_text("127.0.0.1 localhost\n")
        if client._proc is not None:
            client.kill()
    assert changed(before, host_state(site.client)) == set()


def test_disconnect_ends_a_client_that_still_looks_for_its_gateway(
    lab: Lab, site: Site, gateway: JvpnGateway, file_text: str
) -> None:
    before = host_state(site.client)
    client = toml_client(lab, site, gateway, file_text, f"gateway.jvpn.test:{PORT}")
    argv = python_module(CLI, "connect", "-c", str(client.config_path))
    client._proc = site.client.spawn(argv, "lost", client.env)
    client.proc.wait_line("gateway not found")
    assert client.cli("disconnect") == f"{DEVICE}: disconnected\n"
    assert client.proc.wait(5.0) == 0
    assert changed(before, host_state(site.client)) == set()


def test_a_wrong_key_is_explained_within_ten_seconds(stranger: JvpnClient) -> None:
    """The gateway is silent to strangers, so the client has to say what may be wrong, and with which key it calls."""
    waited_s = time.monotonic()
    stranger.proc.wait_line("no answer from the gateway", timeout_s=10.0)
    assert time.monotonic() - waited_s < 10.0
    said = stranger.proc.stdout
    for words in (
        endpoint(4),
        "is public_key its key",
        "does it have this client as a peer",
        "our_public_key",
    ):
        assert words in said
    assert stranger.status()["public_key"] in said
    assert stranger.peer()["state"] == "handshaking"
    assert stranger.stop() == 0
