# SPDX-License-Identifier: Apache-2.0
"""docs/state-machine.md, from the table itself: ``python -m gateway.core.describe > docs/state-machine.md``.

Rule: what the document says about transitions is read from ``transitions``; a test compares it with the file.
"""

from __future__ import annotations

import sys

from gateway.core.policy import Policy, to_json
from gateway.core.reasons import Reason
from gateway.core.states import LIVE, Role, State
from gateway.core.transitions import PRIORITY, Act, Rule, Trigger, edges

_HEAD = """# The session state machine

Generated from `gateway/core/transitions.py` by `python -m gateway.core.describe`; a test keeps the two equal. Do not
edit this file.

The session is the anchor, transports come and go. A session has one state, at most one bound transport, and moves only
by a row of the table below. `C` rows run at the client, `G` rows at the gateway. The machine is a pure function of
(state, input, policy, supplied time): no clock, no randomness, no I/O. The same inputs give the same transitions.
"""

_STATES = {
    State.BIRTH: ("identity and policy exist, the handshake is not confirmed", "0"),
    State.ATTACHED: ("one validated transport, quality within policy", "1"),
    State.VOLATILE: ("instability detected, or the active path just died and a candidate is ready", "0 or 1"),
    State.DEGRADED: ("instability persists, a switch is denied, or there is no candidate", "0 or 1"),
    State.RECOVERING: (
        "an explicit reattachment attempt is running; the old binding stays until the swap",
        "0 or 1",
    ),
    State.TERMINATED: ("absorbing: keys erased, no reattach ever", "0"),
}

_DECISIONS = """## Decisions

Where the specification leaves a choice, this is what the core does, and why.

1. **A binding that dies in VOLATILE.** With a candidate and a token the client goes to RECOVERING in one row (T10 that
   clears the binding). The gateway never starts an attempt, so there T9 takes it to DEGRADED, candidate or not.
2. **Death by silence and death by local evidence.** A path that fell silent is DEAD but still probed, and the first
   authenticated answer makes it a standby again. A path the host itself lost stays DEAD until its link came up and held
   200 ms. A dead path is no candidate; handshakes are still sent on silent ones, because a gateway that lost its keys
   cannot answer a probe.
3. **Who validates.** At the client an authenticated answer to its own probe on that path proves it. At the gateway only
   the RESPONSE to a CHALLENGE does; a silent path that is heard again is challenged again.
4. **Leaving a path in breach** for one that is not needs no improvement window: the breach was itself judged over its
   window, with hysteresis. Budget, cooldown, refractory time and dampening apply. Without a path that is not in breach
   nothing is wanted, and the VOLATILE timer decides.
5. **A disagreement about the binding.** A gateway that lost its binding hears something the client does not: the client
   takes a sound standby (forced). Otherwise, or without one, it settles on its own active path; nothing is replaced, so
   that counts against the rebind limit (20 a minute, then one per 3 s, never none), not the switch budget, and if the
   active path does not answer the episode goes on to the others. The gateway counts a request for the path it has bound
   as a rebind too.
6. **Cooldown and probation** run from the last switch of either class. Probation (`stability.window`) holds back the
   automatic search for a better path only; an operator waits for the cooldown and the budget, not for trust.
7. **Reserved tokens** are spaced from the switch before them, of whatever class. That is what makes "no forced switch
   waits longer than 60 s / (reserved + 1)" provable for any history. With `max_switches_per_min = 0` there is no
   unreserved token before the first, so the gap is 60 s / reserved, and the recovery window must exceed that.
8. **Inside one episode** the client goes round all eligible paths until `attempt_timeout`; with one path it repeats the
   request there. Only a path named by an operator, or found better, is not left for another.
9. **`max_attempts` reached** slows episodes down to one per 5 s and names the end POLICY_EXHAUSTED.
10. **ALL_TRANSPORTS_DEAD** is the reason when no path was eligible at any time since the window opened.
11. **A penalty per failure or switch-away:** a path that died and is left for it is penalised once. The decay is exact
    at each half-life and linear between, in integers, so that every machine agrees.
12. **NAT_REBIND is accepted only while a new address is believed,** or the previous one answered again. Without that a
    copy of the request could raise the epoch; now copied packets cause no transition at either end.
13. **Going back after a rebind** is not watched again: the address left behind then was the forwarder's.
14. **Quiet sessions** are refused nothing by silence: an input that finds no row is reported as
    INVALID_STATE_TRANSITION, at once the first time, then once a second with a count.
15. **Live policy change:** an open window, a running episode and a birth timer keep the end they began with; all else
    is judged by the new policy. The lifetime counts from birth under the new value.
16. **Stock sessions** reattach by handshake, which is never rate-limited by the switch budget: the handshake's own
    limits bound it. Under `roaming = "wireguard"` a move away from home spends two tokens. So does a client at a stock
    gateway after a restart: it resumes its session, makes no attempt that nobody would answer, leaves handshakes to
    WireGuard's timers, and is ATTACHED with the first that completes, on whichever transport it did. If the HELLO was
    never answered before the restart, it is the stock verdict that says so, 3.75 s after the handshake.
17. **BIRTH is live** for T17 to T21; a newer initiation of the same peer ends it by T2.
18. **After a restart** (T22) a jump session has no proven paths: the client's HELLO brings the first one, its
    REATTACH_REQUEST the binding.
"""


