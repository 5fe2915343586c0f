# SPDX-License-Identifier: Apache-2.0
"""Rules about the code itself: purity, one writer of the state, memory per session, no reference cycles."""

from __future__ import annotations

import ast
import gc
import sys
from pathlib import Path
from typing import Any

from gateway.core import Policy, Role, Session, driver
from gateway.core import effects as fx
from gateway.core import inputs as inp
from gateway.core.path import VALIDATED
from gateway.core.states import Evidence, Tier
from tests.state.make import GOOD, LOSSY, MS, T0, S, attached

CORE = Path(__file__).resolve().parents[2] / "gateway" / "core"
FORBIDDEN = {"asyncio", "socket", "time", "os", "random", "threading", "secrets", "uuid", "logging"}
ALLOWED_GATEWAY = {"gateway.constants", "gateway.errors"}


def imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_core_has_no_clock_no_randomness_no_io_and_nothing_from_above() -> None:
    for file in CORE.glob("*.py"):
        for name in imports(ast.parse(file.read_text(encoding="utf-8"))):
            assert name.split(".")[0] not in FORBIDDEN, f"{file.name} imports {name}"
            if name.startswith("gateway") and not name.startswith("gateway.core"):
                assert name in ALLOWED_GATEWAY, f"{file.name} imports {name}"


def writers(attribute: str) -> set[tuple[str, str]]:
    """(file, function) of every assignment to ``something.attribute`` in the core."""
    found: set[tuple[str, str]] = set()
    for file in CORE.glob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                targets: list[Any] = []
                if isinstance(node, ast.Assign):
                    targets = node.targets
                elif isinstance(node, ast.AugAssign | ast.AnnAssign):
                    targets = [node.target]
                flat = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
                if any(isinstance(t, ast.Attribute) and t.attr == attribute for t in flat):
                    found.add((file.name, function.name))
    return found


def test_only_step_assigns_state_version_and_binding() -> None:
    assert writers("state") == {("session.py", "__init__"), ("session.py", "step"), ("session.py", "resume")}
    assert writers("version") == {
        ("session.py", "__init__"),
        ("session.py", "step"),
        ("session.py", "resume"),
    }
    allowed = {"__init__", "_rebind", "resume", "rename"}
    assert {name for file, name in writers("bound_id") if file == "session.py"} == allowed
    assert {file for file, _ in writers("bound_id")} == {"session.py"}
    assert {file for file, _ in writers("epoch")} == {"session.py"}


def test_functions_and_files_stay_small() -> None:
    lengths = []
    for file in CORE.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") < 600, file.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
    assert max(lengths) <= 60
    assert sorted(lengths)[len(lengths) // 2] <= 13


def footprint(one: object, shared: set[int]) -> int:
    """Bytes of everything reachable from ``one`` that is not shared by all sessions."""
    size, stack = 0, [one]
    while stack:
        item = stack.pop()
        if id(item) in shared or isinstance(item, type) or item is None:
            continue
        shared.add(id(item))
        size += sys.getsizeof(item)
        stack += gc.get_referents(item)
    return size


def busy(role: Role) -> Session:
    """A session with two paths, measured, that switched twice and is attached again."""
    s = attached(role, policy=POLICY)
    now = T0
    for path_id in (1, 2):
        driver.receive(s, inp.PathMeasured(path_id, 21_345, 1_234, 987, 1_500, 500, 1, 40, 40), T0 + 1)
    if role is Role.CLIENT:
        for target in (2, 1):
            now += 20 * S
            driver.receive(s, inp.OperatorSwitch(target), now)
            driver.receive(s, inp.ReattachAck(s.attempt_id, s.epoch + 1, target), now + 20 * MS)
            driver.timer_due(s, now + S)
    driver.receive(s, inp.PeerBinding(s.epoch, s.bound_id), now + S)
    return s


POLICY = Policy()


def test_a_session_with_two_paths_costs_at_most_two_kibibytes() -> None:
    for role in Role:
        s = busy(role)
        shared = {id(POLICY), id(Session)}
        footprint((s.role, s.state, True, "peer", "udp", *Role, *Tier), shared)
        size = footprint(s, shared)
        assert size <= 2048, f"{role}: {size} bytes"


def test_a_session_holds_no_reference_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        for role in Role:
            s = busy(role)
            del s
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_link_that_holds_again_is_listened_to() -> None:
    """Answers from before were not believed: without every one from now on its path might never be proven."""
    s = attached(Role.CLIENT, policy=POLICY)
    spare = next(path.path_id for path in s.paths if path.path_id != s.bound_id)
    driver.receive(s, inp.PathLost(spare, Evidence.LINK_DOWN), T0 + S)
    driver.receive(s, inp.LinkUp(spare), T0 + 2 * S)
    driver.receive(s, inp.PathAnswered(spare, 1), T0 + 2 * S + MS)
    turn = driver.timer_due(s, T0 + 3 * S)
    assert fx.ProbePath(spare, 0, True) in turn.effects
    driver.receive(s, inp.PathAnswered(spare, 2), T0 + 3 * S + MS)
    path = s.path(spare)
    assert path is not None and path.has(VALIDATED)


def test_memory_does_not_grow_with_age() -> None:
    """I29: an hour of flapping leaves a session no larger than a minute of it."""
    s = attached(Role.CLIENT, policy=POLICY)
    sizes = []
    now = T0
    for n in range(2_000):
        now += 2 * S
        if now - T0 > 7 * 3600 * S:
            break
        path_id = 1 + n % 2
        driver.receive(s, inp.PathLost(path_id, Evidence.LINK_DOWN), now)
        driver.receive(s, inp.ReattachAck(s.attempt_id, s.epoch + 1, 3 - path_id), now + 20 * MS)
        driver.receive(s, inp.LinkUp(path_id), now + 50 * MS)
        driver.timer_due(s, now + 300 * MS)
        driver.receive(s, inp.PathAnswered(path_id, 40), now + 400 * MS)
        driver.receive(s, LOSSY if n % 3 else GOOD, now + 500 * MS)
        driver.receive(s, inp.KeyInstalled(), now + 600 * MS)
        if s.ended:
            break
        if n % 100 == 99:
            sizes.append(footprint(s, {id(POLICY), id(Session)}))
    assert not s.ended
    assert max(sizes[1:]) <= 1.3 * sizes[0]
    assert len(s.history()) == 8
