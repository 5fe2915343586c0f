# SPDX-License-Identifier: Apache-2.0
"""`protocol` (protocol.md §2): dropped HELLOs cannot take the session layer away silently, nor from who must have it.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
     drops HELLO
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway import frames as fr
from gateway.control.greeting import ASK_AGAIN_NS, STOCK_AFTER_NS
from gateway.control.reception import TAKEOVER_NS
from tests.e2e.sessions.bed import LONG_WINDOW, NS_PER_S, ONE_UPLINK, Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.journal import Body, Journal
from tests.net.lab import Namespace
from tests.net.topology import BACKEND, INNER_CLIENT, boot_ns
from tests.net.traffic import ping, wait_reachable

DOWNGRADE: Final = "PROTOCOL_DOWNGRADE"
HELLO: Final = fr.Hello(
    capabilities=0,
    instance_id=bytes(16),
    session_id=bytes(16),
    binding_epoch=0,
    path_id=1,
    suites=(1,),
    liveness_interval_ms=300,
    liveness_misses=3,
)
# UDP header, transport header, plaintext padded to 16, tag: no inner packet of these tests has that size.
HELLO_UDP_BYTES: Final = 8 + 16 + (len(fr.encode((HELLO,))) + 15) // 16 * 16 + 16


@contextmanager
def hellos_dropped(client: Namespace) -> Iterator[None]:
    """Nothing of a HELLO's size leaves."""
    client.run(["nft", "add", "table", "inet", "thief"])
    client.run(["nft", "add chain inet thief out { type filter hook output priority 0 ; }"])
    client.run(["nft", "add", "rule", "inet", "thief", "out", "udp", "length", str(HELLO_UDP_BYTES), "drop"])
    try:
        yield
    finally:
        client.run(["nft", "delete", "table", "inet", "thief"])


def downgrades(journal: Journal, since_ns: int) -> list[Body]:
    """Every audited downgrade since then."""
    found = journal.of("SECURITY_EVENT", since_ns=since_ns)
    return [body for body in found if body["security_class"] == DOWNGRADE]


def wait_downgrade(journal: Journal, since_ns: int, timeout_s: float) -> Body:
    """The first one."""
    return journal.wait(
        lambda body: body["event"] == "SECURITY_EVENT" and body["security_class"] == DOWNGRADE,
        "a downgrade",
        timeout_s,
        since_ns,
    )


def met_before(bed: Bed) -> None:
    """Both ends have spoken jump frames; then both are stopped, and nothing of the session is left."""
    bed.start(settled=False)
    bed.client.daemon.disconnect()
    bed.terminated(5.0)
    bed.gateway.daemon.kill()
    bed.gateway.daemon.start()


def test_dropped_hellos_are_audited_and_the_session_comes_back(make_bed: MakeBed) -> None:
    """Both ends were restarted since they met. Traffic goes on as plain WireGuard; one HELLO every 30 s brings the
    same session its paths back.
    """
    bed = make_bed(policy=LONG_WINDOW)
    met_before(bed)
    since_ns = boot_ns()
    with hellos_dropped(bed.topology.client):
        bed.client.daemon.start()
        wait_reachable(bed.topology.client, BACKEND)
        mine = wait_downgrade(bed.client.journal, since_ns, 10.0)
        theirs = wait_downgrade(bed.gateway.journal, since_ns, 10.0)
        assert mine["mono_ns"] - since_ns >= STOCK_AFTER_NS
        assert theirs["mono_ns"] - since_ns >= TAKEOVER_NS
        plain = bed.client.view()
        assert (plain.stock, plain.state, len(plain.paths)) == (True, "ATTACHED", 1)
        assert bed.gateway.session_of(plain.session_id).stock
        assert ping(bed.topology.client, BACKEND, count=5).received == 5
    seen = bed.client.wait_settled(ASK_AGAIN_NS / NS_PER_S + 10)
    assert (seen.session_id, seen.stock) == (plain.session_id, False)
    assert len(downgrades(bed.client.journal, since_ns)) == 1
    assert len(downgrades(bed.gateway.journal, since_ns)) == 1


def test_a_stock_client_with_the_key_of_a_jump_client_is_audited(make_bed: MakeBed) -> None:
    """The gateway's side alone: it remembers over kill -9, serves the stock client, and says so once a session."""
    bed = make_bed(policy=LONG_WINDOW)
    met_before(bed)
    since_ns = boot_ns()
    stock = bed.another_client(0, endpoints=ONE_UPLINK, protocol="wireguard")
    stock.daemon.start()
    wait_reachable(bed.topology.client, BACKEND)
    wait_downgrade(bed.gateway.journal, since_ns, 15.0)
    assert ping(bed.topology.client, BACKEND, count=3).ok
    time.sleep(1.0)
    assert len(downgrades(bed.gateway.journal, since_ns)) == 1
    assert downgrades(stock.journal, since_ns) == []


