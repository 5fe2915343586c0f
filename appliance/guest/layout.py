# SPDX-License-Identifier: Apache-2.0
"""Where everything lies, below one root: ``/`` in the appliance, a folder of its own in tests.

Rule: no other file of the guest names a path. What outlives a reboot is below ``data``; ``/etc`` and ``/var`` are on a
tmpfs and made anew by each boot.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one appliance."""

    root: Path = Path("/")

    # --- survives: the data partition -------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def machine_id(self) -> Path:
        """The initramfs copies it to /etc/machine-id."""
        return self.data / "machine-id"

    @property
    def config(self) -> Path:
        """Bound to /etc/jvpn."""
        return self.data / "etc/jvpn"

    @property
    def gateway_file(self) -> Path:
        return self.config / "gateway.toml"

    @property
    def gateway_key(self) -> Path:
        return self.config / "gateway.key"

    @property
    def stats_token(self) -> Path:
        return self.config / "stats.token"

    @property
    def secrets(self) -> Path:
        """Each file in it is the unit's credential ``secrets_NAME``."""
        return self.config / "secrets"

    @property
    def state(self) -> Path:
        """Bound to /var/lib/private/jvpn, the gateway's state directory."""
        return self.data / "var/lib/private-jvpn"

    @property
    def peers_file(self) -> Path:
        return self.state / "peers.toml"

    @property
    def ssh(self) -> Path:
        return self.data / "ssh"

    @property
    def host_key(self) -> Path:
        return self.ssh / "ssh_host_ed25519_key"

    @property
    def network(self) -> Path:
        """*.network and *.nft of the operator's own."""
        return self.data / "network"

    @property
    def own(self) -> Path:
        """What the appliance itself remembers."""
        return self.data / "appliance"

    @property
    def settings(self) -> Path:
        return self.own / "settings.json"

    @property
    def applied(self) -> Path:
        return self.own / "applied.json"

    @property
    def admin_hash(self) -> Path:
        return self.own / "admin.hash"

    @property
    def floor(self) -> Path:
        """The oldest image that may be installed; outlives a factory reset, or a reset would undo it."""
        return self.own / "floor"

    @property
    def reset_marker(self) -> Path:
        return self.own / "reset"

    @property
    def pending(self) -> Path:
        """A change that nobody has confirmed yet."""
        return self.own / "pending.json"

    @property
    def previous(self) -> Path:
        return self.own / "previous"

    @property
    def restore_staging(self) -> Path:
        return self.own / "restore"

    @property
    def restore_marker(self) -> Path:
        return self.own / "restore.ready"

    # --- made anew by each boot -------------------------------------------------------------------------------

    @property
    def runtime(self) -> Path:
        return self.root / "run/jvpn-appliance"

    @property
    def report(self) -> Path:
        """What the last boot found and did, for the status page."""
        return self.runtime / "report.json"

    @property
    def medium(self) -> Path:
        """Where a medium is mounted for a moment."""
        return self.runtime / "medium"

    @property
    def ssh_wanted(self) -> Path:
        """sshd starts when this is there."""
        return self.runtime / "ssh-wanted"

    @property
    def networkd(self) -> Path:
        return self.root / "run/systemd/network"

    @property
    def timesyncd(self) -> Path:
        return self.root / "run/systemd/timesyncd.conf.d"

    @property
    def gateway_runtime(self) -> Path:
        return self.root / "run/jvpn"

    @property
    def hostname(self) -> Path:
        return self.root / "etc/hostname"

    @property
    def hosts(self) -> Path:
        return self.root / "etc/hosts"

    @property
    def running_machine_id(self) -> Path:
        return self.root / "etc/machine-id"

    @property
    def nftables(self) -> Path:
        return self.root / "etc/nftables.conf"

    @property
    def authorized_keys(self) -> Path:
        return self.root / "root/.ssh/authorized_keys"

    # --- the machine ------------------------------------------------------------------------------------------

    @property
    def kernel_hostname(self) -> Path:
        return self.root / "proc/sys/kernel/hostname"

    @property
    def command_line(self) -> Path:
        return self.root / "proc/cmdline"

    @property
    def interfaces(self) -> Path:
        return self.root / "sys/class/net"

    @property
    def blocks(self) -> Path:
        return self.root / "sys/class/block"

    @property
    def by_label(self) -> Path:
        return self.root / "dev/disk/by-label"

    @property
    def by_partlabel(self) -> Path:
        return self.root / "dev/disk/by-partlabel"

    @property
    def kernel_log(self) -> Path:
        """What is written there appears on every console of the kernel, serial ones too."""
        return self.root / "dev/kmsg"

    @property
    def data_verdict(self) -> Path:
        """What the initramfs says of /data: ok, live, or why it is only a tmpfs."""
        return self.root / "run/appliance/data"

    @property
    def os_release(self) -> Path:
        return self.root / "etc/os-release"
