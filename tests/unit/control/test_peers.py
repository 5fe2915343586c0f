# SPDX-License-Identifier: Apache-2.0
"""peers.toml and the peer book: durable, atomic, one holder for everything, whoever writes."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.control.config import GatewayConfig, Peer, load_gateway
from gateway.control.configpeers import PeerIndex
from gateway.control.peerbook import PeerBook, check_peers_file, peer_commands, peer_handlers
from gateway.control.peersfile import HEADER, PeersFile
from gateway.errors import ConfigErrors, DataplaneError, HostError, NotFound, Refused, UsageError
from tests.unit.control.samples import GATEWAY, peer, private, public


def gateway(folder: Path, more: str = "") -> GatewayConfig:
    path = folder / "gw.toml"
    path.write_text(GATEWAY + more)
    path.chmod(0o600)
    return load_gateway(path)


def book(folder: Path, more: str = "") -> PeerBook:
    return PeerBook(gateway(folder, more), PeersFile(folder / "state"))


def networks(found: Peer) -> list[str]:
    return [str(network) for network in found.allowed_ips]


POOLS = '[pool]\nipv4 = "10.99.0.0/24"\nipv6 = "fd99::/64"\n'


def test_a_peer_gets_an_address_and_is_there_after_a_restart(tmp_path: Path) -> None:
    added = book(tmp_path, POOLS).add({"name": "phone", "public_key": public(3)})
    assert networks(added) == ["10.99.0.2/32", "fd99::2/128"]
    assert added.managed
    again = book(tmp_path, POOLS)
    assert again.peers == {"phone": added}
    assert networks(again.add({"name": "tablet", "public_key": public(4)})) == ["10.99.0.3/32", "fd99::3/128"]


def test_the_file_is_private_readable_and_says_how_to_edit_it(tmp_path: Path) -> None:
    book(tmp_path).add({"name": "phone", "public_key": public(3), "preshared_key": private(9)})
    path = tmp_path / "state/peers.toml"
    text = path.read_text()
    assert text.startswith(HEADER)
    assert "[[peer]]\n" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["peers.lock", "peers.toml"]


def test_every_field_survives(tmp_path: Path) -> None:
    request = {
        "name": "a.b@c-d_e",
        "public_key": public(3),
        "preshared_key": private(9),
        "allowed_ips": ["10.99.0.9/32", "192.168.0.0/16", "fd99::9/128"],
        "endpoint": "[2001:db8::1]:7",
        "keepalive": "2m",
        "roaming": "never",
        "protocol": "wireguard",
    }
    added = book(tmp_path).add(request)
    (loaded,) = book(tmp_path).peers.values()
    assert loaded == added
    assert loaded.keepalive_s == 120
    assert loaded.preshared_key == b"\x09" * 32


def test_removing_frees_the_name_the_key_and_the_address(tmp_path: Path) -> None:
    peers = book(tmp_path)
    peers.add({"name": "a", "public_key": public(3)})
    peers.add({"name": "b", "public_key": public(4)})
    assert peers.remove("a").name == "a"
    assert peers.remove(public(4)).name == "b"
    assert networks(peers.add({"name": "a", "public_key": public(3)})) == ["10.99.0.2/32"]
    assert list(book(tmp_path).peers) == ["a"]
    with pytest.raises(NotFound, match="'b'"):
        peers.remove("b")


def test_peers_of_the_configuration_stay_in_it(tmp_path: Path) -> None:
    peers = book(tmp_path, peer(3))
    assert not peers.find("p3").managed
    with pytest.raises(Refused, match=r"defined in .*gw\.toml; delete its table there"):
        peers.remove("p3")
    assert not (tmp_path / "state/peers.toml").exists()


@pytest.mark.parametrize(
    ("request_more", "problem"),
    [
        ({"name": "p3"}, r'the name "p3" belongs to peer "p3" \(.*gw\.toml:3\) already'),
        ({"public_key": public(3)}, r'this public key belongs to peer "p3" \(.*gw\.toml:3\)'),
        ({"public_key": public(1)}, "belongs to the gateway itself"),
        ({"allowed_ips": ["10.99.0.3/32"]}, r'10\.99\.0\.3/32 belongs to peer "p3"'),
        ({"allowed_ips": ["10.99.0.1/32"]}, "belongs to the gateway itself"),
        ({"name": "old"}, r'the name "old" belongs to peer "old"'),
        ({"allowed_ips": ["10.99.0.2/32"]}, r'belongs to peer "old"'),
    ],
)
def test_nothing_belongs_to_two(tmp_path: Path, request_more: dict[str, Any], problem: str) -> None:
    peers = book(tmp_path, peer(3))
    peers.add({"name": "old", "public_key": public(5)})
    before = (tmp_path / "state/peers.toml").read_bytes()
    with pytest.raises(Refused, match=problem):
        peers.add({"name": "new", "public_key": public(4), **request_more})
    assert (tmp_path / "state/peers.toml").read_bytes() == before
    assert networks(peers.add({"name": "fine", "public_key": public(6)})) == ["10.99.0.4/32"]


@pytest.mark.parametrize(
    ("request_more", "problem"),
    [
        ({"name": ""}, "peer.name: is missing"),
        ({"name": "a b"}, "peer.name: .* is not a peer name"),
        ({"name": 7}, "peer.name: must be a string"),
        ({"public_key": "x"}, "peer.public_key: not a WireGuard key"),
        ({"public_key": None}, "peer.public_key: must be"),
        ({"allowed_ips": ["10.0.0.1/8"]}, "did you mean 10.0.0.0/8"),
        ({"allowed_ips": "10.0.0.0/8"}, "peer.allowed_ips: must be a list"),
        ({"preshared_key_file": "/etc/shadow"}, "cannot be given here"),
        ({"carrier": "tls"}, "does not exist yet"),
        ({"surprise": 1}, "peer.surprise: unknown key"),
    ],
)
def test_requests_are_checked_like_the_file(
    tmp_path: Path, request_more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        book(tmp_path).add({"name": "new", "public_key": public(4), **request_more})


def test_duplicates_over_both_files_are_refused_with_both_places(tmp_path: Path) -> None:
    book(tmp_path).add({"name": "p3", "public_key": public(4)})
    config = gateway(tmp_path, peer(3))
    for attempt in (
        lambda: PeerBook(config, PeersFile(tmp_path / "state")),
        lambda: check_peers_file(config, PeersFile(tmp_path / "state")),
    ):
        with pytest.raises(ConfigErrors, match=r"peers\.toml:5: peer\[0\]\.name: .*gw\.toml:3\)"):
            attempt()


def test_configured_peers_without_addresses_keep_what_they_got(tmp_path: Path) -> None:
    bare = f'[[peer]]\nname = "bare"\npublic_key = "{public(7)}"\n'
    first = book(tmp_path, POOLS + bare)
    assert networks(first.find("bare")) == ["10.99.0.2/32", "fd99::2/128"]
    first.add({"name": "phone", "public_key": public(3)})
    earlier = f'[[peer]]\nname = "earlier"\npublic_key = "{public(8)}"\n'
    second = book(tmp_path, POOLS + earlier + bare)
    assert networks(second.find("bare")) == ["10.99.0.2/32", "fd99::2/128"]
    assert networks(second.find("phone")) == ["10.99.0.3/32", "fd99::3/128"]
    assert networks(second.find("earlier")) == ["10.99.0.4/32", "fd99::4/128"]


def test_addresses_given_earlier_are_given_anew_when_the_pool_moved_or_somebody_has_them(
    tmp_path: Path,
) -> None:
    bare = f'[[peer]]\nname = "bare"\npublic_key = "{public(7)}"\n'
    book(tmp_path, bare)
    moved = book(tmp_path, '[pool]\nipv4 = "10.5.0.0/24"\n' + bare)
    assert networks(moved.find("bare")) == ["10.5.0.2/32"]
    taken = book(tmp_path, '[pool]\nipv4 = "10.5.0.0/24"\n' + bare + peer(9).replace("10.99.0.9", "10.5.0.2"))
    assert networks(taken.find("bare")) == ["10.5.0.3/32"]


def test_an_empty_pool_is_an_answer_not_a_half_added_peer(tmp_path: Path) -> None:
    peers = book(tmp_path, '[pool]\nipv4 = "10.5.0.0/30"\n')
    peers.add({"name": "a", "public_key": public(3)})
    with pytest.raises(Refused, match="no free address left"):
        peers.add({"name": "b", "public_key": public(4)})
    assert list(book(tmp_path, '[pool]\nipv4 = "10.5.0.0/30"\n').peers) == ["a"]


def test_two_books_see_each_other(tmp_path: Path) -> None:
    one, other = book(tmp_path), book(tmp_path)
    one.add({"name": "a", "public_key": public(3)})
    assert networks(other.add({"name": "b", "public_key": public(4)})) == ["10.99.0.3/32"]
    with pytest.raises(Refused):
        one.add({"name": "b", "public_key": public(5)})
    one.remove("b")
    assert list(book(tmp_path).peers) == ["a"]


ADDER = """
import sys
from pathlib import Path
from gateway.control.config import load_gateway
from gateway.control.peerbook import PeerBook
from gateway.control.peersfile import PeersFile
from gateway.control.keysfile import encode_key
folder, number = Path(sys.argv[1]), int(sys.argv[2])
book = PeerBook(load_gateway(folder / "gw.toml"), PeersFile(folder / "state"))
for step in range(10):
    key = encode_key(bytes([number, step]) + bytes(29) + b"\\x09")
    book.add({"name": f"w{number}-{step}", "public_key": key})
