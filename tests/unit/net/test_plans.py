# SPDX-License-Identifier: Apache-2.0
"""What needs no kernel: listen addresses, which prefixes swallow the tunnel, the shape of the rulesets."""

from __future__ import annotations

import itertools
import json
import os
import resource
import socket
from contextlib import suppress
from typing import Any

import pytest

from gateway.errors import HostError
from gateway.net import clientnet, nft, sysctl, udp
from gateway.net.steps import family_of


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("0.0.0.0:51820", ("0.0.0.0", 51820)),
        ("[::]:0", ("::", 0)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ],
)
def test_listen_addresses(text: str, parsed: tuple[str, int]) -> None:
    assert udp.parse_listen(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "0.0.0.0",
        "0.0.0.0:",
        "0.0.0.0:65536",
        "::1:5",
        "[0.0.0.0]:5",
        "host:5",
        "1.2.3.4:x",
        "[::]:1 ",
        "1.2.3:4",
    ],
)
def test_listen_addresses_that_are_none(text: str) -> None:
    with pytest.raises(HostError):
        udp.parse_listen(text)


def test_nothing_to_listen_on() -> None:
    with pytest.raises(HostError):
        udp.open_listen([])


def test_a_port_in_use_on_loopback_names_this_process() -> None:
    with udp.open_udp("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            HostError, match=rf"127\.0\.0\.1:{port}: Address already in use.*\(pid {os.getpid()}\)"
        ):
            udp.open_udp("127.0.0.1", port)


def test_several_workers_may_share_a_port() -> None:
    sockets = udp.open_shared("127.0.0.1", 0, workers=4)
    (where,) = {sock.getsockname() for sock in sockets}
    senders = [udp.open_udp("127.0.0.1", 0) for _ in range(64)]
    for sender in senders:
        sender.sendto(b"one", where)
        sender.sendto(b"two", where)
    try:
        taken = [received(sock) for sock in sockets]
        assert all(taken), "64 flows leave no worker of four without one"
        assert sorted(itertools.chain(*taken)) == sorted(2 * [sender.getsockname() for sender in senders])
        for one, other in itertools.combinations(map(set, taken), 2):
            assert not one & other, "a flow stays with its worker"
    finally:
        udp.close_all([*sockets, *senders])


def received(sock: socket.socket) -> list[Any]:
    """Who sent what waits in a socket."""
    senders = []
    with suppress(BlockingIOError):
        while True:
            senders.append(sock.recvfrom(16)[1])
    return senders


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shared_port_is_in_use_for_the_next_group(workers: int) -> None:
    """Joining it unnoticed would take away half of the other gateway's clients."""
    sockets = udp.open_shared("127.0.0.1", 0, workers=2)
    try:
        with pytest.raises(HostError, match="Address already in use"):
            udp.open_shared("127.0.0.1", sockets[0].getsockname()[1], workers=workers)
    finally:
        udp.close_all(sockets)


def test_a_group_that_cannot_be_whole_is_closed() -> None:
    """There is one descriptor left, and it is free again afterwards."""
    with open("/dev/null", "rb") as next_free:
        number = next_free.fileno()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, hard))
    try:
        for _ in range(2):
            with pytest.raises(HostError, match="Too many open files"):
                udp.open_shared("127.0.0.1", 0, workers=2)
        udp.open_shared("127.0.0.1", 0, workers=1)[0].close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("prefix", "swallows"),
    [
        ("0.0.0.0/0", True),
        ("::/0", True),
        ("128.0.0.0/1", True),
        ("8000::/1", True),
        ("198.51.100.0/24", True),
        ("2001:db8::/32", True),
        ("10.0.0.0/8", False),
        ("198.51.101.0/24", False),
    ],
)
def test_prefixes_that_would_take_the_tunnels_own_packets(prefix: str, swallows: bool) -> None:
    assert clientnet._swallows(prefix, ["198.51.100.7", "2001:db8::7"]) is swallows


def test_families() -> None:
    assert [family_of(text) for text in ("10.0.0.1", "10.0.0.1/24", "::/0")] == [4, 4, 6]


def test_rulesets_replace_their_table_in_one_transaction() -> None:
    for rules in (
        nft.nat_ruleset("jv0", pools4=["10.9.0.0/24"], pools6=["fd09::/64"]),
        nft.client_ruleset("jv0", fwmark=7, addresses=["10.9.0.2/32"]),
    ):
        commands = rules["nftables"]
        assert [next(iter(command)) for command in commands[:3]] == ["add", "delete", "add"]
        text = json.dumps(commands)
        assert '"fwd"' not in text
        assert text.count("jvpn_jv0") == len(commands)


def test_a_setting_this_kernel_lacks() -> None:
    assert sysctl.read("net/ipv4/absent") is None
    with pytest.raises(HostError, match=r"cannot set net\.ipv4\.absent = 1"):
        sysctl.write("net/ipv4/absent", "1")


def test_a_setting_that_is_right_is_not_written() -> None:
    """So a read-only /proc is no error then: kernel/version can never be written."""
    value = sysctl.read("kernel/version")
    assert value
    sysctl.ensure("kernel/version", value, pytest.fail)
