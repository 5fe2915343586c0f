# SPDX-License-Identifier: Apache-2.0
"""The commands that an operator has for sessions, against running daemons, in text and JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from gateway.errors import TryLater
from tests.e2e.sessions.bed import LONG_WINDOW
from tests.e2e.sessions.conftest import MakeBed
from tests.net.jvpn import CLI, Daemon
from tests.net.lab import LabError
from tests.net.topology import DELAY_MS, boot_ns


def test_sessions_paths_timeline_and_why_tell_the_same_story(make_bed: MakeBed) -> None:
    bed = make_bed()
    bed.start()
    cut_ns = bed.topology.set_link(bed.client.active().side, False)
    bed.client.journal.wait(lambda b: b["event"] == "TRANSPORT_ATTACHED", "the switch", 5.0, cut_ns)
    seen = bed.same_session()
    for daemon in (bed.client.daemon, bed.gateway.daemon):
        listed = daemon.cli_json("sessions")
        assert listed["schema"] == "jvpn.sessions/1"
        (row,) = listed["sessions"]
        assert (row["session_id"], row["state"], row["path_id"]) == (bed.ident, "ATTACHED", seen.path_id)
        paths = daemon.cli_json("paths", bed.ident[:12])["paths"]
        assert [path["path_id"] for path in paths if path["status"] == "ACTIVE"] == [seen.path_id]
        timeline = daemon.cli_json("timeline", bed.ident)
        assert "TRANSPORT_SWITCH" in json.dumps(timeline)
        text = daemon.cli("timeline", bed.ident)
        assert "REATTACH_SUCCESS" in text
        why = daemon.cli("why", bed.ident)
        assert re.search("T13|T4|T7", why)
    assert "LINK_DOWN" in bed.client.daemon.cli("why", bed.ident) or "ROUTE_GONE" in bed.client.daemon.cli(
        "why", bed.ident
    )


def test_audit_verify_and_replay_on_running_daemons_and_after_tampering(make_bed: MakeBed) -> None:
    bed = make_bed()
    bed.start()
    time.sleep(1.0)
    for daemon in (bed.client.daemon, bed.gateway.daemon):
        daemon.cli("audit", "verify", "--state-dir", str(daemon.state_dir))
        daemon.cli("audit", "replay", "--state-dir", str(daemon.state_dir))
    bed.client.daemon.stop()
    path = next((bed.client.daemon.state_dir / "audit").glob("*.jsonl"))
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"HANDSHAKE_OK"', b'"HANDSHAKE_KO"', 1))
    with pytest.raises(LabError, match="altered"):
        bed.client.daemon.cli("audit", "verify", "--state-dir", str(bed.client.daemon.state_dir))
    path.write_bytes(sound)


def test_events_follow_shows_a_switch_as_it_happens(make_bed: MakeBed) -> None:
    bed = make_bed()
    bed.start()
    follower = follow(bed.client.daemon)
    try:
        time.sleep(1.0)
        bed.client.daemon.cli("switch", bed.ident, str(bed.client.path_on(bed.client.standby().side).path_id))
        bed.client.wait_attached()
        time.sleep(1.0)
    finally:
        follower.terminate()
        output, _ = follower.communicate(timeout=10)
    names = [json.loads(line)["event"] for line in output.splitlines() if line.startswith("{")]
    assert "TRANSPORT_SWITCH" in names
    assert names.count("STATE_CHANGE") >= 3


def follow(daemon: Daemon) -> subprocess.Popen[str]:
    """`jvpn events --follow --json` in the daemon's surroundings."""
    argv = daemon.namespace.wrap([sys.executable, "-m", CLI, "events", "--follow", "--json"])
    env = {**daemon.env, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.Popen(argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_terminate_asks_and_unknown_sessions_are_named(make_bed: MakeBed) -> None:
    bed = make_bed()
    bed.start()
    with pytest.raises(LabError):
        bed.client.daemon.cli("paths", "ffffffff")
    at_ns = boot_ns()
    bed.gateway.daemon.cli("terminate", bed.ident, "--yes")
    mine, theirs = bed.terminated(3.0)
    assert (theirs["reason"], mine["reason"]) == ("OPERATOR_TERMINATED", "PEER_TERMINATED")
    assert theirs["mono_ns"] > at_ns


def test_ping_from_either_end_by_either_path_and_through_an_outage(make_bed: MakeBed) -> None:
    """20 ms of relays there and back; the standby is asked by its number; a dead path does not answer."""
    bed = make_bed(policy=LONG_WINDOW)
    seen = bed.start()
    standby = bed.client.standby()
    spare = bed.client.path_on(standby.side).path_id
    for daemon in (bed.client.daemon, bed.gateway.daemon):
        document = daemon.cli_json("ping", bed.ident[:12], "-c", "5", "-i", "0.05")
        assert (document["schema"], document["sent"], document["answered"]) == ("jvpn.pings/1", 5, 5)
        assert 2 * DELAY_MS <= document["rtt_ms"]["min"] <= document["rtt_ms"]["max"] < 200
        assert {one["path_id"] for one in document["pings"]} == {seen.path_id}
        by_spare = daemon.cli_json("ping", bed.ident, "-c", "2", "-i", "0.05", "--path", str(spare))
        assert (by_spare["answered"], {one["path_id"] for one in by_spare["pings"]}) == (2, {spare})
    assert "min/avg/max" in bed.client.daemon.cli("ping", bed.ident, "-c", "1")
    standby.blackhole("both")
    args = ("ping", bed.ident, "-c", "2", "-i", "0.1", "-W", "0.1", "--path", str(spare))
    with pytest.raises(LabError, match="2 sent, 0 answered"):
        bed.client.daemon.cli(*args)
    standby.heal()
    assert bed.client.view().path_id == seen.path_id


def test_ping_is_bounded_by_the_control_rate(make_bed: MakeBed) -> None:
    """Asked faster than the rate allows it says so; probes of the path are answered all the while."""
    bed = make_bed()
    bed.start()
    daemon = bed.client.daemon
    refused = 0
    for _ in range(300):
        try:
            daemon.call("ping", {"session": bed.ident, "timeout_ms": 0})
        except TryLater:
            refused += 1
    assert refused > 0
    assert bed.client.view().state == "ATTACHED"
