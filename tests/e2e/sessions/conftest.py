# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the scenarios. A scenario that takes ``make_bed`` is verified when it ends, whatever it was about."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.e2e.sessions.bed import Bed
from tests.e2e.sessions.flapping import Flapping
from tests.net.lab import Lab, missing_requirements

MISSING: Final = missing_requirements()
MakeBed = Callable[..., Bed]
OUTCOME: Final = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of it, loudly, where namespaces cannot be made; what waits for the long run comes last."""
    if MISSING is not None:
        for item in items:
            if "e2e/sessions" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=f"no laboratory: {MISSING}"))
    items.sort(key=_waits)


def _waits(item: pytest.Item) -> bool:
    return "flapping" in getattr(item, "fixturenames", ())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Let the fixture know whether the scenario itself held."""
    yield
    if call.when == "call":
        item.stash[OUTCOME] = call.excinfo is None


@pytest.fixture(scope="session", autouse=True)
def _sessions_exist() -> None:
    """Without the session commands there is nothing to test here: that is a failure, not a skip."""
    argv = [sys.executable, "-m", "gateway.ops.cli", "sessions", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        pytest.fail(f"`jvpn sessions` does not exist\n{done.stderr}")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A laboratory of the test's own."""
    with Lab() as made:
        yield made


@pytest.fixture
def make_bed(lab: Lab, request: pytest.FixtureRequest) -> Iterator[MakeBed]:
    """Make (not start) a bed; keywords are those of `Bed`. Afterwards the journals of all its ends are verified."""
    made: list[Bed] = []

    def make(**options: Any) -> Bed:
        made.append(Bed(lab, **options))
        return made[-1]

    yield make
    trace_verifier(request.node, made)


def trace_verifier(item: pytest.Item, beds: list[Bed]) -> None:
    """Stop the ends of each bed and judge their journals; a scenario that failed keeps its own message first."""
    held = item.stash.get(OUTCOME, False)
    problems: list[str] = []
    for bed in beds:
        if held:
            bed.close()
        else:
            bed.kill()
        problems += bed.problems()
    if problems:
        pytest.fail("the journals are not sound:\n" + "\n".join(problems[:20]), pytrace=False)


@pytest.fixture(scope="session")
def flapping() -> Iterator[Flapping]:
    """The one long run: a link that flaps at 1 Hz for two minutes, beside the other tests."""
    with Lab() as made:
        run = Flapping(made)
        yield run
        run.close()


@pytest.fixture(scope="session", autouse=True)
def _start_flapping_early(request: pytest.FixtureRequest, _sessions_exist: None) -> None:
    """Two minutes of flapping cost few of ours."""
    if MISSING is None and any(_waits(item) for item in request.session.items):
        request.getfixturevalue("flapping")
