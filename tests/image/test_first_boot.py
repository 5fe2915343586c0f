# SPDX-License-Identifier: Apache-2.0
"""First boots: with a wrong configuration, with none, with another one later, and again after a factory reset."""

from __future__ import annotations

from typing import Any, Final

from tests.image.appliance import SERVING, Appliance
from tests.image.conftest import MakeAppliance, eventually
from tests.image.machine import BOOT_TIMEOUT_S
from tests.image.media import config_medium, user_data
from tests.image.site import LEASED, WAN_ADDRESS
from tests.net.traffic import ping, wait_reachable

# The third line has a key that does not exist.
WRONG: Final = '#jvpn-config\n[appliance]\nhostnam = "gw-test"\n'


def test_a_wrong_configuration_is_told_on_the_console_and_the_box_is_reachable(
    make_appliance: MakeAppliance,
) -> None:
    appliance = make_appliance("wrong", document=WRONG)
    appliance.site.serve_dhcp()
    appliance.start()
    console = appliance.machine.console
    said = console.wait(r"configuration refused: .*user-data:3.*$", BOOT_TIMEOUT_S)
    assert "hostnam" in said[0]
    console.wait(SERVING, BOOT_TIMEOUT_S)
    # By DHCP on the first card, with the defaults.
    console.wait(LEASED.replace(".", r"\."), 60)
    wait_reachable(appliance.site.rack, LEASED, 30)


def test_without_any_configuration_the_console_offers_the_way_in(make_appliance: MakeAppliance) -> None:
    appliance = make_appliance("unconfigured")
    appliance.change(media=[])
    appliance.site.serve_dhcp()
    appliance.start()
    console = appliance.machine.console
    console.wait(SERVING, BOOT_TIMEOUT_S)
    assert "configuration refused" not in console.text
    wait_reachable(appliance.site.rack, LEASED, 60)
    mark = console.mark()
    console.send("\n")
    # No password is there yet, so whoever stands before the console sets the box up.
    console.wait(r"Name of this box.*: \Z", 60, mark=mark)


def test_a_configuration_is_taken_once_unless_it_insists(make_appliance: MakeAppliance) -> None:
    appliance = make_appliance("once")
    appliance.boot()
    assert appliance.guest.out("hostname") == "gw-test"
    key = appliance.gateway().daemon.keys.public
    reinsert(appliance, "another")
    assert appliance.guest.out("hostname") == "gw-test"
    reinsert(appliance, "insisting", reapply=True)
    assert appliance.guest.out("hostname") == "insisting"
    assert appliance.guest.out("jvpn keys pub < /etc/jvpn/gateway.key") == key


def reinsert(appliance: Appliance, hostname: str, **options: Any) -> None:
    """Power off, another medium, power on."""
    document = base_with(appliance, hostname, **options)
    appliance.guest.disconnect()
    appliance.machine.shut_down()
    folder = appliance.folder / hostname
    folder.mkdir()
    # As a CD this time, as hypervisors offer it.
    appliance.change(media=[], cdrom=config_medium(folder, document))
    appliance.boot()


def base_with(appliance: Appliance, hostname: str, **options: Any) -> str:
    """The appliance's own document with another name in it."""
    tables = appliance.tables()
    tables["appliance"] = {**tables["appliance"], "hostname": hostname, **options}
    return user_data(tables)


def test_a_factory_reset_makes_it_a_new_box(make_appliance: MakeAppliance) -> None:
    appliance = make_appliance("reset")
    appliance.boot()
    guest = appliance.guest
    before = identity(appliance)
    guest.run("echo mine > /data/etc/jvpn/mine; jvpn peer add phone > /dev/null; sync")
    resets = appliance.machine.resets()
    guest.run("jvpn-appliance reset --yes --no-reboot")
    guest.restart()
    appliance.machine.wait_reset(resets)
    guest.forget_host_key()
    appliance.wait_serving(appliance.machine.console.mark())
    guest.connect()
    after = identity(appliance)
    assert all(old != new for old, new in zip(before, after, strict=True)), "something of the old box is left"
    assert guest.run("test -e /data/etc/jvpn/mine", check=False).returncode != 0
    names = {peer.get("name") for peer in guest.call("status")["peers"]}
    assert "phone" not in names
    # The medium is still there, so the new box is configured as the old one was.
    assert guest.out("hostname") == "gw-test"
    eventually(lambda: ping(appliance.site.rack, WAN_ADDRESS, count=1).ok, "an answer at the WAN address", 30)
    assert guest.failed_units() == []


def identity(appliance: Appliance) -> tuple[str, str, str]:
    """What belongs to one box only: its key, its machine id, its host key."""
    guest = appliance.guest
    return (
        guest.out("jvpn keys pub < /etc/jvpn/gateway.key"),
        guest.out("cat /etc/machine-id"),
        guest.out("cat /data/ssh/ssh_host_ed25519_key.pub"),
    )
