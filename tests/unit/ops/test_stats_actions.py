# SPDX-License-Identifier: Apache-2.0
"""Actions over HTTP: who may act, what each does, what the journal says of it, and what all others cost."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from yarl import URL

from gateway.control import farewell
from gateway.control.actor import Actor, local, uid_of
from gateway.control.configmodel import Operator, Peer, Stats, Tls
from gateway.control.observed import Phase
from gateway.errors import TryLater
from gateway.ops.stats.access import Access, Caller, Denied
from gateway.ops.stats.actions import BODY_MAX_BYTES, BURST
from gateway.ops.stats.openapi import DOCUMENT, SCHEMAS
from tests.unit.control.samples import private, public
from tests.unit.ops.statshost import PRIVATE, PSK, Made, base, get, on_loop, serving
from tests.unit.ops.test_stats_api import faults
from tests.unit.ops.test_stats_server import make_certificates

READER: Final = b"token-of-a-reader-only"
TOKEN: Final = b"token-of-somebody-who-acts"
OPERATORS: Final = (Operator("alice", TOKEN), Operator("bob", b"another-token-of-another"))
SETTINGS: Final[dict[str, Any]] = {"operators": OPERATORS}
BEARER: Final = {"Authorization": f"Bearer {TOKEN.decode()}"}
JSON: Final = {"Content-Type": "application/json"}
ME: Final = f"uid:{os.geteuid()}"


class Asker:
    """Sends requests to one listener and keeps what was said."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
        self._session, self._url, self._headers = session, url, headers
        self.said: list[str] = []

    async def __call__(
        self, method: str, path: str, body: Any = None, /, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and document; ``body`` goes as JSON, bytes as they are."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**self._headers, **JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self._session.request(
            method, URL(self._url + path, encoded=True), data=data, headers=sent
        ) as answer:
            text = await answer.text()
            self.said.append(f"{answer.headers}{text}")
            return answer.status, json.loads(text) if answer.content_type == "application/json" else {}


def acting(
    work: Callable[[Made, Asker], Awaitable[None]], folder: Path, *, local: bool = False, **more: Any
) -> None:
    """Run a test with somebody who may act: by an operator's token, or on the UNIX socket."""

    async def run() -> None:
        async with serving(folder, settings={**SETTINGS, **more}) as made:
            connector = aiohttp.UnixConnector(str(made.socket_path)) if local else None
            async with aiohttp.ClientSession(connector=connector) as session:
                url, headers = ("http://gateway", {}) if local else (base(made), BEARER)
                await work(made, Asker(session, url, dict(headers)))

    on_loop(run)


# --- what the actions do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True], ids=["token", "socket"])
def test_terminate_ends_the_session_and_the_journal_says_who(tmp_path: Path, local: bool) -> None:
    async def work(made: Made, ask: Asker) -> None:
        live = made.add_session()
        status, seen = await ask("POST", "/api/v1/sessions/peer1/terminate")
        assert (status, seen["action"], seen["state"]) == (200, "terminate", "TERMINATED")
        assert faults(seen, SCHEMAS["Acted"]) == [] and live.core.ended
        assert (await ask("POST", "/api/v1/sessions/peer1/terminate", {}))[0] == 404
        who = ME if local else "token:alice"
        records = made.journal()
        acts = [one for one in records if one["event"] == "OPERATOR_ACTION"]
        assert [(one["by"], one["via"], one["outcome"]) for one in acts] == [
            (who, "http", "done"),
            (who, "http", "not_found"),
        ]
        (ended,) = [one for one in records if one.get("input") == "OperatorTerminate"]
        assert ended["fields"] == {"by": f"{who} via http"}
        why = await made.docs.why({"session": live.core.session_id.hex()})
        assert why["steps"][-1]["cause"]["fields"]["by"] == f"{who} via http"

    acting(work, tmp_path, local=local)


