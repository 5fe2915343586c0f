# SPDX-License-Identifier: Apache-2.0
"""What the service manager hears, on a socket of the test's own; a data plane that stands still is heard of too."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.control.configmodel import ON_THE_LOOP, Workers
from gateway.control.service import Service, attached
from gateway.control.watch import STALL_NS
from gateway.net.notify import Notifier, from_environment
from tests.net.notify import Manager
from tests.unit.ops.statshost import Made, on_loop, serving

WATCHDOG_S = 0.3


class Host:
    """A daemon around the real tunnel of ``statshost``."""

    def __init__(self, made: Made) -> None:
        self._made = made

    def problems(self) -> list[str]:
        return self._made.seen.watch.problems()

    def summary(self) -> str:
        return attached(self._made.sessions)


class Calm:
    """Nothing is wrong."""

    def problems(self) -> list[str]:
        return []

    def summary(self) -> str:
        return "two\nlines"


def environment(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


# --- the protocol --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_a_message_is_one_datagram_of_lines(tmp_path: Path, abstract: bool) -> None:
    with Manager(f"@jvpn-{secrets.token_hex(8)}" if abstract else tmp_path / "notify") as manager:
        notifier = from_environment(environment(manager))
        assert notifier and notifier.watchdog_s is None
        assert notifier.send(READY=1, STATUS="a\nb")
        assert manager.heard() == [{"READY": "1", "STATUS": "a b"}]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1", "/nowhere/at/all"])
def test_without_a_service_manager_nothing_is_sent_and_nothing_fails(address: str) -> None:
    notifier = from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}, pid=1)
    assert not notifier.send(READY=1)
    assert bool(notifier) is (address[:1] == "/")


def test_a_manager_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    with Manager(tmp_path / "notify") as manager:
        notifier = from_environment(environment(manager))
        began_s = time.monotonic()
        sent = [notifier.send(STATUS="x" * 1000) for _ in range(5000)]
        assert sent[0] and not sent[-1] and time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_whose_it_is(tmp_path: Path, given: dict[str, str], expected: float | None) -> None:
    with Manager(tmp_path / "notify") as manager:
        assert from_environment(environment(manager, **given)).watchdog_s == expected


# --- a life --------------------------------------------------------------------------------------------------------


def test_ready_reloading_and_stopping_in_this_order(tmp_path: Path) -> None:
    async def work() -> None:
        with Manager(tmp_path / "notify") as manager:
            service = Service(Calm(), Notifier(manager.address), structlog.get_logger())
            service.ready()
            before_us = time.monotonic_ns() // 1000
            with pytest.raises(ValueError), service.reloading():  # noqa: PT012 - a reload that fails ends as well
                first, began = manager.heard()
                assert first == {"READY": "1", "STATUS": "two lines"}
                raise ValueError("a bad file")
            service.stopping()
            assert began["RELOADING"] == "1"
            assert before_us <= int(began["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert [next(iter(one)) for one in manager.heard()] == ["READY", "STOPPING"]

    on_loop(work)


def test_outside_of_a_service_there_is_no_task() -> None:
    async def work() -> None:
        service = Service(Calm(), Notifier(), structlog.get_logger())
        before = asyncio.all_tasks()
        service.ready()
        with service.reloading():
            pass
        service.stopping()
        assert asyncio.all_tasks() == before

    on_loop(work)


def test_status_says_how_many_sessions_are_attached(tmp_path: Path) -> None:
    async def work() -> None:
        with Manager(tmp_path / "notify") as manager:
            async with serving(tmp_path) as made:
                service = Service(Host(made), Notifier(manager.address, WATCHDOG_S), made.log)
                service.ready()
                assert manager.heard()[0]["STATUS"] == "0 of 0 sessions attached"
                made.add_session()
                assert await heard(manager, "STATUS", lambda text: text == "1 of 1 sessions attached")
                service.stopping()

    on_loop(work)


async def heard(manager: Manager, key: str, wanted: Any, timeout_s: float = 10.0) -> bool:
    """Whether such a message comes in time."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if any(wanted(one[key]) for one in manager.heard() if key in one):
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.parametrize("workers", [ON_THE_LOOP, Workers(2, native=True)], ids=["loop", "native"])
def test_the_watchdog_starves_while_the_data_plane_stands_still(tmp_path: Path, workers: Workers) -> None:
    """The loop runs all the time; what arrives is not read, as if the workers had died."""

    async def work() -> None:
        with Manager(tmp_path / "notify") as manager:
            async with serving(tmp_path, pump=False, workers=workers) as made:
                service = Service(Host(made), Notifier(manager.address, WATCHDOG_S), made.log)
                service.ready()
                assert await heard(manager, "WATCHDOG", "1".__eq__)
                made.inner[-1].send(b"x" * 148)
                last = workers.count - 1
                stalled = f"worker {last} does not read what waits"
                assert await heard(manager, "STATUS", stalled.__eq__, 2 * STALL_NS / 1e9 + 5)
                # Three whole periods without a beat: the service manager would have ended the process.
                assert not await heard(manager, "WATCHDOG", "1".__eq__, 3 * WATCHDOG_S)
                made.tunnel.start()
                assert await heard(manager, "WATCHDOG", "1".__eq__)
                service.stopping()
                manager.heard()
                assert not await heard(manager, "WATCHDOG", "1".__eq__, 2 * WATCHDOG_S)

    on_loop(work)
