# SPDX-License-Identifier: Apache-2.0
"""A booted appliance with everything around it, and its gateway under the names that the scenarios use.

Rule: what is asked of the appliance goes the ways an operator has: the serial console, SSH and the stats endpoint
from the LAN. No test has an entrance of its own.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from gateway.errors import JumpError
from tests.image.accel import Accelerator
from tests.image.artifacts import Artifacts
from tests.image.guest import Guest, SshKey
from tests.image.machine import BOOT_TIMEOUT_S, Firmware, Hardware, Machine, overlay
from tests.image.media import config_medium, user_data
from tests.image.site import LAN, LAN_ADDRESS, WAN, WAN_ADDRESS, WAN_ROUTER, ApplianceSite
from tests.net.journal import Journal
from tests.net.jump import JumpClient, JumpGateway, SessionView, inner_host, policy_tables, session
from tests.net.jvpn import Daemon
from tests.net.lab import Lab, LabError
from tests.net.topology import INNER_GATEWAY, INNER_PREFIX, Topology, Uplink
from tests.net.wg import Keys

# What the status page says when the gateway takes sessions.
SERVING: Final = r"gateway +serving"
STATS_TOKEN: Final = "0123456789abcdef0123456789abcdef"
STATE: Final = "/var/lib/jvpn"
JOURNAL: Final = "journalctl -b -o short-monotonic --no-pager | tail -n 150"
ASK_WHY_S: Final = 30.0
POLL_S: Final = 0.2
# Emulated processors stall for seconds where others need them: bounds are wide, so that only what a test does is
# noticed, and the window outlives a reboot.
WIDE_POLICY: Final[dict[str, dict[str, Any]]] = {
    "session": {"transport_lost_ttl": "10m"},
    "volatility": {"latency_enter": "1s", "jitter_enter": "700ms", "loss_enter": 0.3, "loss_exit": 0.15},
    "switching": {"max_switches_per_min": 20, "reserved": 10, "attempt_timeout": "10s", "backoff_max": "1s"},
}
SETTLE_S: Final = 90.0
CREDENTIAL: Final = "jvpn.config"
Tables = Mapping[str, Any]
Source = Literal["medium", "fw_cfg", "smbios"]


def base_document(ssh_key: str) -> dict[str, Any]:
    """A configuration for `ApplianceSite`: both networks, the operator's key, inner addresses, no NAT."""
    return {
        "appliance": {"hostname": "gw-test", "ssh_keys": [ssh_key], "stats_token": STATS_TOKEN},
        "network.wan": {"match": WAN.mac, "address": f"{WAN_ADDRESS}/24", "gateway": WAN_ROUTER},
        "network.lan": {"match": LAN.mac, "address": f"{LAN_ADDRESS}/24"},
        "gateway": {"addresses": [f"{INNER_GATEWAY}/{INNER_PREFIX}"]},
        # The backend must see inner addresses, so that it can be told who is asking.
        "nat": {"enabled": False},
    }


