# SPDX-License-Identifier: Apache-2.0
"""TUN devices and UDP sockets as the kernel gives them."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import socket
import struct
import sys
from contextlib import suppress
from functools import partial

import pytest

from gateway.errors import HostError
from gateway.net import tun, udp
from gateway.net.netlink import Netlink
from gateway.net.rtnl import Rtnl
from gateway.net.steps import Link, Route, Rule
from tests.netns.net_bed import NEAR, OUTSIDE, Bed, bed, in_namespace, needs_root

pytestmark = [needs_root]
__all__ = ["bed"]


def test_a_plain_tun(bed: Bed) -> None:
    device = in_namespace(bed.machine, lambda: tun.open_tun("jv0"))
    assert (device.name, device.features) == ("jv0", frozenset())
    assert os.get_blocking(device.fd) is False
    assert os.get_inheritable(device.fd) is False
    with pytest.raises(BlockingIOError):
        os.read(device.fd, 2048)
    device.close()
    assert "jv0" not in bed.ip(bed.machine, "link")


def test_all_offloads_of_this_kernel(bed: Bed) -> None:
    device = in_namespace(bed.machine, lambda: tun.open_tun("jv0", vnet_hdr=True))
    assert {"vnet_hdr", "csum", "tso4", "tso6"} <= device.features
    device.close()


@pytest.mark.parametrize(
    ("steps", "features"),
    [
        ((1 << 30, *tun.OFFLOAD_STEPS[1:]), {"vnet_hdr", "csum", "tso4", "tso6"}),
        ((1 << 30, 1 << 29, 0), {"vnet_hdr"}),
    ],
)
def test_offloads_step_down(bed: Bed, steps: tuple[int, ...], features: set[str]) -> None:
    """Bits the kernel does not know are what USO is to an old one."""
    device = in_namespace(bed.machine, lambda: tun.open_tun("jv0", vnet_hdr=True, offload_steps=steps))
    assert device.features == features
    device.close()


@pytest.mark.parametrize(
    ("offload", "features"),
    [
        ("full", {"vnet_hdr", "csum", "tso4", "tso6", "uso4", "uso6"}),
        ("no-uso", {"vnet_hdr", "csum", "tso4", "tso6"}),
        ("no-tso", {"vnet_hdr"}),
        ("off", set()),
    ],
)
def test_a_configuration_may_want_less(bed: Bed, offload: tun.Offload, features: set[str]) -> None:
    device = in_namespace(bed.machine, lambda: tun.open_with("jv0", offload))
    assert device.features <= features
    assert device.features >= features - {"uso4", "uso6"}  # Linux 6.2
    device.close()


def test_a_driver_without_the_header(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel of today lacks it, so the answer to the question is what is replaced."""
    monkeypatch.setattr(tun, "_flags_known", lambda fd: tun.IFF_TUN | tun.IFF_NO_PI)
    device = in_namespace(bed.machine, lambda: tun.open_with("jv0", "full"))
    assert device.features == frozenset()
    device.close()


