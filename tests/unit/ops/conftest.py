# SPDX-License-Identifier: Apache-2.0
"""Every test of the command line has directories of its own and no colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.ops.cli.main import cli

Jvpn = Callable[..., Result]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a state and a runtime directory; neither exists yet."""
    monkeypatch.setenv("JVPN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JVPN_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("JVPN_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def jvpn(places: Path) -> Jvpn:
    """Run the command line in this process; stdout and stderr stay apart."""

    def run(*args: object, stdin: str | bytes | None = None) -> Result:
        words: Sequence[str] = [str(arg) for arg in args]
        return CliRunner().invoke(cli, words, input=stdin)

    return run
