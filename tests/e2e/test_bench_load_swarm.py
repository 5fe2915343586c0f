# SPDX-License-Identifier: Apache-2.0
"""The clients of the load test in small: two hundred of them in one process, each with its own keys, session and paths.

The machines are drawn in bench/load/scene.py. The tests are steps of one life: what one leaves the next one finds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from bench.load.driver import Swarm
from bench.load.gateway import NATIVE, PORT, LoadGateway
from bench.load.population import BEYOND, INSIDE, UPLINKS, Population, nth
from bench.load.scene import Scene
from bench.load.uplinks import MOVED
from tests.net.lab import Lab, LabError, missing_requirements

MISSING = missing_requirements(("ip", "sysctl", "nft", "ping"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")
SESSIONS: Final = 200
SEED: Final = 11
RATE_PER_S: Final = 200.0
START_S: Final = 15.0
TIMEOUT_S: Final = 20.0
SETTLE_S: Final = 10.0
POLL_S: Final = 0.05
PEOPLE: Final = Population(SEED, SESSIONS)


class Place:
    """The scene of the load generator, a gateway and its clients."""

    def __init__(self, lab: Lab) -> None:
        self.scene = Scene.build(lab)
        self.daemon = LoadGateway(self.scene, PEOPLE, NATIVE)
        self.daemon.launch(START_S)
        self.swarm = Swarm(self.scene, PEOPLE, PORT)

    def do(self, order: str, first: int, count: int, **words: Any) -> dict[str, Any]:
        """An order, at the pace of all here."""
        return self.swarm.do(order, TIMEOUT_S, **{"from": first}, count=count, rate_per_s=RATE_PER_S, **words)

    def rows(self) -> list[dict[str, Any]]:
        """The sessions that carry traffic, as the gateway has them."""
        return [row for row in self.daemon.call("sessions")["sessions"] if row["state"] == "ATTACHED"]

    def ids(self) -> set[str]:
        """Who they are."""
        return {row["session_id"] for row in self.rows()}

    def wait(self, path: int, sessions: int) -> dict[str, Any]:
        """Until so many are bound to that path, and attached at both ends; the status then."""
        end_s = time.monotonic() + SETTLE_S
        while True:
            status = self.swarm.do("status")
            here = (status["paths"]["bound_to_path"][path - 1], status["states"].get("ATTACHED", 0))
            if {*here, len(self.rows())} == {sessions}:
                return status
            assert time.monotonic() < end_s, status
            time.sleep(POLL_S)


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[Place]:
    made = Place(lab)
    yield made
    made.daemon.stop()


def test_all_of_them_attach_with_keys_and_paths_of_their_own(place: Place) -> None:
    answer = place.do("attach", 0, SESSIONS)
    assert (answer["attached"], answer["failed"]) == (SESSIONS, 0)
    assert answer["handshake_us"]["count"] == answer["attach_us"]["count"] == SESSIONS
    assert 0 < answer["handshake_us"]["min"] <= answer["attach_us"]["p50"] <= answer["attach_us"]["max"]
    status = place.wait(1, SESSIONS)
    assert len(place.ids()) == SESSIONS
    assert status["states"] == {"ATTACHED": SESSIONS}
    addresses = {row["path"].split(":")[1] for row in place.rows()}
    assert addresses == {str(nth(UPLINKS[0], n)) for n in range(SESSIONS)}
    one = place.daemon.call("session", {"session": next(iter(place.ids()))})
    assert [path["status"] for path in one["paths"]] == ["ACTIVE", "STANDBY"]


def test_data_passes_and_returns(place: Place) -> None:
    there, here = str(nth(BEYOND, 7)), str(nth(INSIDE, 7))
    place.scene.crowd.run(["ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", here, there])
    # Another client's destination is not its own: the gateway's check of sources holds.
    foreign = ["ping", "-c", "1", "-W", "1", "-I", str(nth(INSIDE, 8)), there]
    assert place.scene.crowd.run(foreign, check=False).returncode != 0


def test_new_keys_in_the_same_session(place: Place) -> None:
    before, ids = place.swarm.do("status"), place.ids()
    answer = place.do("rekey", 0, 50)
    assert (answer["rekeyed"], answer["same_session"], answer["failed"]) == (50, 50, 0)
    after = place.swarm.do("status")
    assert after["handshakes"]["completed"] >= before["handshakes"]["completed"] + 50
    assert after["session_ids_hash"] == before["session_ids_hash"] and place.ids() == ids


def test_a_restarted_client_resumes_its_session(place: Place) -> None:
    before, ids = place.swarm.do("status"), place.ids()
    answer = place.do("restart", 50, 50)
    assert (answer["restarted"], answer["same_session"], answer["failed"]) == (50, 50, 0)
    after = place.wait(1, SESSIONS)
    assert after["session_ids_hash"] == before["session_ids_hash"] and place.ids() == ids
    assert after["totals"]["restored"] == 50 and not after["terminated"]


@pytest.mark.parametrize("change", ["port", "address"])
def test_a_translator_moves_them(place: Place, change: str) -> None:
    before = place.swarm.do("status")
    answer = place.do("rebind", 100, 20, what=change)
    assert (answer["rebound"], answer["failed"]) == (20, 0)
    after = place.wait(1, SESSIONS)
    assert after["totals"]["rebinds"] == before["totals"].get("rebinds", 0) + 20
    assert after["session_ids_hash"] == before["session_ids_hash"] and not after["terminated"]
    there = {row["path"].split(":")[1] for row in place.rows()}
    new = {str(nth(UPLINKS[0], MOVED + n)) for n in range(100, 120)}
    assert there & new == (new if change == "address" else set())


def test_a_session_ends_when_its_client_says_so_and_is_another_one_after_that(place: Place) -> None:
    ids = place.ids()
    answer = place.do("terminate", 190, 10)
    assert (answer["terminated"], answer["failed"]) == (10, 0)
    status = place.wait(1, SESSIONS - 10)
    assert status["terminated"] == {"OPERATOR_TERMINATED": 10}
    assert len(place.ids()) == SESSIONS - 10 and place.ids() < ids
    again = place.do("attach", 190, 10)
    assert (again["attached"], again["failed"]) == (10, 0)
    place.wait(1, SESSIONS)
    assert len(place.ids()) == SESSIONS and len(place.ids() - ids) == 10


def test_who_is_told_what_cannot_be_says_so(place: Place) -> None:
    answer = place.do("attach", 0, 3)
    assert (answer["attached"], answer["failures"]) == (0, {"runs already": 3})
    with pytest.raises(LabError, match="there are 200"):
        place.do("attach", 199, 2)
    with pytest.raises(LabError, match="KeyError"):
        place.swarm.do("dance")


def test_a_cut_uplink_moves_everybody_and_ends_nobody(place: Place) -> None:
    before = place.swarm.do("status")
    assert before["paths"]["with_standby"] == SESSIONS
    place.swarm.do("mark")
    for first in (0, MOVED):  # some have moved
        place.scene.cut(0, first, SESSIONS)
    after = place.wait(2, SESSIONS)
    assert after["session_ids_hash"] == before["session_ids_hash"]
    assert after["terminated"] == before["terminated"]
    failures = after["since_mark"]
    assert failures["reattached_us"]["count"] >= SESSIONS and failures["away"] == 0
    assert 0 < failures["reattached_us"]["p50"] <= failures["reattached_us"]["max"] < SETTLE_S * 1e6
    assert Counter(failures["by_row"])["T13"] >= SESSIONS
    place.scene.crowd.run(["ping", "-c", "1", "-W", "2", "-I", str(nth(INSIDE, 7)), str(nth(BEYOND, 7))])


def test_the_same_seed_gives_the_same_people() -> None:
    again = Population(SEED, 2 * SESSIONS)
    assert [again.private_key(n) for n in range(5)] == [PEOPLE.private_key(n) for n in range(5)]


def test_it_leaves_when_it_is_told(place: Place) -> None:
    place.swarm.stop()
    assert "swarm0" not in place.scene.crowd.devices()
