# SPDX-License-Identifier: Apache-2.0
"""What others do to a TUN device of ours: its name, MTU, whether it is up, whether it is gone, in whatever network
namespace it has been moved to.

The descriptor knows its device's namespace (TUNGETDEVNETNS); a netlink socket opened there says that something about a
link has changed. Nothing of that message is read: the device is asked again.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.errors import HostError
from gateway.net.remedy import refused

TUNGETIFF: Final = 0x800454D2  # linux/if_tun.h
TUNGETDEVNETNS: Final = 0x54E3
SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
SIOCGIFMTU: Final = 0x8921
SIOCSIFMTU: Final = 0x8922
IFF_UP: Final = 0x1
RTMGRP_LINK: Final = 0x1
CLONE_NEWNET: Final = 0x40000000

_IFREQ_BYTES: Final = 40
_NAME_BYTES: Final = 16
_DATAGRAMS_PER_TURN: Final = 64
# Kernels before 5.2 cannot say where a device is; then only its own namespace is watched.
_CANNOT_SAY: Final = frozenset({errno.EINVAL, errno.ENOTTY, errno.EPERM})


class Device(NamedTuple):
    """A device as it is now."""

    name: str
    mtu_bytes: int
    up: bool


class TunWatch:
    """Watches the device of an open TUN descriptor. ``on_change`` gets what it is now, None when it is gone."""

    def __init__(self, fd: int, on_change: Callable[[Device | None], None]) -> None:
        self._fd = fd
        self._on_change = on_change
        self._place = -1  # inode of the namespace that is watched
        self._socket: socket.socket | None = None
        self._last: Device | None = None

    @property
    def device(self) -> Device | None:
        """As it was when last asked."""
        return self._last

    def start(self) -> Device | None:
        """Watch from now on; returns what the device is. HostError when the kernel lets nobody watch."""
        return self.look()

    def stop(self) -> None:
        """Watch no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def set_mtu(self, mtu_bytes: int) -> None:
        """Give the device its MTU. HostError."""
        name = name_of(self._fd)
        if name is None or self._socket is None:
            raise HostError("the device is gone")
        try:
            fcntl.ioctl(self._socket.fileno(), SIOCSIFMTU, _ifreq(name, mtu_bytes))
        except OSError as error:
            raise refused(f"cannot set the MTU of {name} to {mtu_bytes}", error) from error
        self.look()

    def _on_readable(self) -> None:
        """Whatever it was that changed. Lost messages (ENOBUFS) mean the same."""
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                if self._socket is None or not self._socket.recv(1):
                    break
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        before = self._last
        self.look()
        if self._last != before:
            self._on_change(self._last)

    def look(self) -> Device | None:
        """Follow the device to where it is, then ask: what changes after that is announced again."""
        place = _namespace_of(self._fd)
        try:
            inode = os.fstat(place).st_ino if place is not None else 0
            if inode != self._place:
                self._move(place)
                self._place = inode
        finally:
            if place is not None:
                os.close(place)
        self._last = self._ask()
        return self._last

    def _move(self, place: int | None) -> None:
        self.stop()
        self._socket = _netlink_in(place)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._on_readable)

    def _ask(self) -> Device | None:
        name = name_of(self._fd)
        if name is None or self._socket is None:
            return None
        try:
            flags = fcntl.ioctl(self._socket.fileno(), SIOCGIFFLAGS, _ifreq(name))
            mtu = fcntl.ioctl(self._socket.fileno(), SIOCGIFMTU, _ifreq(name))
        except OSError:
            # Renamed or moved between two questions: the message about it is on its way.
            return self._last if name_of(self._fd) is not None else None
        up = struct.unpack_from("H", flags, _NAME_BYTES)[0] & IFF_UP
        return Device(name, struct.unpack_from("i", mtu, _NAME_BYTES)[0], bool(up))


def name_of(fd: int) -> str | None:
    """The device's name at the moment, None when it was removed."""
    try:
        answer = fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ_BYTES))
    except OSError:
        return None
    return answer[:_NAME_BYTES].rstrip(b"\0").decode(errors="replace")


def _ifreq(name: str, value: int = 0) -> bytes:
    return struct.pack(f"{_NAME_BYTES}si20x", name.encode(), value)


def _namespace_of(fd: int) -> int | None:
    """A descriptor of the network namespace the device is in, None where the kernel cannot say."""
    try:
        return fcntl.ioctl(fd, TUNGETDEVNETNS, 0)
    except OSError as error:
        if error.errno in _CANNOT_SAY or name_of(fd) is None:
            return None
        raise refused("cannot find the network namespace of the TUN device", error) from error


def _netlink_in(place: int | None) -> socket.socket:
    """A socket that hears of links in a namespace. A thread goes there and ends; nobody else moves."""
    made: list[socket.socket | OSError] = []
    thread = threading.Thread(target=_open_in, args=(place, made), name="namespace")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise refused("cannot watch the links of a network namespace", made[0]) from made[0]
    return made[0]


def _open_in(place: int | None, made: list[socket.socket | OSError]) -> None:
    try:
        if place is not None and ctypes.CDLL(None, use_errno=True).setns(place, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        sock.bind((0, RTMGRP_LINK))
        made.append(sock)
    except OSError as error:
        made.append(error)
