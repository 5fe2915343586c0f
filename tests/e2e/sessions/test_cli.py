# SPDX-License-Identifier: Apache-2.0
"""The commands that an operator has for sessions, against running daemons, in text and JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from tests.e2e.sessions.conftest import MakeBed
from tests.net.jvpn import CLI, Daemon
from tests.net.lab import LabError
from tests.net.topology import boot_ns


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
