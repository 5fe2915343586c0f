# SPDX-License-Identifier: Apache-2.0
"""The stats endpoint of a real gateway with one client, asked with curl as an operator does.

client ─── router ─── server (jvpn gateway) ─── backend                       drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.ops.stats.openapi import DOCUMENT
from tests.net.jvpn import JvpnGateway
from tests.net.lab import LabError, missing_requirements
from tests.net.traffic import ping
from tests.net.tunnel import SERVER, SERVER_OUTER, Site, Tunnel

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "nft", "curl"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

ROOT: Final = Path(__file__).resolve().parents[2]
URL: Final = "http://127.0.0.1:51821"
EXAMPLE: Final = re.compile(r"^    (curl [^#\n]+)", re.MULTILINE)
EXAMPLES: Final = [
    line.strip()
    for page in ("README.md", "docs/operations.md")
    for line in EXAMPLE.findall((ROOT / page).read_text())
]
# What the endpoint may cost a gateway that has one session.
RSS_MAX_BYTES: Final = 85 * 1000 * 1000


@pytest.fixture(scope="module")
def tunnel(site: Site) -> Iterator[Tunnel]:
    made = Tunnel(site, "jvpn", "jvpn").start()
    yield made
    made.client.stop()
    made.server.stop()


@pytest.fixture
def gateway(tunnel: Tunnel) -> JvpnGateway:
    assert isinstance(tunnel.server, JvpnGateway)
    return tunnel.server


def curl(gateway: JvpnGateway, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run it on the gateway's machine."""
    return gateway.namespace.run(["curl", "-sS", *words], check=check)


def read(gateway: JvpnGateway, path: str) -> Any:
    """A document that must be there."""
    return json.loads(curl(gateway, "--fail", URL + path).stdout)


def metric(gateway: JvpnGateway, series: str) -> float:
    text = curl(gateway, "--fail", f"{URL}/metrics").stdout
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_every_address_answers(gateway: JvpnGateway) -> None:
    for path, methods in DOCUMENT["paths"].items():
        if "get" in methods and path != "/api/v1/events":
            assert curl(gateway, "--fail", URL + path.replace("{id}", session(gateway)["session_id"])).stdout
    assert read(gateway, "/livez")["live"] is True
    ready = read(gateway, "/readyz")
    assert ready["ready"] and all(ready["checks"].values())


def session(gateway: JvpnGateway) -> dict[str, Any]:
    (one,) = read(gateway, "/api/v1/sessions")["sessions"]
    return dict(one)


def test_it_says_what_the_commands_say(gateway: JvpnGateway) -> None:
    mine, theirs = session(gateway), gateway.cli_json("sessions")["sessions"][0]
    for name in ("session_id", "peer", "state", "suite", "path"):
        assert mine[name] == theirs[name], name
    one = read(gateway, f"/api/v1/sessions/{mine['peer']}")
    assert [path["status"] for path in one["paths"]].count("ACTIVE") == 1
    assert read(gateway, "/api/v1/paths")["paths"][0]["session_id"] == mine["session_id"]
    assert read(gateway, "/stats")["sessions"][mine["state"]] == 1


def test_traffic_counts(tunnel: Tunnel, gateway: JvpnGateway) -> None:
    before = metric(gateway, 'jvpn_packets_total{direction="in"}')
    ping(tunnel.site.client, SERVER[0])
    assert metric(gateway, 'jvpn_packets_total{direction="in"}') > before
    assert metric(gateway, 'jvpn_sessions{state="ATTACHED"}') == 1
    assert metric(gateway, 'jvpn_handshakes_total{result="ok",reason=""}') >= 1
    assert metric(gateway, "jvpn_handshake_duration_seconds_count") >= 1
    assert 0 < metric(gateway, "jvpn_handshake_duration_seconds_sum") < 10
    for name in ("dual_binding", "silent_reset", "ambiguous_owner"):
        assert metric(gateway, f"jvpn_{name}_total") == 0


def test_memory_with_one_session(gateway: JvpnGateway) -> None:
    assert read(gateway, "/stats")["box"]["process"]["rss_bytes"] <= RSS_MAX_BYTES


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_examples_of_the_documents_work(gateway: JvpnGateway, line: str) -> None:
    words = [
        gateway_socket(gateway) if word == "/run/jvpn/jvpn0.http" else word for word in shlex.split(line)
    ]
    endless = "/events" in line
    done = curl(gateway, "--fail", *words[1:], *(("--max-time", "1") if endless else ()), check=False)
    assert done.stdout and done.returncode == (28 if endless else 0), done.stderr


def gateway_socket(gateway: JvpnGateway) -> str:
    return str(gateway.control_socket.with_suffix(".http"))


def test_events_of_the_past_and_the_present(gateway: JvpnGateway) -> None:
    done = curl(gateway, "-N", "--max-time", "1", f"{URL}/api/v1/events?since=0", check=False)
    names = re.findall(r"^event: (\w+)$", done.stdout, re.MULTILINE)
    assert names[0] == "SESSION_CREATED" and "TRANSPORT_ATTACHED" in names


def test_no_other_address_listens(tunnel: Tunnel, gateway: JvpnGateway) -> None:
    for host in (SERVER_OUTER[4], SERVER[0]):
        assert curl(gateway, f"http://{host}:51821/livez", check=False).returncode == 7
    with pytest.raises(LabError):
        tunnel.site.client.run(["curl", "-sS", "--max-time", "2", f"http://{SERVER[0]}:51821/livez"])


def test_a_process_that_stands_still_fails_its_liveness(gateway: JvpnGateway) -> None:
    gateway.proc.signal(signal.SIGSTOP)
    try:
        assert curl(gateway, "--max-time", "1", f"{URL}/livez", check=False).returncode == 28
    finally:
        gateway.proc.signal(signal.SIGCONT)
    assert curl(gateway, "--max-time", "10", "--fail", f"{URL}/livez").returncode == 0


def test_a_stop_in_order_with_a_follower(tunnel: Tunnel, gateway: JvpnGateway) -> None:
    argv = ["curl", "-sSN", f"{URL}/api/v1/events?since=0"]
    follower = gateway.namespace.spawn(argv, "follower")
    follower.wait_line("SESSION_CREATED")
    socket = Path(gateway_socket(gateway))
    assert socket.stat().st_mode & 0o777 == 0o600
    assert gateway.stop() == 0
    follower.wait(5.0)
    assert not socket.exists()
    assert curl(gateway, f"{URL}/livez", check=False).returncode == 7
    gateway.start()
