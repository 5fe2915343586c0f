# SPDX-License-Identifier: Apache-2.0
"""The stats endpoint's door and health: who is let in, what all others cost, when it says that something is wrong."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.control.configfields import Endpoint as HostPort
from gateway.control.configmodel import ON_THE_LOOP, Stats, Tls, Workers
from gateway.control.observed import Phase
from gateway.control.watch import STALL_NS, Histogram, Lane
from gateway.ops.stats.access import Access
from tests.unit.ops.statshost import Made, base, get, on_loop, serving

TOKEN = b"correct-horse-battery"


async def raw(made: Made, data: bytes, *, patience_s: float = 10.0) -> bytes:
    """What comes back for these bytes until the connection ends."""
    assert made.server is not None
    reader, writer = await asyncio.open_connection(*made.server.addresses[0])
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), patience_s)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def status_of(made: Made, head: str, **kwargs: Any) -> int:
    answer = await raw(made, head.replace("\n", "\r\n").encode(), **kwargs)
    return int(answer.split()[1]) if answer else 0


# --- who may ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:51821"}, None),
        ({"Host": "localhost"}, None),
        ({"Host": "stats.example.net:80"}, None),
        ({"Host": "STATS.example.net"}, None),
        ({"Host": "evil.example.com"}, 421),
        ({"Host": "127.0.0.2"}, 421),
        ({"Host": "[::1]:51821"}, 421),
        ({"Host": ""}, 421),
        ({}, 421),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, None),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "https://localhost:1"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "none"}, None),
    ],
)
def test_host_and_origin(headers: dict[str, str], status: int | None) -> None:
    access = Access(frozenset({"stats.example.net"}))
    denied = access.judge(headers, "127.0.0.1", "http")
    assert (denied.status if denied else None) == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_reading(tmp_path: Path, method: str) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            answer = await raw(
                made, f"{method} /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            assert answer.startswith(b"HTTP/1.1 405") and b"Allow: GET, HEAD\r\n" in answer

    on_loop(work)


@pytest.mark.parametrize(
    "sent",
    ["", "Bearer", "Bearer wrong", f"Basic {TOKEN.decode()}", f"Bearer {TOKEN.decode()}x", "Bearer \udcff"],
)
def test_without_the_token(sent: str) -> None:
    headers = {"Host": "localhost", "Authorization": sent}
    denied = Access(token=TOKEN).judge(headers, "127.0.0.1", "http")
    assert denied is not None and denied.status == 401
    assert TOKEN.decode() not in denied.message


def test_the_token_opens_every_page_and_a_socket_of_its_own_needs_none(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, settings={"token": TOKEN}) as made:
            for path in ("/livez", "/readyz", "/stats"):
                assert (await get(made, path))[0] == 401
                assert (await get(made, path, Authorization=f"Bearer {TOKEN.decode()}"))[0] in (200, 503)
            assert made.socket_path.stat().st_mode & 0o777 == 0o600
            connector = aiohttp.UnixConnector(str(made.socket_path))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get("http://gateway/livez") as answer,
            ):
                assert answer.status == 200
        assert not made.socket_path.exists()

    on_loop(work)


def make_certificates(folder: Path) -> None:
    """An authority, and a server's and a client's certificate of it."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    for name in ("server", "client"):
        extension = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key")
        openssl(
            *new, *signed, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", *extension
        )


