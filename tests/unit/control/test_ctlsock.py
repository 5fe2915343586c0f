# SPDX-License-Identifier: Apache-2.0
"""The control socket over real sockets: answers, errors by code, bounds, and who may own the path."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.control import ctlclient
from gateway.control.ctlsock import REQUEST_MAX_BYTES, ControlServer, Handler, call, owner_pid
from gateway.errors import (
    ConfigError,
    DaemonUnreachable,
    HostError,
    JumpError,
    NotFound,
    Refused,
    TryLater,
    UsageError,
)


async def echo(args: dict[str, Any]) -> dict[str, Any]:
    return {"args": args}


def raising(error: BaseException) -> Handler:
    async def handler(_args: dict[str, Any]) -> dict[str, Any]:
        raise error

    return handler


HANDLERS: dict[str, Handler] = {
    "echo": echo,
    "not_found": raising(NotFound("no such peer")),
    "refused": raising(Refused("policy")),
    "try_later": raising(TryLater("draining")),
    "usage": raising(UsageError("which?")),
    "failed": raising(JumpError("it failed")),
    "config": raising(ConfigError("f", "k", 3, "wrong")),
    "broken": raising(RuntimeError("secret detail")),
}


@contextlib.contextmanager
def serving(path: Path, handlers: dict[str, Handler] = HANDLERS, **options: Any) -> Iterator[ControlServer]:
    """A server on its own loop in a thread, as a daemon beside the synchronous client."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def on_loop(act: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await act()

        asyncio.run_coroutine_threadsafe(run(), loop).result(10)

    server = ControlServer(path, handlers, **options)
    try:
        on_loop(server.start)
        yield server
        on_loop(server.stop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def raw(path: Path, data: bytes, *, timeout_s: float = 5.0) -> bytes:
    """Send bytes, close the sending side, return all that comes back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            chunks.append(chunk)
    return b"".join(chunks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run/jvpn0.sock"


def test_question_and_answer(path: Path) -> None:
    with serving(path):
        assert call(path, "echo", {"a": [1, "ü"]}) == {"args": {"a": [1, "ü"]}}
        assert call(path, "echo") == {"args": {}}


def test_the_socket_is_private_and_gone_after_stop(path: Path) -> None:
    with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert owner_pid(path) == os.getpid()
    assert list(path.parent.iterdir()) == []
    assert owner_pid(path) == 0


@pytest.mark.parametrize(
    ("command", "kind", "message", "exit_code"),
    [
        ("not_found", NotFound, "no such peer", 4),
        ("refused", Refused, "policy", 5),
        ("try_later", TryLater, "draining", 75),
        ("usage", UsageError, "which", 2),
        ("failed", JumpError, "it failed", 1),
        ("config", JumpError, "f:3: k: wrong", 1),
        ("nonsense", UsageError, "unknown command: a client lacks what only a gateway does", 2),
    ],
)
def test_errors_arrive_as_what_they_are(
    path: Path, command: str, kind: type[JumpError], message: str, exit_code: int
) -> None:
    with serving(path), pytest.raises(kind, match=message) as caught:
        call(path, command)
    assert caught.value.exit_code == exit_code


def test_a_handlers_fault_is_logged_not_shown_and_ends_nothing(path: Path) -> None:
    seen: list[tuple[str, str]] = []
    with serving(path, on_error=lambda command, error: seen.append((command, repr(error)))):
        with pytest.raises(JumpError, match="internal error") as caught:
            call(path, "broken")
        assert "secret detail" not in str(caught.value)
        assert call(path, "echo") == {"args": {}}
    assert seen == [("broken", "RuntimeError('secret detail')")]


def test_a_result_that_json_cannot_hold_is_a_fault(path: Path) -> None:
    async def odd(_args: dict[str, Any]) -> dict[str, Any]:
        return {"x": object()}

    with serving(path, {"odd": odd}), pytest.raises(JumpError, match="internal error"):
        call(path, "odd")


def test_several_requests_on_one_connection_keep_their_ids(path: Path) -> None:
    requests = b'{"id":1,"command":"echo"}\n{"id":"b","command":"nope"}\n{"command":"echo","args":{"x":2}}\n'
    with serving(path):
        answers = [msgspec.json.decode(line) for line in raw(path, requests).splitlines()]
    assert [(answer["id"], answer["ok"]) for answer in answers] == [(1, True), ("b", False), (None, True)]
    assert answers[1]["error"]["code"] == "usage"
    assert answers[1]["error"]["exit_code"] == 2


GARBAGE = [
    b"\n",
    b"nonsense\n",
    b"[]\n",
    b"{}\n",
    b"null\n",
    b'{"command":3}\n',
    b'{"command":"echo","args":[]}\n',
    b'{"command":"echo","surprise":1}\n',
    b'{"command":"echo","id":{}}\n',
    b"\0\xff\xfe\n",
    b'{"command":"\xff"}\n',
    b"[" * 60_000 + b"\n",
    b'{"command":"echo","args":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}\n",
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_answered_and_forgotten(path: Path, data: bytes) -> None:
    with serving(path):
        (answer,) = raw(path, data).splitlines()
        assert msgspec.json.decode(answer)["error"]["code"] == "usage"
        assert call(path, "echo") == {"args": {}}


def test_too_long_a_request_ends_the_connection(path: Path) -> None:
    with serving(path):
        (answer,) = raw(path, b"x" * (REQUEST_MAX_BYTES * 4)).splitlines()
        assert b"at most" in answer
        assert call(path, "echo") == {"args": {}}


def test_half_a_request_is_no_request(path: Path) -> None:
    with serving(path):
        assert raw(path, b'{"command":"echo"}') == b""
        assert raw(path, b"") == b""


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200).filter(lambda data: b"\n" not in data))
def test_any_line_has_one_answer_line(tmp_path: Path, line: bytes) -> None:
    server = ControlServer(tmp_path / "unused.sock", HANDLERS)
    answer = asyncio.run(server.answer(line + b"\n"))
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1
    assert msgspec.json.decode(answer)["ok"] in (True, False)


def test_a_silent_client_is_dropped(path: Path) -> None:
    with serving(path, client_timeout_s=0.05), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        assert read_all(connection) == b""


def test_a_client_that_takes_no_answer_is_dropped(path: Path) -> None:
    async def large(_args: dict[str, Any]) -> dict[str, Any]:
        return {"x": "y" * 4_000_000}

    with (
        serving(path, {"large": large, "echo": echo}, client_timeout_s=0.2),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b'{"command":"large"}\n')
        assert call(path, "echo") == {"args": {}}  # the others do not wait for it
        assert len(call(path, "large", timeout_s=5)["x"]) == 4_000_000
        threading.Event().wait(0.4)  # longer than the server is patient
        assert len(read_all(connection)) < 4_000_000


def test_connections_are_bounded(path: Path) -> None:
    with serving(path, connections_max=2), contextlib.ExitStack() as held:
        for _ in range(2):
            connection = held.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(path))
            connection.sendall(b'{"command":"echo"}\n')
            assert connection.recv(100)
        with pytest.raises(TryLater, match="too many"):
            call(path, "echo")
        held.close()
        assert _eventually(lambda: call(path, "echo")) == {"args": {}}


def test_a_refusal_sent_before_the_question_is_still_read(path: Path) -> None:
    """The daemon hangs up while the request is on its way: the caller reads why instead of a broken pipe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        refusal = b'{"id":null,"ok":false,"error":{"code":"try_later","message":"too many","exit_code":6}}\n'

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.sendall(refusal)
            connection.close()

        refuser = threading.Thread(target=refuse)
        refuser.start()
        with pytest.raises(TryLater, match="too many"):
            call(path, "echo", {"text": "x" * 4_000_000})
        refuser.join()


def _eventually(attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The server notices a closed connection in its own time."""
    for _ in range(200):
        with contextlib.suppress(TryLater):
            return attempt()
    return attempt()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_loops_serve_and_a_handler_may_stop_the_server(path: Path, new_loop: Callable[[], Any]) -> None:
    async def scene() -> bytes:
        handlers: dict[str, Handler] = {}
        server = ControlServer(path, handlers)
        stopped = asyncio.Event()

        async def stop(_args: dict[str, Any]) -> dict[str, Any]:
            await server.stop()
            stopped.set()
            return {"stopped": True}

        handlers["stop"] = stop
        await server.start()
        _, writer = await asyncio.open_unix_connection(str(path))  # an idle client must not keep it alive
        answer = await asyncio.to_thread(raw, path, b'{"command":"stop"}\n')
        await asyncio.wait_for(stopped.wait(), 5)
        writer.close()
        return answer

    loop = new_loop()
    try:
        assert b'"stopped":true' in loop.run_until_complete(scene())
    finally:
        loop.close()
    assert not path.exists()


def test_a_living_owner_is_not_pushed_aside(path: Path) -> None:
    with serving(path), pytest.raises(Refused, match=f"already running, pid {os.getpid()}"), serving(path):
        pass


def test_a_refused_second_server_leaves_the_first_alone(path: Path) -> None:
    with serving(path):
        with contextlib.suppress(Refused), serving(path):
            pass
        assert call(path, "echo") == {"args": {}}


def test_a_socket_that_somebody_else_listens_on_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(Refused, match="already running"), serving(path):
            pass
        assert path.is_socket()


ORPHAN = """
import asyncio, os, sys
from pathlib import Path
from gateway.control.ctlsock import ControlServer
async def main():
    await ControlServer(Path(sys.argv[1]), {}).start()
    print("up", flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_what_a_killed_daemon_left_is_replaced(path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(path)], capture_output=True, text=True, check=False
    )
    assert killed.stdout == "up\n"
    assert path.is_socket()
    assert owner_pid(path) == 0
    with pytest.raises(DaemonUnreachable):
        call(path, "echo")
    with serving(path):
        assert call(path, "echo") == {"args": {}}


def test_a_plain_file_in_the_way_is_not_deleted(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(Refused, match="not a socket"), serving(path):
        pass
    assert path.read_text() == "precious"


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120) / "a.sock"
    with pytest.raises(HostError, match=r"a\.sock"), serving(long):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\n",
        b"[1]\n",
        b'{"ok":true}\n',
        b'{"ok":false,"error":3}\n',
        b"[" * 9_000 + b"\n",
        b'{"ok":',
    ],
)
def test_the_client_does_not_trust_what_answers(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(DaemonUnreachable):
            call(path, "status", timeout_s=5)
        server.join(5)


def test_nobody_there_and_nobody_answering(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="no daemon answers"):
        call(tmp_path / "none.sock", "status")
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(DaemonUnreachable, match="no answer in time"):
            call(path, "status", timeout_s=0.05)


def test_an_endless_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctlclient, "ANSWER_MAX_BYTES", 1000)

    async def large(_args: dict[str, Any]) -> dict[str, Any]:
        return {"x": "y" * 2000}

    path = tmp_path / "x.sock"
    with (
        serving(path, {"large": large}),
        pytest.raises(DaemonUnreachable, match="before the answer was complete"),
    ):
        call(path, "large")
