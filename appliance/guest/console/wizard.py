# SPDX-License-Identifier: Apache-2.0
"""Setting a new box up: network, where clients find it, a password, the first client. Each step may be done later.

Each step is in force once it was answered; who leaves in the midst of it finds the set-up again later.
"""

from __future__ import annotations

from appliance.guest import apply, files, firstboot, gatewayfile, status
from appliance.guest.console import configuration, menu, network
from appliance.guest.console.desk import Desk
from appliance.guest.console.terminal import Cancelled
from gateway.errors import JumpError

SOURCE = "console"


def run(desk: Desk) -> None:
    """All steps."""
    terminal = desk.terminal
    terminal.say(
        "\nSetting this box up: its network, where clients find it, a password for this console, a first"
    )
    terminal.say("client. Enter takes what stands in brackets.\n")
    _network(desk)
    _endpoint(desk)
    firstboot.remember(desk.layout, SOURCE)
    terminal.say("\nA password for this console; without it only the page before it is shown.")
    menu.new_password(desk)
    if terminal.line("\nAdd a first client now? Enter for yes, n for no: ").strip().lower() != "n":
        menu.guarded(desk, menu.add_peer)
    terminal.say(f"\nDone. The gateway is {status.gateway_line(desk.layout)[1]}.")
    menu.run(desk)


def _network(desk: Desk) -> None:
    found, _ = apply.stored(desk.layout)
    wanted = network.asked(desk, found)
    network.show(desk.terminal, wanted)
    if (
        wanted != found
        and desk.terminal.line("\nEnter applies this, n leaves it as it is: ").strip().lower() != "n"
    ):
        # Somebody is here to see it: no need for a way back.
        network.put_in_force(desk, wanted, keep_within_s=0)


def _endpoint(desk: Desk) -> None:
    """Clients' files name it; without one each `peer add` would have to."""
    try:
        chosen = desk.terminal.ask(
            "\nWhere clients find this box from outside, a name or an address (- for later)",
            _outside,
            _likely(desk),
        )
    except Cancelled:
        return
    if not chosen:
        return
    text = (files.read(desk.layout.gateway_file) or b"").decode("utf-8", "replace")
    text = gatewayfile.with_key(text, "gateway", f'endpoint = "{chosen}"')
    if configuration.checked(desk, text) and text.encode() != files.read(desk.layout.gateway_file):
        try:
            configuration.put_in_force(desk, text, keep_within_s=0)
        except JumpError as error:
            desk.terminal.say(f"  {error}")


def _outside(text: str) -> str:
    return "" if text == "-" else configuration.endpoint(text)


def _likely(desk: Desk) -> str:
    """The WAN's address: right for a box on the Internet, to be replaced behind a NAT."""
    for one in status.collect(desk.layout).networks:
        if one.role == "wan" and one.addresses:
            return one.addresses[0]
    return "-"