class ApplianceDaemon(Daemon):
    """The gateway inside, for what asks a daemon through its control socket."""

    command = "gateway"

    def __init__(self, lab: Lab, guest: Guest, public_key: str) -> None:
        self.lab, self.guest = lab, guest
        self.interface = "jvpn0"
        self.keys = Keys("", public_key)
        self.folder = lab.tmp / "appliance"
        self.state_dir, self.runtime_dir = self.folder / "state", self.folder / "run"
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self._proc = None

    def call(self, command: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask through the forwarded control socket."""
        return self.guest.call(command, args)

    def cli(self, *args: str, check: bool = True) -> str:
        """A `jvpn` command inside."""
        return self.guest.run(" ".join(("jvpn", *args)), check=check).stdout

    def stop(self, timeout_s: float = 60.0) -> int:
        """Stop the unit and bring its journal here."""
        self.guest.run("systemctl stop jvpn-gateway", timeout_s=timeout_s)
        self.guest.fetch(STATE, self.state_dir)
        return 0

    def kill(self) -> None:
        """It belongs to its machine, which is switched off."""


class ApplianceGateway(JumpGateway):
    """The gateway inside as the scenarios know theirs: its clients are made by `client`."""

    def __init__(
        self, lab: Lab, topology: Topology, guest: Guest, peer_keys: list[Keys], policy: Tables
    ) -> None:
        self.lab, self.topology, self.policy, self.peer_keys = lab, topology, policy, peer_keys
        self.daemon = ApplianceDaemon(lab, guest, public_key(guest))  # type: ignore[assignment]
        self.journal = Journal(self.daemon.state_dir)

    def session_of(self, ident: str) -> SessionView:
        """The gateway's view of a session; while it restarts nobody answers, and that is waited for."""
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            try:
                return session(self.daemon, ident)
            except JumpError:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(POLL_S)


def on_another_way(client: JumpClient, left: Uplink) -> Callable[[SessionView], bool]:
    """Whether the client is attached, and not over the uplink that it should have left."""

    def moved(seen: SessionView) -> bool:
        bound = seen.path is not None and client.topology.side_of(seen.path) != left.side
        return bound and seen.state == "ATTACHED"

    return moved


@dataclass(slots=True)
class Options:
    """What differs between appliances; ``tables`` go into the document over the basic ones."""

    firmware: Firmware = "bios"
    peers: int = 4
    policy: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    document: str | None = None
    image: Path | None = None
    memory_mib: int = 512
    source: Source = "medium"


def configured_by(source: Source, folder: Path, document: str) -> dict[str, Any]:
    """The hardware that brings a document: a medium, or a systemd credential by SMBIOS or fw_cfg."""
    if source == "medium":
        return {"media": [config_medium(folder, document)]}
    path = folder / "credential"
    if source == "fw_cfg":
        path.write_text(document)
        return {"fw_cfg": {CREDENTIAL: path}}
    encoded = base64.b64encode(document.encode()).decode()
    path.write_text(f"io.systemd.credential.binary:{CREDENTIAL}={encoded}")
    return {"smbios": path}


class Appliance:
    """A machine from the image, its site, its operator's key, and what the operator wrote down for it."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        artifacts: Artifacts,
        accelerator: Accelerator,
        options: Options | None = None,
    ) -> None:
        self.lab, self.options = lab, options or Options()
        self.folder = lab.tmp / name
        self.folder.mkdir()
        self.site = ApplianceSite.build(lab)
        self.key = SshKey(self.folder)
        self.peer_keys = [Keys.generate() for _ in range(self.options.peers)]
        self.disk = overlay(self.options.image or artifacts.qcow2, self.folder)
        hardware = Hardware(
            disks=[self.disk],
            cards=[WAN, LAN],
            firmware=self.options.firmware,
            memory_mib=self.options.memory_mib,
            **configured_by(self.options.source, self.folder, self.document()),
        )
        self.machine = Machine(lab, name, hardware, accelerator, self.site.rack)
        self.guest = Guest(lab, self.site.backend, self.key)
        self._gateway: ApplianceGateway | None = None

    def document(self) -> str:
        """What the configuration medium says."""
        return user_data(self.tables()) if self.options.document is None else self.options.document

    def tables(self) -> dict[str, Any]:
        """The same before it is text."""
        peers = [
            {"name": f"peer{n}", "public_key": keys.public, "allowed_ips": [f"{inner_host(n)}/32"]}
            for n, keys in enumerate(self.peer_keys)
        ]
        tables = base_document(self.key.public) | policy_tables(self.options.policy) | {"peer": peers}
        for name, values in self.options.tables.items():
            known = tables.get(name)
            tables[name] = {**known, **values} if isinstance(known, dict) else values
        return tables

    def change(self, **hardware: Any) -> None:
        """Other hardware from the next start on, such as another medium."""
        self.machine.hardware = replace(self.machine.hardware, **hardware)

    def start(self) -> None:
        """Switch it on."""
        self.machine.start()

    def wait_serving(self, mark: int = 0, timeout_s: float = BOOT_TIMEOUT_S) -> float:
        """Wait until its status page says that it serves; returns the seconds since it was switched on."""
        try:
            self.machine.console.wait(SERVING, timeout_s, mark=mark)
        except LabError as error:
            raise LabError(f"{error}\n{self._why()}") from None
        return time.monotonic() - self.machine.started_s

    def _why(self) -> str:
        """What the system itself says, if it lets anybody in."""
        try:
            self.guest.connect(ASK_WHY_S)
            return self.guest.out(f"systemctl --failed --no-legend; {JOURNAL}")
        except LabError as error:
            return f"(no journal: {error})"

    def boot(self) -> float:
        """Switch it on, wait until it serves and lets its operator in; returns the seconds until it served."""
        self.start()
        took_s = self.wait_serving()
        self.guest.connect()
        return took_s

    def reboot(self, timeout_s: float = BOOT_TIMEOUT_S) -> float:
        """Restart it in order from inside; returns the seconds until it served again."""
        before, start_s = self.machine.resets(), time.monotonic()
        self.guest.restart()
        self.await_restart(before, timeout_s)
        return time.monotonic() - start_s

    def await_restart(self, resets: int, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until one more restart than ``resets`` is over: it serves, and the operator is in again."""
        self.machine.wait_reset(resets, timeout_s)
        # What it says on its way down does not count.
        self.wait_serving(self.machine.console.mark(), timeout_s)
        self.guest.connect()

    def gateway(self) -> ApplianceGateway:
        """The gateway inside; asks for its public key once."""
        if self._gateway is None:
            args = (self.lab, self.site.topology, self.guest, self.peer_keys, self.options.policy)
            self._gateway = ApplianceGateway(*args)
        return self._gateway

    def forget_gateway(self) -> None:
        """Its key is another one from now on."""
        self._gateway = None

    def running_slot(self) -> str:
        """The slot that it was booted from, ``a`` or ``b``, or ``live``."""
        words = dict(word.partition("=")[::2] for word in self.guest.out("cat /proc/cmdline").split())
        return words["jvpn.slot"]

    def close(self) -> None:
        """Switch it off without a word; its disk goes with the laboratory."""
        self.guest.disconnect()
        self.machine.pull_plug()


def public_key(guest: Guest) -> str:
    """The gateway's public key, computed by the product itself from the key on its data partition."""
    key = guest.out("jvpn keys pub < /etc/jvpn/gateway.key")
    if len(key) != 44:
        raise LabError(f"not a key: {key!r}")
    return key
