# SPDX-License-Identifier: Apache-2.0
"""What this machine lacks for running a gateway or a client, each with its remedy.

Every check asks the kernel itself where it can: it opens a TUN device, sends a segmented datagram, sets a buffer.
A check changes nothing that lasts and never raises. "fail": the product does not work here; "warn": it works worse.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from gateway.constants import DEFAULT_PORT
from gateway.control import ctlclient, statedir
from gateway.control.configfields import Endpoint
from gateway.control.configmodel import ON_THE_LOOP, Workers
from gateway.control.configschema import DEFAULT_INTERFACE
from gateway.errors import JumpError

SCHEMA: Final = "jvpn.doctor/1"
Status = Literal["ok", "warn", "fail"]

KERNEL_MIN: Final = (4, 18)  # UDP_SEGMENT
KERNEL_NATIVE: Final = (5, 11)  # epoll_pwait2, which native workers wait with
KERNEL_GOOD: Final = (6, 2)  # TUN with USO
# One wakeup of a busy socket at 10 Gb/s; the data plane asks for this much (see its socket set-up).
SOCKET_BUFFER_BYTES: Final = 8 * 1024 * 1024
SODIUM_GOOD: Final = (1, 0, 19)  # AEGIS
# A wall clock before this release cannot be right, and TAI64N timestamps would be refused by peers that know better.
CLOCK_MIN_UNIX_S: Final = 1_735_689_600
TUN_DEVICE: Final = Path("/dev/net/tun")
CAP_NET_ADMIN: Final = 12

_TUNSETIFF, _TUNSETOFFLOAD = 0x4004_54CA, 0x4004_54D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_USO4, _TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
_IFREQ: Final = struct.Struct("16sH22x")
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_SO_RCVBUFFORCE: Final = 33
_SEGMENT_BYTES: Final = 500
_TOOL_TIMEOUT_S: Final = 5.0


class Check(NamedTuple):
    """One finding. ``remedy`` is '' when there is nothing to do."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


class Subject(NamedTuple):
    """What is going to run here."""

    interface: str = DEFAULT_INTERFACE
    listen: tuple[Endpoint, ...] = (Endpoint("0.0.0.0", DEFAULT_PORT), Endpoint("::", DEFAULT_PORT))
    workers: Workers = ON_THE_LOOP


def examine(subject: Subject) -> list[Check]:
    """Every check, in the order an operator would go through them."""
    return [*_host(subject), *_privileges(), *_offloads(), *_tools(), *_conflicts(subject)]


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """``jvpn.doctor/1``."""
    return {"schema": SCHEMA, "ok": healthy(checks), "checks": [check._asdict() for check in checks]}


def healthy(checks: Iterable[Check]) -> bool:
    """Whether nothing required is missing."""
    return all(check.status != "fail" for check in checks)


# --- the machine ------------------------------------------------------------------------------------------------


def _host(subject: Subject) -> list[Check]:
    return [
        check_kernel(platform.release(), subject.workers),
        check_processors(len(os.sched_getaffinity(0)), subject.workers),
        check_clock(time.time()),
        check_boottime(),
        check_sodium(),
    ]


def check_kernel(release: str, workers: Workers = ON_THE_LOOP) -> Check:
    """The kernel's version against what the packet path uses."""
    numbers = release.partition("-")[0].split(".")
    try:
        version = (int(numbers[0]), int(numbers[1]))
    except (ValueError, IndexError):
        return Check("kernel", "warn", f"unknown version {release}")
    if version < KERNEL_MIN:
        return Check("kernel", "fail", f"Linux {release}", "use Linux 4.18 or newer; Debian 12 has 6.1")
    if workers.native and version < KERNEL_NATIVE:
        return Check(
            "kernel",
            "fail",
            f"Linux {release}: native workers need 5.11",
            "leave [workers] out, or use a newer kernel; Debian 12 has 6.1",
        )
    if version < KERNEL_GOOD:
        return Check(
            "kernel", "warn", f"Linux {release}: TUN has no UDP segmentation", "Linux 6.2 or newer is faster"
        )
    return Check("kernel", "ok", f"Linux {release}")


def check_processors(usable: int, workers: Workers) -> Check:
    """How many this process may use, against the workers that move its packets."""
    has = f"{usable} processor{'s' if usable > 1 else ''}"
    if workers.count > usable:
        return Check(
            "processors",
            "warn",
            f"{has}, {workers.count} workers",
            f"workers.count = {usable}: several workers of one processor only take turns",
        )
    if workers.native:
        return Check("processors", "ok", f"{has}, native workers: {workers.count}")
    return Check(
        "processors", "ok", f"{has}; the event loop is the one worker, workers.count may be {usable}"
    )