def test_a_switch_that_policy_denies_is_a_conflict_and_is_audited(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        made.add_session()
        for path, status, words in ((0, 409, "POLICY_DENIED"), (1, 409, "active"), (9, 404, "no path 9")):
            found, seen = await ask("POST", "/api/v1/sessions/peer1/switch", {"path": path})
            assert found == status and words in seen["error"]["message"]
        records = made.journal()
        assert [one["outcome"] for one in records if one["event"] == "OPERATOR_ACTION"] == [
            "refused",
            "refused",
            "not_found",
        ]
        assert any(one["event"] == "TRANSPORT_SWITCH_DENIED" for one in records)

    acting(work, tmp_path)


def test_peers_come_and_go_and_no_secret_comes_back(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        wanted = {"name": "phone", "public_key": public(3), "preshared_key": private(9)}
        status, seen = await ask("POST", "/api/v1/peers", wanted)
        assert status == 201 and faults(seen, SCHEMAS["Peer"]) == []
        assert seen["peer"]["allowed_ips"] == ["10.99.0.2/32"] and seen["peer"]["has_preshared_key"]
        assert made.tunnel.peers.by_name("phone").keys.psk == bytes([9]) * 32
        assert (await ask("POST", "/api/v1/peers", wanted))[0] == 409
        status, seen = await ask("DELETE", "/api/v1/peers/phone")
        assert status == 200 and faults(seen, SCHEMAS["PeerRemoved"]) == []
        assert (await ask("DELETE", "/api/v1/peers/phone"))[0] == 404
        assert not len(made.tunnel.peers) and not made.book.peers
        wrong = {**wanted, "preshared_key": private(9) + "x"}
        assert (await ask("POST", "/api/v1/peers", wrong))[0] == 422
        assert (await ask("POST", "/api/v1/peers", {**wanted, "private_key": private(3)}))[0] == 422
        acts = [one for one in made.journal() if one["event"] == "OPERATOR_ACTION"]
        assert [(one["action"], one["target"], one["outcome"]) for one in acts] == [
            ("peer.add", "phone", "done"),
            ("peer.add", "phone", "refused"),
            ("peer.remove", "phone", "done"),
            ("peer.remove", "phone", "not_found"),
        ]
        everything = "".join(ask.said) + json.dumps(made.journal())
        for secret in (private(9), private(3), TOKEN.decode(), private(1)):
            assert secret not in everything

    acting(work, tmp_path)


def test_a_peer_is_named_by_its_key_too(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        number = next(n for n in range(3, 200) if "/" in public(n))
        key = public(number)
        assert (await ask("POST", "/api/v1/peers", {"name": "a", "public_key": key}))[0] == 201
        url = "/api/v1/peers/" + key.replace("/", "%2F").replace("+", "%2B")
        status, seen = await ask("DELETE", url)
        assert (status, seen["peer"]["name"]) == (200, "a")

    acting(work, tmp_path)


def test_a_drain_fails_readiness_until_it_ends(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        live = made.add_session()
        for on, status, phase in ((True, 503, "draining"), (True, 503, "draining"), (False, 200, "serving")):
            found, seen = await ask("POST", "/api/v1/drain", {"on": on})
            assert (found, seen) == (200, {"schema": "jvpn.drain/1", "phase": phase, "sessions": 1})
            assert f"\njvpn_draining {int(on)}\n" in (await get(made, "/metrics"))[1]
            assert faults(seen, SCHEMAS["Drain"]) == []
            assert (await ask("GET", "/readyz"))[0] == status
            admits = made.tunnel.exchange.admits
            assert admits(live.peer)
            stranger = made.tunnel.peers.add(_peer(200 + status + on), 1)
            assert admits(stranger) is not on
            made.tunnel.peers.remove(stranger)
        assert not live.core.ended

    acting(work, tmp_path)


def _peer(number: int) -> Peer:
    return Peer(f"stranger{number}", number.to_bytes(32, "big"))


def test_nothing_is_done_before_the_gateway_serves_and_when_it_goes(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        made.seen.phase = Phase.STARTING
        assert (await ask("POST", "/api/v1/drain", {"on": True}))[0] == 503
        made.seen.phase = Phase.SERVING
        await farewell.say(made.seen)
        status, seen = await ask("POST", "/api/v1/drain", {"on": False})
        assert (status, seen["error"]["message"]) == (503, "the gateway is stopping")
        with pytest.raises(TryLater, match="stopping"):
            await made.seen.commands["drain"]({"on": False})
        assert made.seen.phase is Phase.DRAINING

    acting(work, tmp_path)


def test_no_answer_holds_a_key_or_a_token(tmp_path: Path) -> None:
    """Every address is read, and asked for what it does not have, by who may read, who may act, and nobody."""

    async def work(made: Made, ask: Asker) -> None:
        made.add_session()
        body = {"name": "phone", "public_key": public(3), "preshared_key": private(9)}
        reader = f"Bearer {READER.decode()}"
        for bearer in (f"Bearer {TOKEN.decode()}", reader, ""):
            for path, methods in DOCUMENT["paths"].items():
                for method in methods:
                    if path != "/api/v1/events":
                        address = path.replace("{id}", "peer1").replace("{name}", "phone")
                        sent = None if method == "get" else body
                        await ask(method.upper(), address, sent, Authorization=bearer)
        said = "".join(ask.said)
        assert '"has_preshared_key":true' in said and '"jvpn.error/1"' in said
        tokens = [one.token.decode() for one in OPERATORS]
        for key in (PRIVATE, PSK, bytes([9]) * 32, bytes([1]) * 32):
            assert key.hex() not in said
            assert base64.b64encode(key).decode().rstrip("=") not in said
        assert not [token for token in (*tokens, READER.decode()) if token in said]

    acting(work, tmp_path, token=READER)


# --- who may act -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "headers", "caller", "found"),
    [
        (Access(), {}, Caller(), "off"),
        (Access(token=READER), {"Authorization": f"Bearer {READER.decode()}"}, Caller(), "off"),
        (Access(operators=OPERATORS), {}, Caller(), "token"),
        (Access(operators=OPERATORS), {"Authorization": "Bearer wrong"}, Caller(), "token"),
        (Access(operators=OPERATORS), {"Authorization": "Basic " + TOKEN.decode()}, Caller(), "token"),
        (
            Access(token=READER, operators=OPERATORS),
            {"Authorization": f"Bearer {READER.decode()}"},
            Caller(),
            "role",
        ),
        (Access(operators=OPERATORS), BEARER, Caller(), "token:alice"),
        (Access(operators=OPERATORS[::-1]), BEARER, Caller(), "token:alice"),
        (Access(operator_certificates=frozenset({"ops"})), {}, Caller(certificate="scraper"), "role"),
        (Access(operator_certificates=frozenset({"ops"})), {}, Caller(certificate="ops"), "cert:ops"),
        (Access(local=True, own_uid=7), {}, Caller(uid=7), "uid:7"),
        (Access(local=True, own_uid=7), {}, Caller(uid=0), "uid:0"),
        (Access(local=True, own_uid=7), {}, Caller(uid=8), "role"),
        (Access(local=True, own_uid=7), {}, Caller(), "role"),
        (Access(local=True), {"Host": "a", "Origin": "http://b"}, Caller(uid=0), "origin"),
        (Access(local=True), {"Host": "a", "Sec-Fetch-Site": "cross-site"}, Caller(uid=0), "origin"),
    ],
)
def test_who_is_an_operator(access: Access, headers: dict[str, str], caller: Caller, found: str) -> None:
    who = access.operator(headers, caller)
    assert (who.name if isinstance(who, Actor) else who.code) == found
    if isinstance(who, Denied):
        assert TOKEN.decode() not in who.message
    assert TOKEN.decode() not in repr(access)


def test_an_operator_s_token_reads_as_well(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        assert (await ask("GET", "/stats"))[0] == 200
        assert (await ask("GET", "/stats", Authorization="Bearer no"))[0] == 401
        reader = f"Bearer {READER.decode()}"
        assert (await ask("GET", "/stats", Authorization=reader))[0] == 200
        assert (await ask("POST", "/api/v1/drain", {"on": True}, Authorization=reader))[0] == 403
        assert made.seen.phase is Phase.SERVING

    acting(work, tmp_path, token=READER)


def test_an_operator_who_is_taken_off_the_file_acts_no_more(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        assert (await ask("POST", "/api/v1/drain", {"on": False}))[0] == 200
        assert made.server is not None
        made.server.adopt(Stats(operators=OPERATORS[1:]))
        assert (await ask("POST", "/api/v1/drain", {"on": True}))[0] == 401
        made.server.adopt(Stats())
        assert (await ask("POST", "/api/v1/drain", {"on": True}))[0] == 403
        made.server.adopt(Stats(operators=OPERATORS))
        assert (await ask("POST", "/api/v1/drain", {"on": False}))[0] == 200

    acting(work, tmp_path)


def test_over_loopback_without_credentials_actions_are_off(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        live = made.add_session()
        for path in ("sessions/peer1/terminate", "sessions/peer1/switch", "drain", "peers"):
            status, seen = await ask("POST", f"/api/v1/{path}", {"on": True})
            assert (status, seen["error"]["code"]) == (403, "off")
        assert (await ask("DELETE", "/api/v1/peers/peer1"))[0] == 403
        assert not live.core.ended and made.seen.phase is Phase.SERVING
        assert not [one for one in made.journal() if one["event"] == "OPERATOR_ACTION"]

    acting(work, tmp_path, operators=())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "", "Cookie": f"token={TOKEN.decode()}"}, 401),
    ],
)
def test_what_a_web_page_can_send_is_refused(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async def work(made: Made, ask: Asker) -> None:
        assert (await ask("POST", "/api/v1/drain", {"on": True}, **headers))[0] == status
        assert (made.seen.phase is Phase.DRAINING) == (status == 200)
        assert "Set-Cookie" not in ask.said[0] and "Access-Control" not in ask.said[0]

    acting(work, tmp_path)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("drain", b"{", 400),
        ("drain", b"\xff", 400),
        ("drain", b"[" * 5000, 400),
        ("drain", b"", 422),
        ("drain", b"[]", 422),
        ("drain", b'{"on":1}', 422),
        ("drain", b'{"on":true,"more":1}', 422),
        ("peers", b"1", 422),
        ("peers", b'{"name":"a"}', 422),
        ("peers", b'{"name":"a","public_key":"x"}', 422),
        ("sessions/peer1/switch", b'{"path":256}', 422),
        ("sessions/peer1/switch", b'{"path":"1"}', 422),
        ("sessions/peer1/switch", b'{"path":1e400}', 400),
        ("sessions/nobody/switch", b'{"path":1}', 404),
        ("sessions/a/switch", b'{"path":1}', 422),
        ("sessions/%00/terminate", b"{}", 404),
        ("sessions/peer1/ping", b"{}", 404),
        ("sessions/peer1/switch/x", b"{}", 404),
        ("drain", b" " * (BODY_MAX_BYTES + 1), 413),
    ],
)
def test_bodies_that_make_no_sense(tmp_path: Path, path: str, body: bytes, status: int) -> None:
    async def work(made: Made, ask: Asker) -> None:
        made.add_session()
        found, seen = await ask("POST", f"/api/v1/{path}", body)
        assert found == status and faults(seen, SCHEMAS["Error"]) == []
        assert (await ask("GET", "/livez"))[0] == 200

    acting(work, tmp_path)


def test_other_methods_are_told_which_there_are(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        for method, path, allow in (
            ("GET", "/api/v1/drain", "POST"),
            ("DELETE", "/api/v1/peers", "POST"),
            ("PUT", "/api/v1/peers/a", "DELETE"),
            ("POST", "/api/v1/sessions", "GET, HEAD"),
        ):
            assert (await ask(method, path))[0] == 405
            assert f"'Allow': '{allow}'" in ask.said[-1]

    acting(work, tmp_path)


# --- what it costs -----------------------------------------------------------------------------------------------


def test_actions_are_limited_and_reading_is_not(tmp_path: Path) -> None:
    async def work(made: Made, ask: Asker) -> None:
        found = [(await ask("POST", "/api/v1/drain", {"on": False}))[0] for _ in range(4 * BURST)]
        assert found[:BURST] == [200] * BURST and 429 in found
        assert "'Retry-After': '1'" in ask.said[found.index(429)]
        assert (await ask("GET", "/stats"))[0] == 200

    acting(work, tmp_path)


HEAD: Final = (
    "POST /api/v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {TOKEN.decode()}\r\n"
)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + "Content-Length: 100\r\n\r\n{", 0),
        (HEAD.replace(TOKEN.decode(), "wrong") + "Content-Length: 100\r\n\r\n{", 401),
        (HEAD + "Content-Length: 99999999\r\n\r\n", 413),
        (HEAD + "Transfer-Encoding: chunked\r\n\r\n5\r\n{    \r\n", 411),
        (HEAD + "Content-Length: 5\r\n\r\nwrong", 400),
        (HEAD.replace("localhost", "evil.example") + "Content-Length: 100\r\n\r\n{", 421),
        (HEAD + "Origin: https://evil.example\r\nContent-Length: 100\r\n\r\n{", 403),
        (HEAD.replace("/json", "/x-www-form-urlencoded") + "Content-Length: 100\r\n\r\n{", 415),
    ],
)
def test_slow_and_oversized_requests_hold_nothing(tmp_path: Path, sent: str, status: int) -> None:
    """Many of them at once: they end by themselves, and afterwards there are no more tasks and sockets than before."""

    async def work() -> None:
        async with serving(tmp_path, settings=SETTINGS, request_s=0.5) as made:
            assert made.server is not None
            await asyncio.sleep(0)
            tasks, sockets = len(asyncio.all_tasks()), open_sockets()
            pairs = [await asyncio.open_connection(*made.server.addresses[0]) for _ in range(20)]
            for _, writer in pairs:
                writer.write(sent.encode())
            began_s = time.monotonic()
            for reader, writer in pairs:
                try:
                    data = await asyncio.wait_for(reader.read(), 10)
                except ConnectionResetError:
                    data = b""
                assert int(data.split()[1]) == status if data else status in (0, 413)
                writer.close()
            assert time.monotonic() - began_s < 5
            for _ in range(500):
                if len(asyncio.all_tasks()) <= tasks and open_sockets() <= sockets:
                    break
                await asyncio.sleep(0.01)
            assert (len(asyncio.all_tasks()), open_sockets()) == (tasks, sockets)
            assert made.seen.phase is Phase.SERVING

    on_loop(work)


