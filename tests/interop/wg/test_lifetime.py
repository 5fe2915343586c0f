# SPDX-License-Identifier: Apache-2.0
"""A stock client does not notice that its session's lifetime ends (protocol.md §2, stock sessions)."""

from __future__ import annotations

import pytest

from tests.interop.wg.conftest import CONTROL
from tests.net.journal import Journal
from tests.net.jvpn import JvpnGateway
from tests.net.traffic import UdpStream, ping
from tests.net.tunnel import BACKEND, Options, Site, Tunnel

LIFETIME_S = 11
TABLES = {
    "policy.session": {"max_lifetime": f"{LIFETIME_S}s", "transport_lost_ttl": "4s"},
    "policy.switching": {"max_switches_per_min": 60, "reserved": 59, "attempt_timeout": "1s"},
}


@pytest.mark.slow
@pytest.mark.skipif(CONTROL, reason="wireguard-go has no sessions")
def test_traffic_flows_from_one_session_into_the_next(site: Site) -> None:
    """Two ends of a lifetime under a stream both ways: each explicit, each followed by the next session at once."""
    tunnel = Tunnel(site, "wg", "jvpn", Options(server_tables=TABLES)).start()
    gateway = tunnel.server
    assert isinstance(gateway, JvpnGateway)
    journal = Journal(gateway.state_dir)
    with UdpStream(site.client, site.backend, BACKEND[0], rate_pps=200, echo=True) as stream:
        for number in (1, 2):
            journal.wait(
                lambda body, n=number: len(journal.of("TERMINATION_EVENT")) >= n, "an end", LIFETIME_S + 5.0
            )
        journal.wait(lambda body: len(journal.of("SESSION_CREATED")) >= 3, "the third session")
        report = stream.stop()
    assert report.max_gap_ms < 1000
    assert report.lost_count == 0
    assert [body["reason"] for body in journal.of("TERMINATION_EVENT")[:2]] == ["SESSION_TTL_EXPIRED"] * 2
    ends, begins = journal.of("TERMINATION_EVENT"), journal.of("SESSION_CREATED")
    for end, begin in zip(ends, begins[1:], strict=False):
        assert 0 <= begin["mono_ns"] - end["mono_ns"] < 10**8
        assert begin["session_id"] != end["session_id"]


@pytest.mark.slow
@pytest.mark.skipif(CONTROL, reason="wireguard-go has no sessions")
def test_an_idle_client_is_there_at_once_in_its_next_session(site: Site) -> None:
    tunnel = Tunnel(site, "wg", "jvpn", Options(server_tables=TABLES)).start()
    gateway = tunnel.server
    assert isinstance(gateway, JvpnGateway)
    journal = Journal(gateway.state_dir)
    journal.wait(lambda body: len(journal.of("SESSION_CREATED")) >= 2, "the second session", LIFETIME_S + 5.0)
    assert ping(site.client, BACKEND[0], count=3, wait_s=1.0).received == 3
    assert ping(site.backend, "10.8.0.2", count=3, wait_s=1.0).received == 3


@pytest.mark.slow
@pytest.mark.skipif(CONTROL, reason="wireguard-go has no sessions")
def test_who_is_away_when_it_ends_gets_no_next_session(site: Site) -> None:
    """Nobody answers the call: the session ends all the same, and nothing follows until the client is back."""
    tunnel = Tunnel(site, "wg", "jvpn", Options(server_tables=TABLES)).start()
    gateway = tunnel.server
    assert isinstance(gateway, JvpnGateway)
    journal = Journal(gateway.state_dir)
    tunnel.client.kill()
    end = journal.wait(lambda body: body["event"] == "TERMINATION_EVENT", "the end", LIFETIME_S + 5.0)
    assert end["reason"] == "SESSION_TTL_EXPIRED"
    assert gateway.call("sessions")["sessions"] == []
    tunnel.client.start()
    assert ping(site.client, BACKEND[0], count=1, wait_s=5.0).received == 1
    journal.wait(lambda body: len(journal.of("SESSION_CREATED")) == 2, "the next session")
