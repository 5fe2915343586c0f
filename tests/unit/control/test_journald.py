# SPDX-License-Identifier: Apache-2.0
"""Log lines as the journal gets them, on a socket of the test's own, or as they are printed where it takes none."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway.control.journald import JournalRenderer, is_ours


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.settimeout(10)
        yield sock


def fields(data: bytes) -> list[tuple[str, str]]:
    """What journald reads in a datagram."""
    found = []
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        found.append((name.decode(), value.decode()))
        data = rest
    return found


def logger(path: Path) -> structlog.stdlib.BoundLogger:
    processors = [structlog.processors.add_log_level, JournalRenderer(path)]
    return structlog.wrap_logger(structlog.PrintLogger(), processors=processors)


def test_each_value_is_a_field(
    journal: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger(tmp_path / "socket").warning("peer has no address yet", peer="phone", tries=3, paths=["a", "b"])
    assert fields(journal.recv(65536)) == [
        ("MESSAGE", 'peer has no address yet peer=phone tries=3 paths=["a", "b"]'),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "jvpn"),
        ("JVPN_PEER", "phone"),
        ("JVPN_TRIES", "3"),
        ("JVPN_PATHS", '["a", "b"]'),
    ]
    assert capfd.readouterr().out == ""


def test_no_value_passes_for_another_field(journal: socket.socket, tmp_path: Path) -> None:
    logger(tmp_path / "socket").info("handshake", **{"peer name": "x\nPRIORITY=0\nMESSAGE=all is well"})
    found = fields(journal.recv(65536))
    assert [name for name, _ in found] == ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "JVPN_PEER_NAME"]
    assert dict(found)["PRIORITY"] == "6"


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_what_the_journal_does_not_take_is_printed(
    level: str, priority: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    getattr(logger(tmp_path / "absent"), level)("gateway ready", peers=1)
    printed = capfd.readouterr().out
    assert printed.startswith(f"<{priority}>{{")
    assert json.loads(printed[3:]) == {"event": "gateway ready", "level": level, "peers": 1}


def test_only_the_stream_that_systemd_names_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        known = os.fstat(file.fileno())
        named = {"JOURNAL_STREAM": f"{known.st_dev}:{known.st_ino}"}
        assert is_ours(named, file.fileno())
        assert not is_ours({}, file.fileno())
        assert not is_ours({"JOURNAL_STREAM": "1:1"}, file.fileno())
        file.close()
        assert not is_ours(named, 999_999)


CHILD = """
import os, sys
known = os.fstat(1)
os.environ["JOURNAL_STREAM"] = f"{known.st_dev}:{known.st_ino}" if sys.argv[1] == "journal" else "1:1"
from gateway.control import daemon, journald
journald.JournalRenderer.__init__.__defaults__ = (sys.argv[2],)
daemon.logger().error("gone", reason="x")
"""


def test_a_daemon_chooses_by_its_stdout(journal: socket.socket, tmp_path: Path) -> None:
    def run(kind: str) -> str:
        command = [sys.executable, "-c", CHILD, kind, str(tmp_path / "socket")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run("journal") == ""
    assert ("JVPN_REASON", "x") in fields(journal.recv(65536))
    assert json.loads(run("pipe"))["event"] == "gone"
