# SPDX-License-Identifier: Apache-2.0
"""The door to configuration: a file or a text in, a checked configuration or ``ConfigErrors`` out.

Nothing is applied here, and a wrong file is refused whole. ``ConfigErrors`` names file, key and line of every
mistake.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway.control.configclient import resolve_client
from gateway.control.configfields import Address, Endpoint, Interface, Network
from gateway.control.configgateway import resolve_gateway
from gateway.control.configmodel import ClientConfig, Dns, GatewayConfig, GatewayPeer, Peer
from gateway.control.configpeers import Origin
from gateway.control.configreport import Problems, read_text, read_toml
from gateway.control.wgquick import is_wgquick, resolve_wgquick, wgquick_lines
from gateway.errors import ConfigErrors

__all__ = [
    "Address",
    "ClientConfig",
    "Dns",
    "Endpoint",
    "GatewayConfig",
    "GatewayPeer",
    "Interface",
    "Network",
    "Peer",
    "load",
    "load_client",
    "load_gateway",
    "parse_client",
    "parse_gateway",
]


def load_gateway(
    path: Path, environ: Mapping[str, str] = os.environ, *, outside: bool = False
) -> GatewayConfig:
    """Read a gateway's file. Peers of ``peers.toml`` are not in it: ``peersfile.PeerBook`` joins them.

    ``outside``: this is not the daemon, so credentials of its unit may be missing (``configpeers.Origin``).
    """
    return parse_gateway(read_text(path), str(path), path.parent, environ, outside=outside)


def load_client(path: Path, environ: Mapping[str, str] = os.environ) -> ClientConfig:
    """Read a client's file, ours (TOML) or one made for wg-quick."""
    return parse_client(read_text(path), str(path), path.parent, environ)


def load(
    path: Path, environ: Mapping[str, str] = os.environ, *, outside: bool = False
) -> GatewayConfig | ClientConfig:
    """Read a file of either kind: a client has a [client] table or is a wg-quick file."""
    text = read_text(path)
    if is_wgquick(text) or "client" in read_toml(text, str(path)):
        return parse_client(text, str(path), path.parent, environ, outside=outside)
    return parse_gateway(text, str(path), path.parent, environ, outside=outside)


def parse_gateway(
    text: str,
    file: str = "<text>",
    folder: Path = Path(),
    environ: Mapping[str, str] = os.environ,
    *,
    outside: bool = False,
) -> GatewayConfig:
    """A gateway from TOML text; key files are relative to ``folder``."""
    problems = Problems(file, text)
    if is_wgquick(text):
        problems.add("", "this is a wg-quick file, which only `jvpn connect` reads; a gateway's file is TOML")
        raise ConfigErrors(problems.errors())
    _warn_of_open_secrets(file, text, problems)
    return resolve_gateway(text, file, Origin(folder, environ, outside), problems)


def parse_client(
    text: str,
    file: str = "<text>",
    folder: Path = Path(),
    environ: Mapping[str, str] = os.environ,
    *,
    outside: bool = False,
) -> ClientConfig:
    """A client from TOML or wg-quick text."""
    if is_wgquick(text):
        problems = Problems(file, text, wgquick_lines)
        _warn_of_open_secrets(file, text, problems)
        return resolve_wgquick(text, file, problems)
    problems = Problems(file, text)
    _warn_of_open_secrets(file, text, problems)
    return resolve_client(text, file, Origin(folder, environ, outside), problems)


def _warn_of_open_secrets(file: str, text: str, problems: Problems) -> None:
    """A file that holds a key itself must not be readable by everybody."""
    folded = text.replace(" ", "").lower()
    if "private_key=" not in folded and "privatekey=" not in folded and "preshared" not in folded:
        return
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return  # parsed from text
    if stat.S_ISREG(mode) and mode & stat.S_IROTH and "preshared_key_file" not in folded:
        problems.warnings.append(
            f"{file} holds a secret and every user can read it; fix it with: chmod 600 {file}"
        )
