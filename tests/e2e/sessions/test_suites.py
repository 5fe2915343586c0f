# SPDX-License-Identifier: Apache-2.0
"""Which cipher the data goes under: what both machines have and both policies permit, agreed on in every HELLO.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import time
from typing import Final

import pytest

from gateway.crypto import sodium_features
from gateway.suites import PREFERENCE, TRAITS, available
from tests.e2e.sessions.bed import Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.topology import boot_ns

ALL: Final = tuple(TRAITS[suite].name for suite in PREFERENCE)
AEGIS, GCM, CHACHA = ALL
KEYS: Final = {"keys": {"rekey_after_time": "5s", "reject_after_time": "30s"}}
HERE: Final = [TRAITS[suite].name for suite in available(sodium_features())]


def permits(*names: str) -> dict[str, dict[str, list[str]]]:
    return {"security": {"suites": list(names)}}


def suites_of(bed: Bed) -> tuple[str, str]:
    """What each end says its session's data is sealed under."""
    selector = bed.client.view().session_id
    found = [
        daemon.call("session", {"session": selector})["suite"]
        for daemon in (bed.client.daemon, bed.gateway.daemon)
    ]
    return found[0], found[1]


@pytest.mark.parametrize(
    ("client", "gateway", "chosen"),
    [
        (ALL, ALL, AEGIS),
        ((GCM, AEGIS, CHACHA), ALL, GCM),
        (ALL, (GCM, CHACHA), GCM),
        (ALL, (CHACHA,), CHACHA),
        ((CHACHA,), ALL, CHACHA),
    ],
    ids=["best", "the clients order", "gateway restricts", "gateway plain", "client plain"],
)
def test_the_first_that_both_permit_carries_all_data(
    make_bed: MakeBed, client: tuple[str, ...], gateway: tuple[str, ...], chosen: str
) -> None:
    """Over a rekey, and not a packet is lost while the suite begins."""
    assert chosen in HERE, "this machine has not the instructions that this test is about"
    bed = make_bed(
        policy=permits(*gateway), client_policy=permits(*client), gateway_tables=KEYS, client_tables=KEYS
    )
    bed.start()
    assert suites_of(bed) == (chosen, chosen)
    with bed.client.stream() as stream:
        time.sleep(0.5)
        began_ns = boot_ns()
        time.sleep(6.5)
        ended_ns = boot_ns()
        log = stream.stop()
    assert (log.up.lost(began_ns, ended_ns), log.down.lost(began_ns, ended_ns)) == ([], [])
    assert suites_of(bed) == (chosen, chosen)
    for daemon in (bed.client.daemon, bed.gateway.daemon):
        assert daemon.status()["peers"][0]["suite"] == chosen
        assert [daemon.counter(f"drop_{name}") for name in ("suite", "auth")] == [0, 0]
    bed.same_session()


@pytest.mark.parametrize("end", ["client", "gateway"])
def test_without_aes_instructions_it_is_chacha(make_bed: MakeBed, end: str) -> None:
    """Whichever end has none."""
    bed = make_bed()
    (bed.client if end == "client" else bed.gateway).daemon.module = "tests.net.without_aes"
    bed.start()
    assert suites_of(bed) == (CHACHA, CHACHA)


def test_nothing_in_common_is_refused_and_audited(make_bed: MakeBed) -> None:
    """The client ends its session and stays away; the gateway's audit says why."""
    assert AEGIS in HERE, "this machine has not the instructions that this test is about"
    bed = make_bed(policy=permits(AEGIS), client_policy=permits(CHACHA), peer_options={"protocol": "jump"})
    bed.gateway.daemon.start()
    bed.client.daemon.start()
    refused = bed.gateway.journal.wait(
        lambda body: body["event"] == "SECURITY_EVENT", "a refused suite", 10.0
    )
    assert "suite" in refused["detail"]
    ended = bed.client.journal.wait(
        lambda body: body["event"] == "STATE_CHANGE" and body["new_state"] == "TERMINATED", "its end", 10.0
    )
    assert ended["reason"] == "PEER_TERMINATED"
    assert "POLICY_DENIED" in bed.client.daemon.proc.output
