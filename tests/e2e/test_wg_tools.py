# SPDX-License-Identifier: Apache-2.0
"""`jvpn wg` under WireGuard's own tools: `wg`, wg-quick and `ip` do everything, wireguard-go is at the other end.

left (jvpn wg) ─────── right (wireguard-go)          away: where an interface may be moved to
10.1.0.1            10.1.0.2
fd01::1              fd01::2
└── tunnel 10.9.0.1, fd09::1 ── 10.9.0.2, fd09::2
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.net.lab import Lab, Link, Namespace, missing_requirements
from tests.net.traffic import TcpServer, ping, tcp_send, wait_reachable
from tests.net.wg import SOCKETS, JvpnWgDevice, Keys, WgDevice, WgPeer, WgQuick, generate_psk

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "wg", "wg-quick", "wireguard-go", "nft"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

COMMAND: Final = str(Path(sys.executable).with_name("jvpn-wg"))
LEFT: Final = ("10.9.0.1/24", "fd09::1/64")
RIGHT: Final = ("10.9.0.2/24", "fd09::2/64")
PORT: Final = 51820
# Points of low order (RFC 7748 §6.1): 0, 1, and one of order 8.
LOW_ORDER: Final = (
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
)


@dataclass(slots=True)
class Bed:
    """The namespaces of the picture."""

    left: Namespace
    right: Namespace
    away: Namespace
    link: Link


@pytest.fixture(scope="module")
def bed(lab: Lab) -> Bed:
    left, right, away = (lab.namespace(role) for role in ("left", "right", "away"))
    return Bed(left, right, away, lab.link(left, right, "10.1.0.0/24", "fd01::/64"))


@dataclass(slots=True)
class Empty:
    """An interface of ours that runs in the background and that nobody has set up yet."""

    lab: Lab
    namespace: Namespace
    interface: str

    @property
    def socket(self) -> Path:
        return SOCKETS / f"{self.interface}.sock"

    def start(self, **env: str) -> subprocess.CompletedProcess[str]:
        self.lab.remove_later(self.socket)
        return self.namespace.run([COMMAND, self.interface], env=env, check=False)

    def wg(self, *words: str, stdin: str = "", check: bool = True) -> str:
        return self.namespace.run(["wg", *words], stdin=stdin, check=check).stdout.strip()

    def set(self, *words: str, stdin: str = "") -> None:
        self.wg("set", self.interface, *words, stdin=stdin)

    def show(self, what: str) -> str:
        return self.wg("show", self.interface, what)

    def refusal(self, *words: str) -> str:
        done = self.namespace.run(["wg", "set", self.interface, *words], check=False)
        assert done.returncode != 0
        return done.stderr.strip()

    def ask(self, text: str) -> str:
        """Write to the socket itself, and read until it says how that went."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self.socket))
            client.sendall(text.encode())
            said = ""
            while not said.endswith("\n\n"):
                said += client.recv(65536).decode()
            return said


@pytest.fixture
def empty(lab: Lab, bed: Bed) -> Iterator[Empty]:
    made = Empty(lab, bed.left, f"jw{secrets.token_hex(4)}")
    done = made.start()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    yield made
    for namespace in (bed.left, bed.away):
        namespace.ip("link", "del", made.interface, check=False)
    wait_until(lambda: not made.socket.exists(), "the process to end")


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


def key_file(lab: Lab, key: str) -> str:
    path = lab.tmp / f"key{secrets.token_hex(4)}"
    path.touch(mode=0o600)
    path.write_text(key + "\n")
    return str(path)


def pair(lab: Lab, bed: Bed, *, outer: int = 4) -> tuple[JvpnWgDevice, WgDevice]:
    """Both ends set up by `wg setconf` and started; ours calls."""
    ours, theirs, psk = Keys.generate(), Keys.generate(), generate_psk()
    host = {4: "10.1.0.2", 6: "[fd01::2]"}[outer]
    to_right = WgPeer(theirs.public, ("10.9.0.2/32", "fd09::2/128"), f"{host}:{PORT}", psk)
    to_left = WgPeer(ours.public, ("10.9.0.1/32", "fd09::1/128"), None, psk)
    right = WgDevice(lab, bed.right, theirs, RIGHT, [to_left], listen_port=PORT).start()
    left = JvpnWgDevice(lab, bed.left, ours, LEFT, [to_right]).start()
    return left, right


