# SPDX-License-Identifier: Apache-2.0
"""The packaged gateway under the restrictions of its unit, as far as they can be had without systemd.

What those are and are not is in tests/net/confined.py.

client ─── router ─── server (the confined gateway) ─── backend                       drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gateway.control import keysfile
from tests.e2e.hoststate import changed, host_state
from tests.net.jvpn import JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import REPO, Lab, Proc, missing_requirements, python_module
from tests.net.notify import Manager
from tests.net.package import unpack
from tests.net.traffic import ping, wait_reachable
from tests.net.tunnel import BACKEND, PORT, SERVER_OUTER, Site, join
from tests.net.wg import Keys

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "nft", "dpkg-deb", "systemd-analyze", "gcc"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

UNIT: Final = REPO / "gateway/ops/systemd/jvpn-gateway.service"
CLIENT_UNIT: Final = REPO / "gateway/ops/systemd/jvpn@.service"
UID: Final = 61_184  # the first that DynamicUser= may choose
CAPABILITIES: Final = 1 << 12 | 1 << 10
CLIENT: Final = "10.99.0.2"

PROBE: Final = """
import ctypes, json, mmap, os, socket
def tried(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
print(json.dumps({
    "etc": tried(lambda: open("/etc/probe", "w")),
    "tmp": tried(lambda: open("/tmp/probe", "w")),
    "hostname": tried(lambda: open("/proc/sys/kernel/hostname", "r+")),
    "write_and_execute": tried(lambda: mmap.mmap(-1, 4096, prot=7)),
    "packet_socket": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "inet_socket": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "user_namespace": tried(lambda: call("unshare", 0x10000000)),
    "mount": tried(lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
    "chown": tried(lambda: os.chown("/proc/self/fd/0", 1, 1)),
    "kill_init": tried(lambda: os.kill(1, 0)),
    "forwarding": tried(lambda: open("/proc/sys/net/ipv4/ip_forward", "r+")),
    "others_hidden": 0 if os.path.exists("/proc/1") else 1,
}))
"""


@dataclass(slots=True)
class Confined:
    """A place for the confined gateway: everything it may write, and the package it runs."""

    site: Site
    folder: Path
    keys: Keys
    client: Keys

    @property
    def jvpn(self) -> str:
        return str(self.folder / "root/usr/bin/jvpn")

    def argv(self, *command: str) -> list[str]:
        """A command line under the unit's restrictions."""
        writable = [str(self.folder / name) for name in ("s", "r")]
        # The device as udev makes it, open to all; a machine without udev may have it otherwise.
        elsewhere = [f"{self.folder / 'wireguard'}:/run/wireguard", f"{self.folder / 'tun'}:/dev/net/tun"]
        places = [*writable, *elsewhere]
        return [*python_module("tests.net.confined", str(UNIT), str(UID), *places), "--", *command]

    def gateway(self, notify: str = "") -> Proc:
        """`jvpn gateway` with the environment that systemd gives it."""
        env = {
            "STATE_DIRECTORY": str(self.folder / "s"),
            "RUNTIME_DIRECTORY": f"{self.folder / 'r'}:/run/wireguard",
            "CREDENTIALS_DIRECTORY": str(self.folder / "c"),
            "NOTIFY_SOCKET": notify,
            "WATCHDOG_USEC": "1000000",
            "PYTHONPATH": str(REPO),
        }
        command = [self.jvpn, "gateway", "-c", str(self.folder / "gateway.toml")]
        return self.site.server.spawn(self.argv(*command), "confined", env)

    def ask(self, *words: str) -> str:
        """A command of root's, unconfined."""
        env = {"JVPN_RUNTIME_DIR": str(self.folder / "r"), "JVPN_STATE_DIR": str(self.folder / "s")}
        return self.site.server.run([self.jvpn, *words], env=env).stdout


@pytest.fixture(scope="module")
def confined(site: Site) -> Iterator[Confined]:
    # Another user must reach it, and the paths of sockets are short.
    folder = Path(tempfile.mkdtemp(prefix="jvc"))
    folder.chmod(0o755)
    try:
        unpack(folder / "root")
        made = Confined(site, folder, Keys.generate(), Keys.generate())
        for name in ("s", "r", "c", "wireguard"):
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, UID, UID)
        os.mknod(folder / "tun", stat.S_IFCHR, os.makedev(10, 200))
        (folder / "tun").chmod(0o666)
        keysfile.write_key_file(folder / "c/gateway.key", keysfile.decode_key(made.keys.private))
        os.chown(folder / "c/gateway.key", UID, UID)
        Path("/run/wireguard").mkdir(exist_ok=True)
        yield made
    finally:
        shutil.rmtree(folder)


def configure(confined: Confined, workers: int) -> None:
    """The example that is shipped, and a peer."""
    text = (UNIT.parent / "examples/gateway.toml").read_text()
    peer = f'\n[[peer]]\nname = "laptop"\npublic_key = "{confined.client.public}"\nallowed_ips = ["{CLIENT}/32"]\n'
    path = confined.folder / "gateway.toml"
    path.write_text(text + f"\n[workers]\ncount = {workers}\n" + peer)
    path.chmod(0o644)


def test_the_restrictions_hold(confined: Confined) -> None:
    """Or the tests below would prove nothing."""
    done = confined.site.server.run(
        confined.argv("/usr/bin/python3", "-c", PROBE), env={"PYTHONPATH": str(REPO)}
    )
    assert json.loads(done.stdout) == {
        "etc": 30,  # EROFS
        "tmp": 30,
        "hostname": 13,
        "write_and_execute": 13,  # EACCES
        "packet_socket": 97,  # EAFNOSUPPORT
        "inet_socket": 0,
        "user_namespace": 1,  # EPERM
        "mount": 1,
        "chown": 1,
        "kill_init": 1,
        "forwarding": 0,
        "others_hidden": 1,
    }


@pytest.mark.parametrize("workers", [1, 2], ids=["loop", "native"])
def test_a_gateway_with_nat_serves_under_them(lab: Lab, confined: Confined, workers: int) -> None:
    site = confined.site
    site.server.sysctl({"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0})
    configure(confined, workers)
    before = host_state(site.server)
    with Manager(confined.folder / f"notify{workers}") as manager:
        os.chmod(manager.address, 0o777)  # systemd's is open to all as well
        proc = confined.gateway(manager.address)
        proc.wait_line('"event": "gateway ready"')
        manager.wait("READY")
        confined_in_truth(proc.pid)
        client = JvpnClient(
            lab,
            site.client,
            confined.client,
            [f"{CLIENT}/32"],
            {
                "public_key": confined.keys.public,
                "endpoints": [join(SERVER_OUTER[4], PORT)],
                "allowed_ips": ["10.99.0.0/24", "10.3.0.0/24"],
            },
        ).start()
        wait_reachable(site.client, "10.99.0.1")
        ping(site.client, BACKEND[0])  # by NAT, forwarding and the firewall of the confined process
        manager.wait("WATCHDOG")
    assert json.loads(confined.ask("sessions", "--json"))["sessions"][0]["peer"] == "laptop"
    box = site.server.run(
        [
            "curl",
            "-sS",
            "--fail",
            "--unix-socket",
            str(confined.folder / "r/jvpn0.http"),
            "http://localhost/stats",
        ]
    )
    assert json.loads(box.stdout)["box"]["process"]["rss_bytes"] > 0
    assert (confined.folder / "wireguard/jvpn0.sock").is_socket()
    client.stop()
    assert proc.stop() == 0
    assert "warning" not in re.findall(r'"level": "(\w+)"', proc.stdout), proc.stdout
    assert changed(before, host_state(site.server)) == set()
    assert json.loads(confined.ask("audit", "verify", "--json"))["ok"]


def test_a_client_connects_under_those_of_its_unit(lab: Lab, confined: Confined) -> None:
    """As root without root's powers; its /etc is a copy, in which it writes resolv.conf and puts it back."""
    site, folder = confined.site, confined.folder
    gateway_keys = Keys.generate()
    peer = JvpnPeer("office", confined.client.public, [f"{CLIENT}/32"])
    gateway = JvpnGateway(lab, site.server, gateway_keys, ["10.99.0.1/24"], [peer]).start()
    shutil.copytree("/etc", folder / "etc", symlinks=True, dirs_exist_ok=True)
    resolv_conf = folder / "etc/resolv.conf"
    resolv_conf.unlink(missing_ok=True)
    resolv_conf.write_text("nameserver 192.0.2.53\n")
    (folder / "office.toml").touch(mode=0o600)
    (folder / "office.toml").write_text(
        f'[client]\ninterface = "jvc0"\nprivate_key = "{confined.client.private}"\n'
        f'addresses = ["{CLIENT}/32"]\ndns = ["10.99.0.1"]\n'
        f'[gateway]\npublic_key = "{gateway_keys.public}"\nendpoints = ["{join(SERVER_OUTER[4], PORT)}"]\n'
        'allowed_ips = ["10.99.0.0/24"]\n'
    )
    before = host_state(site.client)
    for name in ("cs", "cr"):
        (folder / name).mkdir()
    places = [
        str(folder / "cs"),
        str(folder / "cr"),
        f"{folder / 'etc'}:/etc",
        f"{folder / 'tun'}:/dev/net/tun",
    ]
    env = {
        "STATE_DIRECTORY": str(folder / "cs"),
        "RUNTIME_DIRECTORY": str(folder / "cr"),
        "PYTHONPATH": str(REPO),
    }
    command = [confined.jvpn, "connect", "-c", str(folder / "office.toml")]
    argv = [*python_module("tests.net.confined", str(CLIENT_UNIT), "0", *places), "--", *command]
    proc = site.client.spawn(argv, "confined-client", env)
    proc.wait_line('"event": "interface is up')
    wait_reachable(site.client, "10.99.0.1")
    status = Path(f"/proc/{proc.pid}/status").read_text()
    assert int(re.findall(r"^CapEff:\t(\w+)$", status, re.MULTILINE)[0], 16) == CAPABILITIES | 1 << 19
    assert "nameserver 10.99.0.1" in resolv_conf.read_text()
    assert proc.stop() == 0
    assert resolv_conf.read_text() == "nameserver 192.0.2.53\n"
    assert changed(before, host_state(site.client)) == set()
    gateway.stop()


def confined_in_truth(pid: int) -> None:
    """What the kernel says of the process."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == [str(UID)] * 4 and status["Groups"].strip() == ""
    for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(status[key], 16) == CAPABILITIES, key
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
