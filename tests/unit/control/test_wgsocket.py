# SPDX-License-Identifier: Apache-2.0
"""The configuration protocol as text: every key both ways, and what is refused with which errno."""

from __future__ import annotations

import errno
import re
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control import wgsocket
from gateway.control.wgsocket import DeviceState, Fault, PeerState, SetReader, answer, describe

A, B = bytes(range(32)), bytes(range(1, 33))
PEER = f"public_key={A.hex()}"


def read(*lines: str) -> wgsocket.DeviceChange:
    reader = SetReader()
    for line in lines:
        reader.line(line)
    return reader.change


def refused(*lines: str) -> int:
    with pytest.raises(Fault) as fault:
        read(*lines)
    return fault.value.number


def test_nothing_asked_changes_nothing() -> None:
    assert read() == wgsocket.DeviceChange()


def test_an_interface_with_everything() -> None:
    change = read(f"private_key={A.hex().upper()}", "listen_port=51820", "fwmark=51820", "replace_peers=true")
    assert change == wgsocket.DeviceChange(A, 51820, 51820, replace_peers=True)
    assert A.hex() not in repr(change)


def test_a_peer_with_everything() -> None:
    lines = [
        PEER,
        "protocol_version=1",
        f"preshared_key={B.hex()}",
        "endpoint=[fe80::1%eth0]:51820",
        "persistent_keepalive_interval=25",
        "update_only=true",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.1/24",
        "allowed_ip=-fd00::/8",
    ]
    (peer,) = read(*lines).peers
    assert peer == wgsocket.PeerChange(
        A,
        update_only=True,
        preshared_key=B,
        endpoint=("fe80::1%eth0", 51820),
        keepalive_s=25,
        replace_allowed_ips=True,
        allowed_ips=[(True, ip_network("10.0.0.0/24")), (False, ip_network("fd00::/8"))],
    )
    assert B.hex() not in repr(peer)


def test_replacing_forgets_what_the_same_peer_was_given_before() -> None:
    (peer,) = read(PEER, "allowed_ip=10.0.0.0/8", "replace_allowed_ips=true", "allowed_ip=::/0").peers
    assert peer.allowed_ips == [(True, ip_network("::/0"))]


def test_peers_keep_their_order_and_may_come_twice() -> None:
    lines = (PEER, "remove=true", f"public_key={B.hex()}", PEER, "allowed_ip=10.0.0.1/32")
    peers = read(*lines).peers
    assert [(peer.public_key, peer.remove) for peer in peers] == [(A, True), (B, False), (A, False)]


@pytest.mark.parametrize(
    "line",
    [
        "private_key=" + "0" * 63,
        "private_key=" + "g" * 64,
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=",
        "listen_port=١",
        "fwmark=4294967296",
        "fwmark=0x10",
        "replace_peers=false",
        "allowed_ip=10.0.0.0/8",
        "jump=1",
        "public_key=",
    ],
)
def test_what_an_interface_refuses(line: str) -> None:
    assert refused(line) == errno.EINVAL


@pytest.mark.parametrize(
    "line",
    [
        "preshared_key=abc",
        "endpoint=example.net:51820",
        "endpoint=10.0.0.1",
        "endpoint=10.0.0.1:0",
        "endpoint=10.0.0.1:65536",
        "endpoint=::1:51820",
        "endpoint=[10.0.0.1]:51820",
        "persistent_keepalive_interval=65536",
        "persistent_keepalive_interval=off",
        "remove=1",
        "update_only=yes",
        "replace_allowed_ips=",
        "allowed_ip=10.0.0.1",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=fd00::/129",
        "allowed_ip=10.0.0.0/255.0.0.0",
        "protocol_version=2",
        "listen_port=1",
    ],
)
def test_what_a_peer_refuses(line: str) -> None:
    assert refused(PEER, line) == errno.EINVAL


def test_a_line_without_a_value_is_no_line() -> None:
    assert refused("replace_peers") == errno.EPROTO


def test_a_request_has_room_for_a_tunnel_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wgsocket, "PEERS_MAX", 2)
    monkeypatch.setattr(wgsocket, "PREFIXES_MAX", 2)
    assert refused(PEER, PEER, PEER) == errno.E2BIG
    assert refused(*[PEER, "allowed_ip=10.0.0.0/8"] * 2, "allowed_ip=10.0.0.0/8") == errno.E2BIG


@given(st.lists(st.text(max_size=80), max_size=5))
def test_any_text_is_taken_or_refused(lines: list[str]) -> None:
    reader, numbers = SetReader(), set()
    for line in lines:
        try:
            reader.line(line)
        except Fault as fault:
            numbers.add(fault.number)
    assert numbers <= {errno.EINVAL, errno.EPROTO}


def test_errors_leave_negative() -> None:
    assert answer(0) == b"errno=0\n\n"
    assert answer(errno.EADDRINUSE) == b"errno=-98\n\n"


def test_an_empty_interface_says_only_that_all_is_well() -> None:
    assert b"".join(describe(DeviceState(wgsocket.NO_KEY, 0, 0, ()))) == b"errno=0\n\n"


def test_a_full_interface_names_each_thing_once() -> None:
    peer = PeerState(
        A, B, "[::1]:5", 12_000_000_034, 7, 8, 25, (ip_network("10.0.0.0/8"), ip_network("::/0"))
    )
    stock = PeerState(B, wgsocket.NO_KEY, "", 0, 0, 0, 0, ())
    text = b"".join(describe(DeviceState(A, 51820, 7, (peer, stock)))).decode()
    assert text == (
        f"private_key={A.hex()}\nlisten_port=51820\nfwmark=7\n"
        f"public_key={A.hex()}\npreshared_key={B.hex()}\nprotocol_version=1\nendpoint=[::1]:5\n"
        "last_handshake_time_sec=12\nlast_handshake_time_nsec=34\ntx_bytes=8\nrx_bytes=7\n"
        "persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\n"
        f"public_key={B.hex()}\npreshared_key={'0' * 64}\nprotocol_version=1\n"
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"
        "persistent_keepalive_interval=0\nerrno=0\n\n"
    )
    assert not re.search(r"^\s*$", text.removesuffix("\n\n"), re.MULTILINE)