@pytest.mark.parametrize("outer", [4, 6])
def test_traffic_and_what_wg_shows_of_it(lab: Lab, bed: Bed, outer: int) -> None:
    left, right = pair(lab, bed, outer=outer)
    wait_reachable(bed.left, "10.9.0.2")
    assert ping(bed.right, "fd09::1").ok
    with TcpServer(bed.right):
        assert tcp_send(bed.left, "10.9.0.2", 2_000_000).ok
    ours, theirs = left.peer(), right.peer()
    assert ours.endpoint == {4: f"10.1.0.2:{PORT}", 6: f"[fd01::2]:{PORT}"}[outer]
    assert set(ours.allowed_ips) == {"10.9.0.2/32", "fd09::2/128"}
    assert abs(ours.latest_handshake_s - theirs.latest_handshake_s) <= 1
    assert abs(ours.latest_handshake_s - time.time()) < 30
    assert ours.tx_bytes > 2_000_000 < theirs.rx_bytes
    assert ours.rx_bytes > 0 < theirs.tx_bytes
    assert left.peer() == ours or left.peer().rx_bytes >= ours.rx_bytes
    left.stop()
    right.stop()


def test_an_interface_is_empty_at_first_and_private(empty: Empty) -> None:
    assert empty.wg("show", empty.interface, "dump") == "(none)\t(none)\t0\toff"
    assert empty.socket.stat().st_mode & 0o777 == 0o600
    assert "mtu 1420" in empty.namespace.ip("link", "show", empty.interface)
    assert empty.interface in empty.wg("show", "interfaces").split()
    assert empty.ask("get=1\n\n") == "errno=0\n\n"


def test_a_name_that_is_served_is_refused(empty: Empty) -> None:
    again = empty.start()
    assert again.returncode == 1
    assert "jvpn: " in again.stderr
    assert empty.show("dump") == "(none)\t(none)\t0\toff"


@pytest.mark.parametrize("how", ["interface", "socket"])
def test_it_ends_when_its_interface_or_its_socket_is_removed(empty: Empty, how: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(empty.socket))
        pid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    assert os.getsid(pid) == pid
    if how == "socket":
        empty.socket.unlink()
    else:
        empty.namespace.ip("link", "del", empty.interface)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end")
    assert empty.interface not in empty.namespace.devices()
    assert not empty.socket.exists()


