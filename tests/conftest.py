# SPDX-License-Identifier: Apache-2.0
"""Loud skips: every skipped test is named with its reason at the end, and a run in which all tests of one kind were
skipped fails. The kind of a test is its folder under tests/ (unit, interop, netns, ...).
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).resolve().parent

# Two shared cores: a deadline would only measure the neighbours. CI must fail or pass the same way twice.
settings.register_profile("here", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell that starts the tests in the background has them ignore it, and so would every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class KindTally:
    """Counts, per kind, what ran and what was skipped."""

    def __init__(self) -> None:
        self.ran: dict[str, int] = defaultdict(int)
        self.skipped: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def add(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        kind = kind_of(report.nodeid)
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped[kind].append((report.nodeid, reason_of(report)))
        elif getattr(report, "when", None) == "call":
            self.ran[kind] += 1

    def dead_kinds(self) -> list[str]:
        return sorted(kind for kind in self.skipped if not self.ran[kind])


def kind_of(nodeid: str) -> str:
    """``tests/netns/test_x.py::test_y`` -> ``netns``; outside tests/ the first folder is the kind."""
    parts = Path(nodeid.split("::", maxsplit=1)[0]).parts
    inner = parts[1:] if parts[:1] == (HERE.name,) else parts
    return inner[0] if len(inner) > 1 else "top"


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


TALLY = pytest.StashKey[KindTally]()


def pytest_configure(config: pytest.Config) -> None:
    tally = config.stash[TALLY] = KindTally()
    config.pluginmanager.register(_Watcher(tally), "kind-tally")


class _Watcher:
    """Feeds every report into the tally."""

    def __init__(self, tally: KindTally) -> None:
        self._tally = tally

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tally.add(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._tally.add(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.stash[TALLY].dead_kinds() and exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash[TALLY]
    if not tally.skipped:
        return
    terminalreporter.section("skipped, and why")
    for kind, tests in sorted(tally.skipped.items()):
        for nodeid, reason in tests:
            terminalreporter.write_line(f"[{kind}] {nodeid}: {reason}")
    for kind in tally.dead_kinds():
        terminalreporter.write_line(f"FAILED: every test of the kind '{kind}' was skipped", red=True)
