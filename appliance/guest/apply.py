# SPDX-License-Identifier: Apache-2.0
"""From what is stored to what the running system reads: names, networks, firewall, SSH.

``render`` writes files and runs at each boot before the network starts; ``activate`` makes a running system use them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from appliance.guest import datadir, files, firewall, gatewayfile, networkd, nics
from appliance.guest import settings as settings_
from appliance.guest.host import Run
from appliance.guest.layout import Layout
from appliance.guest.nics import Assigned
from appliance.guest.settings import Settings
from gateway.constants import DEFAULT_PORT
from gateway.errors import JumpError

_HOSTS: Final = """\
127.0.0.1 localhost
127.0.1.1 {hostname}
::1 localhost ip6-localhost ip6-loopback
"""
_AUTHORIZED: Final = "# Made by jvpn-appliance from its settings.\n"


class Rendered(NamedTuple):
    """What ``render`` wrote. ``problems``: sentences for the status page."""

    assigned: tuple[Assigned, ...]
    problems: tuple[str, ...]


def stored(layout: Layout) -> tuple[Settings, tuple[str, ...]]:
    """The settings; ones that cannot be read are replaced by the defaults, which leave the box reachable."""
    try:
        return settings_.read(layout.settings), ()
    except JumpError as error:
        return Settings(), (str(error),)


def assigned(layout: Layout, settings: Settings) -> tuple[Assigned, ...]:
    """Which interface is which network now."""
    return nics.assign(nics.found(layout.interfaces), settings.networks())


def render(layout: Layout, run: Run) -> Rendered:
    """Write every file that is made from the settings."""
    settings, problems = stored(layout)
    networks = assigned(layout, settings)
    _names(layout, settings)
    networkd.write(layout.networkd, networkd.network_files(networks), layout.network)
    if settings.ntp:
        files.folder(layout.timesyncd, 0o755)
        files.write_changed(layout.timesyncd / "10-jvpn.conf", networkd.timesyncd(settings.ntp))
    return Rendered(
        networks,
        (
            *problems,
            *nics.missing(networks),
            *_firewall(layout, run, settings, networks),
            *_ssh(layout, run, settings),
        ),
    )


def _names(layout: Layout, settings: Settings) -> None:
    files.write_changed(layout.hostname, f"{settings.hostname}\n")
    files.write_changed(layout.hosts, _HOSTS.format(hostname=settings.hostname))
    with contextlib.suppress(OSError):
        layout.kernel_hostname.write_text(settings.hostname)


def sides(layout: Layout, settings: Settings, networks: Sequence[Assigned]) -> firewall.Sides:
    """The policy's parts, from the settings and from the gateway's file."""
    found = gatewayfile.in_force(layout.gateway_file, layout.config)
    tunnel = gatewayfile.interface_of(found)
    lan = nics.names(networks, lan=True)
    management = [
        *(lan if settings_.LAN in settings.management else ()),
        *([tunnel] if settings_.TUNNEL in settings.management else ()),
    ]
    if found is None:
        return firewall.Sides(tunnel, lan, management, (DEFAULT_PORT,), ())
    return firewall.Sides(
        tunnel,
        lan,
        management,
        gatewayfile.ports(found),
        gatewayfile.stats_ports(found),
        found.nat_enabled,
        found.nat_out_interface,
    )


def _firewall(layout: Layout, run: Run, settings: Settings, networks: Sequence[Assigned]) -> tuple[str, ...]:
    """A mistake in the operator's own rules must not leave the box without any."""
    policy = sides(layout, settings, networks)
    own = f"{layout.network}/*.nft" if any(layout.network.glob("*.nft")) else ""
    if own:
        done = run(["nft", "-c", "-f", "-"], firewall.ruleset(policy, own))
        if done.code:
            files.write_changed(layout.nftables, firewall.ruleset(policy))
            return (f"/data/network/*.nft left out: {done.errors.strip()[:300]}",)
    files.write_changed(layout.nftables, firewall.ruleset(policy, own))
    return ()


def _ssh(layout: Layout, run: Run, settings: Settings) -> tuple[str, ...]:
    """Nobody gets in without a key, so without one sshd does not run at all."""
    if not settings.ssh_keys:
        layout.ssh_wanted.unlink(missing_ok=True)
        layout.authorized_keys.unlink(missing_ok=True)
        return ()
    files.folder(layout.authorized_keys.parent, 0o700)
    lines = "".join(f"{key}\n" for key in settings.ssh_keys)
    files.write_changed(layout.authorized_keys, _AUTHORIZED + lines, files.SECRET)
    try:
        datadir.ensure_host_key(layout, run)
    except JumpError as error:
        return (str(error),)
    files.write_changed(layout.ssh_wanted, "")
    return ()


# --- a running system ----------------------------------------------------------------------------------------------


def activate_network(layout: Layout, run: Run) -> tuple[str, ...]:
    """Put changed settings in force; what did not work, in sentences."""
    rendered = render(layout, run)
    commands = [["networkctl", "reload"]]
    commands += [
        ["networkctl", "reconfigure", one.nic.name] for one in rendered.assigned if one.nic is not None
    ]
    commands.append(["nft", "-f", str(layout.nftables)])
    wanted = layout.ssh_wanted.exists()
    commands.append(["systemctl", "restart" if wanted else "stop", "ssh.service"])
    failed = [_said(command, run) for command in commands]
    return (*rendered.problems, *filter(None, failed))


def activate_gateway(layout: Layout, run: Run) -> tuple[str, ...]:
    """A reload, and a restart when not everything can be changed while it runs: sessions survive both."""
    problems = render(layout, run).problems
    firewall_said = _said(["nft", "-f", str(layout.nftables)], run)
    done = run(["jvpn", "config", "diff"], "")
    live = done.code == 0 and not any(line.startswith("restart") for line in done.output.splitlines())
    said = _said(
        ["jvpn", "config", "reload"] if live else ["systemctl", "restart", "jvpn-gateway.service"], run
    )
    return (*problems, *filter(None, (firewall_said, said)))


def _said(command: Sequence[str], run: Run) -> str:
    done = run(command, "")
    if not done.code:
        return ""
    return f"{' '.join(command)}: {(done.errors.strip() or f'exit status {done.code}')[:300]}"
