# SPDX-License-Identifier: Apache-2.0
"""Where things live: the state directory (keys, peers; survives), the runtime directory (sockets; does not).

An explicit choice wins over JVPN_*_DIR, that over what systemd gives the unit, that over the system's place
for root and the user's own for anybody else. Directories are made with mode 0700.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from gateway.constants import DEFAULT_PORT
from gateway.control import keysfile
from gateway.control.configschema import DEFAULT_INTERFACE
from gateway.control.keysfile import RandomBytes
from gateway.errors import HostError

GATEWAY_FILE: Final = "gateway.toml"
KEY_FILE: Final = "gateway.key"
PEERS_FILE: Final = "peers.toml"
_APPLICATION: Final = "jvpn"

_TEMPLATE: Final = """\
# Gateway of Jumping VPN, made on first start. Yours to edit: it is never written again.
# Check it with `jvpn config check`; peers are added with `jvpn peer add NAME`.

[gateway]
interface = "{interface}"
private_key_file = "{key_file}"
listen = ["0.0.0.0:{port}", "[::]:{port}"]
# Where peers find this machine; goes into their files.
# endpoint = "vpn.example.net:{port}"
# dns = ["9.9.9.9"]

[pool]
# Chosen at random, so that two gateways can be joined one day (RFC 4193).
ipv4 = "{ipv4}"
ipv6 = "{ipv6}"

[nat]
# Peers reach the Internet under this machine's address.
enabled = true
"""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What ``bootstrap_gateway`` found or made. ``created``: a sentence per new file, empty later."""

    config_path: Path
    public_key: bytes
    created: tuple[str, ...]


def state_dir(explicit: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The state directory; it need not exist."""
    if explicit is not None:
        return explicit
    chosen = environ.get("JVPN_STATE_DIR") or _systemd(environ, "STATE_DIRECTORY")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib") / _APPLICATION
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / _APPLICATION


def runtime_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The runtime directory; it need not exist."""
    chosen = environ.get("JVPN_RUNTIME_DIR") or _systemd(environ, "RUNTIME_DIRECTORY")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0 or not environ.get("XDG_RUNTIME_DIR"):
        return Path("/run") / _APPLICATION
    return Path(environ["XDG_RUNTIME_DIR"]) / _APPLICATION


def _systemd(environ: Mapping[str, str], variable: str) -> str:
    """The entry of a systemd directory list that is ours, else its first."""
    entries = [entry for entry in environ.get(variable, "").split(":") if entry]
    return next(
        (entry for entry in entries if Path(entry).name == _APPLICATION), entries[0] if entries else ""
    )


def control_socket(interface: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The control socket of the daemon that owns ``interface``, unless its configuration says otherwise."""
    return runtime_dir(environ) / f"{interface}.sock"


def stats_socket(interface: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The stats endpoint's socket; its name is no control socket's."""
    return runtime_dir(environ) / f"{interface}.http"


def control_sockets(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """All sockets in the runtime directory, live or stale, by name."""
    try:
        return sorted(path for path in runtime_dir(environ).glob("*.sock") if path.is_socket())
    except OSError:
        return []


def ensure_dir(path: Path) -> Path:
    """Make a directory of mode 0700, parents included; one that exists stays as it is."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{path} cannot be made: {error.strerror}") from None
    return path


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file at once and durably: a crash leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Make a rename in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def bootstrap_gateway(directory: Path, random_bytes: RandomBytes = secrets.token_bytes) -> Bootstrap:
    """Make a key and a configuration where there are none, so that `jvpn gateway` runs without any file.

    What exists is kept. ``HostError`` when the directory cannot be written.
    """
    ensure_dir(directory)
    key_path, config_path = directory / KEY_FILE, directory / GATEWAY_FILE
    created = []
    try:
        if not key_path.exists():
            keysfile.write_key_file(key_path, keysfile.generate_private_key(random_bytes))
            created.append(f"made a private key: {key_path}")
        if not config_path.exists():
            ipv4, ipv6 = random_pools(random_bytes)
            write_file(config_path, _config_text(ipv4, ipv6))
            created.append(f"wrote a configuration with the pools {ipv4} and {ipv6}: {config_path}")
    except OSError as error:
        raise HostError(f"{directory} cannot be written: {error.strerror}") from None
    private_key = keysfile.read_key_file(key_path).key
    return Bootstrap(config_path, keysfile.public_key(private_key), tuple(created))


def random_pools(random_bytes: RandomBytes) -> tuple[IPv4Network, IPv6Network]:
    """A /24 of 10.0.0.0/8 and a /64 of fd00::/8 with 40 random bits (RFC 4193 §3.2.2)."""
    drawn = random_bytes(7)
    ipv4 = IPv4Network((bytes((10, drawn[0], drawn[1], 0)), 24))
    return ipv4, IPv6Network((b"\xfd" + drawn[2:7] + bytes(10), 64))


def _config_text(ipv4: IPv4Network, ipv6: IPv6Network) -> str:
    return _TEMPLATE.format(
        interface=DEFAULT_INTERFACE, key_file=KEY_FILE, port=DEFAULT_PORT, ipv4=ipv4, ipv6=ipv6
    )
