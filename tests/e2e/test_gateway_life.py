# SPDX-License-Identifier: Apache-2.0
"""A gateway's life on a machine: first start, second start, wrong files, taken ports, orders, kill -9, a stop in order.

client ─── router ─── server (jvpn gateway) ─── backend                       drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import stat
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.control import ctlclient
from gateway.errors import ConfigError, DaemonUnreachable, NotFound, Refused
from gateway.ops.cli.qr import qr_text
from tests.e2e.hoststate import changed, host_state
from tests.net.jvpn import CLI, JvpnGateway, JvpnPeer
from tests.net.lab import Lab, Namespace, Proc, missing_requirements, python_module
from tests.net.traffic import ping, wait_reachable
from tests.net.tunnel import BACKEND, PORT, SERVER, SERVER_OUTER, Site, join
from tests.net.wg import Keys, WgDevice, WgPeer, WgQuick

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "wg", "wg-quick", "wireguard-go", "nft"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

INSIDE: Final = {4: "10.3.0.1", 6: "fd03::1"}
NUMBERS: Final = itertools.count()
OUTER: Final = join(SERVER_OUTER[4], PORT)
STATUS_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "schema": str,
    "role": str,
    "interface": str,
    "public_key": str,
    "listen": list,
    "uptime_s": float,
    "peers": list,
    "counters": dict,
    "libsodium": dict,
    "offloads": dict,
    "workers": dict,
}
PEER_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "name": str,
    "public_key": str,
    "endpoint": str,
    "allowed_ips": list,
    "latest_handshake_s": (float, type(None)),
    "rx_bytes": int,
    "tx_bytes": int,
    "rx_packets": int,
    "tx_packets": int,
    "keepalive_s": int,
    "state": str,
    "suite": (str, type(None)),
}


@dataclass(slots=True)
class Machine:
    """A machine on which `jvpn` is used without any file: its state and runtime directories are its own."""

    namespace: Namespace
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "s"

    @property
    def socket(self) -> Path:
        return self.folder / "r/jvpn0.sock"

    @property
    def env(self) -> dict[str, str]:
        return {"JVPN_STATE_DIR": str(self.state), "JVPN_RUNTIME_DIR": str(self.socket.parent)}

    def jvpn(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self.namespace.run(python_module(CLI, *words), env=self.env, check=False)

    @contextmanager
    def gateway(self, *words: str) -> Iterator[Proc]:
        """`jvpn gateway` until the end of the block, ready."""
        proc = self.namespace.spawn(
            python_module(CLI, "gateway", *words), f"{self.folder.name}-gateway", self.env
        )
        try:
            proc.wait_line('"event": "gateway ready"')
            yield proc
        finally:
            if proc.running:
                proc.kill()


@pytest.fixture
def machine(lab: Lab, site: Site) -> Machine:
    """The server with empty directories."""
    folder = lab.tmp / f"m{next(NUMBERS)}"
    folder.mkdir()
    return Machine(site.server, folder)


def events(proc: Proc) -> list[str]:
    """What the log says, in order."""
    lines = [line for line in proc.stdout.splitlines() if line.startswith("{")]
    return [json.loads(line)["event"] for line in lines]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- start and stop -----------------------------------------------------------------------------------------------


def test_the_first_start_makes_everything_and_says_so(machine: Machine) -> None:
    before = host_state(machine.namespace)
    with machine.gateway() as first:
        said = first.stdout.splitlines()[:2]
        assert said[0] == f"jvpn: made a private key: {machine.state}/gateway.key"
        assert re.fullmatch(
            rf"jvpn: wrote a configuration with the pools 10\.\S+/24 and fd\S+/64: {machine.state}/gateway.toml",
            said[1],
        )
        assert {mode(machine.state / name) for name in ("gateway.key", "gateway.toml")} == {0o600}
        assert mode(machine.state) == 0o700
        checked = machine.jvpn("config", "check", str(machine.state / "gateway.toml"))
        assert checked.stdout == f"{machine.state}/gateway.toml: ok (gateway)\n"
        assert changed(before, host_state(machine.namespace)) >= {"addresses", "firewall", "routes"}
        assert first.stop() == 0
        assert events(first)[-1] == "stopped"
    assert changed(before, host_state(machine.namespace)) == set()
    key = (machine.state / "gateway.key").read_text()
    with machine.gateway() as again:
        assert again.stdout.startswith("{")
        assert again.stop() == 0
    assert (machine.state / "gateway.key").read_text() == key


def test_a_second_gateway_is_refused_and_the_first_goes_on(machine: Machine) -> None:
    with machine.gateway() as first:
        during = host_state(machine.namespace)
        second = machine.jvpn("gateway")
        assert second.returncode == Refused.exit_code
        assert second.stderr == f"jvpn: interface jvpn0: already running, pid {first.pid}\n"
        assert changed(during, host_state(machine.namespace)) == set()
        assert machine.jvpn("status").returncode == 0
        assert first.stop() == 0


def test_what_kill_9_leaves_is_removed_by_the_next_start(machine: Machine) -> None:
    machine.namespace.sysctl({"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0})
    before = host_state(machine.namespace)
    with machine.gateway() as first:
        assert changed(before, host_state(machine.namespace)) >= {"addresses", "firewall", "settings"}
        first.kill()
    left = changed(before, host_state(machine.namespace))
    assert left >= {"firewall", "settings"}
    assert "addresses" not in left, "the device goes with its process"
    with machine.gateway() as second:
        assert events(second).count("removed what a killed run left") >= 3
        assert machine.jvpn("status").returncode == 0
        assert second.stop() == 0
    assert changed(before, host_state(machine.namespace)) == set()
    machine.namespace.forward()


def test_ctrl_c_is_a_stop_in_order_too(machine: Machine) -> None:
    with machine.gateway() as proc:
        proc.signal(2)
        assert proc.wait(5.0) == 0
        assert events(proc)[-1] == "stopped"


# --- what is refused ----------------------------------------------------------------------------------------------

WRONG: Final = """\
[gateway]
listn = ["0.0.0.0:51820"]
mtu = 70
private_key = "too short"

