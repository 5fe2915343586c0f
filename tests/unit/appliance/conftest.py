# SPDX-License-Identifier: Apache-2.0
"""A box for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.appliance.box import Box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """Never booted."""
    return Box(tmp_path)


@pytest.fixture
def booted(box: Box) -> Box:
    """Booted once, told nothing."""
    box.boot()
    return box
