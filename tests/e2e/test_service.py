# SPDX-License-Identifier: Apache-2.0
"""Gateway and client as services: what a service manager hears from the processes themselves.

client ─── router ─── server (jvpn gateway)                       drawn in tests/net/tunnel.py
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.control.watch import STALL_NS
from tests.net.halt import halted, threads
from tests.net.jvpn import Daemon, JvpnClient, JvpnGateway, JvpnPeer
from tests.net.lab import Lab, missing_requirements
from tests.net.notify import Manager
from tests.net.traffic import ping, wait_reachable
from tests.net.tunnel import CLIENT, PORT, SERVER, SERVER_OUTER, Site, join
from tests.net.wg import Keys

MISSING: Final = missing_requirements(("ip", "sysctl", "ping", "nft"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")

WATCHDOG_S: Final = 0.6
STALL_S: Final = STALL_NS / 1e9


@pytest.fixture
def manager(lab: Lab) -> Iterator[Manager]:
    path = lab.tmp / "notify"
    path.unlink(missing_ok=True)
    with Manager(path) as made:
        yield made


def attended(daemon: Daemon, manager: Manager) -> None:
    """The daemon is going to be started as the manager's service."""
    daemon.env |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}


def make_gateway(lab: Lab, site: Site, ours: Keys, client: Keys, workers: int) -> JvpnGateway:
    peer = JvpnPeer("laptop", client.public, [f"{CLIENT[0]}/32"])
    return JvpnGateway(lab, site.server, ours, [f"{SERVER[0]}/24"], [peer], workers={"count": workers})


def make_client(lab: Lab, site: Site, keys: Keys, gateway: JvpnGateway) -> JvpnClient:
    to = {
        "public_key": gateway.keys.public,
        "endpoints": [join(SERVER_OUTER[4], PORT)],
        "allowed_ips": [f"{SERVER[0]}/32"],
    }
    return JvpnClient(lab, site.client, keys, [f"{CLIENT[0]}/24"], to)


def test_ready_means_that_it_serves_and_stopping_comes_first(lab: Lab, site: Site, manager: Manager) -> None:
    keys = Keys.generate()
    gateway = make_gateway(lab, site, Keys.generate(), keys, 1)
    attended(gateway, manager)
    gateway.start()
    assert manager.wait("READY")["STATUS"] == "0 of 0 sessions attached, 1 peers"
    with_client = make_client(lab, site, keys, gateway)
    with_client.start()
    wait_reachable(site.client, SERVER[0])
    while manager.wait("STATUS")["STATUS"] != "1 of 1 sessions attached, 1 peers":
        pass
    with_client.stop()
    manager.heard()
    gateway.proc.signal(signal.SIGHUP)
    manager.wait("RELOADING")
    manager.wait("READY")
    assert gateway.stop() == 0
    assert "STOPPING" in manager.wait("STOPPING")
    assert not any("WATCHDOG" in one for one in manager.heard())


def test_a_client_is_ready_when_its_routes_are_there(lab: Lab, site: Site, manager: Manager) -> None:
    keys = Keys.generate()
    gateway = make_gateway(lab, site, Keys.generate(), keys, 1).start()
    client = make_client(lab, site, keys, gateway)
    attended(client, manager)
    client.start()
    manager.wait("READY")
    assert json.loads(site.client.ip("-j", "route", "show", "dev", client.interface))
    manager.wait("WATCHDOG")
    assert client.stop() == 0
    manager.wait("STOPPING")
    assert gateway.stop() == 0


@pytest.mark.parametrize("end", ["gateway", "client"])
@pytest.mark.parametrize("good", [True, False], ids=["good-file", "bad-file"])
def test_a_reload_is_told_from_its_beginning_to_its_end(
    lab: Lab, site: Site, manager: Manager, end: str, good: bool
) -> None:
    keys = Keys.generate()
    gateway = make_gateway(lab, site, Keys.generate(), keys, 1)
    daemon: Daemon = gateway if end == "gateway" else make_client(lab, site, keys, gateway)
    attended(daemon, manager)
    daemon.start()
    manager.wait("READY")
    with daemon.config_path.open("a") as file:
        file.write('[log]\nlevel = "debug"\n' if good else "[log]\nlevl = 1\n")
    daemon.proc.signal(signal.SIGHUP)
    assert "MONOTONIC_USEC" in manager.wait("RELOADING")
    assert "READY" in manager.wait("READY")
    daemon.proc.wait_line("configuration applied" if good else "configuration refused")
    assert daemon.stop() == 0