@pytest.mark.parametrize(("level", "words"), [("verbose", "ready"), ("error", ""), ("silent", "")])
def test_how_much_it_says(lab: Lab, bed: Bed, level: str, words: str) -> None:
    device = JvpnWgDevice(lab, bed.left, Keys.generate(), LEFT)
    env = {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": level}
    proc = bed.left.spawn([COMMAND, device.interface], f"level-{level}", env)
    wait_until((SOCKETS / f"{device.interface}.sock").exists, "its socket")
    if words:
        proc.wait_line(words)
    assert proc.stop() == 0
    assert (proc.output == "") == (words == "")


def test_key_and_peers_after_the_interface_was_moved_away(lab: Lab, bed: Bed, empty: Empty) -> None:
    ours, theirs, psk = Keys.generate(), Keys.generate(), generate_psk()
    peer = WgPeer(ours.public, ("10.9.0.1/32",), None, psk)
    right = WgDevice(lab, bed.right, theirs, RIGHT, [peer], listen_port=PORT).start()
    bed.left.ip("link", "set", empty.interface, "netns", bed.away.name)
    empty.set("private-key", key_file(lab, ours.private), "listen-port", "0", "peer", theirs.public,
              "preshared-key", key_file(lab, psk), "allowed-ips", "10.9.0.2/32",
              "endpoint", f"10.1.0.2:{PORT}", "persistent-keepalive", "25")  # fmt: skip
    bed.away.add_address(empty.interface, "10.9.0.1/24")
    assert empty.show("listen-port") == "0"  # nothing listens while it is down
    bed.away.ip("link", "set", empty.interface, "up")
    right.wait_handshake()  # the keepalive alone calls
    wait_reachable(bed.away, "10.9.0.2")
    assert int(empty.show("listen-port")) > 0
    assert empty.show("preshared-keys").split() == [theirs.public, psk]
    bed.away.ip("link", "set", empty.interface, "mtu", "1300")
    assert ping(bed.away, "10.9.0.2").ok
    bed.away.ip("link", "set", empty.interface, "down")
    wait_until(lambda: empty.show("listen-port") == "0", "its sockets to close")
    bed.away.ip("link", "set", empty.interface, "up")
    wait_reachable(bed.away, "10.9.0.2")
    right.stop()


def test_setconf_syncconf_addconf_and_showconf(lab: Lab, bed: Bed) -> None:
    left, right = pair(lab, bed)
    wait_reachable(bed.left, "10.9.0.2")
    before, other = left.peer(), Keys.generate()
    conf = bed.left.run(["wg", "showconf", left.interface]).stdout
    more = f"[Peer]\nPublicKey = {other.public}\nAllowedIPs = 10.77.0.0/16, fd77::/64\n"
    for how, text, count in (("syncconf", conf + more, 2), ("syncconf", conf, 1), ("addconf", more, 2)):
        bed.left.run(["wg", how, left.interface, "/dev/stdin"], stdin=text)
        assert len(left.dump()) == count
        after = left.peer(right.keys.public)
        assert after.latest_handshake_s == before.latest_handshake_s  # the session is the same
        assert after.tx_bytes >= before.tx_bytes
    assert left.peer(other.public).allowed_ips == ("10.77.0.0/16", "fd77::/64")
    bed.left.run(["wg", "setconf", left.interface, "/dev/stdin"], stdin=conf)  # replace_peers
    assert left.peer().latest_handshake_s == 0
    assert bed.left.run(["wg", "showconf", left.interface]).stdout == conf
    wait_reachable(bed.left, "10.9.0.2")
    left.stop()
    right.stop()


def test_allowed_addresses_by_the_thousand(empty: Empty) -> None:
    first, second = Keys.generate().public, Keys.generate().public
    nets = [str(ipaddress.ip_network((0x0A000000 + (n << 8), 24))) for n in range(1000)]
    nets6 = [str(ipaddress.ip_network(f"fd00:{n:x}::/32")) for n in range(1000)]
    empty.set("peer", first, "allowed-ips", ",".join(nets + nets6))
    assert empty.show("allowed-ips").split() == [first, *nets, *nets6]
    empty.set("peer", second, "allowed-ips", ",".join(nets[:500]))  # a prefix has one holder
    held = dict(line.split("\t") for line in empty.show("allowed-ips").splitlines())
    assert held == {first: " ".join(nets[500:] + nets6), second: " ".join(nets[:500])}
    empty.set("peer", first, "allowed-ips", nets[0])  # replaces, and takes it back
    held = dict(line.split("\t") for line in empty.show("allowed-ips").splitlines())
    assert held == {first: nets[0], second: " ".join(nets[1:500])}
    empty.set("peer", second, "remove")
    assert empty.show("peers") == first


def test_a_hundred_thousand_allowed_addresses_come_back_whole(empty: Empty) -> None:
    lines = [f"AllowedIPs = {a}.{b}.0.0/16, {a:02x}{b:02x}::/96" for a in range(1, 256) for b in range(200)]
    head = [
        "[Interface]",
        f"PrivateKey = {Keys.generate().private}",
        "[Peer]",
        f"PublicKey = {Keys.generate().public}",
    ]
    empty.wg("setconf", empty.interface, "/dev/stdin", stdin="\n".join(head + lines) + "\n")
    assert len(empty.show("allowed-ips").split()) == 1 + 2 * 255 * 200


def test_ports_and_marks(lab: Lab, bed: Bed, empty: Empty) -> None:
    empty.set(
        "private-key", key_file(lab, Keys.generate().private), "listen-port", "4711", "fwmark", "0x1234"
    )
    assert (empty.show("listen-port"), empty.show("fwmark")) == ("4711", "0x1234")
    bed.left.ip("link", "set", empty.interface, "up")
    wait_until(lambda: marks(bed.left, 4711) == {"0x1234"}, "its sockets")
    empty.set("fwmark", "off")
    assert (empty.show("fwmark"), marks(bed.left, 4711)) == ("off", {""})
    with bed.left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 4712))
        assert os.strerror(errno.EADDRINUSE) in empty.refusal("listen-port", "4712")
        assert empty.show("listen-port") == "4711"
    empty.set("listen-port", "4712")
    assert marks(bed.left, 4712) == {""}
    empty.set("listen-port", "0")
    drawn = int(empty.show("listen-port"))
    assert drawn not in (0, 4711, 4712)
    assert marks(bed.left, drawn) == {""}
    assert not marks(bed.left, 4712)


