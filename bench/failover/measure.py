# SPDX-License-Identifier: Apache-2.0
"""From the logs of one run to its figures. No I/O, no clock.

Rule: outages come from the stream alone; detection is the first audited evidence at either end, on the same clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from bench.failover.plan import Event
from tests.net.stream import Flow, StreamLog

Body = dict[str, Any]
NS_PER_MS: Final = 1_000_000
QUIET_NS: Final = 500 * NS_PER_MS
# The end of a run in which a path is judged to be bad still; what was sent just before the end is on its way.
LATE_NS: Final = 1000 * NS_PER_MS
ON_ITS_WAY_NS: Final = 50 * NS_PER_MS
# The last echo must be younger than the moment at which the failure was surely over.
TCP_GRACE_NS: Final = 300 * NS_PER_MS
_EVIDENCE: Final = frozenset({"TRANSPORT_DEAD", "VOLATILITY_SIGNAL"})
_REBIND: Final = frozenset({"AddressSeen", "ChallengeAnswered"})


def stream_figures(log: StreamLog, cut_ns: int, until_ns: int) -> dict[str, Any]:
    """Outage, losses and copies of both directions, and how quiet the machine was just before."""
    found: dict[str, Any] = {}
    for name, flow in (("up", log.up), ("down", log.down)):
        gap = flow.longest_gap(cut_ns, until_ns)
        found[f"outage_{name}_ms"] = round(gap.ms, 3)
        found[f"outage_{name}_open"] = gap.open
        found[f"lost_{name}"] = len(flow.lost(cut_ns - QUIET_NS, until_ns))
        found[f"duplicated_{name}"] = flow.duplicated(cut_ns - QUIET_NS)
        found[f"quiet_{name}_ms"] = quiet_ms(flow, cut_ns)
        found[f"late_loss_{name}"] = late_loss(flow, until_ns)
    found["tcp_alive"] = log.tcp.alive_after(min(until_ns, cut_ns + QUIET_NS))
    found["tcp_error"] = log.tcp.error
    return found


def quiet_ms(flow: Flow, cut_ns: int) -> float:
    """The longest gap between two packets of the time before; one that the cut ends is the outage's own."""
    arrived = [at for at, _ in flow.arrivals if cut_ns - QUIET_NS <= at < cut_ns]
    return ms(max((after - before for before, after in itertools.pairwise(arrived)), default=QUIET_NS))


def late_loss(flow: Flow, until_ns: int) -> float:
    """Share of what was sent in the last second that never arrived."""
    begin_ns, end_ns = until_ns - LATE_NS, until_ns - ON_ITS_WAY_NS
    sent = sum(begin_ns <= at < end_ns for at in flow.sent_ns)
    return round(len(flow.lost(begin_ns, end_ns)) / sent, 4) if sent else 0.0


def idle_figures(
    log: StreamLog, resumed_ns: int, cut_ns: int, client: Sequence[Body], gateway: Sequence[Body]
) -> dict[str, Any]:
    """Without traffic an outage lasts from the cut until that direction's sender is bound to the new path."""
    found: dict[str, Any] = {}
    for name, flow, records in (("up", log.up, client), ("down", log.down, gateway)):
        bound = first(records, cut_ns, lambda body: body["event"] == "TRANSPORT_ATTACHED")
        found[f"outage_{name}_ms"] = None if bound is None else ms(bound["mono_ns"] - cut_ns)
        found[f"outage_{name}_open"] = bound is None
        found[f"lost_{name}"] = len(flow.lost(resumed_ns))
        found[f"duplicated_{name}"] = flow.duplicated(resumed_ns)
        found[f"quiet_{name}_ms"] = None
    found["tcp_alive"] = log.tcp.alive_after(resumed_ns)
    found["tcp_error"] = log.tcp.error
    return found


def idle_stock_figures(log: StreamLog, resumed_ns: int, cut_ns: int, until_ns: int) -> dict[str, Any]:
    """A stock tunnel audits nothing: the outage ends with the first packet that comes through again."""
    found: dict[str, Any] = {}
    for name, flow in (("up", log.up), ("down", log.down)):
        arrived = next((at for at, _ in flow.arrivals if at > resumed_ns), 0)
        found[f"outage_{name}_ms"] = ms((arrived or until_ns) - cut_ns)
        found[f"outage_{name}_open"] = not arrived
        found[f"lost_{name}"] = len(flow.lost(resumed_ns, until_ns))
        found[f"duplicated_{name}"] = 0
        found[f"quiet_{name}_ms"] = None
    found["tcp_alive"] = log.tcp.alive_after(resumed_ns)
    found["tcp_error"] = log.tcp.error
    return found


def audit_figures(
    event: Event, cut_ns: int, client: Sequence[Body], gateway: Sequence[Body]
) -> dict[str, Any]:
    """Detection and the moment the session left the path, from both journals."""
    evidence = detected(event, cut_ns, client, gateway)
    records = gateway if event.key == "nat_rebind" else client
    left = first(records, cut_ns, lambda body: body["event"] == "TRANSPORT_ATTACHED")
    return {
        "detection_ms": None if evidence is None else ms(evidence[1]["mono_ns"] - cut_ns),
        "evidence": None if evidence is None else f"{evidence[0]}: {naming(evidence[1])}",
        "left_ms": None if left is None else ms(left["mono_ns"] - cut_ns),
    }


def detected(
    event: Event, cut_ns: int, client: Sequence[Body], gateway: Sequence[Body]
) -> tuple[str, Body] | None:
    """The first evidence after the cut, with the end that had it."""
    found = []
    for end, records in (("client", client), ("gateway", gateway)):
        body = first(records, cut_ns, lambda body: _is_evidence(event, body))
        if body is not None:
            found.append((end, body))
    return min(found, key=lambda pair: pair[1]["mono_ns"], default=None)


def _is_evidence(event: Event, body: Body) -> bool:
    if event.key == "nat_rebind":
        return body["event"] == "INPUT" and body["input"] in _REBIND
    if event.key == "operator_switch":
        return body["event"] == "STATE_CHANGE" and body["reason"] == "OPERATOR_SWITCH"
    return body["event"] in _EVIDENCE


def naming(body: Body) -> str:
    """An evidence in a few words."""
    words = (body.get(key) for key in ("event", "input", "evidence", "reason"))
    return " ".join(str(word) for word in words if word)


def first(records: Sequence[Body], since_ns: int, wanted: Any) -> Body | None:
    """The first record at or after a time that is wanted."""
    return next((body for body in records if body["mono_ns"] >= since_ns and wanted(body)), None)


def ms(value_ns: int) -> float:
    """Nanoseconds as milliseconds with three digits."""
    return round(value_ns / NS_PER_MS, 3)
