# SPDX-License-Identifier: Apache-2.0
"""What the data plane measures on one path of one end, as a pure object: the reference its C rows are checked against.

Rule: only an answer to our own probe on this path is evidence for it, and only of this path and direction. Loss is what
the other end says arrived, over what we put on this path; gaps in the session-wide counter say nothing about a path.
Formulas: RTT EWMA 1/8 and variation 1/4 (RFC 6298 §2), jitter 1/16 (RFC 3550 §6.4.1); integers, µs and ppm.

The simulation runs on it, and a shell may until the C rows exist. A session never holds one.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core.inputs import Input, PathAnswered, PathMeasured, PathMissed, PathSuspected
from gateway.core.liveness import LOSS_MIN_PACKETS, PPM, SUSPECT_INTERVAL_NS
from gateway.core.path import PTO_MIN_NS, PTO_UNKNOWN_NS

LOSS_WINDOW_NS: Final = 2 * NS_PER_S
LOSS_WINDOW_MAX_NS: Final = 10 * NS_PER_S
SUSPECT_MIN_NS: Final = 100 * NS_PER_MS
# Two losses on a thin path: probes every 50 ms for up to 4 s fill the loss window.
FILL_INTERVAL_NS: Final = 50 * NS_PER_MS
FILL_FOR_NS: Final = 4 * NS_PER_S
FILL_AFTER_LOST: Final = 2
DEAD_MISSES: Final = 3
STREAK_MAX: Final = 100
# Probes older than this are forgotten: what answers after ten seconds says nothing about now.
OUTSTANDING_MAX_NS: Final = 10 * NS_PER_S


class Probe(NamedTuple):
    """What a probe carries of measuring: its number, when it left, what was put on this path by then."""

    seq: int
    tx_ns: int
    tx_packets: int


class _Point(NamedTuple):
    at_ns: int
    sent: int
    arrived: int


class Meter:
    """Counters, estimators and probe schedule of one path. ``interval_ns`` is the profile's."""

    __slots__ = (
        "_asked_ns",
        "_fill_ns",
        "_last_rtt_us",
        "_next_ns",
        "_open",
        "_points",
        "_seq",
        "data_ns",
        "heard_ns",
        "interval_ns",
        "jitter_samples",
        "jitter_us",
        "misses",
        "override_ns",
        "proof_ns",
        "received",
        "rtt_samples",
        "rttvar_us",
        "sent",
        "srtt_us",
        "streak",
        "suspect",
    )

    def __init__(self, interval_ns: int, now_ns: int) -> None:
        self.interval_ns = interval_ns
        self.override_ns = 0  # what the core asked for, 0 = the profile
        self.srtt_us = self.rttvar_us = self.jitter_us = 0
        self.rtt_samples = self.jitter_samples = 0
        self.sent = 0  # packets put on this path, probes included
        self.received = 0  # packets of the other end that authenticated on this path, copies included
        self.misses = 0
        self.streak = 0
        self.suspect = False
        self.heard_ns = now_ns  # anything authenticated on this path
        self.proof_ns = now_ns  # an answer to our own probe
        self.data_ns = 0  # data sent and nothing heard since, 0 = none
        self._asked_ns = 0  # the probe that decides on suspicion left then
        self._fill_ns = 0
        self._last_rtt_us = 0
        self._next_ns = now_ns
        self._seq = 0
        self._open: dict[int, int] = {}
        self._points: deque[_Point] = deque()

    # --- sending and hearing ---

    def data_sent(self, now_ns: int) -> None:
        """One data packet left on this path; the first since it was last heard arms the suspicion."""
        self.sent += 1
        if not self.data_ns:
            self.data_ns = now_ns

    def control_sent(self) -> None:
        """Any other packet left on this path: it counts, for the other end counts it too."""
        self.sent += 1

    def heard(self, now_ns: int) -> None:
        """Something authenticated came in on this path."""
        self.received += 1
        self.heard_ns = now_ns
        self.data_ns = 0

    def pto_ns(self) -> int:
        if not self.srtt_us:
            return PTO_UNKNOWN_NS
        return max(PTO_MIN_NS, 1000 * (self.srtt_us + 4 * self.rttvar_us))

    def _interval(self, now_ns: int) -> int:
        if self.suspect:
            return SUSPECT_INTERVAL_NS
        chosen = self.override_ns or self.interval_ns
        return min(chosen, FILL_INTERVAL_NS) if now_ns < self._fill_ns else chosen

    def suspect_due_ns(self) -> int:
        """When silence after data asks for one probe at once, 0 = nothing to suspect."""
        if not self.data_ns or self.suspect:
            return 0
        if self._asked_ns:
            return self._asked_ns + self.pto_ns()
        return self.data_ns + max(3 * self.srtt_us * 1000, SUSPECT_MIN_NS)

    def next_ns(self) -> int:
        """When ``poll`` has something to do."""
        due = [self._next_ns, *(tx + self._patience() for tx in self._open.values())]
        if self.suspect_due_ns():
            due.append(self.suspect_due_ns())
        return min(due)

    def _patience(self) -> int:
        """A probe unanswered for this long is a miss."""
        fast = SUSPECT_INTERVAL_NS if self.suspect else self.interval_ns
        return max(fast, self.pto_ns())

    def poll(self, now_ns: int) -> tuple[Probe | None, list[Input], int]:
        """(a probe to send now or None, what the core must hear, how many misses were new). ``path_id`` is 0 here."""
        found: list[Input] = []
        new = self._count_misses(now_ns)
        if new and self.misses >= 2:
            found.append(PathMissed(0, self.misses, now_ns - self.proof_ns))
        due = self.suspect_due_ns()
        ask = bool(due) and due <= now_ns
        if ask and self._asked_ns:
            self.suspect, ask = True, True
            found.append(PathSuspected(0))
        elif ask:
            self._asked_ns = now_ns
        return (self._probe(now_ns) if ask or self._next_ns <= now_ns else None), found, new

    def _count_misses(self, now_ns: int) -> int:
        limit = self._patience()
        late = [seq for seq, tx in self._open.items() if now_ns - tx >= limit]
        for seq in late:
            del self._open[seq]
        if late:
            self.misses += len(late)
            self.streak = 0
            if self.misses >= FILL_AFTER_LOST and now_ns >= self._fill_ns:
                self._fill_ns = now_ns + FILL_FOR_NS
        return len(late)

    def _probe(self, now_ns: int) -> Probe:
        self._seq += 1
        self.sent += 1
        self._open[self._seq] = now_ns
        self._next_ns = now_ns + self._interval(now_ns)
        return Probe(self._seq, now_ns, self.sent)

    # --- answers ---

    def answered(self, probe: Probe, rx_packets: int, hold_ns: int, now_ns: int) -> list[Input]:
        """The other end answered: ``rx_packets`` of ours arrived on this path by then. A very old one says nothing."""
        if now_ns - probe.tx_ns > OUTSTANDING_MAX_NS:
            return []
        self._open.pop(probe.seq, None)
        # Probes sent before this one and still open are not outvoted: their own patience decides.
        self._rtt(max(0, now_ns - probe.tx_ns - hold_ns) // 1000)
        if self.misses >= DEAD_MISSES:
            self._points.clear()  # what was lost in an outage says nothing about the path that came back
        self.misses, self.suspect, self._asked_ns = 0, False, 0
        self.proof_ns = now_ns
        self.streak = min(STREAK_MAX, self.streak + 1)
        self._points.append(_Point(now_ns, probe.tx_packets, rx_packets))
        return [PathAnswered(0, self.streak), self.measured(now_ns)]

    def _rtt(self, rtt_us: int) -> None:
        if not self.rtt_samples:
            self.srtt_us, self.rttvar_us = max(1, rtt_us), rtt_us // 2
        else:
            self.rttvar_us += (abs(self.srtt_us - rtt_us) - self.rttvar_us) // 4
            self.srtt_us = max(1, self.srtt_us + (rtt_us - self.srtt_us) // 8)
            self.jitter_us += (abs(rtt_us - self._last_rtt_us) - self.jitter_us) // 16
            self.jitter_samples += 1
        self.rtt_samples += 1
        self._last_rtt_us = rtt_us

    def measured(self, now_ns: int) -> PathMeasured:
        """The report as of now, with the loss over the last 2 s, stretched to 10 s until it holds 64 packets."""
        sent, arrived = self._window(now_ns)
        lost = max(0, sent - arrived)
        ppm = min(PPM, lost * PPM // sent) if sent else 0
        return PathMeasured(
            0,
            self.srtt_us,
            self.rttvar_us,
            self.jitter_us,
            ppm,
            sent,
            lost,
            self.rtt_samples,
            self.jitter_samples,
        )

    def _window(self, now_ns: int) -> tuple[int, int]:
        points = self._points
        while points and now_ns - points[0].at_ns > LOSS_WINDOW_MAX_NS:
            points.popleft()
        if len(points) < 2:
            return 0, 0
        last, sent, arrived = points[-1], 0, 0
        for first in reversed(points):
            sent, arrived = last.sent - first.sent, last.arrived - first.arrived
            if now_ns - first.at_ns >= LOSS_WINDOW_NS and sent >= LOSS_MIN_PACKETS:
                break
        return sent, max(0, arrived)
