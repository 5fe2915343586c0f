# SPDX-License-Identifier: Apache-2.0
"""Questions about networks: which interface, by DHCP or by hand. The answers become settings, with a way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from appliance.guest import apply, change, document, nics, settings
from appliance.guest.console.desk import Desk
from appliance.guest.console.terminal import Terminal
from appliance.guest.settings import Link, Settings
from gateway.control import configfields

# Long enough to try from another machine, short enough to wait for who has locked himself out.
KEEP_WITHIN_S: Final = 90


def entry(desk: Desk) -> None:
    """The menu's entry."""
    found, _ = apply.stored(desk.layout)
    wanted = asked(desk, found)
    if wanted == found:
        desk.terminal.say("Nothing differs.")
        return
    show(desk.terminal, wanted)
    if desk.terminal.yes("\nApply this?"):
        put_in_force(desk, wanted)


def asked(desk: Desk, found: Settings) -> Settings:
    """All questions in turn; each answer's default is what holds now."""
    terminal = desk.terminal
    there = nics.found(desk.layout.interfaces)
    terminal.say("\nInterfaces of this machine:")
    for nic in there:
        terminal.say(f"  {nic.name:<12} {nic.mac}")
    hostname = terminal.ask("\nName of this box", document.hostname_, found.hostname)
    links: list[Link] = []
    for link in apply.assigned(desk.layout, found):
        name = link.nic.name if link.nic is not None else ""
        terminal.say(f"\n{_title(link.link)} ({name or 'no interface'})")
        links.append(_link(terminal, link.link, name, [nic.name for nic in there]))
    keys = _ssh_keys(terminal, found.ssh_keys)
    return msgspec.structs.replace(found, hostname=hostname, links=tuple(links), ssh_keys=keys)


def _title(link: Link) -> str:
    return f"{link.role.upper()}: " + ("management" if link.is_lan else "where clients and the Internet are")


def _link(terminal: Terminal, link: Link, name: str, names: list[str]) -> Link:
    match = terminal.ask("  Interface", _one_of(names), name or link.match)
    how = terminal.ask("  Address: dhcp, or ADDRESS/LENGTH", _addresses, _shown(link))
    if not how:
        return Link(role=link.role, match=match, mtu=link.mtu)
    gateway = _optional(terminal, "  Gateway", link.gateway, configfields.address)
    dns = _optional(terminal, "  Name servers", link.dns, configfields.address)
    return Link(role=link.role, match=match, address=how, gateway=gateway, dns=dns, dhcp=False, mtu=link.mtu)


def _shown(link: Link) -> str:
    return " ".join(link.address) if link.address else "dhcp"


def _one_of(names: list[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if names and text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text

    return check


def _addresses(text: str) -> tuple[str, ...]:
    """() for DHCP."""
    if text.lower() == "dhcp":
        return ()
    return tuple(str(document.address(word)) for word in text.replace(",", " ").split())


def _optional(
    terminal: Terminal, prompt: str, now: tuple[str, ...], check: Callable[[str], object]
) -> tuple[str, ...]:
    """Several words or none; "-" for none."""

    def each(text: str) -> tuple[str, ...]:
        if text == "-":
            return ()
        return tuple(str(check(word)) for word in text.replace(",", " ").split())

    return terminal.ask(f"{prompt} (- for none)", each, " ".join(now) or "-")


def _ssh_keys(terminal: Terminal, now: tuple[str, ...]) -> tuple[str, ...]:
    terminal.say(f"\nSSH from the management side: {len(now)} keys; without one it is off.")
    answer = terminal.line("A public key to add, - to remove all, Enter leaves it: ").strip()
    while answer and answer != "-":
        try:
            return tuple(dict.fromkeys((*now, document.ssh_key(answer))))
        except ValueError as error:
            terminal.say(f"  {error}")
            answer = terminal.line("A public key, Enter leaves it: ").strip()
    return () if answer == "-" else now


def show(terminal: Terminal, wanted: Settings) -> None:
    """What was chosen."""
    terminal.say(f"\n  name      {wanted.hostname}")
    for link in wanted.links:
        terminal.say(f"  {link.role:<9} {link.match:<12} {_shown(link)}")
        if link.gateway:
            terminal.say(f"            gateway {' '.join(link.gateway)}")
        if link.dns:
            terminal.say(f"            dns {' '.join(link.dns)}")
    terminal.say(f"  ssh       {len(wanted.ssh_keys)} keys")


def put_in_force(desk: Desk, wanted: Settings, keep_within_s: int = KEEP_WITHIN_S) -> None:
    """Apply settings; they are taken back unless somebody says that the box can still be reached."""
    said = change.commit(
        desk.layout,
        desk.run,
        change.SETTINGS,
        settings.encode(wanted),
        keep_within_s=keep_within_s,
        healthy=lambda: "",
    )
    for line in said:
        desk.terminal.say(f"  {line}")
    if keep_within_s:
        keep_or_revert(desk, keep_within_s)


def keep_or_revert(desk: Desk, within_s: int) -> None:
    """Ask whether to keep the change that was applied; no answer in time takes it back."""
    terminal = desk.terminal
    terminal.write(f"\nApplied. Keep it? Type yes within {within_s} seconds, anything else takes it back: ")
    answer = terminal.poll_line(within_s)
    if (answer or "").strip().lower() == "yes":
        change.confirm(desk.layout, desk.run)
        terminal.say("Kept.")
        return
    for line in change.take_back(desk.layout, desk.run):
        terminal.say(f"  {line}")
