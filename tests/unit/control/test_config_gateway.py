# SPDX-License-Identifier: Apache-2.0
"""Gateway files: what defaults give, and that every mistake is reported with file, line and key."""

from __future__ import annotations

import time
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from gateway.control.config import (
    Endpoint,
    GatewayConfig,
    load,
    load_gateway,
    parse_client,
    parse_gateway,
)
from gateway.control.keysfile import decode_key, encode_key, write_key_file
from gateway.errors import ConfigError, ConfigErrors
from tests.unit.control.samples import CLIENT, GATEWAY, OWN, peer, private, public


def parse(text: str) -> GatewayConfig:
    return parse_gateway(text, "gw.toml", environ={})


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse(text)
    return [str(error) for error in caught.value.errors]


def test_an_almost_empty_file_works() -> None:
    config = parse(GATEWAY)
    assert config.interface == "jvpn0"
    assert config.listen == (Endpoint("0.0.0.0", 51820), Endpoint("::", 51820))
    assert config.addresses == (ip_interface("10.99.0.1/24"),)
    assert config.pools == (ip_network("10.99.0.0/24"),)
    assert (config.mtu, config.fwmark, config.under_load_per_s) == (1404, 0, 2000)
    assert (config.nat_enabled, config.forward_enabled, config.forward_clients) == (False, True, False)
    assert config.private_key == decode_key(OWN)
    assert encode_key(config.public_key) == public(1)
    assert config.peers == ()
    assert config.endpoint is None
    assert config.control_socket is None


def test_an_empty_file_takes_the_key_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "gw.toml"
    path.write_text("")
    with pytest.raises(ConfigErrors, match=r"gateway\.private_key_file: .*gateway\.key does not exist"):
        load_gateway(path)
    write_key_file(tmp_path / "gateway.key", b"\x01" * 32)
    assert encode_key(load_gateway(path).public_key) == public(1)


FULL = f"""\
[gateway]
interface = "wg7"
private_key_file = "keys/own"
listen = ["192.0.2.1:1000", "[2001:db8::1]:0"]
addresses = ["10.1.0.1/16", "fd99::1/64"]
mtu = 1280
endpoint = "vpn.example.net:51820"
dns = ["9.9.9.9", "2620:fe::fe", "corp.example"]
fwmark = 0x1234
carrier = "udp"
[pool]
ipv4 = "10.1.0.0/16"
ipv6 = "fd99::/64"
[nat]
enabled = true
out_interface = "eth0"
[forward]
enabled = false
clients = true
[handshake]
under_load_per_s = 50
[control]
socket = "/run/other.sock"
[[peer]]
name = "phone"
public_key = "{public(3)}"
preshared_key_file = "credential:phone"
allowed_ips = ["10.1.0.9", "192.168.0.0/24", "fd99::9/128"]
endpoint = "[2001:db8::7]:1"
keepalive = "25s"
roaming = "wireguard"
protocol = "jump"
"""