def marks(namespace: Namespace, port: int) -> set[str]:
    """What the sockets of a port mark their packets with, as `ss` says it."""
    lines = namespace.run(["ss", "-lunHe", f"sport = :{port}"]).stdout.splitlines()
    found = [[word for word in line.split() if word.startswith("fwmark:")] for line in lines]
    return {words[0].removeprefix("fwmark:") if words else "" for words in found}


def test_a_request_that_is_wrong_is_refused_by_errno_and_changes_nothing(empty: Empty) -> None:
    key = "11" * 32
    wrong = {
        "set=1\nlisten_port=70000\n\n": errno.EINVAL,
        f"set=1\nfwmark=1\npublic_key={key}\nallowed_ip=10.0.0.0/99\n\n": errno.EINVAL,
        "set=1\nfwmark\n\n": errno.EPROTO,
        "put=1\n\n": errno.EINVAL,
        "get=1\nall\n\n": errno.EINVAL,
        "set=1\nfwmark=" + "0" * 5000 + "\n\n": errno.EINVAL,
    }
    for text, number in wrong.items():
        assert empty.ask(text) == f"errno=-{number}\n\n", text[:40]
    assert empty.ask("get=1\n\n") == "errno=0\n\n"
    assert empty.ask("set=1\nfwmark=1\n\n") == "errno=0\n\n"
    assert empty.ask("get=1\n\n") == "fwmark=1\nerrno=0\n\n"


def test_one_connection_carries_many_requests(empty: Empty) -> None:
    assert empty.ask("set=1\nfwmark=7\n\nget=1\n\n").startswith("errno=0\n\n")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(empty.socket))
        client.settimeout(10.0)
        with client.makefile("rb") as answers:
            for _ in range(3):
                client.sendall(b"get=1\n\n")
                assert [answers.readline() for _ in range(3)] == [b"fwmark=7\n", b"errno=0\n", b"\n"]


def test_keys_that_nobody_can_have_are_passed_over(lab: Lab, empty: Empty) -> None:
    points = [word for key in LOW_ORDER for word in ("peer", key)]
    own = Keys.generate()
    empty.set("private-key", "/dev/null", *points)
    assert empty.show("peers") == ""
    empty.set("private-key", key_file(lab, own.private), *points, "peer", own.public)
    assert (empty.show("peers"), empty.show("public-key")) == ("", own.public)
    later = Keys.generate()
    empty.set("peer", later.public)
    assert empty.show("peers") == later.public
    empty.set("private-key", key_file(lab, later.private))  # a peer that turns out to be ourselves goes
    assert empty.show("peers") == ""
    empty.set("private-key", "/dev/null")
    assert empty.show("private-key") == "(none)"


