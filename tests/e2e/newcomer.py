# SPDX-License-Identifier: Apache-2.0
"""What a newcomer has after the README: a gateway of `jvpn gateway`, our client by two uplinks, a stock client.

laptop (jvpn connect) ═══ up0, up1 ═══ gateway (jvpn gateway) ─── phone (wg-quick with wireguard-go)
                                        │
                                        └─── spare: whatever else a command needs, with directories of its own

The gateway is 10.9.9.9 for everybody. Commands are lines for bash, run as they stand in a folder of their own.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.control import ctlclient
from gateway.errors import JumpError
from tests.net.lab import Lab, LabError, Namespace, Proc
from tests.net.wg import WgQuick

ADDRESS: Final = "10.9.9.9"
ENDPOINT: Final = f"{ADDRESS}:51820"
READY_S: Final = 20.0
POLL_S: Final = 0.02


class Place:
    """A machine: its namespace, its state and runtime directories and the folder that commands run in."""

    def __init__(self, lab: Lab, namespace: Namespace, name: str) -> None:
        self.namespace = namespace
        self.folder = lab.tmp / name
        self.state, self.runtime = self.folder / "s", self.folder / "r"
        self.folder.mkdir()
        programs = Path(sys.executable).parent
        self.env = {
            "JVPN_STATE_DIR": str(self.state),
            "JVPN_RUNTIME_DIR": str(self.runtime),
            "HOME": str(self.folder),
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }

    def argv(self, line: str) -> list[str]:
        """What runs a line in this folder."""
        return ["bash", "-c", f"cd {shlex.quote(str(self.folder))} && {line}"]

    def run(self, line: str, *, check: bool = True) -> tuple[int, str, str]:
        """Run a line to its end: its status, output and errors."""
        done = self.namespace.run(self.argv(line), env=self.env, check=check)
        return done.returncode, done.stdout, done.stderr

    def json(self, line: str) -> Any:
        """The document that a line writes."""
        return json.loads(self.run(line)[1])

    def spawn(self, line: str, name: str) -> Proc:
        """Start a line that stays. A signal then reaches the program itself."""
        return self.namespace.spawn(self.argv(f"exec {line}"), name, self.env)

    def wait_daemon(self, proc: Proc, interface: str = "*") -> None:
        """Until a daemon here answers."""
        deadline_s = time.monotonic() + READY_S
        while proc.running and time.monotonic() < deadline_s:
            for path in (*self.runtime.glob(f"{interface}.sock"), *self.folder.glob("*.sock")):
                try:
                    ctlclient.call(path, "status", timeout_s=2.0)
                    return
                except JumpError:
                    pass
            time.sleep(POLL_S)
        raise LabError(f"no daemon answers:\n{proc.output[-3000:]}")


class Newcomer:
    """All of the picture, running."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self._places = lab, 0
        self.gateway, self.laptop, phone, self._spare = (
            self._place(role) for role in ("gateway", "laptop", "phone", "spare")
        )
        self.phone = phone
        self._links()
        gateway = self.gateway.spawn("jvpn gateway", "gateway")
        self.gateway.wait_daemon(gateway)
        self.laptop_file = self._file("laptop", "--psk")
        self.phone_file = self._file("phone")
        self.stock = WgQuick(lab, phone.namespace, self.phone_file).start()
        (self.laptop.folder / "laptop.conf").write_text(self.laptop_file)
        client = self.laptop.spawn("jvpn connect -c laptop.conf", "laptop")
        self.laptop.wait_daemon(client)
        self._wait_sessions()

    def _place(self, role: str) -> Place:
        return Place(self.lab, self.lab.namespace(role), role)

    def _links(self) -> None:
        gateway = self.gateway.namespace
        gateway.add_address("lo", f"{ADDRESS}/32")
        ends = [
            (self.laptop, "10.1.0"),
            (self.laptop, "10.2.0"),
            (self.phone, "10.3.0"),
            (self._spare, "10.4.0"),
        ]
        for number, (place, network) in enumerate(ends):
            link = self.lab.link(place.namespace, gateway, f"{network}.0/24")
            route = ("route", "add", f"{ADDRESS}/32", "via", f"{network}.2", "dev", link.a.dev)
            place.namespace.ip(*route, "metric", str(100 + number))

    def _file(self, name: str, *options: str) -> str:
        line = f"jvpn peer add {name} --gateway-endpoint {ENDPOINT} --route 10.0.0.0/8 {' '.join(options)}"
        return self.gateway.run(line)[1]

    def new_peer(self, name: str) -> str:
        """A further peer's own file."""
        return self._file(name)

    def spare(self) -> Place:
        """A machine that has never seen this software, in the namespace of the others like it."""
        self._places += 1
        return Place(self.lab, self._spare.namespace, f"n{self._places}")

    def _wait_sessions(self) -> None:
        """Both sessions are attached, the laptop's with a proven standby."""

        def settled() -> bool:
            rows = self.gateway.json("jvpn sessions --json")["sessions"]
            known = {row["peer"]: row for row in rows if row["state"] == "ATTACHED"}
            if known.keys() < {"laptop", "phone"}:
                self.phone.namespace.run(["ping", "-c1", "-W1", self.inner("gateway")], check=False)
                return False
            paths = self.laptop.json(f"jvpn paths {known['laptop']['session_id']} --json")["paths"]
            return "STANDBY" in [path["status"] for path in paths]

        wait_until(settled, "both sessions")

    def inner(self, name: str) -> str:
        """The inner address of the gateway, or of a peer."""
        if name == "gateway":
            device = json.loads(self.gateway.namespace.ip("-j", "-4", "address", "show", "jvpn0"))
            return str(device[0]["addr_info"][0]["local"])
        found = self.gateway.json(f"jvpn peer show {name} --json")["peer"]["allowed_ips"]
        return str(found[0].partition("/")[0])

    def session_id(self, name: str) -> str:
        """The id of a peer's session."""
        return str(self.gateway.json(f"jvpn sessions {name} --json")["session_id"])

    def secrets(self) -> list[str]:
        """Every key that nothing but the command that made it may show."""
        files = [self.gateway.state / name for name in ("gateway.key", "audit.key")]
        text = self.laptop_file + self.phone_file
        inside = re.findall(r"^(?:PrivateKey|PresharedKey) = (\S+)", text, re.MULTILINE)
        found = [*inside, *(path.read_text().strip() for path in files)]
        if len(found) != 5:
            raise LabError(f"{len(found)} secrets instead of 5")
        return found

    def standby(self, session: str) -> int:
        """The number of the laptop's second path, once nothing holds back a switch to it."""
        found: list[int] = []

        def free() -> bool:
            one = self.laptop.json(f"jvpn sessions {session} --json")
            found[:] = [path["path_id"] for path in one["paths"] if path["status"] == "STANDBY"]
            return bool(found) and one["state"] == "ATTACHED" and not one["cooldown_left_s"]

        wait_until(free, "a standby")
        return found[0]

    def standby_at_gateway(self) -> int:
        """The same number, which both ends know it by."""
        return self.standby(self.session_id("laptop"))


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = READY_S) -> None:
    """Look until it is so."""
    deadline_s = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline_s:
            raise LabError(f"not within {timeout_s} s: {what}")
        time.sleep(POLL_S)
