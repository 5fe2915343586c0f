# SPDX-License-Identifier: Apache-2.0
"""`jvpn ping`: real sessions behind a real socket; the other end is played by whoever calls `on_pong`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.control import ping as pings
from gateway.control.ping import Pinger
from gateway.control.sessiondocs import SessionDocs
from gateway.control.sessions import Live
from gateway.core import inputs as inp
from gateway.core.states import Evidence
from gateway.errors import Refused, TryLater
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import serving
from tests.unit.ops.sessionhost import INTERFACE, MS, Host, host


class Counter:
    """Random bytes that can be foretold."""

    def __init__(self) -> None:
        self.drawn: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self.drawn.append(len(self.drawn).to_bytes(size, "big"))
        return self.drawn[-1]


class Bench:
    """A host whose session "gw" speaks jump frames, and its pinger."""

    def __init__(self, at: Host) -> None:
        self.at, self.tokens = at, Counter()
        at.sessions.open_paths(at.clocks.now, at.gw)
        at.sessions.bind_again(at.clocks.now, at.gw)
        self.pinger = Pinger(at.sessions, self.tokens, now_ns=at.clocks.now_ns)

    def docs(self, journal: Path) -> SessionDocs:
        """The handlers with this pinger."""
        return SessionDocs(
            self.at.sessions,
            self.at.audit,
            journal,
            interface=INTERFACE,
            ping=self.pinger.ping,
            now_ns=self.at.clocks.now_ns,
        )

    async def asked(self, path_id: int = 0, timeout_s: float = 5.0) -> asyncio.Task[dict[str, Any]]:
        """A ping that has left and waits."""
        before = len(self.tokens.drawn)
        task = asyncio.ensure_future(self.pinger.ping(self.at.gw, path_id, timeout_s))
        while len(self.tokens.drawn) == before and not task.done():
            await asyncio.sleep(0)
        return task

    def pong(self, live: Live, token: bytes, after_ns: int) -> None:
        """What the keeper does with a PONG that has authenticated."""
        self.at.clocks.now += after_ns
        self.at.sessions.on_pong(self.at.clocks.now, live, token)


@contextmanager
def bench(places: Path) -> Iterator[Bench]:
    with host(places / "state") as at:
        yield Bench(at)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def test_the_round_trip_is_from_the_ping_to_its_own_pong(places: Path) -> None:
    with bench(places) as on:

        async def work() -> None:
            task = await on.asked(2)
            on.pong(on.at.gw, b"\xff" * 8, MS)  # nobody's token
            on.pong(on.at.phone, on.tokens.drawn[0], MS)  # another session's
            assert not task.done()
            on.pong(on.at.gw, on.tokens.drawn[0], 20 * MS)
            on.pong(on.at.gw, on.tokens.drawn[0], MS)  # a copy
            found = await task
            assert (found["path_id"], found["address"]) == (2, "udp:127.0.0.1:10")
            assert found["rtt_ms"] == 22.0

        run(work)


def test_silence_is_an_answer_too_and_nothing_stays_behind(places: Path) -> None:
    with bench(places) as on:

        async def work() -> None:
            found = await on.pinger.ping(on.at.gw, 0, 0.05)
            assert (found["path_id"], found["rtt_ms"]) == (1, None)
            on.pong(on.at.gw, on.tokens.drawn[0], MS)

        run(work)
        assert on.pinger._waiting == {}


def test_without_a_binding_there_is_no_answer(places: Path) -> None:
    with bench(places) as on:
        for path_id in (2, 1):
            on.at.feed(on.at.gw, inp.PathLost(path_id, Evidence.LINK_DOWN))

        async def work() -> None:
            assert (await on.pinger.ping(on.at.gw, 0, 1.0))["path_id"] is None
            with pytest.raises(Refused, match="path 2"):
                await on.pinger.ping(on.at.gw, 2, 1.0)

        run(work)


def test_pings_keep_to_the_control_rate(places: Path) -> None:
    with bench(places) as on:
        burst = on.at.gw.core.policy.control_burst

        async def work() -> None:
            for _ in range(burst):
                task = await on.asked()
                on.at.sessions.on_pong(on.at.clocks.now, on.at.gw, on.tokens.drawn[-1])
                await task
            with pytest.raises(TryLater, match="control rate of 100"):
                await on.pinger.ping(on.at.gw, 0, 1.0)
            on.at.clocks.now += 10 * MS
            await on.asked()
            with pytest.raises(TryLater):
                await on.pinger.ping(on.at.gw, 0, 1.0)

        run(work)


def test_what_waits_is_bounded(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pings, "WAITING_MAX", 3)
    with bench(places) as on:

        async def work() -> None:
            tasks = [await on.asked() for _ in range(3)]
            with pytest.raises(TryLater, match="3 pings"):
                await on.pinger.ping(on.at.gw, 0, 1.0)
            on.pong(on.at.gw, on.tokens.drawn[1], MS)
            await tasks[1]
            await on.asked()

        run(work)


def test_a_ping_changes_nothing_and_stands_in_the_journal(jvpn: Jvpn, places: Path) -> None:
    with bench(places) as on:
        before = (on.at.gw.core.version, on.at.gw.core.heard_ns, on.at.gw.core.paths[0].heard_ns)

        async def work() -> None:
            task = await on.asked()
            on.pong(on.at.gw, on.tokens.drawn[0], MS)
            await task

        run(work)
        assert before == (on.at.gw.core.version, on.at.gw.core.heard_ns, on.at.gw.core.paths[0].heard_ns)
    exported = [json.loads(line) for line in jvpn("audit", "export").stdout.splitlines()]
    assert [body["fields"] for body in exported if body.get("input") == "OperatorPing"] == [{"path_id": 1}]
    assert jvpn("audit", "replay").exit_code == 0


# --- the command ---------------------------------------------------------------------------------------------------


@contextmanager
def served(places: Path, answers: list[int | None]) -> Iterator[Bench]:
    """The daemon; each entry is how many ns the other end takes for one PING, None: it says nothing."""
    with bench(places) as on:
        left = iter(answers)

        async def ping(live: Live, path_id: int, timeout_s: float) -> dict[str, Any]:
            took_ns = next(left)
            task = asyncio.ensure_future(on.pinger.ping(live, path_id, timeout_s))
            await asyncio.sleep(0)
            if took_ns is not None:
                on.pong(live, on.tokens.drawn[-1], took_ns)
            return await task

        docs = on.docs(places / "state/audit")
        docs._ping = ping
        with serving(places / "run/jvpn0.sock", docs.handlers()):
            yield on


def test_lines_and_summary(jvpn: Jvpn, places: Path) -> None:
    with served(places, [20 * MS, None, 24 * MS]):
        found = jvpn("ping", "gw", "-c", "3", "-i", "0.01", "-W", "0.05")
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "1: path 1 udp:127.0.0.1:9: 20.00 ms",
        "2: path 1 udp:127.0.0.1:9: no answer in 0.05 s",
        "3: path 1 udp:127.0.0.1:9: 24.00 ms",
        "session a1b2c3d4 of gw: 3 sent, 2 answered, 33 % lost",
        "min/avg/max 20.00/22.00/24.00 ms",
    ]


def test_json_holds_every_ping(jvpn: Jvpn, places: Path) -> None:
    with served(places, [20 * MS, 24 * MS]):
        found = jvpn("ping", "a1b2c3d4", "--path", "2", "-c", "2", "-i", "0.01", "--json")
    document = json.loads(found.stdout)
    assert (document["schema"], document["sent"], document["answered"]) == ("jvpn.pings/1", 2, 2)
    assert document["rtt_ms"] == {"min": 20.0, "avg": 22.0, "max": 24.0}
    assert [(one["schema"], one["path_id"], one["rtt_ms"]) for one in document["pings"]] == [
        ("jvpn.ping/1", 2, 20.0),
        ("jvpn.ping/1", 2, 24.0),
    ]


def test_nothing_came_back(jvpn: Jvpn, places: Path) -> None:
    with served(places, [None, None]):
        found = jvpn("ping", "gw", "-c", "2", "-i", "0.01", "-W", "0.05")
    assert found.exit_code == 1
    assert found.stdout.splitlines()[-1] == "session a1b2c3d4 of gw: 2 sent, 0 answered, 100 % lost"


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("phone",), 5, "plain WireGuard"),
        (("gw", "--path", "7"), 4, "has no path 7"),
        (("nobody",), 4, "no session of a peer named nobody"),
        (("gw", "-c", "0", "--json"), 2, "needs an end"),
        (("gw", "-i", "0.001"), 2, "0.001"),
    ],
)
def test_a_ping_that_is_refused(
    jvpn: Jvpn, places: Path, words: tuple[str, ...], code: int, why: str
) -> None:
    with served(places, []):
        found = jvpn("ping", *words)
    assert (found.exit_code, found.stdout) == (code, "")
    assert why in found.stderr


def test_before_its_welcome_a_session_is_not_pinged(jvpn: Jvpn, places: Path) -> None:
    with served(places, []) as on:
        on.at.gw.has_paths = False
        assert jvpn("ping", "gw").exit_code == 5