def check_clock(unix_s: float) -> Check:
    """A handshake carries the wall clock, and a peer remembers the latest it saw."""
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))
    if unix_s < CLOCK_MIN_UNIX_S:
        return Check(
            "clock",
            "fail",
            f"{text} is in the past",
            "set the time, or run an NTP client such as systemd-timesyncd",
        )
    return Check("clock", "ok", text)


def check_boottime() -> Check:
    """Keys must age while the machine sleeps."""
    try:
        time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return Check("boottime", "fail", "CLOCK_BOOTTIME is missing", "use Linux 2.6.39 or newer")
    return Check("boottime", "ok", "CLOCK_BOOTTIME")


def check_sodium() -> Check:
    """Which libsodium this process uses and what it offers."""
    try:
        from gateway import crypto

        found = crypto.sodium_features()
    except (ImportError, OSError, JumpError) as error:
        return Check(
            "libsodium",
            "fail",
            str(error),
            "run `make build`, or install the system's libsodium (libsodium23)",
        )
    ciphers = [name for name, has in (("AES-256-GCM", found.aes256gcm), ("AEGIS", found.aegis128l)) if has]
    detail = f"{found.version} ({found.path}) with {', '.join(['ChaCha20-Poly1305', *ciphers])}"
    if tuple(int(number) for number in found.version.split(".")) < SODIUM_GOOD:
        return Check(
            "libsodium", "warn", detail, "run `make build`, which makes 1.0.20: AEGIS is 10 times as fast"
        )
    return Check("libsodium", "ok", detail)


# --- privileges and settings ------------------------------------------------------------------------------------


def _privileges() -> list[Check]:
    return [
        check_capability(_read(Path("/proc/self/status"))),
        check_tun_device(),
        check_forwarding("IPv4", Path("/proc/sys/net/ipv4/ip_forward"), "net.ipv4.ip_forward"),
        check_forwarding(
            "IPv6", Path("/proc/sys/net/ipv6/conf/all/forwarding"), "net.ipv6.conf.all.forwarding"
        ),
        check_buffers(),
    ]


def check_capability(process_status: str) -> Check:
    """CAP_NET_ADMIN in the effective set of /proc/self/status."""
    masks = [line.split()[1] for line in process_status.splitlines() if line.startswith("CapEff:")]
    if masks and int(masks[0], 16) >> CAP_NET_ADMIN & 1:
        return Check("cap_net_admin", "ok", "this process may configure the network")
    return Check(
        "cap_net_admin",
        "fail",
        "this process may not configure the network",
        "run it as root or with CAP_NET_ADMIN",
    )


def check_tun_device(path: Path = TUN_DEVICE) -> Check:
    """Whether the TUN driver is there and may be opened."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Check("tun", "fail", f"{path} is missing", "modprobe tun; in a container pass the device in")
    except OSError as error:
        remedy = (
            "run it as root"
            if error.errno == errno.EACCES
            else "modprobe tun; in a container pass the device in"
        )
        return Check("tun", "fail", f"{path}: {error.strerror}", remedy)
    return Check("tun", "ok", str(path))


def check_forwarding(family: str, path: Path, key: str) -> Check:
    """A gateway forwards; a client does not need it."""
    name = f"forwarding_{family.lower()}"
    value = _read(path).strip()
    if not value:
        return Check(name, "warn", f"this kernel has no {family}", "")
    if value == "0":
        return Check(name, "warn", f"{family} is not forwarded", f"for a gateway: sysctl -w {key}=1")
    return Check(name, "ok", f"{family} is forwarded")


def check_buffers() -> Check:
    """Whether a socket gets the buffer that the data plane asks for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, SOCKET_BUFFER_BYTES)
        except OSError:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        granted = (
            probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        )  # the kernel reports twice what it gives
    if granted < SOCKET_BUFFER_BYTES:
        remedy = f"sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} net.core.wmem_max={SOCKET_BUFFER_BYTES}"
        return Check("socket_buffers", "warn", f"{granted} of {SOCKET_BUFFER_BYTES} bytes granted", remedy)
    return Check("socket_buffers", "ok", f"{granted} bytes granted")


# --- offloads ---------------------------------------------------------------------------------------------------


def _offloads() -> list[Check]:
    return [check_udp_segment(), check_udp_gro(), check_tun_offload()]


