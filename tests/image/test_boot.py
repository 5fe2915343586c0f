# SPDX-License-Identifier: Apache-2.0
"""Booting: both firmwares, what is there afterwards, what a first boot makes and a reboot keeps."""

from __future__ import annotations

import json

import pytest

from tests.image.accel import Accelerator
from tests.image.appliance import Appliance
from tests.image.conftest import MakeAppliance
from tests.image.machine import DISK_MIB
from tests.image.targets import judge_boot

# Of 512 MB, with the gateway running.
FREE_MIN_KIB = 128 * 1024


@pytest.fixture(scope="module")
def appliance(make_shared: MakeAppliance, accelerator: Accelerator) -> Appliance:
    """Booted with UEFI, configured by SMBIOS."""
    made = make_shared("uefi", firmware="uefi", source="smbios")
    judge_boot("disk, UEFI", made.boot(), "uefi", accelerator)
    return made


def test_it_runs_without_a_failed_unit(appliance: Appliance) -> None:
    appliance.guest.wait("systemctl is-system-running", "all jobs are done")
    assert appliance.guest.failed_units() == []


def test_it_was_booted_by_the_firmware_that_it_should_be(appliance: Appliance) -> None:
    appliance.guest.run("test -d /sys/firmware/efi")


def test_half_a_gigabyte_is_enough(appliance: Appliance) -> None:
    meminfo = dict(line.split(":", 1) for line in appliance.guest.out("cat /proc/meminfo").splitlines())
    available_kib = int(meminfo["MemAvailable"].split()[0])
    print(f"\nfree of 512 MB: {available_kib // 1024} MB")
    assert available_kib > FREE_MIN_KIB


def test_the_root_is_verified_and_what_is_written_to_it_is_lost(appliance: Appliance) -> None:
    mounts = json.loads(appliance.guest.out("findmnt -J -o TARGET,FSTYPE,OPTIONS /"))["filesystems"]
    assert mounts[0]["fstype"] == "overlay"
    tables = appliance.guest.out("ls /dev/mapper; cat /sys/block/dm-*/dm/uuid")
    assert "VERITY" in tables


def test_the_data_partition_has_grown_and_runs_nothing(appliance: Appliance) -> None:
    found = json.loads(appliance.guest.out("findmnt -J -b -o FSTYPE,SIZE,OPTIONS /data"))["filesystems"][0]
    assert found["fstype"] == "ext4"
    # What is left of the disk beside the slots, less what the file system needs itself.
    assert int(found["size"]) > (DISK_MIB - 640) * 1024 * 1024
    assert {"nosuid", "nodev", "noexec"} <= set(found["options"].split(","))


def test_keys_were_made_here_and_nobody_else_may_read_them(appliance: Appliance) -> None:
    listed = appliance.guest.out(
        "stat -c '%a %U %n' /etc/jvpn/gateway.key /data/ssh/ssh_host_*_key"
    ).splitlines()
    assert len(listed) >= 2
    assert all(line.startswith("600 root ") for line in listed), listed


def test_nobody_can_log_in_with_a_password(appliance: Appliance) -> None:
    shadow = appliance.guest.out("cut -d: -f2 /etc/shadow").splitlines()
    assert {word[:1] for word in shadow} <= {"*", "!"}, "an account has a password"
    effective = appliance.guest.out("sshd -T")
    assert "passwordauthentication no" in effective
    assert "permitrootlogin without-password" in effective


def test_the_version_is_told_everywhere_alike(appliance: Appliance) -> None:
    os_release = dict(
        line.split("=", 1) for line in appliance.guest.out("cat /etc/os-release").splitlines() if "=" in line
    )
    assert os_release["IMAGE_ID"].strip('"') == "jumping-vpn-appliance"
    version = os_release["IMAGE_VERSION"].strip('"')
    assert version in appliance.guest.out("jvpn --version")
    assert version in appliance.machine.console.text
    assert json.loads(appliance.guest.out("jvpn-appliance status --json"))["version"] == version


def test_the_power_button_ends_it_in_order(appliance: Appliance) -> None:
    appliance.guest.disconnect()
    appliance.machine.shut_down()
    appliance.start()
    appliance.wait_serving()
    appliance.guest.connect()
    assert appliance.guest.failed_units() == []
    # A file system that was left in order is not repaired.
    assert "recovering journal" not in appliance.guest.out("journalctl -b -k | grep -i ext4 || true")
