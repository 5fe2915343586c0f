# SPDX-License-Identifier: Apache-2.0
"""Actions over HTTP on a running gateway with a jump and a stock session, asked with curl as an operator does."""

from __future__ import annotations

import json
import os
import secrets
from typing import Any, Final

from tests.e2e.sessions.bed import Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.jump import inner_host, session, sessions, wait_for
from tests.net.topology import ALLOWED, INNER_GATEWAY, INNER_PREFIX, PORT
from tests.net.traffic import ping
from tests.net.wg import Keys, WgDevice, WgPeer, generate_psk

URL: Final = "http://127.0.0.1:51821"
STATUS: Final = "\n%{http_code}"


class Operator:
    """Acts on the gateway's machine: by TCP with a token, or on the UNIX socket as who runs this."""

    def __init__(self, bed: Bed, token: str) -> None:
        self._bed, self._token = bed, token
        self.said: list[str] = []

    def __call__(
        self, method: str, path: str, body: Any = None, *, local: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Status and document."""
        daemon = self._bed.gateway.daemon
        socket = str(daemon.control_socket.with_suffix(".http"))
        words = ["--unix-socket", socket, f"http://localhost{path}"] if local else [
            "-H", f"Authorization: Bearer {self._token}", URL + path
        ]  # fmt: skip
        sent = [] if body is None else ["-d", json.dumps(body)]
        argv = ["curl", "-sS", "-w", STATUS, "-X", method, "-H", "Content-Type: application/json"]
        done = daemon.namespace.run([*argv, *sent, *words])
        text, _, status = done.stdout.rpartition("\n")
        self.said.append(text)
        return int(status), json.loads(text)


def bed_with_operator(make_bed: MakeBed) -> tuple[Bed, Operator, str]:
    """A gateway with a token for an operator called alice, and its secret."""
    token = secrets.token_hex(32)
    bed = make_bed(
        second_client=True, peers=2, gateway_tables={"stats": {"operator_token_file": "operators"}}
    )
    file = bed.gateway.daemon.folder / "operators"
    file.touch(mode=0o600)
    file.write_text(f"# who may act\nalice {token}\n")
    return bed, Operator(bed, token), token


def stock(bed: Bed, number: int, keys: Keys, psk: str | None = None) -> WgDevice:
    """A wireguard-go client of the gateway, which asks at once."""
    assert bed.topology.second is not None
    peer = WgPeer(bed.gateway.daemon.keys.public, ALLOWED, f"10.1.0.2:{PORT}", psk, keepalive_s=1)
    address = f"{inner_host(number)}/{INNER_PREFIX}"
    return WgDevice(bed.lab, bed.topology.second, keys, [address], [peer]).start()


def peers_with_a_session(bed: Bed) -> list[str]:
    return sorted(row.peer for row in sessions(bed.gateway.daemon) if row.state == "ATTACHED")


def wait_peers(bed: Bed, *wanted: str) -> None:
    wait_for(lambda: peers_with_a_session(bed), lambda seen: seen == list(wanted), f"{wanted}", 20.0)


def test_operators_act_on_jump_and_stock_sessions(make_bed: MakeBed) -> None:
    bed, act, token = bed_with_operator(make_bed)
    bed.start()
    device = stock(bed, 1, bed.gateway.peer_keys[1])
    wait_peers(bed, "peer0", "peer1")
    switch_the_jump_session(bed, act)
    # A stock peer has one path, and takes no advice.
    assert act("POST", "/api/v1/sessions/peer1/switch", {"path": 0})[0] == 409
    ident = session(bed.gateway.daemon, "peer1").session_id
    status, seen = act("POST", f"/api/v1/sessions/{ident}/terminate")
    assert (status, seen["state"], seen["stock"]) == (200, "TERMINATED", True)
    assert act("POST", f"/api/v1/sessions/{ident}/terminate")[0] == 404
    device.stop()
    why = bed.gateway.daemon.cli("why", ident)
    assert "because  OperatorTerminate  by token:alice via http" in why and "row T18" in why
    bed.same_session()
    wait_actions(
        bed,
        [
            ("switch", bed.ident, "done", "token:alice"),
            ("switch", "peer1", "refused", "token:alice"),
            ("terminate", ident, "done", "token:alice"),
            ("terminate", ident, "not_found", "token:alice"),
        ],
    )
    assert_no_secret(bed, act, token)


def switch_the_jump_session(bed: Bed, act: Operator) -> None:
    standby = bed.client.path_on(bed.client.standby().side).path_id
    status, seen = act("POST", f"/api/v1/sessions/{bed.ident}/switch", {"path": standby})
    assert (status, seen["result"]) == (200, "advised")
    bed.client.wait_view(lambda view: view.path_id == standby, "the switch", 10.0)
    bed.same_session()
    switched = bed.switches()[-1]
    assert (switched["path_to"], switched["reason"]) == (standby, "OPERATOR_SWITCH")


def test_a_drain_keeps_sessions_and_takes_no_new_ones(make_bed: MakeBed) -> None:
    bed, act, token = bed_with_operator(make_bed)
    bed.start()
    keys, psk = Keys.generate(), generate_psk()
    wanted = {
        "name": "late",
        "public_key": keys.public,
        "preshared_key": psk,
        "allowed_ips": [inner_host(5) + "/32"],
    }
    status, seen = act("POST", "/api/v1/peers", wanted, local=True)
    assert status == 201 and seen["peer"]["has_preshared_key"]
    assert act("POST", "/api/v1/drain", {"on": True}, local=True) == (
        200,
        {"schema": "jvpn.drain/1", "phase": "draining", "sessions": 1},
    )
    ready = act("GET", "/readyz")
    assert (ready[0], ready[1]["checks"]["serving"]) == (503, False)
    device = stock(bed, 5, keys, psk)
    wait_for(
        lambda: bed.gateway.daemon.counter("handshake_draining"),
        lambda seen: seen >= 2,
        "its handshakes",
        20.0,
    )
    assert peers_with_a_session(bed) == ["peer0"]
    ping(bed.topology.client, INNER_GATEWAY)
    assert "Sessions now: 1" in bed.gateway.daemon.cli("drain")
    assert bed.gateway.daemon.cli_json("drain", "--stop")["phase"] == "serving"
    assert act("GET", "/readyz")[0] == 200
    wait_peers(bed, "late", "peer0")
    assert act("DELETE", "/api/v1/peers/late")[0] == 200
    wait_peers(bed, "peer0")
    assert act("DELETE", "/api/v1/peers/peer0")[0] == 409  # the configuration's own
    device.stop()
    bed.same_session()
    me = f"uid:{os.geteuid()}"
    wait_actions(
        bed,
        [
            ("peer.add", "late", "done", me),
            ("drain", "", "done", me),
            ("drain", "", "done", me),
            ("drain", "", "done", me),
            ("peer.remove", "late", "done", "token:alice"),
            ("peer.remove", "peer0", "refused", "token:alice"),
        ],
    )
    assert_no_secret(bed, act, token, psk)


def actions(bed: Bed) -> list[tuple[str, str, str, str]]:
    """Every OPERATOR_ACTION in the gateway's journal, as `jvpn audit export` gives it."""
    exported = bed.gateway.daemon.cli("audit", "export", "--state-dir", str(bed.gateway.daemon.state_dir))
    records = [json.loads(line) for line in exported.splitlines()]
    return [
        (one["action"], one["target"], one["outcome"], one["by"])
        for one in records
        if one["event"] == "OPERATOR_ACTION"
    ]


def wait_actions(bed: Bed, wanted: list[tuple[str, str, str, str]]) -> None:
    """A record is on disk a moment after its action."""
    wait_for(lambda: actions(bed), lambda seen: seen == wanted, "the records of these actions", 10.0)


def assert_no_secret(bed: Bed, act: Operator, *more: str) -> None:
    """Neither in an answer nor in what may be read of the gateway."""
    for path in (
        "/livez",
        "/readyz",
        "/stats",
        "/api/v1/sessions",
        "/api/v1/paths",
        "/api/v1/audit?limit=500",
        "/openapi.json",
    ):
        act("GET", path)
    keys = [bed.gateway.daemon.keys.private, *(one.private for one in bed.gateway.peer_keys)]
    everything = "".join(act.said) + bed.gateway.daemon.proc.output
    for secret in (*keys, *more):
        assert secret not in everything
