# SPDX-License-Identifier: Apache-2.0
"""Sessions in every state, made through the machine itself, and one example of every input."""

from __future__ import annotations

import copy
from typing import Any

from gateway.constants import NS_PER_MS, NS_PER_S
from gateway.core import First, Policy, Reason, Role, Session, State, Turn, create, driver
from gateway.core import inputs as inp
from gateway.core.states import Evidence

MS, S = NS_PER_MS, NS_PER_S
T0 = 5_000 * S
IDENT = bytes(range(16))
GOOD = inp.PathMeasured(1, 20_000, 500, 1_000, 0, 100, 0, 20, 20)
LOSSY = inp.PathMeasured(1, 20_000, 500, 1_000, 200_000, 100, 20, 20, 20)


def born(role: Role, policy: Policy | None = None, stock: bool = False, now: int = T0) -> Session:
    session, _ = create(role, IDENT, "peer", policy or Policy(), First(1, "a1"), now, stock)
    return session


def attached(role: Role, policy: Policy | None = None, paths: int = 2, stock: bool = False) -> Session:
    """ATTACHED to path 1, the others standbys, both ends agreed."""
    s = born(role, policy, stock)
    driver.receive(s, inp.Confirmed("a1"), T0)
    for path_id in range(2, paths + 1):
        if role is Role.CLIENT:
            driver.receive(s, inp.PathAdded(path_id, f"a{path_id}"), T0)
            driver.receive(s, inp.PathAnswered(path_id), T0)
        else:
            driver.receive(s, inp.AddressSeen(path_id, f"a{path_id}"), T0)
            driver.receive(s, inp.ChallengeAnswered(f"a{path_id}", path_id, 20 * MS), T0)
    driver.receive(s, inp.PeerBinding(1, 1), T0)
    return s


def volatile(role: Role, **more: Any) -> Session:
    s = attached(role, **({"paths": 1} | more))
    driver.receive(s, LOSSY, T0)
    return s


def degraded(role: Role, bound: bool = False, **more: Any) -> Session:
    if bound:
        s = volatile(role, **more)
        driver.timer_due(s, T0 + 4 * S)
        return s
    s = attached(role, **({"paths": 1} | more))
    driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
    return s


def recovering(role: Role) -> Session:
    if role is Role.CLIENT:
        s = attached(role)
        driver.receive(s, inp.PathLost(1, Evidence.LINK_DOWN), T0)
        return s
    s = degraded(role)
    driver.receive(s, request(2, 1, 9), T0)
    return s


def terminated(role: Role) -> Session:
    s = attached(role)
    driver.receive(s, inp.OperatorTerminate(), T0)
    return s


MAKERS = {
    State.BIRTH: born,
    State.ATTACHED: attached,
    State.VOLATILE: volatile,
    State.DEGRADED: degraded,
    State.RECOVERING: recovering,
    State.TERMINATED: terminated,
}


def request(
    path_id: int,
    epoch: int,
    attempt_id: int,
    reason: Reason = Reason.PEER_REPORTED_INSTABILITY,
    forced: bool = True,
) -> inp.ReattachRequest:
    return inp.ReattachRequest(attempt_id, epoch, path_id, reason, forced, f"a{path_id}")


EXAMPLES: tuple[inp.Input, ...] = (
    inp.Confirmed("a1"),
    inp.BirthFailed(),
    inp.HelloSeen(1, "a1", 0),
    inp.Welcomed(1, 1, 0),
    inp.PathAdded(5, "a5"),
    inp.PathRemoved(1),
    inp.LinkUp(1),
    inp.PathLost(1, Evidence.LINK_DOWN),
    inp.PathHinted(1),
    inp.PathSuspected(1),
    inp.PathMissed(1, 3, S),
    inp.PathAnswered(1),
    inp.PathCarries(1, 1_280, True),
    LOSSY,
    inp.PeerBinding(1, 1),
    request(2, 1, 1),
    inp.ReattachAck(1, 2, 2),
    inp.ReattachReject(1, Reason.POLICY_DENIED, 1),
    inp.SwitchAdvice(Reason.OPERATOR_SWITCH, 2),
    inp.ChallengeReceived(1, 1, True),
    inp.AddressSeen(1, "elsewhere"),
    inp.ChallengeAnswered("elsewhere", 1, 20 * MS),
    inp.OperatorSwitch(2),
    inp.OperatorPing(),
    inp.OperatorTerminate(),
    inp.PeerTerminated(),
    inp.Superseded(),
    inp.KeyInstalled(),
    inp.KeyUsage(1, 1),
    inp.RekeyRefused(),
    inp.SuiteRefused(),
    inp.SecurityViolation("impossible"),
    inp.OwnershipLost(Reason.OWNERSHIP_AMBIGUOUS, 3),
    inp.Evicted(),
    inp.PolicyChanged(Policy(cooldown_ns=2 * S)),
    inp.Restarted(),
    inp.PlainWireguard(spoken=True),
    inp.StockSilent(),
    inp.StockHandshake("a1"),
    inp.StockAddressSeen("elsewhere", True),
)


ALL_INPUTS = {c for c in vars(inp).values() if isinstance(c, type) and issubclass(c, inp.Input)} - {inp.Input}


def fingerprint(s: Session) -> tuple[Any, ...]:
    """What an illegal input must leave as it is."""
    paths = tuple((p.path_id, p.address, p.flags, p.tier) for p in s.paths)
    window = (s.window_end_ns, s.attempt_id, s.episodes, s.budget.switches, s.budget.rebinds)
    return s.state, s.version, s.epoch, s.bound_id, paths, window, s.episode is None, s.pending


def clone(s: Session) -> Session:
    return copy.deepcopy(s)


def rows(turn: Turn) -> list[str]:
    return [event.row for event in turn.events if event.name == "STATE_CHANGE"]  # type: ignore[attr-defined]


def named(turn: Turn, name: str) -> list[Any]:
    return [event for event in turn.events if event.name == name]


def effects(turn: Turn, kind: type[Any]) -> list[Any]:
    return [effect for effect in turn.effects if isinstance(effect, kind)]