def test_a_real_stock_client_is_no_downgrade(make_bed: MakeBed) -> None:
    bed = make_bed(policy=LONG_WINDOW, endpoints=ONE_UPLINK, client_protocol="wireguard")
    since_ns = boot_ns()
    bed.start(settled=False)
    time.sleep(TAKEOVER_NS / NS_PER_S + 1.0)
    assert ping(bed.topology.client, BACKEND, count=3).ok
    assert downgrades(bed.gateway.journal, since_ns) == []


# --- protocol = "jump" ---------------------------------------------------------------------------------------------


def test_jump_at_both_ends_is_a_session_like_any_other(make_bed: MakeBed) -> None:
    bed = make_bed(policy=LONG_WINDOW, peer_options={"protocol": "jump"}, client_protocol="jump")
    bed.start()
    assert ping(bed.topology.client, BACKEND, count=5).received == 5
    bed.topology.set_link(bed.client.active().side, False)
    bed.client.wait_view(lambda seen: seen.epoch == 2, "the switch")
    assert ping(bed.topology.client, BACKEND, count=5).received == 5
    bed.gateway.daemon.kill()
    bed.gateway.daemon.start()
    wait_reachable(bed.topology.client, BACKEND)
    bed.same_session()


def test_jump_at_the_client_never_falls_back(make_bed: MakeBed) -> None:
    """A gateway that serves it as a stock peer: not one inner packet passes, in either direction."""
    bed = make_bed(policy=LONG_WINDOW, client_protocol="jump", peer_options={"protocol": "wireguard"})
    bed.gateway.daemon.start()
    since_ns = boot_ns()
    bed.client.daemon.start()
    wait_downgrade(bed.client.journal, since_ns, 10.0)
    assert ping(bed.topology.client, BACKEND, count=5, wait_s=1.0).received == 0
    assert ping(bed.topology.backend, INNER_CLIENT, count=5, wait_s=1.0).received == 0
    assert bed.client.daemon.counter("drop_ungreeted") >= 5
    assert (bed.client.daemon.counter("rx_data"), bed.gateway.daemon.counter("rx_data")) == (0, 0)


def test_jump_at_the_client_waits_for_its_welcome(make_bed: MakeBed) -> None:
    """HELLOs that are dropped for a while cost time, not the session layer."""
    bed = make_bed(policy=LONG_WINDOW, client_protocol="jump")
    bed.gateway.daemon.start()
    since_ns = boot_ns()
    with hellos_dropped(bed.topology.client):
        bed.client.daemon.start()
        wait_downgrade(bed.client.journal, since_ns, 10.0)
        assert ping(bed.topology.client, BACKEND, count=5, wait_s=1.0).received == 0
        assert bed.gateway.daemon.counter("rx_data") == 0
    wait_reachable(bed.topology.client, BACKEND)
    bed.client.wait_settled()


def test_jump_at_the_gateway_never_falls_back(make_bed: MakeBed) -> None:
    """The client takes it for a stock gateway: no inner packet passes, and the session is ended, coded."""
    bed = make_bed(
        policy=LONG_WINDOW,
        endpoints=ONE_UPLINK,
        peer_options={"protocol": "jump"},
        client_protocol="wireguard",
    )
    bed.gateway.daemon.start()
    since_ns = boot_ns()
    bed.client.daemon.start()
    bed.client.wait_view(lambda seen: seen.state == "ATTACHED", "its handshake")
    assert ping(bed.topology.client, BACKEND, count=5, wait_s=1.0).received == 0
    assert ping(bed.topology.backend, INNER_CLIENT, count=5, wait_s=1.0).received == 0
    end = bed.gateway.journal.wait(
        lambda body: body["event"] == "STATE_CHANGE" and body["new_state"] == "TERMINATED",
        "the end",
        15.0,
        since_ns,
    )
    assert (end["row"], end["reason"]) == ("T19", "SECURITY_VIOLATION")
    assert len(downgrades(bed.gateway.journal, since_ns)) == 1
    assert bed.gateway.daemon.counter("drop_ungreeted") >= 5
    assert bed.client.daemon.counter("rx_data") == 0