def test_a_persistent_device_may_come_with_another_header(bed: Bed) -> None:
    """Twelve bytes, as its last holder wanted: what is read afterwards begins with ten again."""
    machine = bed.machine
    bed.ip(machine, "tuntap add jv0 mode tun vnet_hdr")
    last = in_namespace(machine, lambda: tun.open_tun("jv0", vnet_hdr=True))
    fcntl.ioctl(last.fd, tun.TUNSETVNETHDRSZ, struct.pack("=i", 12))
    last.close()
    device = in_namespace(machine, lambda: tun.open_with("jv0", "full"))
    bed.ip(machine, "address add 10.77.0.1/24 dev jv0")
    bed.ip(machine, "link set jv0 up")
    with in_namespace(machine, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.sendto(b"x" * 100, ("10.77.0.2", 9))
    found = [packet for packet in read_all(device.fd) if packet[10] == 0x45]
    assert [len(packet) for packet in found] == [10 + 20 + 8 + 100]
    device.close()
    bed.ip(machine, "link del jv0")


def read_all(fd: int) -> list[bytes]:
    """What waits in a device."""
    packets = []
    with suppress(BlockingIOError):
        while True:
            packets.append(os.read(fd, 65_600))
    return packets


@pytest.mark.parametrize("offload", ["full", "no-tso", "off"])
def test_the_queues_of_one_device(bed: Bed, offload: tun.Offload) -> None:
    """Every queue has its share of the flows, and all have the same header and offloads."""
    machine = bed.machine
    device = in_namespace(machine, lambda: tun.open_with("jv0", offload, queues=3))
    single = in_namespace(machine, lambda: tun.open_with("jv1", offload))
    assert device.features == single.features | {"multi_queue"}
    assert single.more == ()
    single.close()
    queues = (device.fd, *device.more)
    assert len(set(queues)) == 3
    assert not any(os.get_blocking(fd) or os.get_inheritable(fd) for fd in queues)
    bed.ip(machine, "address add 10.77.0.1/24 dev jv0")
    bed.ip(machine, "link set jv0 up")
    for _ in range(64):
        with in_namespace(machine, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.sendto(b"x" * 100, ("10.77.0.2", 9))
    header_bytes = tun.VNET_HEADER_BYTES if "vnet_hdr" in device.features else 0
    found = [[p for p in read_all(fd) if p[header_bytes] == 0x45] for fd in queues]
    assert all(found), [len(packets) for packets in found]
    assert {len(packet) for packet in itertools.chain(*found)} == {header_bytes + 20 + 8 + 100}
    assert sum(map(len, found)) == 64
    device.close()
    assert "jv0" not in bed.ip(machine, "link")


@pytest.mark.parametrize(("held", "wanted"), [(1, 1), (2, 2), (2, 1), (1, 2)])
def test_a_device_that_is_held_is_not_joined(bed: Bed, held: int, wanted: int) -> None:
    """The kernel would let a second process read half of the packets of a device with several queues."""
    device = in_namespace(bed.machine, lambda: tun.open_tun("jv0", queues=held))
    with pytest.raises(HostError, match="cannot create interface jv0"):
        in_namespace(bed.machine, lambda: tun.open_tun("jv0", queues=wanted))
    device.close()
    in_namespace(bed.machine, lambda: tun.open_tun("jv0", queues=wanted)).close()


def test_a_name_of_another_kind_of_interface(bed: Bed) -> None:
    with pytest.raises(HostError, match="of another kind"):
        in_namespace(bed.machine, lambda: tun.open_tun("near"))


@pytest.mark.parametrize(("host", "version"), [("0.0.0.0", 4), ("::", 6)])
def test_a_socket_reports_where_a_datagram_was_sent_to(bed: Bed, host: str, version: int) -> None:
    with in_namespace(bed.outside, lambda: udp.open_udp(host, 7000)) as sock:
        assert sock.getblocking() is False
        with in_namespace(bed.machine, lambda: udp.open_udp(host, 0)) as near:
            near.sendto(b"x", (OUTSIDE[version], 7000))
        sock.setblocking(True)
        data, ancillary, _, source = sock.recvmsg(100, 256)
        assert (data, source[0]) == (b"x", NEAR[version])
        ((_, kind, info),) = ancillary
        if version == 4:
            assert kind == udp.IP_PKTINFO
            assert socket.inet_ntoa(info[8:12]) == OUTSIDE[4]
        else:
            assert socket.inet_ntop(socket.AF_INET6, info[:16]) == OUTSIDE[6]


def test_outer_ipv4_packets_may_be_fragmented(bed: Bed) -> None:
    with in_namespace(bed.machine, lambda: udp.open_udp("0.0.0.0", 0)) as near:
        assert near.getsockopt(socket.IPPROTO_IP, udp.IP_MTU_DISCOVER) == udp.IP_PMTUDISC_DONT
        raw = bed.socket(bed.outside, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        with raw:
            near.sendto(b"y" * 100, (OUTSIDE[4], 7000))
            frame = raw.recv(2048)
    (flags,) = struct.unpack_from("!H", frame, 14 + 6)
    assert flags & 0x4000 == 0


def test_buffers_beyond_the_limit(bed: Bed) -> None:
    with in_namespace(bed.machine, lambda: udp.open_udp("0.0.0.0", 0, buffer_bytes=16 << 20)) as sock:
        assert udp.granted_buffers(sock) == (16 << 20, 16 << 20)


def test_bound_to_a_device(bed: Bed) -> None:
    with in_namespace(bed.machine, lambda: udp.open_udp("0.0.0.0", 0, device="near")) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"near"
    with pytest.raises(HostError, match="interface nothere: No such device"):
        in_namespace(bed.machine, lambda: udp.open_udp("0.0.0.0", 0, device="nothere"))


def test_a_port_in_use_names_its_holder(bed: Bed) -> None:
    with (
        in_namespace(bed.machine, lambda: udp.open_udp("0.0.0.0", 7000)),
        pytest.raises(HostError) as refusal,
    ):
        in_namespace(bed.machine, lambda: udp.open_udp("0.0.0.0", 7000))
    assert f"(pid {os.getpid()}) uses it" in str(refusal.value)


def test_listen_on_both_families_with_one_port(bed: Bed) -> None:
    for workers in (1, 3):
        ports = in_namespace(bed.machine, partial(udp.open_listen, ["0.0.0.0:0", "[::]:0"], workers=workers))
        assert [[sock.family for sock in port] for port in ports] == [
            [socket.AF_INET] * workers,
            [socket.AF_INET6] * workers,
        ]
        sockets = list(itertools.chain(*ports))
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        udp.close_all(sockets)


def test_listen_closes_what_it_opened_when_one_fails(bed: Bed) -> None:
    with in_namespace(bed.machine, lambda: udp.open_udp("::", 7001)):
        with pytest.raises(HostError, match=r"cannot listen on UDP \[::\]:7001"):
            in_namespace(bed.machine, lambda: udp.open_listen(["0.0.0.0:7000", "[::]:7001"]))
        with pytest.raises(HostError, match=r"cannot listen on UDP \[::\]:7001"):
            in_namespace(bed.machine, lambda: udp.open_listen(["0.0.0.0:7000", "[::]:7001"], workers=2))
        in_namespace(bed.machine, lambda: udp.open_udp("0.0.0.0", 7000)).close()


def test_rtnl_is_idempotent(bed: Bed) -> None:
    def work() -> None:
        rtnl = Rtnl()
        route = Route(prefix="10.70.0.0/16", via="192.0.2.1", device="near", metric=5)
        route6 = Route(prefix="fd70::/64", device="near", table=70)
        rule = Rule(family=6, priority=70, table=70, fwmark=7, invert=True)
        for _ in range(2):
            rtnl.configure_link("near", addresses=["10.71.0.1/24", "fd71::1/64"], mtu_bytes=1400)
        assert {"10.71.0.1/24", "fd71::1/64"} <= set(rtnl.addresses("near"))
        assert [rtnl.add_route(item) for item in (route, route, route6, route6)] == [True, False, True, False]
        assert [rtnl.add_rule(rule), rtnl.add_rule(rule)] == [True, False]
        assert route in rtnl.routes(4)
        assert rule in rtnl.rules(6)
        assert [rtnl.del_route(item) for item in (route, route, route6, route6)] == [True, False, True, False]
        assert [rtnl.del_rule(rule), rtnl.del_rule(rule)] == [True, False]
        assert rtnl.del_route(Route(prefix="10.70.0.0/16", device="absent")) is False
        rtnl.close()

    in_namespace(bed.machine, work)


def test_rtnl_names_what_is_wrong(bed: Bed) -> None:
    def work() -> None:
        rtnl = Rtnl()
        assert rtnl.link("absent") is None
        assert rtnl.addresses("absent") == []
        assert rtnl.delete_link("absent") is False
        with pytest.raises(HostError, match="there is no interface absent"):
            rtnl.configure_link("absent", addresses=[], mtu_bytes=1420)
        with pytest.raises(HostError, match="there is no interface absent"):
            rtnl.add_route(Route(prefix="10.0.0.0/8", device="absent"))
        bed.ip(bed.machine, "route del default")
        with pytest.raises(HostError, match="no route leads there"):
            rtnl.route_to(OUTSIDE[4])
        rtnl.close()

    in_namespace(bed.machine, work)


def test_a_link_of_the_same_name_is_not_undone(bed: Bed) -> None:
    def work() -> None:
        rtnl = Rtnl()
        link = rtnl.link("near")
        assert link is not None
        assert rtnl.undo_link(Link(name="near", index=link.ifindex + 1000, delete=True)) is False
        assert rtnl.undo_link(Link(name="near", index=link.ifindex, delete=True)) is True
        assert rtnl.link("near") is None
        rtnl.close()

    in_namespace(bed.machine, work)


def test_netlink_stays_in_the_namespace_it_was_made_in(bed: Bed) -> None:
    """Made by a thread that had entered it (setns), used from one that had not."""
    import asyncio

    netlink = in_namespace(bed.machine, Netlink)

    async def work() -> tuple[bool, list[str]]:
        try:
            return await netlink.link_exists("near"), [link.name for link in await netlink.links()]
        finally:
            await netlink.close()

    exists, names = asyncio.run(work())
    assert exists
    assert set(names) == {"lo", "near"}


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_without_the_capability_the_remedy_is_named(bed: Bed) -> None:
    """Buffers fall back to what the system allows everybody; the rest says what is missing."""
    code = """
from gateway.errors import HostError
from gateway.net import nft, tun, udp
from gateway.net.rtnl import Rtnl
from gateway.net.steps import Route
with udp.open_udp("0.0.0.0", 0, buffer_bytes=64 << 20) as sock:
    print(udp.granted_buffers(sock)[0] < 64 << 20)
for work in (
    lambda: udp.open_udp("0.0.0.0", 0, fwmark=7),
    lambda: tun.open_tun("jv0"),
    lambda: Rtnl().configure_link("near", addresses=["10.0.0.1/8"], mtu_bytes=1400),
    lambda: Rtnl().add_route(Route(prefix="10.0.0.0/8", device="near")),
    lambda: nft.apply(nft.nat_ruleset("jv0")),
):
    try:
        work()
    except HostError as error:
        print(error)
"""
    drop = ["setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"]
    lines = bed.inside(*drop, sys.executable, "-c", code).splitlines()
    assert lines[0] == "True"
    assert len(lines) == 6
    assert all("run as root or give the process CAP_NET_ADMIN" in line for line in lines[1:]), lines
