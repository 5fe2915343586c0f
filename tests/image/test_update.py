# SPDX-License-Identifier: Apache-2.0
"""Updates of one machine, in the order of their danger: what is refused, what is cut off, what fails, what holds.

All bundles lie on one medium with the label JVPN-UPD. After every failure the machine must serve from slot a with the
session that it had, and be ready for the next update.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.image.appliance import SETTLE_S, WIDE_POLICY, Appliance
from tests.image.artifacts import Artifacts
from tests.image.bundles import Bundles
from tests.image.conftest import MakeAppliance
from tests.image.machine import BOOT_TIMEOUT_S
from tests.image.media import medium
from tests.net.jump import JumpClient
from tests.net.topology import BACKEND
from tests.net.traffic import wait_reachable

LABEL: Final = "JVPN-UPD"
BUNDLES: Final = "/run/bundles"
# Writing and reading back 75 MB, hashed by an emulated processor.
UPDATE_S: Final = 400.0
# The trial's own limit, its restart, and a boot.
TRIAL_S: Final = 180.0
SPOIL: Final = (
    "for i in $(seq 0 64 16000); do dd if=/dev/zero of={} bs=1024 count=4 seek=$i conv=notrunc 2>&-; done"
)


@pytest.fixture(scope="module")
def appliance(
    make_shared: MakeAppliance, artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> Appliance:
    """Serving from slot a, with a medium of bundles."""
    folder = tmp_path_factory.mktemp("bundles")
    made, bundles = make_shared("update", policy=WIDE_POLICY), Bundles.of(artifacts, folder)
    good = bundles.newer("good", "99.1")
    found = {
        "good": good,
        "newest": bundles.newer("newest", "99.2", step=2),
        "older": bundles.newer("older", "0.0", step=-1),
        "foreign": bundles.by_stranger("foreign"),
        "tampered": bundles.tampered(good, "tampered"),
        # A kernel that finds no init is the plainest image that does not come up.
        "broken": bundles.newer("broken", "99.0", replaced={"initrd": bytes(4096)}),
    }
    stick = medium(folder, LABEL, {f"{name}.jvpnup": path for name, path in found.items()})
    made.change(media=[*made.machine.hardware.media, stick])
    made.boot()
    mount(made)
    return made


@pytest.fixture(scope="module")
def client(appliance: Appliance) -> Iterator[JumpClient]:
    """A client whose session is to outlive all of it."""
    made = appliance.gateway().client()
    made.start(settled=False)
    yield made
    made.daemon.stop()


def mount(appliance: Appliance) -> None:
    """The medium, after each boot."""
    appliance.guest.run(f"mkdir -p {BUNDLES} && mount -r /dev/disk/by-label/{LABEL} {BUNDLES}")


def update(appliance: Appliance, name: str, *words: str) -> tuple[int, str]:
    """`jvpn-appliance update`; its status and all it said."""
    command = " ".join(("jvpn-appliance update", *words, f"{BUNDLES}/{name}.jvpnup"))
    done = appliance.guest.run(command, check=False, timeout_s=UPDATE_S)
    return done.returncode, done.stdout + done.stderr


def grubenv(appliance: Appliance) -> dict[str, str]:
    """What GRUB will read."""
    text = appliance.guest.out(
        "mountpoint -q /boot/esp || mount -r /dev/disk/by-partlabel/esp /boot/esp; cat /boot/esp/grub/grubenv;"
        " umount /boot/esp"
    )
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def report(appliance: Appliance) -> str:
    """What the status says of updates."""
    return str(json.loads(appliance.guest.out("jvpn-appliance status --json"))["update"])


def updated(appliance: Appliance, client: JumpClient, name: str) -> str:
    """An update that is taken; the id of the session that must live through it."""
    ident = client.wait_attached(SETTLE_S).session_id
    status, said = update(appliance, name)
    assert status == 0, said
    return ident


def serves_as_before(appliance: Appliance, client: JumpClient, ident: str, slot: str) -> None:
    """From that slot, and nothing of the session was lost."""
    assert appliance.running_slot() == slot
    assert client.wait_attached(SETTLE_S).session_id == ident
    wait_reachable(client.namespace, BACKEND, SETTLE_S)
    assert appliance.guest.failed_units() == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tampered", "hash|sha|damaged|signature"),
        ("foreign", "sign|key"),
        ("older", "not newer|below the floor"),
    ],
)
def test_what_must_not_be_installed_is_refused_and_nothing_is_changed(
    appliance: Appliance, name: str, why: str
) -> None:
    before = grubenv(appliance)
    status, said = update(appliance, name)
    assert status != 0, said
    assert re.search(why, said, re.IGNORECASE), said
    after = grubenv(appliance)
    assert (after["slot"], after.get("try")) == (before["slot"], "0")


@pytest.mark.parametrize("moment", ["writing root.squashfs", "reading"])
def test_power_that_fails_while_it_is_written_leaves_what_ran(
    appliance: Appliance, client: JumpClient, moment: str
) -> None:
    ident = client.wait_attached(SETTLE_S).session_id
    running = appliance.guest.spawn(f"jvpn-appliance update {BUNDLES}/good.jvpnup")
    running.wait_line(moment, UPDATE_S)
    lose_power(appliance)
    serves_as_before(appliance, client, ident, "a")


def lose_power(appliance: Appliance) -> None:
    """From one moment to the next, and on again."""
    appliance.machine.pull_plug()
    appliance.boot()
    mount(appliance)


def test_a_system_that_does_not_come_up_is_left_for_the_one_that_did(
    appliance: Appliance, client: JumpClient
) -> None:
    ident = updated(appliance, client, "broken")
    before, mark = appliance.machine.resets(), appliance.machine.console.mark()
    appliance.guest.restart()
    appliance.machine.console.wait("Kernel panic", BOOT_TIMEOUT_S, mark=mark)
    # Down into the new one, up again by its panic.
    appliance.await_restart(before + 1)
    mount(appliance)
    serves_as_before(appliance, client, ident, "a")
    assert "99.0" in report(appliance)


def test_a_slot_that_was_damaged_after_it_was_verified_does_not_run(
    appliance: Appliance, client: JumpClient
) -> None:
    ident = updated(appliance, client, "good")
    appliance.guest.run(SPOIL.format("/dev/disk/by-partlabel/root-b") + "; sync")
    before, mark = appliance.machine.resets(), appliance.machine.console.mark()
    appliance.guest.restart()
    appliance.machine.console.wait("verity.*corrupt|Kernel panic", BOOT_TIMEOUT_S, mark=mark)
    appliance.await_restart(before + 1)
    mount(appliance)
    serves_as_before(appliance, client, ident, "a")


def test_a_system_whose_gateway_does_not_serve_is_not_kept(appliance: Appliance, client: JumpClient) -> None:
    ident = updated(appliance, client, "good")
    kept = "/etc/jvpn/good"
    # After the update was armed: what served before it does not any more.
    appliance.guest.run(
        f"cp -p /etc/jvpn/gateway.toml {kept}; echo 'listn = 1' >> /etc/jvpn/gateway.toml; sync"
    )
    before = appliance.machine.resets()
    appliance.guest.restart()
    appliance.machine.wait_reset(before)
    appliance.guest.connect()
    assert appliance.running_slot() == "b"
    appliance.machine.wait_reset(before + 1, TRIAL_S + BOOT_TIMEOUT_S)
    appliance.guest.connect()
    assert appliance.running_slot() == "a"
    appliance.guest.run(f"cat {kept} > /etc/jvpn/gateway.toml; rm {kept}; systemctl restart jvpn-gateway")
    mount(appliance)
    assert grubenv(appliance)["slot"] == "a"
    serves_as_before(appliance, client, ident, "a")


def test_a_good_update_is_tried_and_stays(appliance: Appliance, client: JumpClient) -> None:
    ident = updated(appliance, client, "good")
    assert {key: grubenv(appliance)[key] for key in ("slot", "next", "try")} == {
        "slot": "a",
        "next": "b",
        "try": "1",
    }
    appliance.reboot()
    serves_as_before(appliance, client, ident, "b")
    appliance.guest.wait(
        "systemctl is-active -q jvpn-confirm || ! systemctl is-active jvpn-confirm | grep -q ing",
        "the trial is over",
        TRIAL_S,
    )
    assert grubenv(appliance)["slot"] == "b"
    appliance.reboot()
    serves_as_before(appliance, client, ident, "b")
    mount(appliance)


def test_power_that_fails_before_the_restart_tries_the_new_one_all_the_same(
    appliance: Appliance, client: JumpClient
) -> None:
    ident = updated(appliance, client, "newest")
    lose_power(appliance)
    serves_as_before(appliance, client, ident, "a")


def test_a_confirmed_update_forbids_what_is_older(appliance: Appliance) -> None:
    appliance.guest.wait("test $(cat /data/appliance/floor) -gt 0", "the floor was raised", TRIAL_S)
    status, said = update(appliance, "older", "--allow-older")
    assert status != 0
    assert "floor" in said


def test_a_rollback_goes_back_by_a_trial_of_its_own(appliance: Appliance, client: JumpClient) -> None:
    ident, slot = client.wait_attached(SETTLE_S).session_id, appliance.running_slot()
    appliance.guest.run("jvpn-appliance rollback", timeout_s=UPDATE_S)
    appliance.reboot()
    serves_as_before(appliance, client, ident, "b" if slot == "a" else "a")