def test_every_key(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    write_key_file(tmp_path / "keys/own", b"\x01" * 32)
    write_key_file(tmp_path / "phone", b"\x09" * 32)
    config = parse_gateway(FULL, "gw.toml", tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.interface == "wg7"
    assert [str(socket) for socket in config.listen] == ["192.0.2.1:1000", "[2001:db8::1]:0"]
    assert [str(address) for address in config.addresses] == ["10.1.0.1/16", "fd99::1/64"]
    assert [str(server) for server in config.dns.servers] == ["9.9.9.9", "2620:fe::fe"]
    assert config.dns.search == ("corp.example",)
    assert config.dns.texts() == ["9.9.9.9", "2620:fe::fe", "corp.example"]
    assert (config.mtu, config.fwmark, config.under_load_per_s) == (1280, 0x1234, 50)
    assert str(config.endpoint) == "vpn.example.net:51820"
    assert config.pools == (ip_network("10.1.0.0/16"), ip_network("fd99::/64"))
    assert (config.nat_enabled, config.nat_out_interface) == (True, "eth0")
    assert (config.forward_enabled, config.forward_clients) == (False, True)
    assert config.control_socket == Path("/run/other.sock")
    (phone,) = config.peers
    assert (phone.name, phone.roaming, phone.protocol, phone.keepalive_s) == (
        "phone",
        "wireguard",
        "jump",
        25,
    )
    assert phone.preshared_key == b"\x09" * 32
    assert phone.allowed_ips == tuple(map(ip_network, ("10.1.0.9/32", "192.168.0.0/24", "fd99::9/128")))
    assert phone.endpoint == Endpoint("2001:db8::7", 1)
    assert not phone.managed


def test_repr_holds_no_secret(tmp_path: Path) -> None:
    text = repr(parse(GATEWAY + peer(3, more=f'preshared_key = "{private(9)}"\n')))
    for secret in (b"\x01" * 32, b"\x09" * 32):
        assert repr(secret)[2:-1] not in text
        assert encode_key(secret) not in text


def test_addresses_come_from_the_pools_and_pools_from_the_addresses() -> None:
    config = parse(GATEWAY + '[pool]\nipv6 = "fd01::/64"\nipv4 = "10.5.0.0/16"\n')
    assert [str(address) for address in config.addresses] == ["10.5.0.1/16", "fd01::1/64"]
    config = parse(GATEWAY + 'addresses = ["fd01::5/64", "10.5.0.9/24", "10.6.0.1/32"]\n')
    assert [str(pool) for pool in config.pools] == ["10.5.0.0/24", "fd01::/64"]
    assert parse(GATEWAY + 'addresses = ["10.6.0.1/32"]\n').pools == ()


def test_a_peer_without_a_name_is_called_after_its_key() -> None:
    (found,) = parse(GATEWAY + f'[[peer]]\npublic_key = "{public(3)}"\n').peers
    assert found.name == f"peer-{decode_key(public(3))[:8].hex()}"
    assert found.allowed_ips == ()


@pytest.mark.parametrize(
    ("lines", "count", "threads"),
    [
        ("", 1, 0),
        ("[workers]\n", 1, 0),
        ("[workers]\ncount = 1\n", 1, 0),
        ("[workers]\nnative = true\n", 1, 1),
        ("[workers]\nnative = false\n", 1, 0),
        ("[workers]\ncount = 2\n", 2, 2),
        ("[workers]\ncount = 16\nnative = true\n", 16, 16),
    ],
)
def test_several_workers_are_native_ones(lines: str, count: int, threads: int) -> None:
    for workers in (parse(GATEWAY + lines).workers, parse_client(CLIENT + lines).workers):
        assert (workers.count, workers.native, workers.threads) == (count, threads > 0, threads)


# (lines after GATEWAY, which has two; line of the mistake; key; part of the problem)
MISTAKES = [
    ("mtu = 575", 3, "gateway.mtu", "out of range: 576 to 65000"),
    ("mtu = 65001", 3, "gateway.mtu", "out of range"),
    ('mtu = 1279\n[pool]\nipv6 = "fd01::/64"', 3, "gateway.mtu", "IPv6 needs 1280"),
    ('mtu = "1420"', 3, "gateway.mtu", "must be a whole number, not a string in quotes"),
    ("mtu = true", 3, "gateway.mtu", "must be a whole number, not true or false"),
    ("mtuu = 1", 3, "gateway.mtuu", 'unknown key; did you mean "mtu"?'),
    ('interface = "a/b"', 3, "gateway.interface", "not an interface name"),
    ('interface = "sixteen-letters-"', 3, "gateway.interface", "1 to 15"),
    ('interface = ".."', 3, "gateway.interface", "not an interface name"),
    ('private_key_file = "x"', 3, "gateway.private_key_file", "keep one of them"),
    ("listen = []", 3, "gateway.listen", "is empty"),
    ('listen = [\n  "0.0.0.0:1",\n  "0.0.0.0:99999",\n]', 5, "gateway.listen[1]", "not a port"),
    ('listen = ["vpn.example:1"]', 3, "gateway.listen[0]", "literal addresses"),
    ('listen = ["0.0.0.0"]', 3, "gateway.listen[0]", "has no port"),
    ('listen = ["::1:80"]', 3, "gateway.listen[0]", "needs brackets"),
    ('listen = ["[::]:1", "[::]:1"]', 3, "gateway.listen[1]", "twice"),
    ("listen = [1]", 3, "gateway.listen[0]", "must be a string"),
    ('listen = "0.0.0.0:1"', 3, "gateway.listen", "must be a list"),
    ('addresses = ["10.0.0.1/33"]', 3, "gateway.addresses[0]", "not an address"),
    ('addresses = ["10.0.0.1/24", "10.0.0.1/16"]', 3, "gateway.addresses[1]", "twice"),
    (
        'addresses = ["10.0.0.1/24"]\n[pool]\nipv4 = "10.1.0.0/24"',
        3,
        "gateway.addresses[0]",
        "not inside the pool",
    ),
    ('endpoint = "vpn.example.net"', 3, "gateway.endpoint", "has no port"),
    ('endpoint = "vpn example:1"', 3, "gateway.endpoint", "neither an address nor a host name"),
    ('endpoint = "1.2.3:1"', 3, "gateway.endpoint", "not an IPv4 address"),
    ('endpoint = "[fd::x]:1"', 3, "gateway.endpoint", "not an IPv6 address"),
    ('endpoint = "tls://vpn.example.net:443"', 3, "gateway.endpoint", "does not exist yet"),
    ('endpoint = "http://vpn.example.net:443"', 3, "gateway.endpoint", "unknown carrier"),
    ('carrier = "tls"', 3, "gateway.carrier", '"tls" carrier does not exist yet'),
    ('carrier = "icmp"', 3, "gateway.carrier", "unknown carrier"),
    ('dns = ["9.9.9"]', 3, "gateway.dns[0]", "neither a DNS server"),
    ("fwmark = -1", 3, "gateway.fwmark", "out of range"),
    ("fwmark = 0x1_0000_0000", 3, "gateway.fwmark", "out of range"),
    ('[pool]\nipv4 = "10.0.0.1/24"', 4, "pool.ipv4", "did you mean 10.0.0.0/24?"),
    ('[pool]\nipv4 = "fd00::/64"', 4, "pool.ipv4", "not an IPv4 prefix"),
    ('[pool]\nipv4 = "10.0.0.0/31"', 4, "pool.ipv4", "too small"),
    ('[pool]\nipv6 = "fd00::/127"', 4, "pool.ipv6", "too small"),
    ("[nat]\nenabled = 1", 4, "nat.enabled", "must be true or false"),
    ('[nat]\nout_interface = "jvpn0"', 4, "nat.out_interface", "the tunnel itself"),
    ('[nat]\nout_interface = "a b"', 4, "nat.out_interface", "not an interface name"),
    ("[handshake]\nunder_load_per_s = 0", 4, "handshake.under_load_per_s", "out of range"),
    ("[workers]\ncount = 0", 4, "workers.count", "out of range: 1 to 16"),
    ("[workers]\ncount = 17", 4, "workers.count", "out of range: 1 to 16"),
    ("[workers]\ncount = true", 4, "workers.count", "must be a whole number"),
    ("[workers]\nnative = 1", 4, "workers.native", "must be true or false, not a whole number"),
    ("[workers]\ncount = 2\nnative = false", 5, "workers.native", "write count = 1, or leave native out"),
    ('[control]\nsocket = "run.sock"', 4, "control.socket", "absolute path"),
    (f'[control]\nsocket = "/{"x" * 107}"', 4, "control.socket", "107 bytes"),
    ("[tunnel]", 3, "tunnel", "unknown key"),
    ("[[nat]]\nenabled = true", 3, "nat", "must be a table"),
    ("[[peer]]\nname = 'x'", 3, "peer[0].public_key", "is missing"),
    ("[[peer]]\npublic_key = 'x'", 4, "peer[0].public_key", "1 characters instead of 44"),
    (f"[[peer]]\npublic_key = '{'A' * 43}='", 4, "peer[0].public_key", "low-order"),
    (peer(3, more="preshared_key = 'x'"), 7, "peer[0].preshared_key", "not a WireGuard key"),
    (peer(3, more="preshared_key_file = '/nonexistent'"), 7, "peer[0].preshared_key_file", "does not exist"),
    (peer(3, more="preshared_key_file = 'credential:x'"), 7, "peer[0].preshared_key_file", "LoadCredential"),
    (peer(3, more="endpoint = '10.0.0.1'"), 7, "peer[0].endpoint", "has no port"),
    (peer(3, more="endpoint = '10.0.0.1:0'"), 7, "peer[0].endpoint", "not a port"),
    (peer(3, more="keepalive = '25'"), 7, "peer[0].keepalive", "such as 300ms, 25s, 8h"),
    (peer(3, more="keepalive = 25"), 7, "peer[0].keepalive", "must be a string in quotes"),
    (peer(3, more="keepalive = '300ms'"), 7, "peer[0].keepalive", "whole seconds"),
    (peer(3, more="keepalive = '65536s'"), 7, "peer[0].keepalive", "whole seconds"),
    (peer(3, more="roaming = 'wiregard'"), 7, "peer[0].roaming", 'did you mean "wireguard"?'),
    (peer(3, more="protocol = 'x'"), 7, "peer[0].protocol", '"auto", "jump", "wireguard"'),
    (peer(3, more="carrier = 'tls'"), 7, "peer[0].carrier", "does not exist yet"),
    (peer(3, more="allowed_ip = []"), 7, "peer[0].allowed_ip", 'did you mean "allowed_ips"?'),
    (peer(3).replace('"p3"', '"a b"'), 4, "peer[0].name", "not a peer name"),
    (peer(3).replace('"p3"', '"a\\u0000b"'), 4, "peer[0].name", "not a peer name"),
    (
        peer(3).replace(".3/32", ".3/24"),
        6,
        "peer[0].allowed_ips[0]",
        "host bits set; did you mean 10.99.0.0/24",
    ),
    (peer(3).replace("10.99.0.3/32", "fe80::1%eth0"), 6, "peer[0].allowed_ips[0]", "not a network prefix"),
    (peer(3).replace("10.99.0.3/32", "0.0.0.0/99"), 6, "peer[0].allowed_ips[0]", "not a network prefix"),
    (peer(3).replace('"10.99.0.3/32"', '"fd::/64", "fd::/64"'), 6, "peer[0].allowed_ips", "twice"),
    (peer(1).replace(".1/32", ".9/32"), 5, "peer[0].public_key", "belongs to the gateway itself"),
    (peer(3).replace(".3/32", ".1/32"), 6, "peer[0].allowed_ips[0]", "belongs to the gateway itself"),
    (
        peer(3) + peer(4).replace("p4", "p3"),
        8,
        "peer[1].name",
        'the name "p3" belongs to peer "p3" (gw.toml:3)',
    ),
    (
        peer(3) + peer(4).replace(public(4), public(3)),
        9,
        "peer[1].public_key",
        'belongs to peer "p3" (gw.toml:3)',
    ),
    (
        peer(3) + peer(4).replace(".4/32", ".3/32"),
        10,
        "peer[1].allowed_ips[0]",
        'belongs to peer "p3" (gw.toml:3)',
    ),
    ("[peer]\nname = 'x'", 3, "peer", "must be a list"),
]


@pytest.mark.parametrize(
    ("lines", "line", "key", "problem"), MISTAKES, ids=[f"{m[2]}-{n}" for n, m in enumerate(MISTAKES)]
)
def test_a_mistake_is_reported_alone_with_file_line_and_key(
    lines: str, line: int, key: str, problem: str
) -> None:
    found = mistakes(GATEWAY + lines + "\n")
    assert len(found) == 1
    assert found[0].startswith(f"gw.toml:{line}: {key}: ")
    assert problem in found[0]


def test_all_mistakes_are_reported_at_once_in_file_order() -> None:
    text = (
        GATEWAY
        + 'mtu = 1\nfoo = 1\n[pool]\nipv4 = "x"\n'
        + peer(3, more="keepalive = 'x'\nroaming = 1\n")
        + "[bar]\n"
    )
    assert [found.split(": ")[:2] for found in mistakes(text)] == [
        ["gw.toml:3", "gateway.mtu"],
        ["gw.toml:4", "gateway.foo"],
        ["gw.toml:6", "pool.ipv4"],
        ["gw.toml:11", "peer[0].keepalive"],
        ["gw.toml:12", "peer[0].roaming"],
        ["gw.toml:13", "bar"],
    ]


def test_the_error_carries_its_parts() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(GATEWAY + "mtu = 1\n")
    (error,) = caught.value.errors
    assert (error.file, error.key, error.line, error.exit_code) == ("gw.toml", "gateway.mtu", 3, 2)
    assert isinstance(caught.value, ConfigError)


def test_secrets_never_stand_in_a_message() -> None:
    almost = private(9)[:-2] + "B="
    (found,) = mistakes(f'[gateway]\nprivate_key = "{almost}"\n')
    assert found.startswith("gw.toml:2: gateway.private_key: ")
    assert almost not in found


SYNTAX = [
    ("[gateway]\nmtu = \n", "gw.toml:2: gateway.mtu: not valid TOML"),
    ("[gateway]\nmtu = 1\nmtu = 2\n", "gw.toml:3: gateway.mtu: not valid TOML: Cannot overwrite"),
    ('[gateway]\n\ninterface = "a', "gw.toml:3: gateway.interface: not valid TOML"),
    ("[gateway\n", "gw.toml:1: not valid TOML"),
    ("a\0b = 1\n", "gw.toml:1: not valid TOML"),
]


@pytest.mark.parametrize(("text", "message"), SYNTAX)
def test_what_is_not_toml(text: str, message: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(message)


def test_a_wg_quick_file_is_not_for_a_gateway() -> None:
    (found,) = mistakes("[Interface]\nPrivateKey = x\n")
    assert "only `jvpn connect` reads" in found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing, binary = tmp_path / "none.toml", tmp_path / "binary.toml"
    binary.write_bytes(b"[gateway]\n# \xff\n")
    with pytest.raises(ConfigErrors, match=r"none\.toml: No such file"):
        load_gateway(missing)
    with pytest.raises(ConfigErrors, match=r"binary\.toml:2: not UTF-8"):
        load_gateway(binary)
    with pytest.raises(ConfigErrors, match="Is a directory"):
        load(tmp_path)


def test_a_byte_order_mark_and_dos_lines_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "gw.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GATEWAY.replace("\n", "\r\n").encode() + b"mtu = 1\r\n")
    with pytest.raises(ConfigErrors, match=r"gw\.toml:3: gateway\.mtu"):
        load_gateway(path)


def test_key_files_that_everybody_can_read_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "gw.toml"
    path.write_text('\n[gateway]\nprivate_key_file = "k"\n')
    write_key_file(tmp_path / "k", b"\x01" * 32)
    path.chmod(0o644)
    assert load_gateway(path).warnings == ()
    (tmp_path / "k").chmod(0o640)
    assert load_gateway(path).warnings == ()
    for mode in (0o644, 0o602):
        (tmp_path / "k").chmod(mode)
        with pytest.raises(ConfigErrors) as caught:
            load_gateway(path)
        assert str(caught.value).startswith(f"{path}:3: gateway.private_key_file: ")
        assert f"chmod 600 {tmp_path}/k" in str(caught.value)


def test_every_secret_may_be_a_credential_of_the_unit(tmp_path: Path) -> None:
    """Inside the unit all of them are read; outside the file can be checked all the same, each with a warning."""
    text = """\
[gateway]
private_key_file = "credential:key"
[stats]
listen = ["0.0.0.0:9"]
token_file = "credential:token"
tls_cert_file = "credential:cert"
tls_key_file = "credential:tls"
tls_client_ca_file = "credential:ca"
"""
    text += peer(3, more='preshared_key_file = "credential:psk"\n')
    for name in ("key", "psk"):
        write_key_file(tmp_path / name, (name.encode() * 11)[:32].ljust(32))
    for name in ("token", "cert", "tls", "ca"):
        (tmp_path / name).touch(mode=0o400)
        (tmp_path / name).write_text("0123456789abcdef")
    inside = parse_gateway(text, "g.toml", Path("/"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert inside.stats.token == b"0123456789abcdef" and inside.stats.tls is not None
    assert (inside.stats.tls.key, inside.warnings) == (tmp_path / "tls", ())
    assert inside.private_key.startswith(b"keykey")
    assert inside.peers[0].preshared_key is not None and inside.peers[0].preshared_key.startswith(b"pskpsk")
    with pytest.raises(ConfigErrors) as caught:
        parse_gateway(text, "g.toml", Path("/"), {})
    assert str(caught.value).count("CREDENTIALS_DIRECTORY is not set") == 6
    outside = parse_gateway(text, "g.toml", Path("/"), {}, outside=True)
    assert (
        len(outside.warnings) == 6
        and "g.toml:2: gateway.private_key_file: credential:key" in outside.warnings[0]
    )
    wrong = text.replace("credential:token", "credential:../token")
    with pytest.raises(ConfigErrors, match="not the name of a systemd credential"):
        parse_gateway(wrong, "g.toml", Path("/"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_readable_file_with_a_key_in_it_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "gw.toml"
    path.write_text(GATEWAY)
    path.chmod(0o644)
    assert any("holds a secret" in warning for warning in load_gateway(path).warnings)
    path.chmod(0o600)
    assert load_gateway(path).warnings == ()


def test_ten_thousand_peers_take_less_than_two_seconds() -> None:
    rows = [f'[gateway]\nprivate_key = "{OWN}"\naddresses = ["10.0.0.1/8"]\n']
    for number in range(10_000):
        key = encode_key((number + 1_000_000).to_bytes(32, "little"))
        rows.append(
            f'[[peer]]\npublic_key = "{key}"\nallowed_ips = ["10.1.{number >> 8}.{number & 255}/32"]\n'
        )
    text = "\n".join(rows)
    start = time.process_time()
    assert len(parse(text).peers) == 10_000
    assert time.process_time() - start < 2