def check_udp_segment() -> Check:
    """One send of three segments over loopback must arrive as three datagrams."""
    slower = "works without it, slower; a kernel from 4.18 on has it"
    try:
        received = _send_segmented()
    except OSError as error:
        return Check("udp_segment", "warn", f"refused: {error.strerror or error}", slower)
    if received != [_SEGMENT_BYTES, _SEGMENT_BYTES, _SEGMENT_BYTES // 2]:
        return Check("udp_segment", "warn", f"arrived as {received}", slower)
    return Check("udp_segment", "ok", "one send, several datagrams")


def _send_segmented() -> list[int]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(1.0)
        sender.setsockopt(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_BYTES)
        sender.sendto(bytes(_SEGMENT_BYTES * 5 // 2), receiver.getsockname())
        return [len(receiver.recv(65_535)) for _ in range(3)]


def check_udp_gro() -> Check:
    """Whether a socket takes merged datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError as error:
            return Check(
                "udp_gro", "warn", f"refused: {error.strerror}", "works without it, slower; Linux 5.0 has it"
            )
    return Check("udp_gro", "ok", "several datagrams, one receive")


def check_tun_offload(path: Path = TUN_DEVICE) -> Check:
    """Which segmentation a TUN device offers; the device vanishes with its descriptor."""
    try:
        names = _tun_features(path)
    except OSError as error:
        return Check(
            "tun_offload", "warn", f"could not be tried: {error.strerror or error}", "run this as root"
        )
    if "USO" in names:
        return Check("tun_offload", "ok", ", ".join(names))
    found = ", ".join(names) or "no virtio-net header"
    return Check(
        "tun_offload", "warn", found, "works without it, slower; Linux 6.2 has vnet_hdr, TSO and USO"
    )


def _tun_features(path: Path) -> list[str]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        request = _IFREQ.pack(b"jvdoctor%d", _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        names = ["vnet_hdr"]
        tso = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6
        for name, bits in (("TSO", tso), ("USO", tso | _TUN_F_USO4 | _TUN_F_USO6)):
            try:
                fcntl.ioctl(descriptor, _TUNSETOFFLOAD, bits)
            except OSError:
                break
            names.append(name)
        return names
    finally:
        os.close(descriptor)


# --- tools ------------------------------------------------------------------------------------------------------


def _tools() -> list[Check]:
    return [check_nft(), check_wireguard_tools()]


def check_nft() -> Check:
    """nft must be there and accept a ruleset; --check changes nothing."""
    path = shutil.which("nft")
    if path is None:
        return Check("nft", "warn", "not installed", "for NAT: apt install nftables")
    ruleset = (
        "table inet jvpn_doctor {\nchain probe {\ntype nat hook postrouting priority 100\nmasquerade\n}\n}\n"
    )
    try:
        tried = subprocess.run(
            [path, "--check", "-f", "-"],
            input=ruleset, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("nft", "warn", f"{path}: {error}", "for NAT: nft must run")
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["refused"])[0]
        return Check(
            "nft",
            "warn",
            f"{path}: {reason}",
            "for NAT: run as root, with the modules nf_tables and nft_masq",
        )
    return Check("nft", "ok", f"{path} accepts a NAT ruleset")


def check_wireguard_tools() -> Check:
    """Only tests and comparisons need them."""
    path = shutil.which("wg")
    if path is None:
        return Check("wireguard_tools", "ok", "not installed; only needed to look at stock peers")
    return Check("wireguard_tools", "ok", path)


# --- conflicts --------------------------------------------------------------------------------------------------


def _conflicts(subject: Subject) -> list[Check]:
    pid = ctlclient.owner_pid(statedir.control_socket(subject.interface))
    if pid:
        return [
            Check(
                "running", "ok", f"{subject.interface} is served by process {pid}; its ports are in use by it"
            )
        ]
    return [check_interface(subject.interface), *(check_port(endpoint) for endpoint in subject.listen)]


def check_interface(name: str, devices: Path = Path("/sys/class/net")) -> Check:
    """The interface must be free, since no daemon of ours serves it."""
    if not (devices / name).exists():
        return Check("interface", "ok", f"{name} is free")
    remedy = f"ip link delete {name}, or choose another gateway.interface"
    return Check("interface", "fail", f"{name} exists and no jvpn serves it", remedy)


def check_port(endpoint: Endpoint) -> Check:
    """The port must be free. Binding says it for sure."""
    name = f"port_{'ipv6' if ':' in endpoint.host else 'ipv4'}"
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((endpoint.host, endpoint.port))
    except OSError as error:
        remedy = (
            f"see who has it: ss -ulpn sport = {endpoint.port}" if error.errno == errno.EADDRINUSE else ""
        )
        status: Status = "warn" if error.errno == errno.EAFNOSUPPORT else "fail"
        return Check(name, status, f"{endpoint}: {error.strerror}", remedy or "choose another gateway.listen")
    return Check(name, "ok", f"{endpoint} is free")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
