# SPDX-License-Identifier: Apache-2.0
"""`jvpn sessions`, `paths`, `switch`, `terminate`, `events`, `timeline`, `why`: real sessions behind a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.core import inputs as inp
from gateway.ops.cli import output
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import serving
from tests.unit.ops.sessionhost import GW_ID, MS, PHONE_ID, Host, S, host


@contextmanager
def running(places: Path) -> Iterator[Host]:
    """Sessions behind the control socket that the command line finds."""
    with host(places / "state") as made, serving(places / "run/jvpn0.sock", made.docs.handlers()):
        yield made


# --- reading -----------------------------------------------------------------------------------------------------


def test_the_list_for_a_person(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.clocks.now += 75 * S
        found = jvpn("sessions")
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "SESSION   PEER   STATE              SINCE  PATH  THROUGH          REASON        SWITCHES",
        "a1b2c3d4  gw     ATTACHED          1m 15s     1  udp:127.0.0.1:9  HANDSHAKE_OK       0/8",
        "a1b2c3ff  phone  ATTACHED (stock)  1m 15s     1  udp:127.0.0.1:9  HANDSHAKE_OK       0/8",
    ]


def test_the_list_as_json_and_in_pages(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        document = json.loads(jvpn("sessions", "--json").stdout)
        first = asyncio.run(at.docs.all({"limit": 1}))
        second = asyncio.run(at.docs.all({"limit": 1, "after": first["sessions"][0]["session_id"]}))
    assert document["schema"] == "jvpn.sessions/1"
    assert [one["peer"] for one in document["sessions"]] == ["gw", "phone"]
    gw = document["sessions"][0]
    assert (gw["role"], gw["state_version"], gw["binding_epoch"], gw["path_id"]) == ("client", 1, 1, 1)
    assert (gw["switches_per_minute_max"], gw["window_left_s"], gw["cooldown_left_s"]) == (8, None, 0.0)
    assert [first["more"], second["more"]] == [True, False]
    assert second["sessions"][0]["peer"] == "phone"


def test_one_session_and_its_paths(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.cut()
        document = json.loads(jvpn("sessions", "a1b2c3d4", "--json").stdout)
        text = jvpn("sessions", "gw").stdout
        paths = json.loads(jvpn("paths", "gw", "--json").stdout)
        table = jvpn("paths", "gw").stdout
    assert document["schema"] == "jvpn.session/1"
    assert [(path["path_id"], path["status"]) for path in document["paths"]] == [(1, "DEAD"), (2, "ACTIVE")]
    active = document["paths"][1]
    assert (active["srtt_ms"], active["jitter_ms"], active["loss"], active["score"]) == (
        30.0,
        2.5,
        0.01,
        97.25,
    )
    assert document["paths"][0]["penalty"] == pytest.approx(1.0, abs=0.01)
    assert [move["new_state"] for move in document["last_transitions"]] == [
        "ATTACHED", "VOLATILE", "RECOVERING", "ATTACHED",
    ]  # fmt: skip
    assert "because   REATTACH_SUCCESS" in text
    assert "switches  1/8 in the last minute, cooldown 1.5 s" in text
    sent, received = output.size(document["tx_bytes"]), output.size(document["rx_bytes"])
    assert f"traffic   {received} received, {sent} sent" in text
    assert paths["schema"] == "jvpn.session-paths/1"
    assert paths["paths"] == document["paths"]
    assert table.splitlines()[0].split() == [
        "PATH", "STATUS", "RTT", "JITTER", "LOSS", "SCORE", "STABILITY", "PENALTY", "TIER", "HEARD", "ADDRESS",
    ]  # fmt: skip
    assert "30.0 ms  2.5 ms  1.0 %   97.2" in table
    assert table.rstrip().endswith("data under chacha20-poly1305")
    assert paths["suite"] == document["suite"] == "chacha20-poly1305"


def test_a_session_without_a_binding_shows_its_window(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.feed(at.phone, inp.StockSilent())
        text = jvpn("sessions").stdout
        one = json.loads(jvpn("sessions", "phone", "--json").stdout)
    assert "nothing, 180 s left" in text
    assert (one["state"], one["path_id"], one["path"]) == ("DEGRADED", None, None)


@pytest.mark.parametrize(
    ("selector", "code", "why"),
    [
        ("a1b2", 2, "fits several sessions"),
        ("a1b", 2, "at least 4 digits"),
        ("beef", 4, "no session beef"),
        ("nobody", 4, "no session of a peer named nobody"),
    ],
)
def test_a_selector_that_names_no_session(
    jvpn: Jvpn, places: Path, selector: str, code: int, why: str
) -> None:
    with running(places):
        found = jvpn("sessions", selector)
    assert (found.exit_code, found.stdout) == (code, "")
    assert why in found.stderr


def test_without_a_daemon(jvpn: Jvpn) -> None:
    for words in (
        ["sessions"],
        ["paths", "gw"],
        ["switch", "gw", "2"],
        ["terminate", "gw"],
        ["drain"],
        ["events", "-f"],
    ):
        assert jvpn(*words).exit_code == 3


# --- acting ------------------------------------------------------------------------------------------------------


def test_an_operators_switch(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        found = jvpn("switch", "gw", "2", "--json")
        assert found.exit_code == 0
        assert json.loads(found.stdout)["result"] == "started"
        assert at.gw.core.state.name == "RECOVERING"
        at.feed(at.gw, inp.ReattachAck(at.gw.core.attempt_id, 2, 2), inp.PeerBinding(2, 2))
        assert at.gw.core.bound_id == 2
        soon = jvpn("switch", "gw", "1")
    assert soon.exit_code == 75
    assert "denied: HYSTERESIS_NOT_MET; it may pass in 149" in soon.stderr
    why = jvpn("why", "gw")
    assert f"because  OperatorSwitch path_id=2  by uid:{os.geteuid()} via control" in why.stdout
    assert "row T6: operator or policy asks for a switch" in why.stdout


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("gw", "1"), 5, "the active one already"),
        (("gw", "7"), 4, "has no path 7"),
        (("phone", "0"), 5, "POLICY_DENIED"),
        (("gw", "300"), 2, "300"),
    ],
)
def test_a_switch_that_is_refused(
    jvpn: Jvpn, places: Path, words: tuple[str, str], code: int, why: str
) -> None:
    with running(places) as at:
        found = jvpn("switch", *words)
        assert at.gw.core.bound_id == 1
    assert found.exit_code == code
    assert why in found.stderr


def test_no_switch_to_a_dead_path(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.cut()
        found = jvpn("switch", "gw", "1")
    assert found.exit_code == 5
    assert "path 1 is DEAD" in found.stderr


def test_terminate_asks_and_then_it_is_for_good(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        assert jvpn("terminate", "gw", stdin="n\n").exit_code == 130
        assert not at.gw.core.ended
        found = jvpn("terminate", "gw", "--yes")
        assert found.stdout == "session a1b2c3d4 of gw: terminated\n"
        assert at.gw.core.ended
        assert jvpn("terminate", "gw", "--yes").exit_code == 4
        ended = jvpn("timeline", "gw")
    assert "OPERATOR_TERMINATED" in ended.stdout
    assert "ENDED" in ended.stdout


def test_every_action_is_an_input_in_the_journal(jvpn: Jvpn, places: Path) -> None:
    with running(places):
        jvpn("switch", "gw", "2")
        jvpn("terminate", "phone", "-y")
        assert jvpn("switch", "phone", "1").exit_code == 4
    exported = [json.loads(line) for line in jvpn("audit", "export").stdout.splitlines()]
    by = {body["input"]: body["fields"].get("by") for body in exported if body["event"] == "INPUT"}
    me = f"uid:{os.geteuid()}"
    assert by["OperatorSwitch"] == by["OperatorTerminate"] == f"{me} via control"
    acts = [body for body in exported if body["event"] == "OPERATOR_ACTION"]
    assert [(act["action"], act["target"], act["outcome"]) for act in acts] == [
        ("switch", GW_ID.hex(), "done"),
        ("terminate", PHONE_ID.hex(), "done"),
        ("switch", "phone", "not_found"),
    ]
    assert {(act["by"], act["via"]) for act in acts} == {(me, "control")}
    assert jvpn("audit", "replay").exit_code == 0
    assert jvpn("audit", "verify").exit_code == 0


# --- events ------------------------------------------------------------------------------------------------------


def test_events_for_a_person_and_as_json(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.cut()
        text = jvpn("events").stdout
        document = json.loads(jvpn("events", "--session", "gw", "-n", "2", "--json").stdout)
    assert text.splitlines()[0] == "--- 2026-01-02 UTC"
    assert "a1b2c3d4  STATE        ATTACHED → VOLATILE       TRANSPORT_DEAD          T4 v2 e1" in text
    assert "a1b2c3ff" in text
    assert document["schema"] == "jvpn.events/1"
    assert [event["event"] for event in document["events"]] == ["TRANSPORT_SWITCH", "REATTACH_RESULT"]


def test_the_same_events_come_from_memory_and_from_the_journal(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.cut()
        live = jvpn("events", "-n", "0").stdout
    assert jvpn("events", "-n", "0").stdout == live
    assert jvpn("events", "-n", "0", "--dir", places / "state/audit").stdout == live


def test_a_poll_waits_for_news_and_knows_a_restart(places: Path) -> None:
    async def poll(at: Host) -> None:
        first = await at.docs.events({})
        assert first["next"] == at.audit.last_number
        following = {"since": first["next"], "instance": first["instance"]}
        assert (await at.docs.events(following))["events"] == []
        waiting = asyncio.create_task(at.docs.events({**following, "wait_ms": 5000}))
        while not at.audit._followers:
            await asyncio.sleep(0)
        at.feed(at.gw, inp.PathSuspected(1))
        came = await asyncio.wait_for(waiting, 2)
        assert [event["event"] for event in came["events"]] == ["VOLATILITY_SIGNAL"]
        assert (await at.docs.events({"since": 10**6, "instance": 1}))["events"][0]["number"] == 1
        assert (await at.docs.events({"since": -1}))["events"] == []
        assert at.audit._followers == []

    with host(places / "state") as at:
        asyncio.run(poll(at))


def test_what_memory_lost_is_said(jvpn: Jvpn, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.control.auditlog.TAIL_EVENTS", 3)
    with running(places) as at:
        at.cut()
        document = asyncio.run(at.docs.events({}))
        found = jvpn("events")
    assert len(document["events"]) == 3
    assert document["missed"] == at.audit.last_number - 3
    assert f"{document['missed']} earlier events are in the journal only" in found.stderr


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_follow_prints_what_happens(places: Path, mode: list[str]) -> None:
    with running(places) as at:
        command = [
            sys.executable,
            "-m",
            "gateway.ops.cli",
            "events",
            "--follow",
            "-s",
            "gw",
            "-n",
            "1",
            *mode,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as follower:
            assert follower.stdout is not None
            lines = iter(follower.stdout.readline, "")
            first = next(line for line in lines if not line.startswith("---"))
            assert "CANDIDATE" in first
            at.feed(at.phone, inp.StockSilent())  # not of this session
            at.cut()
            text = next(lines)
            follower.send_signal(signal.SIGINT)
    if mode:
        body = json.loads(text)
        assert (body["schema"], body["event"], body["evidence"]) == (
            "jvpn.event/1",
            "TRANSPORT_DEAD",
            "LINK_DOWN",
        )
    else:
        assert "a1b2c3d4  PATH DEAD    path 1  LINK_DOWN" in text


def test_follow_with_files_makes_no_sense(jvpn: Jvpn, places: Path) -> None:
    assert jvpn("events", "--follow", "--dir", places).exit_code == 2


# --- timeline and why --------------------------------------------------------------------------------------------


def test_timeline_and_why_with_and_without_the_daemon(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.cut()
        assert at.audit.close()
        live = [jvpn("timeline", "gw", "--json").stdout, jvpn("why", "gw", "--json").stdout]
    assert [jvpn("timeline", "gw", "--json").stdout, jvpn("why", "gw", "--json").stdout] == live
    timeline, why = map(json.loads, live)
    assert (timeline["schema"], timeline["session_id"], timeline["peer"]) == (
        "jvpn.timeline/1",
        GW_ID.hex(),
        "gw",
    )
    assert [event["event"] for event in timeline["events"]][:3] == [
        "SESSION_CREATED", "STATE_CHANGE", "TRANSPORT_ATTACHED",
    ]  # fmt: skip
    assert why["schema"] == "jvpn.why/1"
    assert [step["cause"]["input"] for step in why["steps"]] == ["PathLost", "ReattachAck"]
    assert [move["rule"]["row"] for step in why["steps"] for move in step["transitions"]] == [
        "T4",
        "T10",
        "T13",
    ]
    assert why["steps"][0]["before"][-1]["input"] == "PathMeasured"
    switch = next(event for event in why["steps"][1]["events"] if event["event"] == "TRANSPORT_SWITCH")
    assert [score["path_id"] for score in switch["scores"]] == [1, 2]
    assert (switch["switches_in_window"], switch["switch_cap"]) == (1, 8)
    assert why["policy_values"]["switching.cooldown"] == 1500 * MS


def test_why_at_a_time(jvpn: Jvpn, places: Path) -> None:
    with running(places) as at:
        at.clocks.now += S
        before_unix_s = at.clocks.unix_ns() / S
        at.clocks.now += S
        at.cut()
    early = json.loads(jvpn("why", "gw", "--at", f"{before_unix_s:.3f}", "--json").stdout)
    assert [step["cause"]["input"] for step in early["steps"]] == ["Confirmed"]
    late = json.loads(jvpn("why", "gw", "--at", "2026-12-31T00:00:00+02:00", "--json").stdout)
    assert late["steps"][-1]["transitions"][-1]["rule"]["row"] == "T13"
    assert jvpn("why", "gw", "--at", "2020-01-01").exit_code == 4
    assert jvpn("why", "gw", "--at", "yesterday").exit_code == 2
    assert jvpn("why", "nobody").exit_code == 4


def test_a_session_of_the_journal_is_found_by_its_peer(jvpn: Jvpn, places: Path) -> None:
    with running(places):
        pass
    found = json.loads(jvpn("timeline", "phone", "--json").stdout)
    assert found["session_id"] == PHONE_ID.hex()
