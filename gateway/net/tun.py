# SPDX-License-Identifier: Apache-2.0
"""Opens a TUN device: layer 3, no packet information, non-blocking, with the offloads the kernel has.

Rule: the device belongs to its descriptors. It vanishes with the process, so nothing here needs undoing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.errors import HostError
from gateway.net.remedy import check_interface_name, refused

DEVICE: Final = "/dev/net/tun"

# What a configuration may do without, each more than the one before.
Offload = Literal["full", "no-uso", "no-tso", "off"]

# linux/if_tun.h
IFF_TUN: Final = 0x0001
IFF_MULTI_QUEUE: Final = 0x0100
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_TUN_EXCL: Final = 0x8000
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TUNGETFEATURES: Final = 0x800454CF
TUNSETVNETHDRSZ: Final = 0x400454D8

# linux/sockios.h, linux/if.h
SIOCGIFFLAGS: Final = 0x8913
IFF_UP: Final = 0x0001

# What the data plane reads and writes before each packet (struct virtio_net_hdr).
VNET_HEADER_BYTES: Final = 10

TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
# Linux 6.2; Debian 12's headers do not name them.
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40

# Each tried when the kernel refused the one before.
OFFLOAD_STEPS: Final = (
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6,
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6,
    0,
)
_FIRST_STEP: Final[dict[Offload, int]] = {"full": 0, "no-uso": 1, "no-tso": 2, "off": 2}
_FEATURES: Final = (
    (TUN_F_CSUM, "csum"),
    (TUN_F_TSO4, "tso4"),
    (TUN_F_TSO6, "tso6"),
    (TUN_F_USO4, "uso4"),
    (TUN_F_USO6, "uso6"),
)

_KINDS: Final = ((IFF_VNET_HDR, "vnet_hdr"), (IFF_MULTI_QUEUE, "multi_queue"))

_IFREQ: Final = struct.Struct("16sH22x")  # name, flags, padding: struct ifreq of 64-bit Linux


@dataclass(frozen=True, slots=True)
class Tun:
    """An open TUN device. The holder closes it."""

    fd: int
    name: str
    features: frozenset[str]  # of vnet_hdr, multi_queue, csum, tso4, tso6, uso4, uso6
    more: tuple[int, ...] = ()  # its further queues; all of them have the same features

    def close(self) -> None:
        """Close all queues; the device goes with the last one."""
        for fd in (self.fd, *self.more):
            os.close(fd)


def open_with(name: str, offload: Offload, queues: int = 1) -> Tun:
    """`open_tun` with what a configuration wants and this kernel has."""
    steps = OFFLOAD_STEPS[_FIRST_STEP[offload] :]
    return open_tun(name, vnet_hdr=offload != "off", queues=queues, offload_steps=steps)


def open_tun(
    name: str,
    *,
    vnet_hdr: bool = False,
    queues: int = 1,
    offload_steps: Sequence[int] = OFFLOAD_STEPS,
) -> Tun:
    """Create the TUN device ``name``, or attach to a persistent one nobody holds.

    ``vnet_hdr`` puts a 10-byte virtio_net_hdr before every packet, if the kernel can, and turns on the first of
    ``offload_steps`` that it takes. A device of several ``queues`` must be new: the kernel lets any holder of such a
    device be joined. HostError says what is missing.
    """
    check_interface_name(name)
    opened = [_open_device()]
    try:
        fd, wanted = opened[0], _wanted_flags(opened[0], vnet_hdr, queues)
        _attach(fd, name, wanted | (IFF_TUN_EXCL if queues > 1 else 0))
        features = {word for flag, word in _KINDS if wanted & flag}
        if wanted & IFF_VNET_HDR:
            _set_header_size(fd)
            bits = _set_offload(fd, offload_steps)
            features |= {word for bit, word in _FEATURES if bits & bit}
        # Header and offloads are the device's, so the further queues have them already.
        while len(opened) < queues:
            opened.append(_open_device())
            _attach(opened[-1], name, wanted)
    except BaseException:
        for each in opened:
            os.close(each)
        raise
    return Tun(fd, name, frozenset(features), tuple(opened[1:]))


def is_up(name: str) -> bool:
    """Whether an interface exists and is up."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
            answer = fcntl.ioctl(asked, SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
    except OSError:
        return False
    return bool(_IFREQ.unpack(answer)[1] & IFF_UP)


def _wanted_flags(fd: int, vnet_hdr: bool, queues: int) -> int:
    """What the device shall be. A driver without several queues refuses them; without the header it is done without."""
    flags = IFF_TUN | IFF_NO_PI | (IFF_MULTI_QUEUE if queues > 1 else 0)
    return flags | (_flags_known(fd) & IFF_VNET_HDR if vnet_hdr else 0)


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        remedies = {
            errno.ENOENT: "run `modprobe tun`, or give the container the device: --device /dev/net/tun",
            errno.ENODEV: "load the kernel module: modprobe tun",
            errno.ENXIO: "load the kernel module: modprobe tun",
        }
        raise refused(f"cannot open {DEVICE}", error, remedies.get(error.errno or 0, "")) from error


def _flags_known(fd: int) -> int:
    """The IFF_* flags this kernel's driver has; 0 when it cannot even be asked."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, TUNGETFEATURES, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _attach(fd: int, name: str, flags: int) -> None:
    try:
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError as error:
        remedies = {
            errno.EBUSY: "another process holds that interface; stop it or choose another name",
            errno.EINVAL: "an interface of that name exists and is of another kind; choose another name",
        }
        raise refused(f"cannot create interface {name}", error, remedies.get(error.errno or 0, "")) from error


def _set_header_size(fd: int) -> None:
    """A persistent device keeps the size that its last holder has set."""
    try:
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, VNET_HEADER_BYTES.to_bytes(4, sys.byteorder))
    except OSError as error:
        raise refused("cannot set the header size of the TUN device", error) from error


def _set_offload(fd: int, steps: Sequence[int]) -> int:
    """The first set of offloads the kernel takes. A kernel that refuses even none is broken."""
    for bits in steps:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, bits)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise refused("cannot set the offloads of the TUN device", error) from error
        else:
            return bits
    raise HostError("cannot set the offloads of the TUN device: the kernel refuses every combination")
