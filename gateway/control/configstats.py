# SPDX-License-Identifier: Apache-2.0
"""The [stats] table, checked: where the stats endpoint listens and who may ask.

Rule: beyond loopback nobody is answered without a token or a client certificate, so a configuration that would is
refused.
"""

from __future__ import annotations

import os
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from gateway.control import configfields, configoperators, keysfile, regularfile
from gateway.control.configmodel import Stats, Tls
from gateway.control.configpeers import Origin
from gateway.control.configreport import Problems
from gateway.control.configschema import StatsTable

# 16 characters drawn at random are beyond guessing; more than 512 are not a token but the wrong file.
TOKEN_MIN: Final = 16
TOKEN_MAX: Final = 512


def read_stats(table: StatsTable, problems: Problems, origin: Origin) -> Stats:
    """The [stats] table. One that is not enabled is checked all the same."""
    listen = problems.check_each("stats.listen", configfields.listen, table.listen)
    token, tls = _token(table, problems, origin), _tls(table, problems, origin)
    _guard(listen, token, tls, problems)
    hosts = problems.check_each("stats.hosts", _host, table.hosts)
    certified = tls is not None and tls.client_ca is not None
    return Stats(
        enabled=table.enabled,
        listen=tuple(dict.fromkeys(listen)),
        socket=read_socket(table.socket, "stats.socket", problems),
        hosts=frozenset(hosts),
        token=token,
        tls=tls,
        wireguard_names=table.wireguard_names,
        per_session=table.per_session,
        operators=configoperators.read_tokens(table.operator_token_file, token, problems, origin),
        operator_certificates=configoperators.read_names(table.operator_certificates, certified, problems),
        open_health=table.open_health,
    )


def read_socket(text: str, key: str, problems: Problems) -> Path | None:
    """The path of a UNIX socket when it is not the default one."""
    if not text:
        return None
    if not text.startswith("/") or "\0" in text or len(text.encode()) > 107:
        problems.add(key, "must be an absolute path of at most 107 bytes (the limit of UNIX sockets)")
    return Path(text.replace("\0", ""))


def _guard(
    listen: tuple[configfields.Endpoint, ...], token: bytes, tls: Tls | None, problems: Problems
) -> None:
    beyond = [one for one in listen if not ip_address(one.host).is_loopback]
    certified = tls is not None and tls.client_ca is not None
    if beyond and not token and not certified:
        problems.add(
            "stats.listen",
            f"{beyond[0]} is not loopback; set stats.token_file, or TLS with stats.tls_client_ca_file",
        )
    elif beyond and tls is None:
        problems.warn("stats.listen", f"the token goes to {beyond[0]} in clear; set stats.tls_cert_file")


def _token(table: StatsTable, problems: Problems, origin: Origin) -> bytes:
    if not table.token_file:
        return b""
    read = partial(_read_token, problems=problems, origin=origin)
    return problems.check("stats.token_file", read, table.token_file, b"")


def _read_token(name: str, problems: Problems, origin: Origin) -> bytes:
    if origin.lacks(name, "stats.token_file", problems):
        return bytes(TOKEN_MIN)
    path = keysfile.resolve_key_path(name, origin.folder, origin.environ)
    try:
        data, mode = regularfile.read(path, TOKEN_MAX + 2)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    text = data.strip()
    if not TOKEN_MIN <= len(text) <= TOKEN_MAX or not all(33 <= byte <= 126 for byte in text):
        raise ValueError(
            f"{path} holds no token: one line of {TOKEN_MIN} to {TOKEN_MAX} letters, digits and signs"
        )
    if exposed := keysfile.exposed(path, mode):
        raise ValueError(exposed)
    return text


def _tls(table: StatsTable, problems: Problems, origin: Origin) -> Tls | None:
    names = (table.tls_cert_file, table.tls_key_file, table.tls_client_ca_file)
    if not any(names):
        return None
    if not table.tls_cert_file or not table.tls_key_file:
        problems.add("stats.tls_cert_file", "a TLS listener needs tls_cert_file and tls_key_file")
        return None
    keys = ("stats.tls_cert_file", "stats.tls_key_file", "stats.tls_client_ca_file")
    found = [
        problems.check_text(key, partial(_file, origin, key, problems), name)
        for key, name in zip(keys, names, strict=True)
    ]
    cert, key, client_ca = found
    return Tls(cert, key, client_ca) if cert is not None and key is not None else None


def _file(origin: Origin, key: str, problems: Problems, name: str) -> Path:
    if origin.lacks(name, key, problems):
        return Path(name)
    path = keysfile.resolve_key_path(name, origin.folder, origin.environ)
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} cannot be read")
    if key == "stats.tls_key_file" and (exposed := keysfile.exposed(path, path.stat().st_mode)):
        raise ValueError(exposed)
    return path


def _host(text: str) -> str:
    """A name, without a port, under which the endpoint is called."""
    if configfields.endpoint(f"{text}:1").host != text:
        raise ValueError(f"{configfields.shown(text)} is not a host name")
    return text.lower()