[pool]
ipv4 = "10.9.0.7/24"

[[peer]]
name = "a"
public_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
keepalive = "25"
"""
MISTAKES: Final = (
    (2, "gateway.listn", 'unknown key; did you mean "listen"?'),
    (3, "gateway.mtu", "70 is out of range"),
    (4, "gateway.private_key", "not a WireGuard key"),
    (7, "pool.ipv4", "did you mean 10.9.0.0/24?"),
    (11, "peer[0].public_key", "low-order point"),
    (12, "peer[0].keepalive", "not a duration"),
)


def refused(machine: Machine, path: Path) -> list[str]:
    """Lines of the refusal; nothing else is said and nothing is touched."""
    before = host_state(machine.namespace)
    done = machine.jvpn("gateway", "-c", str(path))
    assert (done.returncode, done.stdout) == (ConfigError.exit_code, "")
    assert changed(before, host_state(machine.namespace)) == set()
    return done.stderr.splitlines()


def test_every_mistake_of_a_file_with_its_key_and_line(machine: Machine) -> None:
    path = machine.folder / "gateway.toml"
    path.write_text(WRONG)
    lines = refused(machine, path)
    assert len(lines) == len(MISTAKES)
    for line, (number, key, problem) in zip(lines, MISTAKES, strict=True):
        assert line.startswith(f"jvpn: {path}:{number}: {key}: ")
        assert problem in line
    assert "too short" not in "".join(lines), "part of a key was shown"


def test_every_mistake_of_the_peers_file_too(machine: Machine) -> None:
    machine.jvpn("peer", "add", "one")
    peers = machine.state / "peers.toml"
    peers.write_text(peers.read_text() + '\n[[peer]]\nname = "two"\n[[peer]]\nnane = "three"\n')
    lines = refused(machine, machine.state / "gateway.toml")
    assert [line for line in lines if not line.startswith(f"jvpn: {peers}:")] == []
    assert any("peer[1].public_key: is missing" in line for line in lines)
    assert any('peer[2].nane: unknown key; did you mean "name"?' in line for line in lines)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_has_the_port_is_named(machine: Machine, family: socket.AddressFamily) -> None:
    before = host_state(machine.namespace)
    with machine.namespace.open_socket(family, socket.SOCK_DGRAM) as taker:
        if family == socket.AF_INET6:
            taker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taker.bind(("", PORT))
        done = machine.jvpn("gateway")
    where = f"0.0.0.0:{PORT}" if family == socket.AF_INET else f"[::]:{PORT}"
    assert done.returncode == 1
    assert f"jvpn: cannot listen on UDP {where}: Address already in use; " in done.stderr
    assert f"(pid {os.getpid()}) uses it" in done.stderr
    assert changed(before, host_state(machine.namespace)) == set()


# --- orders while it runs -----------------------------------------------------------------------------------------


def ask_raw(path: Path, data: bytes) -> list[dict[str, Any]]:
    """Send bytes to a control socket, close that side, and return its answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


