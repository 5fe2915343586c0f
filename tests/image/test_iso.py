# SPDX-License-Identifier: Apache-2.0
"""The ISO: it runs from the medium with both firmwares, and puts itself onto a disk that then starts by itself."""

from __future__ import annotations

import pytest

from tests.image.accel import Accelerator
from tests.image.appliance import Appliance
from tests.image.artifacts import Artifacts
from tests.image.conftest import MakeAppliance
from tests.image.machine import DISK_MIB, Firmware, blank
from tests.image.targets import judge_boot
from tests.net.topology import BACKEND
from tests.net.traffic import wait_reachable

# Its kernel is the general one, its root is read from the medium.
MEMORY_MIB = 768
INSTALL_S = 500.0


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_it_runs_live_installs_itself_and_the_disk_starts(
    make_appliance: MakeAppliance, artifacts: Artifacts, accelerator: Accelerator, firmware: Firmware
) -> None:
    appliance = make_appliance(f"iso-{firmware}", firmware=firmware, memory_mib=MEMORY_MIB, peers=1)
    target = blank(appliance.folder, DISK_MIB, "target")
    appliance.change(disks=[target], cdrom=artifacts.iso)
    judge_boot(f"ISO, {firmware.upper()}", appliance.boot(), firmware, accelerator)
    assert appliance.running_slot() == "live"
    assert appliance.guest.failed_units() == []
    carries_a_packet(appliance)
    refuses_what_is_not_a_disk(appliance)
    appliance.guest.run("jvpn-appliance install /dev/vda --yes", timeout_s=INSTALL_S)
    appliance.guest.disconnect()
    appliance.machine.shut_down()
    # The disk alone. It is another box: keys of the live system are not taken along.
    appliance.change(cdrom=None)
    appliance.guest.forget_host_key()
    appliance.start()
    appliance.wait_serving()
    appliance.guest.connect()
    assert appliance.running_slot() == "a"
    assert appliance.guest.failed_units() == []
    appliance.forget_gateway()
    carries_a_packet(appliance)


def carries_a_packet(appliance: Appliance) -> None:
    """A client of ours reaches the LAN through it."""
    client = appliance.gateway().client()
    client.start(settled=False)
    wait_reachable(client.namespace, BACKEND, 60)
    client.daemon.stop()


def refuses_what_is_not_a_disk(appliance: Appliance) -> None:
    """A file, a partition's name that is none, and the medium it runs from."""
    for name in ("/etc/hostname", "/dev/vda9", "/dev/sr0"):
        done = appliance.guest.run(f"jvpn-appliance install {name} --yes", check=False)
        assert done.returncode != 0, name
        assert name in done.stdout + done.stderr
