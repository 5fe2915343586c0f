# SPDX-License-Identifier: Apache-2.0
"""The administrator's menu. An entry that fails says why and leads back here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from appliance.guest import password, updatepart
from appliance.guest.console import configuration, media, network
from appliance.guest.console.desk import Desk
from appliance.guest.console.terminal import Cancelled
from gateway.control import configfields
from gateway.errors import JumpError

Entry = Callable[[Desk], None]


def run(desk: Desk) -> None:
    """Until Enter alone, or nobody types anything for ten minutes."""
    titles = [(key, title) for key, (title, _) in ENTRIES.items()]
    while True:
        chosen = desk.terminal.choose("Menu", titles)
        if not chosen:
            return
        guarded(desk, ENTRIES[chosen][1])


def guarded(desk: Desk, entry: Entry) -> None:
    """Run an entry; what goes wrong is said."""
    try:
        entry(desk)
    except Cancelled:
        pass
    except JumpError as error:
        desk.terminal.say(f"\n{error}")
    except OSError as error:
        desk.terminal.say(f"\n{error.filename or 'the system'}: {error.strerror}")


# --- peers ----------------------------------------------------------------------------------------------------------


def peers(desk: Desk) -> None:
    """List, add, show, remove."""
    while True:
        chosen = desk.terminal.choose(
            "Clients",
            [
                ("1", "List them"),
                ("2", "Add one, its file as a QR code"),
                ("3", "Remove one"),
                ("4", "Sessions now"),
            ],
        )
        if not chosen:
            return
        if chosen == "1":
            desk.spawn(["jvpn", "peer", "list"])
        elif chosen == "2":
            add_peer(desk)
        elif chosen == "3":
            name = desk.terminal.ask("Name of the client to remove", configfields.peer_name)
            desk.spawn(["jvpn", "peer", "remove", name])
        else:
            desk.spawn(["jvpn", "sessions"])


def add_peer(desk: Desk) -> None:
    """Add a client. Its private key is on the screen this once and kept nowhere."""
    name = desk.terminal.ask("Name of the client, such as phone", configfields.peer_name)
    desk.terminal.say("Scan this with a WireGuard app. It is shown this once.\n")
    desk.spawn(["jvpn", "peer", "add", name, "--qr"])
    desk.terminal.pause()


# --- update, logs, power --------------------------------------------------------------------------------------------


def update(desk: Desk) -> None:
    """From a medium, or back to the other slot: all of it is the update part's."""
    part = updatepart.module("commands")
    desk.terminal.say(f"\n{updatepart.lines(desk.layout.root)}")
    chosen = desk.terminal.choose(
        "Update (a medium with the label JVPN-UPD; or by SSH: jvpn-appliance update FILE)",
        [("1", "Update from the medium"), ("2", "Go back to the other slot")],
    )
    if chosen == "1":
        part.update_from_medium(desk.layout.root, desk.terminal.say)
    elif chosen == "2" and desk.terminal.yes("Start the other slot now?"):
        desk.spawn(["jvpn-appliance", "rollback"])


def logs(desk: Desk) -> None:
    """Look at them here, or take a bundle along."""
    chosen = desk.terminal.choose(
        "Logs",
        [
            ("1", "The gateway's last messages"),
            ("2", "Everybody's last messages"),
            ("3", "What has failed"),
            ("4", f"Support bundle, onto a medium with the label {media.LABEL}"),
        ],
    )
    if chosen == "4":
        media.bundle(desk)
    elif chosen:
        commands = {
            "1": ["journalctl", "--no-pager", "-n", "200", "-u", "jvpn-gateway"],
            "2": ["journalctl", "--no-pager", "-n", "300"],
            "3": ["systemctl", "--no-pager", "--failed"],
        }
        desk.terminal.pages(desk.run(commands[chosen], "").output)


def new_password(desk: Desk) -> None:
    """Asked twice, stored as a hash."""
    while True:
        word = desk.terminal.secret("New password of the administrator: ")
        if not word:
            raise Cancelled
        try:
            password.acceptable(word)
        except ValueError as error:
            desk.terminal.say(f"  {error}")
            continue
        if desk.terminal.secret("Once more: ") == word:
            password.store(desk.layout.admin_hash, password.hashed(word))
            desk.terminal.say("The console asks for it from now on.")
            return
        desk.terminal.say("  These two were not the same.")


def power(desk: Desk) -> None:
    """Sessions are kept over both."""
    chosen = desk.terminal.choose("Power", [("1", "Restart"), ("2", "Switch off")])
    if chosen and desk.terminal.yes("Now?"):
        desk.run(["systemctl", "reboot" if chosen == "1" else "poweroff"], "")
        desk.terminal.say("Going down…")


def shell(desk: Desk) -> None:
    """Root's. What is changed outside of /data is gone with the next boot."""
    desk.terminal.say("\nA shell of root; `exit` leads back. Only /data and /etc/jvpn outlive a reboot.\n")
    desk.spawn(["/bin/bash", "-l"])


ENTRIES: Final[dict[str, tuple[str, Entry]]] = {
    "1": ("Clients", peers),
    "2": ("Network, name, SSH keys", network.entry),
    "3": ("Configuration of the gateway", configuration.entry),
    "4": ("Backup and restore", media.backups),
    "5": ("Update and rollback", update),
    "6": ("Logs and support bundle", logs),
    "7": ("Password of the administrator", new_password),
    "8": ("Factory reset", media.factory_reset),
    "9": ("Restart or switch off", power),
    "s": ("Shell", shell),
}