"""


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    gateway(tmp_path)
    writers = [
        subprocess.Popen([sys.executable, "-c", ADDER, str(tmp_path), str(number)]) for number in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = PeerBook(load_gateway(tmp_path / "gw.toml"), PeersFile(tmp_path / "state")).peers
    assert len(found) == 30
    assert len({found[name].allowed_ips for name in found}) == 30


def test_the_lock_also_holds_between_threads(tmp_path: Path) -> None:
    file, seen = PeersFile(tmp_path), []
    with file.locked():
        waiter = threading.Thread(target=lambda: [_enter(PeersFile(tmp_path)), seen.append("in")])
        waiter.start()
        waiter.join(0.05)
        assert seen == []
    waiter.join(5)
    assert seen == ["in"]


def _enter(file: PeersFile) -> None:
    with file.locked():
        pass


def test_a_failed_write_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = book(tmp_path)
    peers.add({"name": "a", "public_key": public(3)})
    before = (tmp_path / "state/peers.toml").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.control.statedir.os.fsync", full)
    with pytest.raises(HostError, match="No space left"):
        peers.add({"name": "b", "public_key": public(4)})
    monkeypatch.undo()
    assert (tmp_path / "state/peers.toml").read_bytes() == before
    assert sorted(entry.name for entry in (tmp_path / "state").iterdir()) == ["peers.lock", "peers.toml"]
    assert networks(peers.add({"name": "b", "public_key": public(4)})) == ["10.99.0.3/32"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[peer]]\nname = 'x'\n", r"peers\.toml:1: peer\[0\]\.public_key: is missing"),
        ("[gateway]\n", r"peers\.toml:1: gateway: unknown key"),
        ("[assigned]\nx = ['10.0.0.1']\n", r"peers\.toml:2: assigned\.x: not a WireGuard key"),
        ("nonsense", r"peers\.toml:1: not valid TOML"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "peers.toml").write_text(text)
    with pytest.raises(ConfigErrors, match=message):
        PeersFile(tmp_path).read(PeerIndex())


def test_documents_show_no_secret_unless_asked(tmp_path: Path) -> None:
    peers = book(tmp_path, 'endpoint = "vpn.example.net:51820"\ndns = ["9.9.9.9"]\n')
    peers.add({"name": "phone", "public_key": public(3), "preshared_key": private(9)})
    shown = peers.peer_document("phone")
    assert shown["schema"] == "jvpn.peer/1"
    assert shown["peer"]["has_preshared_key"] is True
    assert private(9) not in str(shown)
    assert private(9) not in str(peers.list_document())
    assert peers.peer_document("phone", reveal=True)["peer"]["preshared_key"] == private(9)
    assert shown["gateway"] == {
        "interface": "jvpn0",
        "public_key": public(1),
        "endpoint": "vpn.example.net:51820",
        "listen": ["0.0.0.0:51820", "[::]:51820"],
        "mtu": 1404,
        "dns": ["9.9.9.9"],
        "routes": ["10.99.0.0/24"],
    }
    with_nat = book(tmp_path, "[nat]\nenabled = true\n")
    assert with_nat.peer_document("phone")["gateway"]["routes"] == ["0.0.0.0/0", "::/0"]


def test_what_another_writer_did_reaches_the_data_plane(tmp_path: Path) -> None:
    installed: dict[str, Peer] = {}
    peers, other = book(tmp_path, peer(9)), book(tmp_path, peer(9))
    commands = peer_commands(
        peers, lambda new: installed.update({new.name: new}), lambda gone: installed.pop(gone.name)
    )
    other.add({"name": "a", "public_key": public(3)})
    commands["peer.list"]({})
    assert list(installed) == ["a"]
    other.remove("a")
    changed = other.add({"name": "a", "public_key": public(4)})
    other.add({"name": "b", "public_key": public(5)})
    commands["peer.add"]({"name": "c", "public_key": public(6)})
    assert installed["a"] == changed
    assert sorted(installed) == ["a", "b", "c"]
    assert other.sync()[1] == []
    assert peers.sync() == ([], [])
    commands["peer.remove"]({"name": "a"})
    assert sorted(installed) == ["b", "c"]


def test_handlers_tell_the_data_plane_and_undo_what_it_refuses(tmp_path: Path) -> None:
    installed: list[str] = []
    peers = book(tmp_path)

    def install(added: Peer) -> None:
        if added.name == "bad":
            raise DataplaneError("the table is full")
        installed.append(added.name)

    commands = peer_commands(peers, install, lambda gone: installed.remove(gone.name))
    assert commands["peer.add"]({"name": "a", "public_key": public(3)})["peer"]["name"] == "a"
    with pytest.raises(DataplaneError):
        commands["peer.add"]({"name": "bad", "public_key": public(4)})
    assert installed == ["a"]
    assert [row["name"] for row in commands["peer.list"]({})["peers"]] == ["a"]
    assert commands["peer.remove"]({"name": "a"})["schema"] == "jvpn.peer-removed/1"
    assert installed == []
    for name in ("peer.remove", "peer.show"):
        with pytest.raises(UsageError):
            commands[name]({})
        with pytest.raises(NotFound):
            commands[name]({"name": "a"})
    handlers = peer_handlers(peers, install, lambda _: None)
    assert set(handlers) == set(commands)
    assert asyncio.run(handlers["peer.list"]({}))["schema"] == "jvpn.peers/1"


# --- a peer that exists is allowed something else -------------------------------------------------------------------


def test_a_managed_peer_changes_in_the_file_and_a_configured_one_until_it_is_read(tmp_path: Path) -> None:
    text = POOLS + peer(3)
    held = book(tmp_path, text)
    phone = held.add({"name": "phone", "public_key": public(7)})
    held.change(replace(phone, keepalive_s=9, allowed_ips=(ip_network("10.99.0.50/32"),)))
    held.change(replace(held.find("p3"), preshared_key=bytes(range(32))))
    assert held.find("p3").preshared_key == held.configured[0].preshared_key == bytes(range(32))
    # Somebody else writes the file: what was said of the configured peer still holds.
    book(tmp_path, text).add({"name": "tablet", "public_key": public(8)})
    appeared, vanished = held.sync()
    assert ([one.name for one in appeared], vanished) == (["tablet"], [])
    assert held.find("p3").preshared_key == bytes(range(32))
    again = book(tmp_path, text)
    assert (again.find("phone").keepalive_s, networks(again.find("phone"))) == (9, ["10.99.0.50/32"])
    assert again.find("p3").preshared_key is None
    held.follow(held.prepared(gateway(tmp_path, text)))
    assert held.find("p3").preshared_key is None


def test_a_change_takes_nothing_from_another_peer(tmp_path: Path) -> None:
    held = book(tmp_path, POOLS + peer(3) + peer(4))
    before = dict(held.peers)
    with pytest.raises(Refused, match="belongs to"):
        held.change(replace(before["p3"], allowed_ips=before["p4"].allowed_ips))
    assert held.peers == before
    # What it gave up is free again, for others and from the pool.
    held.change(replace(before["p3"], allowed_ips=(ip_network("10.50.0.0/16"),)))
    held.change(replace(before["p4"], allowed_ips=before["p3"].allowed_ips))
    with pytest.raises(NotFound):
        held.change(replace(before["p3"], name="nobody"))


def test_another_configuration_is_followed_whole_or_not_at_all(tmp_path: Path) -> None:
    held = book(tmp_path, POOLS + peer(3))
    held.add({"name": "phone", "public_key": public(7), "allowed_ips": ["10.99.0.9/32"]})
    before = dict(held.peers)
    with pytest.raises(ConfigErrors, match="belongs to"):
        held.follow(held.prepared(gateway(tmp_path, POOLS + peer(9))))
    assert held.peers == before
    fresh = held.prepared(gateway(tmp_path, POOLS + peer(5)))
    held.add({"name": "tablet", "public_key": public(8)})  # meanwhile
    held.follow(fresh)
    assert list(held.peers) == ["p5", "phone", "tablet"]
