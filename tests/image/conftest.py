# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the boot tests. They run only when they are asked for by name (`make test-image`): each boots a machine.

JVPN_IMAGE names the folder with what `make image` made (build/image).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.image.accel import Accelerator, choose
from tests.image.appliance import WIDE_POLICY, Appliance, Options
from tests.image.artifacts import Artifacts
from tests.image.machine import Machine, missing_programs
from tests.image.targets import judge_boot
from tests.net.lab import Lab, missing_requirements

HERE: Final = Path(__file__).resolve().parent
REPO: Final = HERE.parents[1]
# A module's machine may be booted by the first of its tests, and a test may boot several times.
TEST_TIMEOUT_S: Final = 1500
MakeAppliance = Callable[..., Appliance]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out of a run that did not name them."""
    named = [(config.invocation_params.dir / word.split("::")[0]).resolve() for word in config.args]
    asked = any(path == HERE or HERE in path.parents for path in named)
    return None if asked or collection_path.name == "conftest.py" else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Booting has its own limits; the ordinary one of five minutes is for other tests."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
    # The shared one runs until the end, so what boots machines of its own comes before it.
    items.sort(key=lambda item: "served" in getattr(item, "fixturenames", ()))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure shows the end of each console that is there."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and HERE in item.path.parents:
        for machine in Machine.known():
            report.sections.append((f"console of {machine.name}", machine.console.tail()))


@pytest.fixture(scope="session", autouse=True)
def _can_boot() -> None:
    """Whoever asks for boot tests has what they need: anything else is a failure, not a skip."""
    problem = missing_requirements() or ", ".join(missing_programs())
    if problem:
        pytest.fail(f"no boot tests without: {problem} (.ci/setup image)")


@pytest.fixture(scope="session")
def artifacts() -> Artifacts:
    """What `make image` made."""
    return Artifacts(Path(os.environ.get("JVPN_IMAGE", REPO / "build" / "image")))


@pytest.fixture(scope="session")
def kernel(artifacts: Artifacts) -> Path:
    """The kernel of the image."""
    return artifacts.kernel


@pytest.fixture(scope="session")
def accelerator(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Accelerator:
    """What runs guests here."""
    chosen = choose(kernel, tmp_path_factory.mktemp("accel"))
    print(f"guests run with {chosen.name}")
    return chosen


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A laboratory of the test's own."""
    with Lab() as made:
        yield made


@contextmanager
def appliances(artifacts: Artifacts, accelerator: Accelerator) -> Iterator[MakeAppliance]:
    """Make (not start) appliances by name, each in a laboratory of its own; all are gone at the end."""
    made: list[Appliance] = []
    labs: list[Lab] = []

    def make(name: str, **options: Any) -> Appliance:
        labs.append(Lab().__enter__())
        made.append(Appliance(labs[-1], name, artifacts, accelerator, Options(**options)))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()
        for lab in labs:
            lab.close()


@pytest.fixture
def make_appliance(artifacts: Artifacts, accelerator: Accelerator) -> Iterator[MakeAppliance]:
    """Appliances of one test."""
    with appliances(artifacts, accelerator) as make:
        yield make


@pytest.fixture(scope="module")
def make_shared(artifacts: Artifacts, accelerator: Accelerator) -> Iterator[MakeAppliance]:
    """Appliances that the tests of a file share, where nothing is broken by them."""
    with appliances(artifacts, accelerator) as make:
        yield make


@pytest.fixture(scope="session")
def served(artifacts: Artifacts, accelerator: Accelerator) -> Iterator[Appliance]:
    """One appliance, booted by BIOS and configured by a medium, for every test that breaks nothing of it."""
    with appliances(artifacts, accelerator) as make:
        made = make("serving", policy=WIDE_POLICY)
        judge_boot("disk, BIOS, medium", made.boot(), "bios", accelerator)
        yield made


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait until it holds."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)
