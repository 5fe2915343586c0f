# SPDX-License-Identifier: Apache-2.0
"""New keys under traffic: HELLO goes first under each, both ends seal under the old one until it is known whose the
new one is, and nothing is lost.

          ┌─ upa ── relay A ─┐
client ───┤                  ├─── gateway ── backend
          └─ upb ── relay B ─┘
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.e2e.sessions.bed import NS_PER_MS, NS_PER_S, Bed
from tests.e2e.sessions.conftest import MakeBed
from tests.net.stream import StreamLog
from tests.net.topology import boot_ns

KEYS = {"keys": {"rekey_after_time": "5s", "reject_after_time": "30s"}}


def test_rekeys_under_traffic_lose_nothing(make_bed: MakeBed) -> None:
    """Three of them in 17 s of 1,000 packets a second each way: same session, same binding, every packet arrives."""
    bed = make_bed(gateway_tables=KEYS, client_tables=KEYS)
    bed.start()
    before = bed.versions()
    with bed.client.stream() as stream:
        time.sleep(1.0)
        began_ns = boot_ns()
        time.sleep(17.0)
        ended_ns = boot_ns()
        log = stream.stop()
    for journal in bed.ends():
        keys = [body["trigger"] for body in journal.of("KEY_EVENT", since_ns=began_ns)]
        assert keys.count("INSTALLED") >= 3
    assert (log.up.lost(began_ns, ended_ns), log.down.lost(began_ns, ended_ns)) == ([], [])
    assert bed.versions() == before
    bed.same_session()


CROSSINGS: Final = 20
# Initiations of one session leave a second apart.
APART_NS: Final = 1_200 * NS_PER_MS
# Half the time a message takes: both have begun before either hears of the other.
TOGETHER_NS: Final = 5 * NS_PER_MS


def cross(bed: Bed) -> tuple[StreamLog, int, int]:
    """Both ends begin a rekey at the same moment, twenty times, under 1,000 packets a second each way."""
    daemons = (bed.client.daemon, bed.gateway.daemon)
    with bed.client.stream() as stream, ThreadPoolExecutor(2) as both:
        time.sleep(1.0)
        began_ns = boot_ns()
        for number in range(CROSSINGS):
            at = {"at_ns": began_ns + NS_PER_S + number * APART_NS}
            late = [*both.map(lambda daemon, args=at: daemon.call("rekey", args)["late_ns"], daemons)]
            assert max(late) - min(late) < TOGETHER_NS, "the machine is too busy to make them cross"
        time.sleep(1.5)
        ended_ns = boot_ns()
        return stream.stop(), began_ns, ended_ns


def crossing_bed(make_bed: MakeBed, **options: object) -> Bed:
    bed = make_bed(**options)
    for daemon in (bed.client.daemon, bed.gateway.daemon):
        daemon.module = "tests.net.rekeyer"
    return bed


def test_rekeys_that_cross_lose_nothing(make_bed: MakeBed) -> None:
    """The client's initiation wins every time: one new keypair each, and every packet arrives."""
    bed = crossing_bed(make_bed)
    bed.start()
    before = bed.versions()
    log, began_ns, ended_ns = cross(bed)
    assert (log.up.lost(began_ns, ended_ns), log.down.lost(began_ns, ended_ns)) == ([], [])
    for journal in bed.ends():
        keys = [body["trigger"] for body in journal.of("KEY_EVENT", since_ns=began_ns)]
        assert (keys.count("PACKETS"), keys.count("INSTALLED")) == (CROSSINGS, CROSSINGS)
    assert bed.client.daemon.counter("handshake_crossed") == CROSSINGS
    assert bed.gateway.daemon.counter("handshake_yielded") == CROSSINGS
    assert bed.versions() == before
    bed.same_session()


def test_rekeys_that_cross_without_a_tie_break_lose_nothing(make_bed: MakeBed) -> None:
    """As plain WireGuard both handshakes complete, each end seals under its own, and the next two cross from there."""
    bed = crossing_bed(make_bed, peer_options={"protocol": "wireguard"})
    bed.start(settled=False)
    bed.client.wait_view(lambda seen: seen.stock, "plain WireGuard")
    log, began_ns, ended_ns = cross(bed)
    assert (log.up.lost(began_ns, ended_ns), log.down.lost(began_ns, ended_ns)) == ([], [])
    for daemon in (bed.client.daemon, bed.gateway.daemon):
        assert daemon.counter("handshake_responses_sent") >= CROSSINGS
        assert daemon.counter("handshake_crossed") == 0
    bed.same_session()
