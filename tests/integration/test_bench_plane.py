# SPDX-License-Identifier: Apache-2.0
"""The program that measures the data plane alone: real packets pass both ways, and it says so or fails."""

from __future__ import annotations

from bench.load import plane

PACKETS = 1280


def test_every_packet_of_many_sessions_passes_both_ways() -> None:
    found = plane.measure(500, PACKETS)
    assert (found["sessions"], found["packets"]) == (500, PACKETS)
    # Neither a system call nor a cipher is for nothing, and a session has at least a replay window of 1 KB.
    assert found["in_ns"] > 100 and found["out_ns"] > 100
    assert 1024 < found["bytes"] < 16_384


def test_the_table_compares_with_the_fewest_sessions() -> None:
    few = plane.Figures(sessions=100, packets=1, in_ns=1000, out_ns=3000, bytes=1500, open_us=1)
    many = plane.Figures(sessions=1_000_000, packets=1, in_ns=2000, out_ns=3000, bytes=1500, open_us=1)
    assert plane.table([few, many]).splitlines()[-1].split()[-1] == "0.80"
    assert plane.middle([few, many, many])["in_ns"] == 2000
