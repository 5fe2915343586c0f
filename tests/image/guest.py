# SPDX-License-Identifier: Apache-2.0
"""Commands in the appliance, as its operator gives them: by SSH from the LAN, with the key of the configuration.

One connection carries them all, since the key exchange costs an emulated processor seconds. The gateway's control
socket is forwarded through it, so that what asks a daemon of the laboratory asks the appliance's as well.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.control import ctlclient
from tests.image.site import LAN_ADDRESS
from tests.net.lab import Lab, LabError, Namespace
from tests.net.proc import Proc

COMMAND_TIMEOUT_S: Final = 120.0
CONNECT_TIMEOUT_S: Final = 300.0
CALL_TIMEOUT_S: Final = 30.0
CONTROL_SOCKET: Final = "/run/jvpn/jvpn0.sock"
POLL_S: Final = 0.5
# ssh's own status when the connection fails, as opposed to the command's.
SSH_FAILED: Final = 255


class SshKey:
    """A key pair of the test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "id"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", str(self.path)]
        subprocess.run(argv, check=True, timeout=60)

    @property
    def public(self) -> str:
        """The line for ``ssh_keys``."""
        return self.path.with_suffix(".pub").read_text().strip()


class Guest:
    """The inside of an appliance, from a namespace of its LAN."""

    def __init__(self, lab: Lab, namespace: Namespace, key: SshKey, host: str = LAN_ADDRESS) -> None:
        self.lab, self.namespace, self.host = lab, namespace, host
        # The longest path of a UNIX socket is 107 bytes, of which ssh takes 17 for a random end.
        self._known, self._control = lab.tmp / "known_hosts", lab.tmp / "ssh"
        self._socket = lab.tmp / "ctl"
        self._options = {
            "IdentityFile": str(key.path),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self._known),
            # The first connection learns the host key, every later one insists on it: a reboot may not change it.
            "StrictHostKeyChecking": "accept-new",
            "BatchMode": "yes",
            "ControlPath": str(self._control),
            "ConnectTimeout": "15",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "8",
            "LogLevel": "ERROR",
        }

    def connect(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Wait until it lets us in; the connection stays."""
        self.disconnect()
        deadline_s = time.monotonic() + timeout_s
        argv = self._ssh("-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-fN", f"root@{self.host}")
        # Its standard error stays open as long as the connection; a pipe there would be waited for.
        said = self.lab.tmp / "ssh.err"
        while True:
            with said.open("w") as errors:
                done = subprocess.run(
                    self.namespace.wrap(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    timeout=60,
                    check=False,
                )
            if done.returncode == 0:
                return
            text = said.read_text()
            if "HOST IDENTIFICATION HAS CHANGED" in text or time.monotonic() > deadline_s:
                raise LabError(f"no way into {self.host}: {text.strip()}")
            time.sleep(POLL_S)

    def disconnect(self) -> None:
        """Let go of the connection, if there is one."""
        if self._control.exists():
            self.namespace.run(self._ssh("-O", "exit", self.host), check=False)
        self._control.unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)

    def forget_host_key(self) -> None:
        """The next connection meets another box."""
        self.disconnect()
        self._known.unlink(missing_ok=True)

    def spawn(self, command: str) -> Proc:
        """Start a command line and return at once; it ends with its connection at the latest."""
        argv = self._ssh("-o", "ControlMaster=no", f"root@{self.host}", command)
        return self.namespace.spawn(argv, "guest-command")

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A shell command line; LabError with its output unless it succeeds or ``check`` is False."""
        argv = self._ssh("-o", "ControlMaster=no", f"root@{self.host}", command)
        done = self.namespace.run(argv, check=False, timeout_s=timeout_s, stdin=stdin)
        if done.returncode == SSH_FAILED or (check and done.returncode != 0):
            raise LabError(f"guest: {command}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def out(self, command: str, **options: Any) -> str:
        """What a command prints, without the last line's end."""
        return self.run(command, **options).stdout.rstrip("\n")

    def call(self, command: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the gateway through its control socket."""
        if not self._socket.exists():
            self._forward()
        return ctlclient.call(self._socket, command, args, timeout_s=CALL_TIMEOUT_S)

    def restart(self) -> None:
        """Ask it to restart; the connection goes with it."""
        argv = self._ssh("-o", "ControlMaster=no", f"root@{self.host}", "systemctl --no-block reboot")
        self.namespace.run(argv, check=False)

    def put(self, source: Path, target: str) -> None:
        """Copy a file into it."""
        argv = self._ssh("-o", "ControlMaster=no", f"root@{self.host}", f"cat > {shlex.quote(target)}")
        with source.open("rb") as content:
            subprocess.run(self.namespace.wrap(argv), stdin=content, check=True, timeout=COMMAND_TIMEOUT_S)

    def fetch(self, source: str, target: Path) -> None:
        """Copy a folder out of it."""
        target.mkdir(parents=True, exist_ok=True)
        command = f"tar -C {shlex.quote(source)} -cf - ."
        argv = self._ssh("-o", "ControlMaster=no", f"root@{self.host}", command)
        done = subprocess.run(
            self.namespace.wrap(argv), capture_output=True, check=True, timeout=COMMAND_TIMEOUT_S
        )
        subprocess.run(["tar", "-C", str(target), "-xf", "-"], input=done.stdout, check=True, timeout=60)

    def wait(self, command: str, what: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Repeat a command until it succeeds; returns what it printed then."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            done = self.run(command, check=False)
            if done.returncode == 0:
                return done.stdout.rstrip("\n")
            if time.monotonic() > deadline_s:
                raise LabError(
                    f"guest: not {what} within {timeout_s} s: {command}\n{done.stdout}{done.stderr}"
                )
            time.sleep(POLL_S)

    def failed_units(self) -> list[str]:
        """Units that systemd calls failed."""
        return self.out("systemctl list-units --state=failed --plain --no-legend").splitlines()

    def _forward(self) -> None:
        words = ("-O", "forward", "-L", f"{self._socket}:{CONTROL_SOCKET}", self.host)
        self.namespace.run(self._ssh(*words))

    def _ssh(self, *words: str) -> Sequence[str]:
        options = [part for key, value in self._options.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", *options, *words]