def test_another_private_key_ends_the_session_and_the_right_one_begins_it_again(lab: Lab, bed: Bed) -> None:
    left, right = pair(lab, bed)
    wait_reachable(bed.left, "10.9.0.2")
    for key in ("/dev/null", key_file(lab, Keys.generate().private)):
        bed.left.run(["wg", "set", left.interface, "private-key", key])
        assert ping(bed.left, "10.9.0.2", count=2, wait_s=0.5).received == 0
    bed.left.run(["wg", "set", left.interface, "private-key", key_file(lab, left.keys.private)])
    wait_reachable(bed.left, "10.9.0.2")
    left.stop()
    right.stop()


def test_a_peer_that_moves_is_followed_at_its_next_packet(lab: Lab, bed: Bed) -> None:
    left, right = pair(lab, bed)
    wait_reachable(bed.left, "10.9.0.2")
    right.set_listen_port(PORT + 1)
    assert ping(bed.right, "10.9.0.1").ok
    assert left.peer().endpoint == f"10.1.0.2:{PORT + 1}"
    left.set_listen_port(4999)
    assert ping(bed.left, "10.9.0.2").ok
    assert right.peer().endpoint == "10.1.0.1:4999"
    left.stop()
    right.stop()


def test_wg_quick_up_and_down_with_all_traffic_inside(lab: Lab, bed: Bed) -> None:
    ours, theirs = Keys.generate(), Keys.generate()
    peer = WgPeer(ours.public, ("10.9.0.1/32", "fd09::1/128"))
    right = WgDevice(lab, bed.right, theirs, RIGHT, [peer], listen_port=PORT).start()
    text = "\n".join(
        [
            "[Interface]",
            f"PrivateKey = {ours.private}",
            "Address = 10.9.0.1/24, fd09::1/64",
            *WgPeer(theirs.public, ("0.0.0.0/0", "::/0"), f"10.1.0.2:{PORT}").lines(),
        ]
    )
    quick = WgQuick(lab, bed.left, text + "\n", implementation=COMMAND).start()
    wait_reachable(bed.left, "10.9.0.2")
    assert ping(bed.left, "fd09::2").ok
    assert "fwmark: 0xca6c" in quick.show()
    quick.stop()
    wait_until(lambda: not (SOCKETS / f"{quick.interface}.sock").exists(), "its end")
    assert quick.interface not in bed.left.devices()
    assert bed.left.run(["ip", "rule"]).stdout.count("\n") == 3
    right.stop()


def test_the_same_name_again_at_once(empty: Empty) -> None:
    for number in range(3):
        empty.set("fwmark", str(number + 1))
        empty.namespace.ip("link", "del", empty.interface)
        assert empty.start().returncode == 0
        assert empty.show("fwmark") == "off"  # it is another one


def test_many_peers_with_many_addresses_come_back_whole(empty: Empty) -> None:
    lines = ["[Interface]"]
    for a in range(1, 41):
        lines += ["[Peer]", f"PublicKey = {Keys.generate().public}"]
        lines += [f"AllowedIPs = {a}.{b}.0.0/16" for b in range(52)]
    empty.wg("setconf", empty.interface, "/dev/stdin", stdin="\n".join(lines) + "\n")
    shown = [line.split() for line in empty.show("allowed-ips").splitlines()]
    assert [len(words) for words in shown] == [53] * 40


@dataclass(slots=True)
class Loop:
    """Two interfaces of ours whose sockets share a loopback, each moved to a namespace of its own."""

    one: Empty
    two: Empty
    here: Namespace
    there: Namespace
    keys: tuple[Keys, Keys]

    def endpoints(self, host: str) -> None:
        self.one.set("peer", self.keys[1].public, "endpoint", f"{host}:20000")
        self.two.set("peer", self.keys[0].public, "endpoint", f"{host}:10000")