GARBAGE: Final[dict[str, bytes]] = {
    "no JSON": b"hello\n",
    "no request": b"[1, 2]\n",
    "no text": b"\xff\xfe\x00\n",
    "unknown command": b'{"id": 1, "command": "reboot"}\n',
    "unknown field": b'{"command": "status", "as": "root"}\n',
    "wrong arguments": b'{"command": "peer.add", "args": {"name": 7}}\n',
    "no such peer": b'{"command": "peer.remove", "args": {"name": "nobody"}}\n',
    "too deep": b"[" * 60_000 + b"\n",
    "too long": b"x" * 70_000 + b"\n",
}


def test_the_control_socket_is_private_and_takes_no_nonsense(machine: Machine) -> None:
    with machine.gateway() as proc:
        assert mode(machine.socket) == 0o600
        assert mode(machine.socket.parent) == 0o700
        for name, data in GARBAGE.items():
            answers = ask_raw(machine.socket, data)
            assert [answer["ok"] for answer in answers] == [False], name
            assert answers[0]["error"]["message"], name
        assert ask_raw(machine.socket, b"half a request") == []
        assert ctlclient.call(machine.socket, "status")["role"] == "gateway"
        assert proc.stop() == 0
        assert set(events(proc)) == {"gateway ready", "draining", "stopped"}
    assert not machine.socket.exists()


def check_types(document: dict[str, Any], types: dict[str, type | tuple[type, ...]]) -> None:
    assert document.keys() == types.keys()
    assert {name: value for name, value in document.items() if not isinstance(value, types[name])} == {}


def test_status_as_json_and_as_text(machine: Machine) -> None:
    without = machine.jvpn("status", "--json")
    assert (without.returncode, without.stdout) == (DaemonUnreachable.exit_code, "")
    machine.jvpn("peer", "add", "phone")
    with machine.gateway():
        document = json.loads(machine.jvpn("status", "--json").stdout)
        check_types(document, STATUS_TYPES)
        assert (document["schema"], document["role"]) == ("jvpn.status/1", "gateway")
        assert document["workers"] == {"count": 1, "native": False, "each": []}
        assert document["listen"] == [f"0.0.0.0:{PORT}", f"[::]:{PORT}"]
        assert all(isinstance(count, int) for count in document["counters"].values())
        (peer,) = document["peers"]
        check_types(peer, PEER_TYPES)
        assert (peer["name"], peer["state"], peer["latest_handshake_s"]) == ("phone", "never", None)
        text = machine.jvpn("status").stdout
        assert text.startswith("gateway jvpn0\n")
        assert document["public_key"] in text
        assert "\x1b" not in text
        assert machine.jvpn("status", "-i", "jvpn9").returncode == DaemonUnreachable.exit_code


def test_who_asks_for_an_address_of_no_peer_is_told_at_once(machine: Machine) -> None:
    """The kernel must believe the tunnel's own ICMP message: it comes in the name of the address asked for."""
    with machine.gateway():
        (device,) = [line for line in machine.namespace.ip("-br", "addr").splitlines() if "jvpn0" in line]
        nobody = ip_interface(device.split()[2]).network[-2]
        asked = machine.namespace.run(["ping", "-n", "-c", "1", "-W", "5", str(nobody)], check=False)
        assert (asked.returncode, "Destination Host Unreachable" in asked.stdout) == (1, True), asked.stdout


def test_doctor_finds_nothing_that_is_missing(machine: Machine) -> None:
    for _ in range(2):
        done = machine.jvpn("doctor", "--json")
        document = json.loads(done.stdout)
        failed = [check for check in document["checks"] if check["status"] == "fail"]
        assert (done.returncode, failed, document["schema"]) == (0, [], "jvpn.doctor/1")
        assert all(check["remedy"] for check in document["checks"] if check["status"] == "warn")
    with machine.gateway() as proc:
        running = json.loads(machine.jvpn("doctor", "--json").stdout)["checks"][-1]
        assert running["name"] == "running"
        assert str(proc.pid) in running["detail"]