def test_workers_that_stand_still_starve_the_watchdog(lab: Lab, site: Site, manager: Manager) -> None:
    """Every worker's thread is stopped; the event loop runs on and answers."""
    keys = Keys.generate()
    gateway = make_gateway(lab, site, Keys.generate(), keys, 2)
    attended(gateway, manager)
    gateway.start()
    client = make_client(lab, site, keys, gateway).start()
    wait_reachable(site.client, SERVER[0])
    workers = threads(gateway.proc.pid, "jvpn-worker")
    assert len(workers) == 2
    manager.wait("WATCHDOG")
    with halted(workers):
        site.client.run(["ping", "-c", "3", "-i", "0.2", "-W", "1", SERVER[0]], check=False)
        while "does not read" not in manager.wait("STATUS", 2 * STALL_S + 5)["STATUS"]:
            pass
        manager.heard()
        with pytest.raises(TimeoutError):
            manager.wait("WATCHDOG", 3 * WATCHDOG_S)
        assert gateway.status()["peers"]
    manager.wait("WATCHDOG", 2 * STALL_S + 5)
    ping(site.client, SERVER[0])
    client.stop()
    assert gateway.stop() == 0


# --- a stop in order ----------------------------------------------------------------------------------------------


def session_of(daemon: Daemon) -> str:
    (one,) = daemon.cli_json("sessions")["sessions"]
    return str(one["session_id"])


def last_record(daemon: Daemon) -> dict[str, Any]:
    return last_record_of(max((daemon.state_dir / "audit").glob("*.jsonl")))


def last_record_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text().splitlines()[-1]))


def test_a_gateway_that_stops_tells_its_clients_and_comes_back_with_their_sessions(
    lab: Lab, site: Site
) -> None:
    keys = Keys.generate()
    gateway = make_gateway(lab, site, Keys.generate(), keys, 1).start()
    client = make_client(lab, site, keys, gateway).start()
    wait_reachable(site.client, SERVER[0])
    before = session_of(gateway)
    bound_before = client.cli_json("sessions")["sessions"][0]["path_id"]
    complete = gateway.cli_json("audit", "rotate")["complete"]
    assert last_record_of(Path(complete))["event"] == "CHECKPOINT"
    gone = gateway.proc
    began_s = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - began_s < 5
    assert '"clients_told": 1' in gone.stdout
    client.proc.wait_line('"the gateway is stopping and keeps the session"')
    assert client.proc.stdout.count("the gateway is stopping") == 1
    # Everything that was decided is on disk, and a signed checkpoint is the last word.
    end = last_record(gateway)
    assert (end["event"], end["final"]) == ("CHECKPOINT", True)
    (chain,) = json.loads(gateway.cli("audit", "verify", "--json"))["chains"]
    assert chain["fault"] is None and chain["unsigned"] == 0 and chain["files"] == 2
    gateway.start()
    wait_reachable(site.client, SERVER[0])
    assert session_of(gateway) == session_of(client) == before
    reasons = [event.get("reason") for event in gateway.cli_json("timeline", before)["events"]]
    assert "OWNER_RESTARTED" in reasons
    # The client was told, by the path it has: nothing to switch to. (Other advice is the quality of the path's.)
    heard = [json.loads(line)["fields"] for line in audit_lines(client) if '"SwitchAdvice"' in line]
    assert {found["path_id"] for found in heard if found["reason"] == "DRAIN"} == {bound_before}
    client.stop()
    assert gateway.stop() == 0


def audit_lines(daemon: Daemon) -> list[str]:
    return daemon.cli("audit", "export").splitlines()
