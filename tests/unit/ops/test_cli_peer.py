# SPDX-License-Identifier: Apache-2.0
"""`jvpn keys`, `jvpn peer` and `jvpn config check`, on files and against a running daemon."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest
import segno

from gateway.control.config import load_gateway, parse_client
from gateway.control.keysfile import decode_key, encode_key, public_key
from gateway.control.peerbook import PeerBook, peer_handlers
from gateway.control.peersfile import PeersFile
from gateway.control.statedir import bootstrap_gateway
from gateway.ops.cli.qr import qr_text
from tests.unit.control.samples import CLIENT, GATEWAY, WGQUICK, peer, private, public
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import serving

# --- keys -------------------------------------------------------------------------------------------------------


def test_keys_pipe_like_wg(jvpn: Jvpn) -> None:
    key = jvpn("keys", "gen").stdout
    assert jvpn("keys", "pub", stdin=key).stdout.strip() == encode_key(public_key(decode_key(key.strip())))
    wg = subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True, check=True).stdout
    assert jvpn("keys", "pub", stdin=key).stdout == wg
    assert len(decode_key(jvpn("keys", "psk").stdout.strip())) == 32


def test_keys_in_files(jvpn: Jvpn, places: Path) -> None:
    path = places / "own.key"
    shown = jvpn("keys", "gen", "-o", path).stdout.strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert shown != path.read_text().strip()
    assert jvpn("keys", "pub", path).stdout.strip() == shown
    again = jvpn("keys", "gen", "-o", path)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "never overwritten" in again.stderr
    assert jvpn("keys", "psk", "-o", places / "psk").stdout == ""


@pytest.mark.parametrize("stdin", ["", "hello", "A" * 44, b"\xff\xfe"])
def test_keys_pub_of_garbage(jvpn: Jvpn, stdin: str | bytes) -> None:
    found = jvpn("keys", "pub", stdin=stdin)
    assert found.exit_code == 2
    assert found.stderr.startswith("jvpn: standard input: not ")


# --- peers without a daemon -------------------------------------------------------------------------------------


def test_the_first_peer_makes_the_gateway_and_says_so(jvpn: Jvpn, places: Path) -> None:
    found = jvpn("peer", "add", "phone", "--psk", "--gateway-endpoint", "vpn.example.net:51820")
    assert found.exit_code == 0
    assert "made a private key" in found.stderr
    assert "no gateway runs here, changed" in found.stderr
    assert "kept nowhere else" in found.stderr
    config = load_gateway(places / "state/gateway.toml")
    client = parse_client(found.stdout, "phone.conf")
    (gateway,) = client.gateways
    assert gateway.public_key == config.public_key
    assert [str(endpoint) for endpoint in gateway.endpoints] == ["vpn.example.net:51820"]
    assert [str(network) for network in gateway.allowed_ips] == ["0.0.0.0/0", "::/0"]
    (stored,) = PeerBook(config, PeersFile(places / "state")).peers.values()
    assert stored.public_key == client.public_key
    assert stored.preshared_key == gateway.preshared_key
    assert [address.network for address in client.addresses] == list(stored.allowed_ips)
    assert encode_key(client.private_key) not in (places / "state/peers.toml").read_text()


def test_a_peer_with_its_own_key(jvpn: Jvpn) -> None:
    args = ["--public-key", public(3), "--allowed-ip", "10.77.0.9/32", "--allowed-ip", "192.168.7.0/24"]
    args += [
        "--endpoint",
        "192.0.2.7:1",
        "--keepalive",
        "25s",
        "--roaming",
        "never",
        "--protocol",
        "wireguard",
    ]
    found = jvpn("peer", "add", "office", *args, "--route", "10.0.0.0/8", "--gateway-endpoint", "g:1")
    assert found.exit_code == 0
    assert "PrivateKey = <the private key of this peer" in found.stdout
    assert "Address = 10.77.0.9/32\n" in found.stdout
    assert "AllowedIPs = 10.0.0.0/8\n" in found.stdout
    document = json.loads(jvpn("peer", "show", "office", "--json").stdout)
    assert document["peer"] == {
        "name": "office",
        "public_key": public(3),
        "has_preshared_key": False,
        "allowed_ips": ["10.77.0.9/32", "192.168.7.0/24"],
        "endpoint": "192.0.2.7:1",
        "keepalive_s": 25,
        "roaming": "never",
        "protocol": "wireguard",
        "managed": True,
    }
    assert (document["schema"], document["source"]) == ("jvpn.peer/1", "file")


def test_show_has_placeholders_unless_told_more(jvpn: Jvpn, places: Path) -> None:
    text = jvpn("peer", "add", "phone", "--psk", "--gateway-endpoint", "g:1").stdout
    config = parse_client(text, "x.conf")
    secret, psk = encode_key(config.private_key), encode_key(config.gateways[0].preshared_key or b"")
    found = jvpn("peer", "show", "phone", "--gateway-endpoint", "g:1")
    assert "PresharedKey = <hidden; --reveal shows it>" in found.stdout
    assert "not stored here" in found.stdout
    assert "not stored here" in found.stderr
    assert (
        psk
        not in found.output
        + jvpn("peer", "show", "phone", "--json").output
        + jvpn("peer", "list", "--json").output
    )
    assert psk in jvpn("peer", "show", "phone", "--reveal").stdout
    key_file = places / "phone.key"
    key_file.write_text(secret)
    key_file.chmod(0o600)
    complete = jvpn(
        "peer", "show", "phone", "--reveal", "--private-key-file", key_file, "--gateway-endpoint", "g:1"
    )
    assert complete.stdout == text
    key_file.write_text(private(9))
    wrong = jvpn("peer", "show", "phone", "--private-key-file", key_file)
    assert (wrong.exit_code, wrong.stdout) == (2, "")


def test_qr_codes(jvpn: Jvpn) -> None:
    found = jvpn("peer", "add", "phone", "--qr", "--gateway-endpoint", "g:1")
    text, _, code = found.stdout.partition("█")
    assert parse_client(text, "phone.conf").gateways
    assert set(code) <= set(" ▀▄█\n")
    shown = jvpn("peer", "show", "phone", "--qr", "--gateway-endpoint", "g:1")
    assert "[Interface]" not in shown.stdout
    assert "no app takes the code" in shown.stderr
    assert "\x1b" not in found.stdout + shown.stdout


def test_a_qr_code_holds_the_modules_of_the_code() -> None:
    matrix = [
        [bool(module) for module in row]
        for row in segno.make("hello", error="l", micro=False).matrix_iter(border=4)
    ]
    plain, coloured = qr_text("hello", colour=False).split("\n"), qr_text("hello", colour=True).split("\n")
    dark = {" ": (True, True), "▄": (True, False), "▀": (False, True), "█": (False, False)}
    rows = [[dark[char][half] for char in line] for line in plain for half in (0, 1)]
    assert rows[: len(matrix)] == matrix
    assert all(line.startswith("\x1b[38;5;16;48;5;231m") and line.endswith("\x1b[0m") for line in coloured)


def test_mistakes_change_nothing_and_lose_no_key(jvpn: Jvpn, places: Path) -> None:
    bootstrap_gateway(places / "state")
    for args, code, problem in (
        (["a b"], 2, "not a peer name"),
        (["a", "--public-key", "x"], 2, "not a WireGuard key"),
        (["a", "--allowed-ip", "10.0.0.1/8"], 2, "did you mean 10.0.0.0/8"),
        (["a", "--route", "x"], 2, "--route: "),
        (["a", "--gateway-endpoint", "x"], 2, "--gateway-endpoint: "),
        (["a", "--keepalive", "25"], 2, "not a duration"),
        (["a", "--roaming", "x"], 2, "Invalid value"),
        (["a", "--psk", "--qr", "--endpoint", "tls://x:1"], 2, "does not exist yet"),
    ):
        found = jvpn("peer", "add", *args)
        assert (found.exit_code, found.stdout) == (code, ""), args
        assert problem in found.stderr
    assert not (places / "state/peers.toml").exists()


def test_list_remove_and_their_errors(jvpn: Jvpn, places: Path) -> None:
    missing = jvpn("peer", "list")
    assert missing.exit_code == 4
    assert "jvpn gateway" in missing.stderr
    jvpn("peer", "add", "phone")
    assert jvpn("peer", "add", "phone").exit_code == 5
    rows = jvpn("peer", "list").stdout.splitlines()
    assert rows[0].split() == ["NAME", "PUBLIC", "KEY", "ALLOWED", "IPS", "ENDPOINT", "DEFINED", "BY"]
    assert rows[1].startswith("phone ")
    document = json.loads(jvpn("peer", "list", "--json").stdout)
    assert document["schema"] == "jvpn.peers/1"
    assert [row["name"] for row in document["peers"]] == ["phone"]
    assert jvpn("peer", "remove", "nobody").exit_code == 4
    assert jvpn("peer", "show", "nobody").exit_code == 4
    assert jvpn("peer", "remove", "phone").exit_code == 0
    assert "no peers" in jvpn("peer", "list").stdout


def test_another_configuration(jvpn: Jvpn, places: Path) -> None:
    path = places / "gw.toml"
    path.write_text(GATEWAY + peer(3))
    assert jvpn("peer", "list", "-c", path).stdout.splitlines()[1].split()[-1] == "configuration"
    refused = jvpn("peer", "remove", "p3", "-c", path)
    assert refused.exit_code == 5
    assert "delete its table there" in refused.stderr
    path.write_text(GATEWAY + "mtu = 1\n")
    broken = jvpn("peer", "list", "-c", path)
    assert broken.exit_code == 2
    assert broken.stderr.startswith(f"jvpn: {path}:3: gateway.mtu: ")


def test_the_gateways_address_is_guessed_aloud(jvpn: Jvpn) -> None:
    found = jvpn("peer", "add", "phone")
    assert "gateway.endpoint is not configured" in found.stderr
    assert "Endpoint = " in found.stdout


# --- peers of a running daemon ----------------------------------------------------------------------------------


def test_a_running_gateway_does_the_work(jvpn: Jvpn, places: Path) -> None:
    made = bootstrap_gateway(places / "state")
    installed: list[str] = []
    book = PeerBook(load_gateway(made.config_path), PeersFile(places / "state"))
    handlers = peer_handlers(
        book, lambda new: installed.append(new.name), lambda gone: installed.remove(gone.name)
    )
    with serving(places / "run/jvpn0.sock", handlers):
        found = jvpn("peer", "add", "phone", "--psk")
        assert found.exit_code == 0
        assert "the running gateway serves it already" in found.stderr
        assert installed == ["phone"]
        assert json.loads(jvpn("peer", "list", "--json").stdout)["source"] == "daemon"
        assert jvpn("peer", "add", "phone").exit_code == 5
        assert jvpn("peer", "show", "nobody").exit_code == 4
        assert jvpn("peer", "show", "phone", "-i", "jvpn0").exit_code == 0
        assert jvpn("peer", "show", "phone", "--socket", places / "run/jvpn0.sock").exit_code == 0
        assert jvpn("peer", "remove", "phone").exit_code == 0
        assert installed == []


def test_a_client_is_no_gateway(jvpn: Jvpn, places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {}):
        found = jvpn("peer", "list")
    assert found.exit_code == 2
    assert "unknown command" in found.stderr


def test_a_named_daemon_that_does_not_run_is_not_replaced_by_the_file(jvpn: Jvpn, places: Path) -> None:
    bootstrap_gateway(places / "state")
    assert jvpn("peer", "list", "-i", "jvpn0").exit_code == 3
    assert jvpn("peer", "list", "--socket", places / "x.sock").exit_code == 3


# --- config check -----------------------------------------------------------------------------------------------


def test_config_check_of_good_files(jvpn: Jvpn, places: Path) -> None:
    files = {"gw.toml": GATEWAY, "vpn.toml": CLIENT, "wg0.conf": WGQUICK}
    for name, text in files.items():
        (places / name).write_text(text)
        (places / name).chmod(0o600)
    found = jvpn("config", "check", *[places / name for name in files])
    assert found.exit_code == 0
    assert found.stderr == ""
    assert [line.rpartition(": ")[2] for line in found.stdout.splitlines()] == [
        "ok (gateway)",
        "ok (client)",
        "ok (client)",
    ]
    assert [(places / name).read_text() for name in files] == list(files.values())


def test_config_check_lists_every_mistake_of_every_file(jvpn: Jvpn, places: Path) -> None:
    (places / "gw.toml").write_text(GATEWAY + "mtu = 1\nfoo = 2\n")
    (places / "wg0.conf").write_text(WGQUICK.replace("MTU = 1400", "PostUp = reboot"))
    found = jvpn("config", "check", places / "gw.toml", places / "wg0.conf", places / "none.toml")
    assert found.exit_code == 2
    assert found.stdout == ""
    starts = [":3: gateway.mtu", ":4: gateway.foo", ":6: Interface.PostUp", ": No such file"]
    assert len(found.stderr.splitlines()) == 4
    assert all(start in line for start, line in zip(starts, found.stderr.splitlines(), strict=True))


def test_config_check_as_json(jvpn: Jvpn, places: Path) -> None:
    (places / "gw.toml").write_text(GATEWAY + "mtu = 1\n")
    found = jvpn("config", "check", places / "gw.toml", "--json")
    assert found.exit_code == 2
    document = json.loads(found.stdout)
    assert (document["schema"], document["ok"]) == ("jvpn.config-check/1", False)
    (error,) = document["files"][0]["errors"]
    assert (error["key"], error["line"]) == ("gateway.mtu", 3)
    assert error["problem"].startswith("1 is out of range")


def test_config_check_warns_of_open_files(jvpn: Jvpn, places: Path) -> None:
    (places / "gw.toml").write_text(GATEWAY)
    (places / "gw.toml").chmod(0o644)
    found = jvpn("config", "check", places / "gw.toml")
    assert found.exit_code == 0
    assert "warning: " in found.stderr


def test_config_check_with_the_peers_of_the_state(jvpn: Jvpn, places: Path) -> None:
    path = places / "state/gateway.toml"
    jvpn("peer", "add", "p3")
    assert jvpn("config", "check", path).exit_code == 0
    path.write_text(path.read_text() + peer(3))
    found = jvpn("config", "check", path)
    assert found.exit_code == 2
    assert "peers.toml:5: peer[0].name" in found.stderr
