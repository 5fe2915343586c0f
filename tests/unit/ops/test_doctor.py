# SPDX-License-Identifier: Apache-2.0
"""The doctor: the kernel of this machine for real, and what it says when something is missing."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from gateway.control.configfields import Endpoint
from gateway.control.configmodel import Workers
from gateway.ops import doctor
from gateway.ops.doctor import Check
from tests.unit.control.samples import GATEWAY
from tests.unit.ops.conftest import Jvpn

NAMES = [
    "kernel",
    "processors",
    "clock",
    "boottime",
    "libsodium",
    "cap_net_admin",
    "tun",
    "forwarding_ipv4",
    "forwarding_ipv6",
]
NAMES += ["socket_buffers", "udp_segment", "udp_gro", "tun_offload", "nft", "wireguard_tools", "interface"]


def test_every_check_runs_here_and_every_problem_has_a_remedy(places: Path) -> None:
    interfaces = sorted(os.listdir("/sys/class/net"))
    checks = doctor.examine(doctor.Subject(interface="jvdocnone", listen=(Endpoint("127.0.0.1", 0),)))
    assert [check.name for check in checks] == [*NAMES, "port_ipv4"]
    assert all(check.remedy or "no IPv" in check.detail for check in checks if check.status != "ok")
    assert sorted(os.listdir("/sys/class/net")) == interfaces


def test_on_the_command_line(jvpn: Jvpn, places: Path) -> None:
    path = places / "gw.toml"
    path.write_text(GATEWAY + 'interface = "jvdocnone"\nlisten = ["127.0.0.1:0"]\n')
    found = jvpn("doctor", "-c", path, "--json")
    document = json.loads(found.stdout)
    assert document["schema"] == "jvpn.doctor/1"
    assert [check["name"] for check in document["checks"]] == [*NAMES, "port_ipv4"]
    assert found.exit_code == (0 if document["ok"] else 1)
    text = jvpn("doctor", "-c", path)
    assert text.exit_code == found.exit_code
    assert "libsodium" in text.stdout
    assert "\x1b" not in text.stdout


def test_something_required_missing_is_exit_code_one(jvpn: Jvpn, places: Path) -> None:
    path = places / "gw.toml"
    path.write_text(GATEWAY + 'interface = "lo"\nlisten = ["127.0.0.1:0"]\n')
    found = jvpn("doctor", "-c", path)
    assert found.exit_code == 1
    assert "lo exists and no jvpn serves it" in found.stdout
    assert "-> ip link delete lo" in found.stdout


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("6.18.44-fc", "ok"),
        ("6.2.0", "ok"),
        ("6.1.0-18-amd64", "warn"),
        ("4.18.0", "warn"),
        ("4.17.1", "fail"),
        ("odd", "warn"),
        ("7", "warn"),
    ],
)
def test_kernels(release: str, status: str) -> None:
    assert doctor.check_kernel(release).status == status


def test_native_workers_need_a_newer_kernel() -> None:
    found = doctor.check_kernel("5.10.0-30-amd64", Workers(2, True))
    assert (found.status, found.detail) == ("fail", "Linux 5.10.0-30-amd64: native workers need 5.11")
    assert doctor.check_kernel("5.11.0", Workers(2, True)).status == "warn"
    assert doctor.check_kernel("5.10.0-30-amd64", Workers()).status == "warn"


@pytest.mark.parametrize(
    ("usable", "workers", "status", "text"),
    [
        (1, Workers(), "ok", "1 processor; the event loop is the one worker, workers.count may be 1"),
        (2, Workers(), "ok", "2 processors; the event loop is the one worker, workers.count may be 2"),
        (2, Workers(1, True), "ok", "2 processors, native workers: 1"),
        (4, Workers(4, True), "ok", "4 processors, native workers: 4"),
        (2, Workers(4, True), "warn", "2 processors, 4 workers"),
    ],
)
def test_workers_and_processors(usable: int, workers: Workers, status: str, text: str) -> None:
    found = doctor.check_processors(usable, workers)
    assert (found.status, found.detail) == (status, text)
    assert found.remedy.startswith("workers.count = 2: ") == (status == "warn")


def test_the_workers_of_a_configuration_are_what_is_looked_at(jvpn: Jvpn, places: Path) -> None:
    """No machine has more processors than its kernel was built for, but this test may run on 16 and more."""
    path = places / "gw.toml"
    usable = len(os.sched_getaffinity(0))
    path.write_text(GATEWAY + 'interface = "jvdocnone"\nlisten = ["127.0.0.1:0"]\n[workers]\ncount = 16\n')
    found = json.loads(jvpn("doctor", "-c", path, "--json").stdout)
    (processors,) = [check for check in found["checks"] if check["name"] == "processors"]
    assert (processors["status"], processors["detail"]) == (
        ("ok", f"{usable} processors, native workers: 16")
        if usable >= 16
        else ("warn", f"{usable} processor{'s' if usable > 1 else ''}, 16 workers")
    )


def test_clocks() -> None:
    assert doctor.check_clock(0).status == "fail"
    assert doctor.check_clock(1_800_000_000) == Check("clock", "ok", "2027-01-15 08:00:00 UTC")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("CapEff:\t000001ffffffffff\n", "ok"),
        ("CapEff:\t0000000000001000\n", "ok"),
        ("CapEff:\t0000000000000000\n", "fail"),
        ("", "fail"),
    ],
)
def test_capabilities(text: str, status: str) -> None:
    assert doctor.check_capability(text).status == status


def test_tun_devices(tmp_path: Path) -> None:
    missing = doctor.check_tun_device(tmp_path / "none")
    assert (missing.status, "modprobe tun" in missing.remedy) == ("fail", True)
    assert doctor.check_tun_device(tmp_path).status == "fail"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert doctor.check_tun_offload(plain).status == "warn"


@pytest.mark.parametrize(
    ("content", "status"), [("1\n", "ok"), ("2\n", "ok"), ("0\n", "warn"), (None, "warn")]
)
def test_forwarding(tmp_path: Path, content: str | None, status: str) -> None:
    path = tmp_path / "forwarding"
    if content is not None:
        path.write_text(content)
    found = doctor.check_forwarding("IPv4", path, "net.ipv4.ip_forward")
    assert found.status == status
    assert ("sysctl -w net.ipv4.ip_forward=1" in found.remedy) == (content == "0\n")


def test_interfaces(tmp_path: Path) -> None:
    (tmp_path / "wg0").mkdir()
    assert doctor.check_interface("wg0", tmp_path).status == "fail"
    assert doctor.check_interface("wg1", tmp_path).status == "ok"


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_ports(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as holder:
        holder.bind((host, 0))
        port = holder.getsockname()[1]
        taken = doctor.check_port(Endpoint(host, port))
        assert taken.status == "fail"
        assert f"ss -ulpn sport = {port}" in taken.remedy
    assert doctor.check_port(Endpoint(host, port)).status == "ok"


def test_tools_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install nftables" in doctor.check_nft().remedy
    assert doctor.check_wireguard_tools().status == "ok"
    broken = tmp_path / "nft"
    broken.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    broken.chmod(0o755)
    found = doctor.check_nft()
    assert found.status == "warn"
    assert "no such module" in found.detail


def test_only_failures_make_it_unhealthy() -> None:
    assert doctor.healthy([Check("a", "ok", ""), Check("b", "warn", "", "x")])
    assert not doctor.healthy([Check("a", "ok", ""), Check("b", "fail", "", "x")])