def test_with_a_client_authority_only_its_certificates_get_in(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    tls = Tls(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")

    async def work() -> None:
        async with serving(tmp_path, settings={"tls": tls}) as made, aiohttp.ClientSession() as session:
            url = base(made).replace("http:", "https:") + "/livez"
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, ssl=context)
            context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
            async with session.get(url, ssl=context) as answer:
                assert answer.status == 200

    on_loop(work)


def test_a_renewed_certificate_counts_after_a_reload_and_half_of_one_never(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    tls = Tls(tmp_path / "server.pem", tmp_path / "server.key")
    seen: list[str] = []

    async def work() -> None:
        async with serving(tmp_path, settings={"tls": tls}) as made:
            assert made.server is not None
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            for renewed in ((), ("pem",), ("pem", "key")):
                for end in renewed:
                    (tmp_path / f"server.{end}").write_bytes((tmp_path / f"client.{end}").read_bytes())
                made.server.adopt(Stats(tls=tls))
                _, writer = await asyncio.open_connection(*made.server.addresses[0], ssl=context)
                ((name,),) = writer.get_extra_info("peercert")["subject"]
                seen.append(name[1])
                writer.close()

    on_loop(work)
    assert seen == ["server", "server", "client"]


def test_handshakes_that_stand_still_count_as_connections_and_end(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    tls = Tls(tmp_path / "server.pem", tmp_path / "server.key")

    async def work() -> None:
        async with serving(tmp_path, settings={"tls": tls}, connections_max=4, request_s=1.0) as made:
            assert made.server is not None
            held = [await asyncio.open_connection(*made.server.addresses[0]) for _ in range(4)]
            for _, writer in held:
                writer.write(b"\x16\x03\x01")
            began_s = time.monotonic()
            assert await raw(made, b"\x16\x03\x01") == b""
            assert time.monotonic() - began_s < 0.9
            for reader, writer in held:
                with suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 10) == b""
                writer.close()

    on_loop(work)


# --- what the others cost ------------------------------------------------------------------------------------------


def test_what_is_too_large_or_malformed_is_refused_without_a_word_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            host = "\nHost: localhost\n"
            assert await status_of(made, f"GET /{'a' * 9000} HTTP/1.1{host}\n") == 400
            assert await status_of(made, f"GET / HTTP/1.1{host}X: {'a' * 9000}\n\n") == 400
            many = "".join(f"X{number}: 1\n" for number in range(200))
            assert await status_of(made, f"GET / HTTP/1.1{host}{many}\n") == 400
            assert await status_of(made, f"POST /livez HTTP/1.1{host}Content-Length: 5\n\nhello") == 405
            assert await status_of(made, f"GET /livez HTTP/1.1{host}Content-Length: 9999999\n\n") == 413
            assert await status_of(made, f"GET /livez HTTP/1.1{host}Transfer-Encoding: chunked\n\n") == 413
            assert await status_of(made, "\x16\x03\x01 not http\n\n") == 400
            assert await status_of(made, f"GET /nothing HTTP/1.1{host}Connection: close\n\n") == 404
            assert (await get(made, "/livez"))[0] == 200

    on_loop(work)
    said = capfd.readouterr()
    assert said.out == said.err == "" and not caplog.records


@pytest.mark.parametrize(
    "sent", ["", "GET /livez HTTP/1.1\nHost: localh", "GET /livez HTTP/1.1\nHost: localhost\n\n"]
)
def test_a_connection_that_is_slow_or_idle_is_ended(tmp_path: Path, sent: str) -> None:
    async def work() -> None:
        async with serving(tmp_path, request_s=0.3) as made:
            began_s = time.monotonic()
            await raw(made, sent.replace("\n", "\r\n").encode())
            assert 0.25 <= time.monotonic() - began_s < 5

    on_loop(work)


def test_one_byte_at_a_time_buys_no_time(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, request_s=0.3) as made:
            assert made.server is not None
            reader, writer = await asyncio.open_connection(*made.server.addresses[0])
            writer.write(b"GET /livez HTTP/1.1\r\nX: ")
            began_s, ended = time.monotonic(), asyncio.ensure_future(reader.read())
            while not ended.done() and time.monotonic() - began_s < 5:
                writer.write(b"a")
                await asyncio.wait([ended], timeout=0.02)
            assert 0.25 <= time.monotonic() - began_s < 5
            await asyncio.gather(ended, return_exceptions=True)
            writer.close()

    on_loop(work)


def test_who_asks_and_does_not_take_the_answers_is_cut_off(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, request_s=0.5) as made:
            assert made.server is not None
            (door,) = [door for door in made.server._doors if not door.access.local]
            with socket.create_connection(made.server.addresses[0]) as taker:
                taker.setblocking(False)
                asking = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
                began_s = time.monotonic()
                while not door.connections:
                    await asyncio.sleep(0.01)
                while door.connections and time.monotonic() - began_s < 20:
                    with suppress(BlockingIOError, ConnectionError):
                        taker.send(asking)
                    await asyncio.sleep(0.02)
                assert not door.connections

    on_loop(work)


def test_connections_are_bounded_and_the_socket_stays_free(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, connections_max=4) as made:
            assert made.server is not None
            held = [await asyncio.open_connection(*made.server.addresses[0]) for _ in range(4)]
            for _, writer in held:
                writer.write(b"GET")
            assert await raw(made, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
            connector = aiohttp.UnixConnector(str(made.socket_path))
            async with aiohttp.ClientSession(connector=connector) as session:
                assert (await session.get("http://gateway/livez")).status == 200
            for _, writer in held:
                writer.close()
            for _ in range(100):
                answer = await raw(
                    made, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                if answer:
                    break
            assert answer.startswith(b"HTTP/1.1 200")

    on_loop(work)


def test_a_taken_port_leaves_the_rest(tmp_path: Path) -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            both = (HostPort(*taken.getsockname()), HostPort("127.0.0.1", 0))
            async with serving(tmp_path, settings={"listen": both}) as made:
                assert made.server is not None and len(made.server.addresses) == 1
                assert (await get(made, "/livez"))[0] == 200

    on_loop(work)


# --- health --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [ON_THE_LOOP, Workers(2, native=True)], ids=["loop", "native"])
def test_livez_fails_when_the_data_plane_leaves_what_arrives_and_recovers(
    tmp_path: Path, workers: Workers
) -> None:
    async def work() -> None:
        async with serving(tmp_path, pump=False, workers=workers) as made:
            assert (await get(made, "/livez"))[0] == 200
            made.inner[-1].send(b"x" * 148)  # the queue of the last worker
            status, seen = await until(made, 503)
            last = workers.count - 1
            assert status == 503 and seen["problems"] == [f"worker {last} does not read what waits"]
            assert (await get(made, "/readyz"))[0] == 503
            made.tunnel.start()
            assert (await until(made, 200))[0] == 200

    on_loop(work)


async def until(made: Made, wanted: int) -> tuple[int, Any]:
    """/livez, asked until it answers so or it has had twice the time of a stall."""
    deadline_s = time.monotonic() + 2 * STALL_NS / 1e9 + 5
    while True:
        found = await get(made, "/livez")
        if found[0] == wanted or time.monotonic() > deadline_s:
            return found
        await asyncio.sleep(0.05)


def test_a_lane_that_moves_or_has_nothing_to_do_is_well() -> None:
    lane = Lane()
    for turn in range(40):
        lane.look(turn * STALL_NS // 8, waits=True, mark=turn)
        assert not lane.stalled(turn * STALL_NS // 8)
    for turn in range(40, 80):
        lane.look(turn * STALL_NS // 8, waits=False, mark=39)
        assert not lane.stalled(turn * STALL_NS // 8)
    for turn in range(80, 90):
        lane.look(turn * STALL_NS // 8, waits=True, mark=39)
        assert lane.stalled(turn * STALL_NS // 8) == (turn >= 88)


def test_a_histogram_counts_each_value_once() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.add(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 8)


def test_readyz_says_what_is_missing(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            assert (await get(made, "/readyz"))[0] == 200
            made.seen.phase = Phase.DRAINING
            status, seen = await get(made, "/readyz")
            assert (status, seen["phase"], seen["checks"]["serving"]) == (503, "draining", False)
            made.seen.phase, made.seen.interface = Phase.SERVING, "absent0"
            status, seen = await get(made, "/readyz")
            assert [name for name, holds in seen["checks"].items() if not holds] == ["device"]

    on_loop(work)


def test_stats_has_the_box_and_counts_sessions(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as made:
            made.add_session()
            status, seen = await get(made, "/stats")
            assert (status, seen["schema"], seen["peers"]) == (200, "jvpn.stats/1", 1)
            assert seen["sessions"]["ATTACHED"] == 1 and sum(seen["sessions"].values()) == 1
            box = seen["box"]
            assert box["process"]["rss_bytes"] > 10 << 20 and box["process"]["fds"] > 3
            assert len(box["cpu"]["per_core_percent"]) >= 1 and "lo" in box["nics"]
            assert box["udp"].keys() == {"in_errors", "receive_buffer_errors", "send_buffer_errors"}
            assert 0 < box["memory"]["available_bytes"] < box["memory"]["total_bytes"]

    on_loop(work)