_SHELL = """## What a shell owes the core

The core trusts its shell for exactly this; the simulation's shell (`tests/sim/world.py`) is the worked example.

- **One clock.** `now_ns` never runs backwards between calls for one session. Call `timer_due` at `next_deadline`, or a
  little later; one timing wheel for all sessions, never a timer object each. Ask again after every turn.
- **Authentic inputs only,** after the tag, the replay window and the control rate (`rates.control_frames`,
  `rates.address_notices`). A control frame that the window drops as a copy, seen elsewhere within 1 s of the first, may
  become `AddressSeen(copy=True)`; a dropped data packet is nothing at all.
- **Account by the named path.** A PROBE, its answer or data that names path 3 is credited to path 3, and a PROBE is
  answered to the address path 3 was proven at, wherever the packet came from. Otherwise a forwarder who wins every race
  starves the path he copies.
- **`PathMeasured` and `PathAnswered` are sent at an answer** to our own probe on that path, never for other traffic;
  `PathMissed` at each miss from the second on. `meter.Meter` is the reference.
- **`PeerBinding`** on each change of what the other end reports, and again while the two still differ.
- **`HelloSeen.address` and `StockHandshake.address`** are addresses the handshake confirmed: the first transport
  message came from where our response went, or the response from where our initiation went.
- **Effects in order.** `Persist` has handed its record to the store before the effects after it leave; it need not be
  on disk by then (`docs/threat-model.md` says why I22 holds). Challenge bytes are fresh per send and
  kept by the shell; only the right RESPONSE becomes `ChallengeAnswered`, with the address its challenge went to.
- **Journal** every CREATE, RESTORE, INPUT and TIMER before the events of its turn (`audit`): replay feeds on that.
- **Across sessions:** capacity, ownership, one live session per peer, and takeovers (`rates.takeovers`,
  `rates.comeback_ns`) are the registry's; the core sees `Superseded`, `Evicted`, `OwnershipLost`.
"""


def _where(rule: Rule) -> str:
    return "C, G" if rule.roles == "CG" else rule.roles


_ACTS = (
    (Act.BIND, "bind, epoch 1"),
    (Act.SWAP, "atomic swap, epoch + 1, old path RETIRING"),
    (Act.CLEAR, "cleared, window opens"),
    (Act.END, "cleared, keys erased"),
)


def _binding(rule: Rule) -> str:
    for act, text in _ACTS:
        if rule.acts & act:
            return text
    return "unchanged"


def _rows() -> list[str]:
    """The table, one line per row and trigger; rows that hold in several states are merged."""
    merged: dict[tuple[str, str, str, str, str, str, str], list[str]] = {}
    for state, trigger, rule in edges():
        reasons = ", ".join(r.name for r in rule.reasons)
        guard = (rule.when.__doc__ or "").strip()
        key = (rule.row, trigger.value, guard, rule.to.name, reasons, _binding(rule), _where(rule))
        merged.setdefault(key, []).append(state.name)
    lines = []
    for key, starts in sorted(merged.items(), key=lambda item: int(item[0][0][1:])):
        row, trigger_text, guard, to, reasons, binding, where = key
        start = "any live" if len(starts) == len(LIVE) else ", ".join(starts)
        lines.append(
            f"| {row} | {start} | {trigger_text} | {guard} | {to} | {reasons} | {binding} | {where} |"
        )
    return lines


def _diagram() -> list[str]:
    seen: dict[tuple[str, str], list[str]] = {}
    for state, _, rule in edges():
        names = seen.setdefault((state.name, rule.to.name), [])
        if rule.row not in names:
            names.append(rule.row)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> BIRTH: T0"]
    for (start, to), names in seen.items():
        lines.append(f"    {start} --> {to}: {', '.join(names)}")
    return [*lines, "    TERMINATED --> [*]", "```"]


def _states() -> list[str]:
    lines = ["| state | meaning | bindings |", "|---|---|---|"]
    return lines + [f"| {state.name} | {text} | {count} |" for state, (text, count) in _STATES.items()]


def _policy() -> list[str]:
    lines = ["| parameter | default |", "|---|---|"]
    return lines + [f"| {key} | {value} |" for key, value in to_json(Policy()).items()]


_T0 = (
    "| T0 | - | handshake accepted | policy valid, capacity free | BIRTH (version 0) | event SESSION_CREATED | none |"
    " C, G |"
)


def document() -> str:
    """The whole of docs/state-machine.md."""
    table_head = [
        "| row | from | input | guard | to | reason | binding | where |",
        "|---|---|---|---|---|---|---|---|",
        _T0,
    ]
    order = ", ".join(f"`{trigger.name}`" for trigger in PRIORITY)
    parts: list[list[str]] = [
        [_HEAD, "## States", ""],
        _states(),
        ["", "## Diagram", ""],
        _diagram(),
        [
            "",
            "## Transitions",
            "",
            "The first row whose guard holds is taken; what is not listed changes nothing and is audited.",
            "",
        ],
        table_head,
        _rows(),
        ["", "Simultaneous inputs, highest first: " + order + ".", ""],
        ["## Triggers", ""],
        [f"- `{trigger.name}`: {trigger.value}" for trigger in Trigger],
        ["", _DECISIONS, _SHELL],
        [
            "## Policy defaults",
            "",
            "Durations in ns, shares in parts per million, penalties in thousandths.",
            "",
        ],
        _policy(),
        ["", "## Reason codes", ""],
        [", ".join(f"`{reason.name}` ({reason.value})" for reason in Reason if reason)],
        ["", f"Roles: {', '.join(f'{role.value} = {role.name.lower()}' for role in Role)}."],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
