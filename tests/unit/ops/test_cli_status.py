# SPDX-License-Identifier: Apache-2.0
"""`jvpn status` against a real socket, and how numbers are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.ops.cli import output
from gateway.ops.cli.status import render
from tests.unit.ops.conftest import Jvpn
from tests.unit.ops.daemon import STATUS, serving, status


def test_as_json_it_is_the_daemons_document(jvpn: Jvpn, places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        found = jvpn("status", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout) == STATUS


def test_for_a_person(jvpn: Jvpn, places: Path) -> None:
    with serving(places / "run/jvpn0.sock", {"status": status}):
        found = jvpn("status")
    assert found.stdout.splitlines() == [
        "gateway jvpn0",
        f"  public key  {'k' * 43}=",
        "  listening   0.0.0.0:51820, [::]:51820",
        "  uptime      2h 3m",
        "  libsodium   1.0.20",
        "  offloads    udp_segment",
        "  workers     the event loop",
        "",
        "PEER    STATE     ENDPOINT        ALLOWED IPS                    HANDSHAKE  RECEIVED   SENT  SUITE",
        "phone   attached  192.0.2.7:4000  10.99.0.2/32, fd99::2/128 +1  1m 15s ago   1.5 MiB  999 B  aegis-128l",
        "laptop  never     -               -                                  never       0 B    0 B  -",
        "",
        "counters",
        "  replayed  3",
    ]
    assert "\x1b" not in found.stdout


def test_a_document_with_little_in_it() -> None:
    assert (
        render({"role": "client", "interface": "vpn0"})
        == "client vpn0\n\nno peers; add one with `jvpn peer add NAME`"
    )


def test_native_workers() -> None:
    each = [
        {"wakeups": 1200, "rx_datagrams": 70_000, "tx_datagrams": 31, "cpu_ns": 1_534_000_000},
        {"wakeups": 0, "rx_datagrams": 0, "tx_datagrams": 0, "cpu_ns": 0},
    ]
    text = render({**STATUS, "workers": {"count": 2, "native": True, "each": each}})
    assert "  workers     2 native\n" in text
    assert [line for line in text.splitlines() if line.startswith(("WORKER", "     0", "     1"))] == [
        "WORKER  WAKEUPS  DATAGRAMS IN  DATAGRAMS OUT    CPU",
        "     0     1200         70000             31  1.53s",
        "     1        0             0              0  0.00s",
    ]


def test_nobody_runs(jvpn: Jvpn) -> None:
    found = jvpn("status")
    assert (found.exit_code, found.stdout) == (3, "")
    assert found.stderr.startswith("jvpn: no gateway or client runs here")
    assert jvpn("status", "-i", "wg9").exit_code == 3


def test_which_daemon(jvpn: Jvpn, places: Path) -> None:
    async def other(_args: dict[str, Any]) -> dict[str, Any]:
        return {**STATUS, "interface": "wg9"}

    first, second = places / "run/jvpn0.sock", places / "run/wg9.sock"
    with serving(first, {"status": status}):
        with serving(second, {"status": other}):
            found = jvpn("status")
            assert found.exit_code == 2
            assert "several daemons run here: jvpn0, wg9" in found.stderr
            assert json.loads(jvpn("status", "-i", "wg9", "--json").stdout)["interface"] == "wg9"
            assert json.loads(jvpn("status", "--socket", first, "--json").stdout)["interface"] == "jvpn0"
        assert jvpn("status").exit_code == 0


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_572_864, "1.5 MiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 62, "4096.0 PiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert output.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "never"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m 0s"),
        (3_599, "59m 59s"),
        (7_384, "2h 3m"),
        (90_000, "1d 1h"),
        (-5, "0s"),
    ],
)
def test_ages(seconds: float | None, text: str) -> None:
    assert output.age(seconds) == text


def test_colour_needs_a_terminal_and_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    stream: Any = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.coloured(stream)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.coloured(stream)
    assert output.screen(stream)  # a cursor that moves is no colour
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not output.coloured(stream)
