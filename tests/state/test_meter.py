# SPDX-License-Identifier: Apache-2.0
"""The reference measuring: RFC 6298 and RFC 3550 numbers, loss from PROBE counters, misses and suspicion."""

from __future__ import annotations

from gateway.core import inputs as inp
from gateway.core.meter import Meter, Probe
from tests.state.make import MS, T0, S

EVERY = 300 * MS


def probe(m: Meter, now: int) -> Probe:
    sent, _, _ = m.poll(now)
    assert sent is not None
    return sent


def test_rtt_and_variation_follow_rfc_6298() -> None:
    m = Meter(EVERY, T0)
    m.answered(probe(m, T0), 1, 0, T0 + 40 * MS)
    assert (m.srtt_us, m.rttvar_us) == (40_000, 20_000)
    m.answered(probe(m, T0 + EVERY), 2, 0, T0 + EVERY + 80 * MS)
    assert (m.srtt_us, m.rttvar_us) == (45_000, 25_000)
    assert m.jitter_us == 40_000 // 16


def test_hold_time_is_not_round_trip() -> None:
    m = Meter(EVERY, T0)
    m.answered(probe(m, T0), 1, 30 * MS, T0 + 40 * MS)
    assert m.srtt_us == 10_000


def test_loss_is_what_arrived_over_what_was_sent_on_this_path() -> None:
    m = Meter(EVERY, T0)
    m.answered(probe(m, T0), 1, 0, T0 + MS)
    for n in range(100):
        m.data_sent(T0 + n * MS)
    report = m.answered(probe(m, T0 + EVERY), 1 + 80 + 1, 0, T0 + EVERY + MS)[1]
    assert isinstance(report, inp.PathMeasured)
    assert (report.packets, report.lost, report.loss_ppm) == (101, 20, 20 * 1_000_000 // 101)


def test_more_arrivals_than_packets_are_no_negative_loss() -> None:
    m = Meter(EVERY, T0)
    m.answered(probe(m, T0), 1, 0, T0 + MS)
    report = m.answered(probe(m, T0 + EVERY), 50, 0, T0 + EVERY + MS)[1]
    assert isinstance(report, inp.PathMeasured)
    assert report.loss_ppm == 0


def test_misses_are_counted_after_the_interval_and_reset_by_an_answer() -> None:
    m = Meter(EVERY, T0)
    found: list[inp.Input] = []
    for n in range(5):
        found += m.poll(T0 + n * EVERY)[1]
    assert [one.misses for one in found if isinstance(one, inp.PathMissed)] == [2, 3, 4]
    m.answered(Probe(5, T0 + 4 * EVERY, 5), 5, 0, T0 + 4 * EVERY + MS)
    assert m.misses == 0


def test_suspicion_takes_silence_after_data_and_one_unanswered_probe() -> None:
    m = Meter(25 * S, T0)
    m.answered(probe(m, T0), 1, 0, T0 + 20 * MS)
    m.data_sent(T0 + S)
    sent, found, _ = m.poll(T0 + S + 99 * MS)
    assert (sent, found) == (None, [])
    sent, found, _ = m.poll(T0 + S + 100 * MS)
    assert sent is not None
    assert found == []
    due = m.suspect_due_ns()
    assert due == T0 + S + 100 * MS + m.pto_ns()
    assert m.poll(due)[1] == [inp.PathSuspected(0)]
    assert m.next_ns() <= due + 30 * MS


def test_hearing_anything_disarms_the_suspicion_but_is_no_proof_of_our_direction() -> None:
    m = Meter(25 * S, T0)
    m.data_sent(T0 + S)
    m.heard(T0 + S + MS)
    assert m.suspect_due_ns() == 0
    assert m.proof_ns == T0


def test_two_losses_fill_a_thin_path_with_probes() -> None:
    m = Meter(EVERY, T0)
    for n in range(4):
        m.poll(T0 + n * EVERY)
    at = m.next_ns()
    assert at - (T0 + 3 * EVERY) <= 50 * MS


def test_an_outage_is_no_loss_of_the_path_that_came_back() -> None:
    m = Meter(EVERY, T0)
    m.answered(probe(m, T0), 1, 0, T0 + MS)
    for n in range(1, 200):
        m.poll(T0 + n * 50 * MS)
    back = m.answered(Probe(199, T0 + 10 * S, m.sent), 2, 0, T0 + 10 * S + MS)[1]
    assert isinstance(back, inp.PathMeasured)
    assert back.packets == 0
