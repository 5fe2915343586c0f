# SPDX-License-Identifier: Apache-2.0
"""tests/conftest.py: skips are listed with their reason, and a kind of which nothing ran fails the run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
PASSES = "def test_it():\n    assert True\n"
SKIPS = "import pytest\n\n@pytest.mark.skip(reason='no such device')\ndef test_it():\n    pass\n"
SKIPS_WHOLE_FILE = "import pytest\npytest.skip('no namespaces here', allow_module_level=True)\n"
SKIPS_INSIDE = "import pytest\n\ndef test_it():\n    pytest.skip('not root')\n"


def run(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    tests = folder / "tests"
    for name, text in files.items():
        path = tests / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(CONFTEST, tests / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib -p no:cacheprovider\n")
    command = [sys.executable, "-m", "pytest", "-q", "tests"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(SKIPS, "no such device"), (SKIPS_WHOLE_FILE, "no namespaces here"), (SKIPS_INSIDE, "not root")],
)
def test_a_kind_that_was_skipped_altogether_fails(text: str, reason: str, tmp_path: Path) -> None:
    done = run(tmp_path, {"netns/test_a.py": text, "unit/test_b.py": PASSES})
    assert done.returncode == 1, done.stdout
    assert reason in done.stdout
    assert "every test of the kind 'netns' was skipped" in done.stdout


def test_some_skips_of_a_kind_are_only_listed(tmp_path: Path) -> None:
    done = run(tmp_path, {"netns/test_a.py": SKIPS, "netns/test_b.py": PASSES})
    assert done.returncode == 0, done.stdout
    assert "[netns] tests/netns/test_a.py::test_it: no such device" in done.stdout


def test_without_skips_nothing_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, {"unit/test_a.py": PASSES})
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
