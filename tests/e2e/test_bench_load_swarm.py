# SPDX-License-Identifier: Apache-2.0
"""The clients of the load test in small: two hundred of them in one process, each with its own keys, session and paths.

    crowd ── 10.1.0.0/24 ── gateway     uplink 0: 172.16.0.0/12 to 192.0.2.1
          ── 10.2.0.0/24 ──             uplink 1: 100.64.0.0/10 to 198.51.100.1

The tests are steps of one life: what one leaves the next one finds.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from bench.load.population import BEYOND, GATEWAYS, INSIDE, UPLINKS, Population, nth
from bench.load.remote import RemoteSwarm
from tests.net.jvpn import JvpnGateway, JvpnPeer
from tests.net.lab import Lab, LabError, Namespace, missing_requirements
from tests.net.wg import Keys

MISSING = missing_requirements(("ip", "sysctl", "nft", "ping"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no laboratory: {MISSING}")
SESSIONS: Final = 200
SEED: Final = 11
RATE_PER_S: Final = 200.0
SETTLE_S: Final = 10.0
POLL_S: Final = 0.05
PEOPLE: Final = Population(SEED, SESSIONS)


def encoded(key: bytes) -> str:
    """As configuration files have it."""
    return base64.b64encode(key).decode()


class Place:
    """The scene, the gateway and the swarm."""

    def __init__(self, lab: Lab) -> None:
        self.crowd, self.gateway = lab.namespace("crowd"), lab.namespace("gateway")
        for number, (host, uplink) in enumerate(zip(GATEWAYS, UPLINKS, strict=True), 1):
            lab.link(self.crowd, self.gateway, f"10.{number}.0.0/24")
            self.gateway.add_address("lo", f"{host}/32")
            self.crowd.add_route(f"{host}/32", via=f"10.{number}.0.2")
            self.gateway.add_route(str(uplink), via=f"10.{number}.0.1")
            own(self.crowd, str(uplink))
        own(self.crowd, str(INSIDE))
        own(self.gateway, str(BEYOND))
        keys = Keys(encoded(PEOPLE.gateway.private), encoded(PEOPLE.gateway.public))
        peers = [
            JvpnPeer(f"c{n}", encoded(PEOPLE.identity(n).public), [f"{nth(INSIDE, n)}/32"])
            for n in range(SESSIONS)
        ]
        quiet = {"stats": {"enabled": False}}
        self.daemon = JvpnGateway(lab, self.gateway, keys, ["10.0.0.1/32"], peers, **quiet).start()
        self.swarm = RemoteSwarm(self.crowd, SESSIONS, SEED, log=lab.tmp / "swarm.err")
        assert self.swarm.wait_ready()["clients"] == SESSIONS

    def do(self, order: str, first: int, count: int, **words: Any) -> dict[str, Any]:
        """An order, at the pace of all here."""
        return self.swarm.do(order, first=first, count=count, rate_per_s=RATE_PER_S, **words)

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

    def cut(self, uplink: int) -> None:
        """Whatever is sent by it is lost, both ways, and nobody is told."""
        for place, end in ((self.gateway, "saddr"), (self.crowd, "daddr")):
            hook = "type filter hook prerouting priority -300;"
            rules = f"table ip cut {{\n chain before {{\n {hook}\n ip {end} {UPLINKS[uplink]} drop\n }}\n}}\n"
            place.run(["nft", "-f", "-"], stdin=rules)


def own(place: Namespace, network: str) -> None:
    """Every address of it is local there."""
    place.ip("route", "add", "local", network, "dev", "lo")


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[Place]:
    made = Place(lab)
    yield made
    made.swarm.kill()
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
    place.crowd.run(["ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", here, there])
    # Another client's destination is not its own: the gateway's check of sources holds.
    foreign = ["ping", "-c", "1", "-W", "1", "-I", str(nth(INSIDE, 8)), there]
    assert place.crowd.run(foreign, check=False).returncode != 0


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


@pytest.mark.parametrize("what", ["port", "address"])
def test_a_translator_moves_them(place: Place, what: str) -> None:
    before = place.swarm.do("status")
    answer = place.do("rebind", 100, 20, what=what)
    assert (answer["rebound"], answer["failed"]) == (20, 0)
    after = place.wait(1, SESSIONS)
    assert after["totals"]["rebinds"] == before["totals"].get("rebinds", 0) + 20
    assert after["session_ids_hash"] == before["session_ids_hash"] and not after["terminated"]
    there = {row["path"].split(":")[1] for row in place.rows()}
    new = {str(nth(UPLINKS[0], 500_000 + n)) for n in range(100, 120)}
    assert there & new == (new if what == "address" else set())


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
    place.cut(0)
    after = place.wait(2, SESSIONS)
    assert after["session_ids_hash"] == before["session_ids_hash"]
    assert after["terminated"] == before["terminated"]
    failures = after["since_mark"]
    assert failures["reattached_us"]["count"] >= SESSIONS and failures["away"] == 0
    assert 0 < failures["reattached_us"]["p50"] <= failures["reattached_us"]["max"] < SETTLE_S * 1e6
    assert Counter(failures["by_row"])["T13"] >= SESSIONS
    place.crowd.run(["ping", "-c", "1", "-W", "2", "-I", str(nth(INSIDE, 7)), str(nth(BEYOND, 7))])


def test_the_same_seed_gives_the_same_people() -> None:
    again = Population(SEED, 2 * SESSIONS)
    assert [again.private_key(n) for n in range(5)] == [PEOPLE.private_key(n) for n in range(5)]


def test_it_leaves_when_it_is_told(place: Place, tmp_path: Path) -> None:
    assert place.swarm.stop() == 0
    assert "swarm0" not in place.crowd.devices()
