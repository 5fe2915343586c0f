# SPDX-License-Identifier: Apache-2.0
"""A box for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.guest import password, sealed
from tests.unit.appliance.box import Box


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Passwords cost as little as libsodium allows; one test, marked by the name of a fixture, pays the real price."""
    if "real_price" not in request.fixturenames:
        monkeypatch.setattr(sealed, "COST", sealed.Cost(1, 8))
        monkeypatch.setattr(password, "ROUNDS", 1)
        monkeypatch.setattr(password, "MEMORY_BYTES", 8192)


@pytest.fixture
def real_price() -> None:
    """Asked for by tests of what is shipped."""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """Never booted."""
    return Box(tmp_path)


@pytest.fixture
def booted(box: Box) -> Box:
    """Booted once, told nothing."""
    box.boot()
    return box
