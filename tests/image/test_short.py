# SPDX-License-Identifier: Apache-2.0
"""The shortest boot test: the image boots with BIOS, serves, and a client's packet goes through it to the LAN.

Its configuration comes as a credential by fw_cfg; the other files of this folder use the other sources.
"""

from __future__ import annotations

from tests.image.accel import Accelerator
from tests.image.conftest import MakeAppliance
from tests.image.targets import judge_boot
from tests.net.topology import BACKEND
from tests.net.traffic import wait_reachable


def test_the_image_boots_serves_and_carries_a_packet(
    make_appliance: MakeAppliance, accelerator: Accelerator
) -> None:
    appliance = make_appliance("short", peers=1, source="fw_cfg")
    judge_boot("disk, BIOS", appliance.boot(), "bios", accelerator)
    client = appliance.gateway().client()
    client.start(settled=False)
    wait_reachable(client.namespace, BACKEND, 60)
    assert appliance.guest.failed_units() == []
    client.daemon.stop()
    appliance.guest.disconnect()
    appliance.machine.shut_down()
