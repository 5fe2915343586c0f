# SPDX-License-Identifier: Apache-2.0
"""resolv.conf in all its forms, and which of the system's resolvers is told.

resolvectl and systemctl are stand-ins here: systemd-resolved needs a booted systemd. What they are asked is compared.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.errors import HostError
from gateway.net import dns
from gateway.net.steps import ResolvConf, Resolvconf, Resolvectl

PLAN = dns.DnsPlan("jv0", ("10.9.0.1", "fd09::1"), ("inner.example",))
BEFORE = b"nameserver 192.0.2.53\noptions timeout:2 edns0\nsearch example.org\n"

Recorded = list[ResolvConf | Resolvectl | Resolvconf]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A resolv.conf of our own, and a PATH without resolvers."""
    monkeypatch.setattr(dns.programs, "find", lambda name: "")
    path = tmp_path / "resolv.conf"
    path.write_bytes(BEFORE)
    return path


def _configure(path: Path) -> ResolvConf:
    steps: Recorded = []
    assert dns.configure(PLAN, steps.append, path=path) is dns.Backend.FILE
    (step,) = steps
    assert isinstance(step, ResolvConf)
    return step


def test_a_plain_file(file: Path) -> None:
    file.chmod(0o640)
    step = _configure(file)
    assert file.read_text().splitlines()[1:] == [
        "nameserver 10.9.0.1",
        "nameserver fd09::1",
        "search inner.example",
        "options timeout:2 edns0",
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644, "everybody asks"
    assert dns.undo_resolv_conf(step) is True
    assert file.read_bytes() == BEFORE
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert dns.undo_resolv_conf(step) is False
    assert [path.name for path in file.parent.iterdir()] == ["resolv.conf"]


def test_a_symbolic_link(file: Path) -> None:
    real = file.with_name("real")
    file.rename(real)
    file.symlink_to("real")
    step = _configure(file)
    assert not file.is_symlink()
    assert real.read_bytes() == BEFORE, "what it points to belongs to another program"
    assert dns.undo_resolv_conf(step) is True
    assert os.readlink(file) == "real"


def test_a_dangling_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")
    step = _configure(file)
    assert dns.undo_resolv_conf(step) is True
    assert os.readlink(file) == "nowhere"


def test_no_file(file: Path) -> None:
    file.unlink()
    step = _configure(file)
    assert file.read_bytes() == step.written
    assert dns.undo_resolv_conf(step) is True
    assert not file.exists()


def test_killed_before_the_change(file: Path) -> None:
    """The step is recorded first: at that moment the file is still the old one."""
    seen: list[bytes] = []
    dns.configure(PLAN, lambda step: seen.append(file.read_bytes()), path=file)
    assert seen == [BEFORE]


@pytest.mark.parametrize("torn", [b"", b"# Written by j", BEFORE[:10]])
def test_a_torn_write_in_place_is_repaired(file: Path, torn: bytes) -> None:
    step = _configure(file)
    file.write_bytes(torn)
    assert dns.undo_resolv_conf(step) is True
    assert file.read_bytes() == BEFORE


def test_somebody_elses_newer_file_stays(file: Path) -> None:
    step = _configure(file)
    file.write_bytes(b"nameserver 192.0.2.99\n")
    assert dns.undo_resolv_conf(step) is False
    assert file.read_bytes() == b"nameserver 192.0.2.99\n"


def test_two_tunnels_do_not_stack(file: Path) -> None:
    """The second would keep the first one's servers as what was there before."""
    _configure(file)
    with pytest.raises(HostError, match="`jvpn disconnect jv0` first"):
        dns.configure(dns.DnsPlan("jv1", ("10.8.0.1",)), lambda step: None, path=file)


def test_a_folder_that_is_missing(tmp_path: Path, file: Path) -> None:
    with pytest.raises(HostError, match="leave the DNS servers out"):
        dns.configure(PLAN, lambda step: None, path=tmp_path / "absent" / "resolv.conf")


def test_no_more_servers_than_the_c_library_reads(file: Path) -> None:
    plan = dns.DnsPlan("jv0", tuple(f"10.9.0.{n}" for n in range(1, 6)))
    dns.configure(plan, lambda step: None, path=file)
    assert file.read_text().count("nameserver") == dns.SERVERS_MAX


# --- what the system has ----------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH; what is called there lands in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(
        dns.programs, "find", lambda name: str(folder / name) if (folder / name).exists() else ""
    )
    return folder


def _tool(folder: Path, name: str, script: str = "") -> None:
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{script}\n')
    path.chmod(0o755)


def _calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def _stub(tmp_path: Path, text: str = "nameserver 127.0.0.53\n") -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    return path


def test_resolved_when_it_runs_here(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "resolvectl")
    _tool(tools, "systemctl", f"echo {os.getpid()}")
    steps: Recorded = []
    assert dns.configure(PLAN, steps.append, path=_stub(tmp_path)) is dns.Backend.RESOLVED
    assert steps == [Resolvectl(interface="jv0")]
    assert _calls(tools)[1:] == [
        "resolvectl dns jv0 10.9.0.1 fd09::1",
        "resolvectl domain jv0 inner.example ~.",
    ]
    assert dns.undo_resolvectl(Resolvectl(interface="lo")) is True
    assert _calls(tools)[-1] == "resolvectl revert lo"
    assert dns.undo_resolvectl(Resolvectl(interface="absent0")) is False


@pytest.mark.parametrize("answer", ["echo 0", "exit 1", "echo", "echo 999999999"])
def test_resolved_that_does_not_run_is_not_asked(tools: Path, tmp_path: Path, answer: str) -> None:
    _tool(tools, "resolvectl")
    _tool(tools, "systemctl", answer)
    assert dns.detect(_stub(tmp_path)) is dns.Backend.FILE


@pytest.mark.parametrize(
    "text", ["nameserver 192.0.2.53\n", "# 127.0.0.53 is the stub\nnameserver 192.0.2.53\n"]
)
def test_resolved_that_nobody_asks_is_not_told(tools: Path, tmp_path: Path, text: str) -> None:
    _tool(tools, "resolvectl")
    _tool(tools, "systemctl", f"echo {os.getpid()}")
    assert dns.detect(_stub(tmp_path, text)) is dns.Backend.FILE


def test_resolvconf(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "resolvconf", f"cat > {tools}/stdin")
    steps: Recorded = []
    assert dns.configure(PLAN, steps.append, path=_stub(tmp_path)) is dns.Backend.RESOLVCONF
    assert steps == [Resolvconf(record="tun.jv0")]
    assert (tools / "stdin").read_text() == "nameserver 10.9.0.1\nnameserver fd09::1\nsearch inner.example\n"
    assert dns.undo_resolvconf(Resolvconf(record="tun.jv0")) is True
    assert _calls(tools) == ["resolvconf -a tun.jv0 -m 0 -x", "resolvconf -d tun.jv0 -f"]


def test_resolvconf_that_is_resolvectl_needs_resolved(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "resolvectl")
    (tools / "resolvconf").symlink_to("resolvectl")
    assert dns.detect(_stub(tmp_path)) is dns.Backend.FILE


def test_a_tool_that_fails_is_quoted(tools: Path, tmp_path: Path) -> None:
    _tool(tools, "resolvconf", "echo 'no space left' >&2; exit 1")
    with pytest.raises(HostError, match=r"resolvconf -a tun\.jv0 .*: no space left"):
        dns.configure(PLAN, lambda step: None, path=_stub(tmp_path))
