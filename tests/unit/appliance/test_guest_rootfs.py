# SPDX-License-Identifier: Apache-2.0
"""What is laid over the image: units that systemd can read, links that lead somewhere, nothing secret, no login."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOTFS = Path(__file__).resolve().parents[3] / "appliance/rootfs"
UNITS = ROOTFS / "usr/lib/systemd/system"
OURS = sorted(path for path in UNITS.iterdir() if path.is_file())
# Units of Debian's packages that the image has.
DEBIAN = {
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "nftables.service",
    "ssh.service",
}
PACKAGED = {"jvpn-gateway.service"}


def links() -> list[Path]:
    return sorted(path for path in ROOTFS.rglob("*") if path.is_symlink())


@pytest.mark.parametrize("path", links(), ids=lambda path: str(path.relative_to(ROOTFS)))
def test_each_link_leads_to_something(path: Path) -> None:
    target = os.readlink(path)
    if target == "/dev/null" or path.name == "resolv.conf":
        return
    if target.startswith("/"):
        assert Path(target).name in DEBIAN | PACKAGED
        assert target.startswith("/lib/systemd/system/")
    else:
        assert path.exists(), f"{path} leads nowhere"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_systemd_reads_each_unit(path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    # The program is in the image and not on this machine.
    known = ("jvpn-appliance is not executable", "systemd-udev-settle.service", "jvpn-gateway.service")
    said = [line for line in done.stderr.splitlines() if path.name.partition("@")[0] in line]
    assert not [line for line in said if not any(word in line for word in known)], done.stderr


def test_whatever_reads_the_settings_starts_after_they_were_made() -> None:
    unit = (UNITS / "jvpn-firstboot.service").read_text()
    before = " ".join(re.findall(r"^Before=(.*)$", unit, re.MULTILINE)).split()
    assert {"network-pre.target", "nftables.service", "systemd-networkd.service", "ssh.service"} <= set(
        before
    )
    assert "LoadCredential=jvpn.config\n" in unit
    gateway = (UNITS / "jvpn-gateway.service.d/10-appliance.conf").read_text()
    assert "Requires=etc-jvpn.mount var-lib-private-jvpn.mount" in gateway


def test_mount_units_are_named_after_their_place() -> None:
    for path in UNITS.glob("*.mount"):
        where = re.search(r"^Where=(.*)$", path.read_text(), re.MULTILINE)
        assert where is not None
        assert path.name == where[1].strip("/").replace("-", r"\x2d").replace("/", "-") + ".mount"


def test_nobody_is_asked_for_a_login() -> None:
    system = ROOTFS / "etc/systemd/system"
    for name in ("getty@.service", "serial-getty@.service", "console-getty.service"):
        assert os.readlink(system / name) == "/dev/null"
    text = (ROOTFS / "etc/ssh/sshd_config.d/10-appliance.conf").read_text()
    assert "PasswordAuthentication no\n" in text and "AllowUsers root\n" in text


def test_the_command_runs_as_the_gateway_does() -> None:
    path = ROOTFS / "usr/sbin/jvpn-appliance"
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text().startswith("#!/usr/bin/python3 -IS\n")
