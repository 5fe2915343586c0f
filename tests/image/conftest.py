# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the boot tests. They run only when they are asked for by name (`make test-image`): each boots a machine.

JVPN_IMAGE names the folder with what `make image` made (build/image).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.image.accel import Accelerator, choose
from tests.image.artifacts import Artifacts
from tests.image.machine import missing_programs
from tests.net.lab import Lab, missing_requirements

HERE: Final = Path(__file__).resolve().parent
REPO: Final = HERE.parents[1]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out of a run that did not name them."""
    named = [(config.invocation_params.dir / word.split("::")[0]).resolve() for word in config.args]
    asked = any(path == HERE or HERE in path.parents for path in named)
    return None if asked or collection_path.name == "conftest.py" else True


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
