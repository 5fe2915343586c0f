# SPDX-License-Identifier: Apache-2.0
"""What the box is doing now, as one document: for the status page, `jvpn-appliance status` and the support bundle.

Nothing in it is a secret: the page is shown to whoever stands before the screen.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from appliance.guest import apply, change, files, firstboot, gatewayfile, password
from appliance.guest.layout import Layout
from gateway import __version__
from gateway.control import keysfile
from gateway.errors import JumpError

ASK_TIMEOUT_S: Final = 3.0
_ANSWER_MAX_BYTES: Final = 1 << 20

Addresses = Callable[[], Mapping[str, list[str]]]


class Network(msgspec.Struct, frozen=True):
    """One network and the interface that carries it."""

    role: str
    interface: str
    up: bool
    addresses: tuple[str, ...]


class Status(msgspec.Struct, frozen=True):
    """All of it. ``gateway``: one line, such as "serving, 3 sessions"."""

    version: str
    slot: str
    hostname: str
    gateway: str
    serving: bool
    public_key: str
    networks: tuple[Network, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    source: str
    password_set: bool
    pending_change: str
    update: str


def collect(layout: Layout, addresses: Addresses | None = None, *, update: str = "") -> Status:
    """The status as of now. ``update`` is ``updatepart.lines``: asked for only where somebody waits for it."""
    settings, problems = apply.stored(layout)
    report = firstboot.last_report(layout)
    serving, line = gateway_line(layout)
    waiting = change.pending(layout)
    wrong = gatewayfile.mistakes(layout.gateway_file, layout.config)
    return Status(
        version=image_version(layout),
        slot=slot(layout),
        hostname=settings.hostname,
        gateway=line,
        serving=serving,
        public_key=public_key(layout),
        networks=_networks(layout, (addresses or local_addresses)()),
        problems=tuple(dict.fromkeys((*report.problems, *problems, *wrong[: firstboot.SHOWN_MAX]))),
        notes=tuple(report.notes),
        source=firstboot.applied(layout).source,
        password_set=bool(password.stored(layout.admin_hash)),
        pending_change=waiting.name if waiting is not None else "",
        update=update,
    )


def image_version(layout: Layout) -> str:
    """IMAGE_VERSION of os-release, or the gateway's own."""
    for line in files.read_text(layout.os_release).splitlines():
        name, _, value = line.partition("=")
        if name == "IMAGE_VERSION":
            return value.strip().strip('"')
    return __version__


def slot(layout: Layout) -> str:
    """a, b, live, or '' outside of an image."""
    words = files.read_text(layout.command_line).split()
    return next((word.partition("=")[2] for word in words if word.startswith("jvpn.slot=")), "")


def public_key(layout: Layout) -> str:
    """Of the gateway's key; '' before there is one."""
    try:
        return keysfile.encode_key(keysfile.public_key(keysfile.read_key_file(layout.gateway_key).key))
    except JumpError:
        return ""


def local_addresses() -> dict[str, list[str]]:
    """The addresses of each interface; link-local ones of IPv6 say nothing to a person and are left out."""
    found: dict[str, list[str]] = {}
    for name, entries in psutil.net_if_addrs().items():
        inet = [entry.address for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
        found[name] = [address for address in inet if not address.lower().startswith("fe80:")]
    return found


def _networks(layout: Layout, addresses: Mapping[str, list[str]]) -> tuple[Network, ...]:
    settings, _ = apply.stored(layout)
    found = []
    for one in apply.assigned(layout, settings):
        name = one.nic.name if one.nic is not None else ""
        up = files.read_text(layout.interfaces / name / "carrier") == "1" if name else False
        found.append(Network(one.link.role, name, up, tuple(addresses.get(name, ()))))
    tunnel = gatewayfile.interface_of(gatewayfile.in_force(layout.gateway_file, layout.config))
    if tunnel in addresses:
        found.append(Network("tunnel", tunnel, True, tuple(addresses[tunnel])))
    return tuple(found)


# --- the gateway ----------------------------------------------------------------------------------------------------


class _Local(http.client.HTTPConnection):
    """HTTP on a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ASK_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ASK_TIMEOUT_S)
        self.sock.connect(str(self._path))


def ask(layout: Layout, page: str) -> tuple[int, bytes]:
    """Status code and body of a page of the gateway's endpoint; code 0 when nobody answers."""
    tunnel = gatewayfile.interface_of(gatewayfile.in_force(layout.gateway_file, layout.config))
    connection = _Local(layout.gateway_runtime / f"{tunnel}.http")
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, answer.read(_ANSWER_MAX_BYTES)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def gateway_line(layout: Layout) -> tuple[bool, str]:
    """Whether the gateway serves, and a line about it."""
    code, body = ask(layout, "/stats")
    if code == 0:
        return False, "not running"
    try:
        found: dict[str, Any] = msgspec.json.decode(body)
        failing = sorted(name for name, fine in found["ready"].items() if not fine)
        sessions = sum(found["sessions"].values())
        peers = int(found["peers"])
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError):
        return False, f"answers with status {code}"
    if failing:
        return False, f"{found.get('phase', 'not ready')}, not ready: {', '.join(failing)}"
    return True, f"serving, {sessions} {'session' if sessions == 1 else 'sessions'} of {peers} peers"


def wait_serving(
    layout: Layout, *, within_s: float, now_s: Callable[[], float], sleep: Callable[[float], None]
) -> str:
    """Wait until the gateway serves; '' or what it said last."""
    until_s = now_s() + within_s
    while True:
        serving, line = gateway_line(layout)
        if serving:
            return ""
        if now_s() >= until_s:
            return line
        sleep(0.5)