@pytest.fixture
def loop(lab: Lab) -> Iterator[Loop]:
    """lo (both sockets) in `middle`; 10.9.1.1, fd09:1::1 in `here`, 10.9.1.2, fd09:1::2 in `there`."""
    word = secrets.token_hex(2)
    middle, here, there = (lab.namespace(f"{role}{word}") for role in ("middle", "here", "there"))
    keys, psk = (Keys.generate(), Keys.generate()), key_file(lab, generate_psk())
    ends = [Empty(lab, middle, f"jw{secrets.token_hex(4)}") for _ in range(2)]
    for number, (end, place) in enumerate(zip(ends, (here, there), strict=True)):
        assert end.start().returncode == 0
        middle.ip("link", "set", end.interface, "netns", place.name)
        other = 2 - number
        end.set("private-key", key_file(lab, keys[number].private), "listen-port", f"{number + 1}0000",
                "peer", keys[1 - number].public, "preshared-key", psk,
                "allowed-ips", f"10.9.1.{other}/32,fd09:1::{other}/128")  # fmt: skip
        place.add_address(end.interface, f"10.9.1.{number + 1}/24", f"fd09:1::{number + 1}/64")
        place.ip("link", "set", end.interface, "up")
    yield Loop(ends[0], ends[1], here, there, keys)
    for end, place in zip(ends, (here, there), strict=True):
        place.ip("link", "del", end.interface)
        wait_until(lambda path=end.socket: not path.exists(), "its end")  # type: ignore[misc]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_small_and_huge_packets_between_two_moved_interfaces(loop: Loop, host: str) -> None:
    loop.endpoints(host)
    wait_reachable(loop.here, "10.9.1.2")
    assert ping(loop.there, "fd09:1::1").ok
    for mtu in (1420, 34_736):
        for end, place in ((loop.one, loop.here), (loop.two, loop.there)):
            place.ip("link", "set", end.interface, "mtu", str(mtu))
        whole = ["ping", "-c", "3", "-i", "0.2", "-M", "do", "-s", str(mtu - 28), "10.9.1.2"]
        assert " 3 received" in loop.here.run(whole, check=False).stdout
        with TcpServer(loop.there):
            assert tcp_send(loop.here, "10.9.1.2", 20_000_000).ok


def test_a_source_address_that_goes_is_not_clung_to(loop: Loop) -> None:
    loop.endpoints("127.0.0.1")
    wait_reachable(loop.here, "10.9.1.2")
    middle, peer = loop.one.namespace, loop.keys[1].public
    middle.ip("-4", "addr", "del", "127.0.0.1/8", "dev", "lo")
    middle.ip("-4", "addr", "add", "127.212.121.99/8", "dev", "lo")
    loop.one.set("listen-port", "9999")
    loop.one.set("peer", peer, "endpoint", "127.0.0.1:20000")
    assert ping(loop.here, "fd09:1::2", count=1).ok
    assert loop.two.show("endpoints").split() == [loop.keys[0].public, "127.212.121.99:9999"]
    loop.one.set("listen-port", "9998")
    loop.one.set("peer", peer, "endpoint", "[::1]:20000")
    assert ping(loop.here, "10.9.1.2", count=1).ok
    assert loop.two.show("endpoints").split() == [loop.keys[0].public, "[::1]:9998"]


def test_a_narrower_prefix_of_another_peer_takes_an_address_away(loop: Loop) -> None:
    loop.endpoints("127.0.0.1")
    wait_reachable(loop.here, "10.9.1.2")
    loop.one.set("peer", loop.keys[1].public, "allowed-ips", "10.9.1.0/24")
    assert ping(loop.there, "10.9.1.1", count=1).ok
    other = Keys.generate().public
    loop.one.set("peer", other, "allowed-ips", "10.9.1.2/32")
    loop.two.set("listen-port", "20001")
    assert ping(loop.there, "10.9.1.1", count=2, wait_s=0.5).received == 0
    loop.one.set("peer", other, "remove")
    assert loop.one.show("endpoints").split() == [
        loop.keys[1].public,
        "127.0.0.1:20001",
    ]  # heard all the same
    assert ping(loop.there, "10.9.1.1", count=1).ok
