# SPDX-License-Identifier: Apache-2.0
"""The configuration socket over a real socket: probes, bounds, faults of the backend, and who may own the path."""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from gateway.control import wgserver
from gateway.control.wgserver import WgServer, errno_of
from gateway.control.wgsocket import NO_KEY, DeviceChange, DeviceState, Fault
from gateway.errors import DataplaneError, HostError, JumpError, NotFound, Refused


class Device:
    """Remembers what it was told; `error` is what the next request meets."""

    def __init__(self) -> None:
        self.changes: list[DeviceChange] = []
        self.error: BaseException | None = None

    def state(self) -> DeviceState:
        return DeviceState(NO_KEY, 0, len(self.changes), ())

    async def apply(self, change: DeviceChange) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.changes.append(change)


Talk = Callable[[WgServer, Device], Awaitable[None]]


def served(path: Path, talk: Talk, *, client_timeout_s: float = 5.0) -> list[BaseException]:
    """Run a server for as long as somebody talks to it; what it reported."""
    faults: list[BaseException] = []

    async def run() -> None:
        device = Device()
        server = WgServer(path, device, on_error=faults.append, client_timeout_s=client_timeout_s)
        await server.start()
        try:
            await talk(server, device)
        finally:
            await server.stop()

    uvloop.run(run())
    return faults


async def ask(path: Path, text: bytes) -> bytes:
    """Send everything, then read until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(text)
    writer.write_eof()
    said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return said


def test_a_probe_a_get_and_a_set(tmp_path: Path) -> None:
    path = tmp_path / "d/wg0.sock"

    async def talk(_server: WgServer, device: Device) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask(path, b"") == b""
        assert await ask(path, b"get=1\n\n") == b"errno=0\n\n"
        assert await ask(path, b"set=1\nfwmark=3\n\nget=1\n\n") == b"errno=0\n\nfwmark=1\nerrno=0\n\n"
        assert await ask(path, b"set=1\nfwmark=3\n") == b""  # cut off: nothing acts
        assert [change.fwmark for change in device.changes] == [3]

    assert served(path, talk) == []
    assert not path.exists()


def test_a_request_that_comes_in_crumbs(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"

    async def talk(_server: WgServer, device: Device) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        for byte in b"set=1\nlisten_port=51820\n\n":
            writer.write(bytes([byte]))
            await writer.drain()
        assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"
        assert device.changes == [DeviceChange(listen_port=51820)]
        writer.close()

    served(path, talk)


@pytest.mark.parametrize(
    "text",
    [
        b"x" * 100_000,
        b"set=1\n" + b"y" * 100_000,
        b"\xff\n\n",
        b"\n",
        b"get=1\nx=1\n\n",
        b"set=1\n\xe9=1\n\n",
    ],
)
def test_nonsense_is_answered_and_the_next_one_is_served(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "wg0.sock"

    async def talk(_server: WgServer, device: Device) -> None:
        assert await ask(path, text) in (b"errno=-22\n\n", b"errno=-71\n\n")
        assert await ask(path, b"get=1\n\n") == b"errno=0\n\n"
        assert device.changes == []

    assert served(path, talk) == []


def test_an_error_has_its_errno_and_only_what_nobody_foresaw_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"
    unforeseen = RuntimeError("a detail")

    async def talk(_server: WgServer, device: Device) -> None:
        for error, number in ((Fault(errno.EADDRINUSE, "port"), 98), (unforeseen, errno.EIO)):
            device.error = error
            assert await ask(path, b"set=1\n\n") == f"errno=-{number}\n\n".encode()

    assert served(path, talk) == [unforeseen]


def test_who_says_nothing_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"

    async def talk(_server: WgServer, device: Device) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"set=1\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert device.changes == []

    served(path, talk, client_timeout_s=0.05)


def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wgserver, "CONNECTIONS_MAX", 2)
    path = tmp_path / "wg0.sock"

    async def talk(_server: WgServer, _device: Device) -> None:
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(2)]
        for reader, writer in held:
            writer.write(b"get=1\n\n")
            assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, each in (*held, (reader, writer)):
            each.close()

    served(path, talk)


def test_a_dead_file_is_replaced_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def talk(server: WgServer, _device: Device) -> None:
        with pytest.raises(Refused, match="served already"):
            await WgServer(path, Device()).start()
        assert await ask(path, b"get=1\n\n") == b"errno=0\n\n"
        assert server.is_there()
        path.unlink()
        assert not server.is_there()
        path.write_text("another's")

    served(path, talk)
    assert path.read_text() == "another's"


def test_errors_and_their_numbers() -> None:
    busy = HostError("port")
    busy.__cause__ = OSError(errno.EADDRINUSE, "x")
    cases: list[tuple[BaseException, int | None]] = [
        (Fault(errno.EINVAL, "x"), errno.EINVAL),
        (busy, errno.EADDRINUSE),
        (OSError(errno.ENODEV, "x"), errno.ENODEV),
        (NotFound("x"), errno.ENOENT),
        (Refused("x"), errno.EPERM),
        (DataplaneError("full"), errno.ENOSPC),
        (HostError("x"), errno.EIO),
        (JumpError("x"), None),
    ]
    assert [errno_of(error) for error, _ in cases] == [number for _, number in cases]