def test_a_peer_added_live_connects_with_its_printed_file(lab: Lab, site: Site, machine: Machine) -> None:
    with machine.gateway() as proc:
        added = machine.jvpn("peer", "add", "phone", "--psk", "--gateway-endpoint", OUTER)
        assert added.returncode == 0
        assert "the running gateway serves it already" in added.stderr
        phone = WgQuick(lab, site.client, added.stdout).start()
        try:
            wait_reachable(site.client, BACKEND[0])
            assert ping(site.client, BACKEND[1]).ok
            for family, address in INSIDE.items():
                assert source_seen_by_backend(site, family) == address
            (peer,) = json.loads(machine.jvpn("status", "--json").stdout)["peers"]
            assert peer["state"] == "attached"
            assert peer["rx_bytes"] > 0 < peer["tx_bytes"]
            check_shown(machine, added.stdout)
            removed = machine.jvpn("peer", "remove", "phone")
            assert removed.returncode == 0
            assert ping(site.client, BACKEND[0], count=2, wait_s=0.5).received == 0
            assert machine.jvpn("peer", "show", "phone").returncode == NotFound.exit_code
        finally:
            phone.stop()
        assert proc.stop() == 0
        assert [name for name in events(proc) if name.startswith("peer")] == ["peer added", "peer removed"]


def check_shown(machine: Machine, printed: str) -> None:
    """`peer show` gives the printed file again, but for the secrets, which it takes and shows on demand only."""
    private = re.findall(r"^PrivateKey = (\S+)$", printed, re.MULTILINE)[0]
    psk = re.findall(r"^PresharedKey = (\S+)$", printed, re.MULTILINE)[0]
    key_file = machine.folder / "phone.key"
    key_file.touch(mode=0o600)
    key_file.write_text(private)
    words = ("peer", "show", "phone", "--gateway-endpoint", OUTER)
    plain = machine.jvpn(*words)
    assert private not in plain.stdout
    assert psk not in plain.stdout
    complete = machine.jvpn(*words, "--reveal", "--private-key-file", str(key_file))
    assert complete.stdout == printed
    code = machine.jvpn(*words, "--reveal", "--private-key-file", str(key_file), "--qr")
    assert code.stdout == qr_text(printed, colour=False) + "\n"
    stored = [path.read_bytes() for path in machine.state.rglob("*") if path.is_file()]
    assert not any(private.encode() in content for content in stored)
    managed = tomllib.loads((machine.state / "peers.toml").read_text())["peer"]
    assert [peer["name"] for peer in managed] == ["phone"]


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


# --- clients among each other -------------------------------------------------------------------------------------


def stock(lab: Lab, namespace: Namespace, keys: Keys, number: int, gateway: Keys) -> WgDevice:
    """A wireguard-go client with the inner addresses .NUMBER and ::NUMBER."""
    peer = WgPeer(gateway.public, ["10.8.0.0/24", "fd08::/64"], OUTER)
    addresses = [f"10.8.0.{number}/24", f"fd08::{number}/64"]
    return WgDevice(lab, namespace, keys, addresses, [peer]).start()


@pytest.mark.parametrize("allowed", [False, True], ids=["denied-by-default", "allowed"])
def test_clients_reach_each_other_only_when_allowed(lab: Lab, site: Site, allowed: bool) -> None:
    keys = {number: Keys.generate() for number in (2, 3)}
    peers = [JvpnPeer(f"c{n}", pair.public, [f"10.8.0.{n}/32", f"fd08::{n}/128"]) for n, pair in keys.items()]
    tables: dict[str, Any] = {"forward": {"clients": True}} if allowed else {}
    server, addresses = Keys.generate(), [f"{SERVER[0]}/24", f"{SERVER[1]}/64"]
    gateway = JvpnGateway(lab, site.server, server, addresses, peers, **tables).start()
    places: Sequence[Namespace] = (site.client, site.router)
    devices = [
        stock(lab, place, keys[number], number, server) for place, number in zip(places, keys, strict=True)
    ]
    try:
        for place in places:
            for host in SERVER:
                assert ping(place, host, count=1).ok
        for host in ("10.8.0.3", "fd08::3"):
            answered = ping(site.client, host, count=2, wait_s=0.5).received
            assert answered == (2 if allowed else 0)
    finally:
        for device in devices:
            device.stop()
        assert gateway.stop() == 0