def open_sockets() -> int:
    """Of this process."""
    return sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket:") for fd in _fds())


def _fds() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


# --- health without a token --------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_health", [False, True])
def test_health_may_be_open(tmp_path: Path, open_health: bool) -> None:
    async def work(made: Made, ask: Asker) -> None:
        nobody = {"Authorization": ""}
        for path in ("/livez", "/readyz"):
            assert (await ask("GET", path, **nobody))[0] == (200 if open_health else 401)
        for path in ("/stats", "/metrics", "/api/v1/sessions", "/livez/", "//livez"):
            assert (await ask("GET", path, **nobody))[0] == 401
        assert (await ask("GET", "/livez", Host="evil.example", **nobody))[0] == 421
        # The dashboard's empty page is all that is there for nobody, and only to be read.
        assert [(await ask(method, "/", **nobody))[0] for method in ("GET", "POST", "PUT")] == [200, 401, 401]
        assert (await ask("GET", "/", b"body", **nobody))[0] == 401

    acting(work, tmp_path, token=READER, open_health=open_health)


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    assert uid_of(ours) == os.geteuid() and str(local(theirs, "control")) == f"{ME} via control"
    with socket.socket() as inet:
        assert uid_of(inet) is None
    ours.close()
    theirs.close()


# --- certificates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("named", "status"), [("client", 200), ("somebody-else", 403)])
def test_a_certificate_acts_only_by_its_name(tmp_path: Path, named: str, status: int) -> None:
    make_certificates(tmp_path)
    tls = Tls(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    settings = {"tls": tls, "operator_certificates": frozenset({named}), "open_health": True}

    async def work() -> None:
        async with serving(tmp_path, settings=settings) as made, aiohttp.ClientSession() as session:
            url = base(made).replace("http:", "https:")
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            # Without one: health alone.
            for path, found in (("/livez", 200), ("/stats", 401), ("/api/v1/sessions", 401)):
                async with session.get(url + path, ssl=context) as answer:
                    assert answer.status == found
            async with session.post(url + "/api/v1/drain", json={"on": True}, ssl=context) as answer:
                assert answer.status == 401
            context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
            async with session.get(url + "/stats", ssl=context) as answer:
                assert answer.status == 200
            async with session.post(url + "/api/v1/drain", json={"on": True}, ssl=context) as answer:
                assert answer.status == status
            acts = [one for one in made.journal() if one["event"] == "OPERATOR_ACTION"]
            assert [one["by"] for one in acts] == (["cert:client"] if status == 200 else [])

    on_loop(work)


def test_a_certificate_of_another_authority_is_none(tmp_path: Path) -> None:
    """Also where none would do for /livez: it is refused with the handshake."""
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path)
    make_certificates(tmp_path / "other")
    tls = Tls(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    settings = {"tls": tls, "operator_certificates": frozenset({"client"}), "open_health": True}

    async def work() -> None:
        async with serving(tmp_path, settings=settings) as made, aiohttp.ClientSession() as session:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            context.load_cert_chain(tmp_path / "other/client.pem", tmp_path / "other/client.key")
            url = base(made).replace("http:", "https:")
            with pytest.raises(aiohttp.ClientError):
                await session.post(url + "/api/v1/drain", json={"on": True}, ssl=context)
            assert made.seen.phase is Phase.SERVING

    on_loop(work)
