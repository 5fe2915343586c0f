# SPDX-License-Identifier: Apache-2.0
"""gateway.toml of an appliance: the file of a first boot, what is added to one that says less, and its check.

Rule: the project's own checker has the last word before a text is taken, and a text is changed only by adding what it
leaves out, so its lines and comments stay.
"""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from gateway.constants import DEFAULT_PORT
from gateway.control import config, keysfile, peerbook, regularfile
from gateway.control.configmodel import GatewayConfig
from gateway.control.configreport import Problems, read_toml
from gateway.control.configschema import DEFAULT_INTERFACE
from gateway.control.peersfile import PeersFile
from gateway.control.statedir import random_pools
from gateway.errors import ConfigErrors, UsageError

RandomBytes = keysfile.RandomBytes

STATS_PORT: Final = 51821
# The unit runs as a user of its own, which root's key files are hidden from: systemd hands it copies.
KEY_LINE: Final = 'private_key_file = "credential:gateway.key"'
_HEADER: Final = """\
# The gateway of this appliance. Check a change with `jvpn-appliance config check FILE`; peers are added with
# `jvpn peer add NAME`. Further secrets: files in /etc/jvpn/secrets, named as "credential:secrets_FILE".

"""
_GATEWAY: Final = f"""\
[gateway]
{KEY_LINE}
# Where clients find this machine from outside; goes into their files.
# endpoint = "vpn.example.net:{DEFAULT_PORT}"
# dns = ["9.9.9.9"]
"""
_POOL: Final = """\
[pool]
# Chosen at random, so that two gateways can be joined one day (RFC 4193).
ipv4 = "{ipv4}"
ipv6 = "{ipv6}"
"""
_NAT: Final = """\
[nat]
# Clients reach other networks under this machine's address.
enabled = true
"""
_STATS: Final = f"""\
[stats]
# The firewall lets only the management side in; who asks shows the token of /etc/jvpn/stats.token.
listen = ["0.0.0.0:{STATS_PORT}"]
token_file = "credential:stats.token"
"""
# 128 MiB of journal: the data partition may be small, and a full one stops the audit.
_AUDIT: Final = """\
[audit]
max_bytes = 16777216
keep_files = 8
"""


def default_text(random_bytes: RandomBytes) -> str:
    """The file of a first boot that was told nothing."""
    return _HEADER + "\n".join([_GATEWAY, _pool(random_bytes), _NAT, _STATS, _AUDIT])


def completed(text: str, file: str, random_bytes: RandomBytes) -> str:
    """``text`` and what it leaves out: the key's place, and the tables of the default file. ``ConfigErrors``."""
    found = read_toml(text, file)
    gateway = found.get("gateway", {})
    if not isinstance(gateway, dict):
        return text  # the checker says what is wrong with it
    missing = {"nat": _NAT, "stats": _STATS, "audit": _AUDIT}
    if "addresses" not in gateway:
        missing = {"pool": _pool(random_bytes)} | missing
    added = [table for name, table in missing.items() if name not in found]
    whole = _with_key(text, found) if text.strip() else _GATEWAY
    return "\n".join([whole if whole.endswith("\n") else whole + "\n", *added])


def _pool(random_bytes: RandomBytes) -> str:
    ipv4, ipv6 = random_pools(random_bytes)
    return _POOL.format(ipv4=ipv4, ipv6=ipv6)


def _with_key(text: str, found: dict[str, object]) -> str:
    gateway = found.get("gateway")
    if isinstance(gateway, dict) and ("private_key_file" in gateway or "private_key" in gateway):
        return text
    return with_key(text, "gateway", KEY_LINE)


def with_key(text: str, table: str, line: str) -> str:
    """``text`` with ``line`` in ``table``, in place of an earlier one of the same key."""
    key = line.partition("=")[0].strip()
    rows = text.splitlines()
    head = next((at for at, row in enumerate(rows) if _is_header(row, table)), None)
    if head is None:
        dotted = any(row.lstrip().startswith(f"{table}.") for row in rows)
        # A table that is written as table.key = … cannot be opened again; such keys stand before any table.
        first = f"{table}.{line}\n" if dotted else ""
        return first + text if dotted else f"[{table}]\n{line}\n\n{text}"
    end = next((at for at in range(head + 1, len(rows)) if rows[at].lstrip().startswith("[")), len(rows))
    same = [at for at in range(head + 1, end) if re.match(rf"\s*{re.escape(key)}\s*=", rows[at])]
    if same:
        rows[same[0]] = line
    else:
        rows.insert(head + 1, line)
    return "\n".join(rows) + "\n"


def _is_header(row: str, table: str) -> bool:
    return re.match(rf"\s*\[\s*{re.escape(table)}\s*\]", row) is not None


def check(text: str, file: str, folder: Path, state: Path | None = None) -> GatewayConfig:
    """The configuration that ``text`` is; ``ConfigErrors`` names file, line and key of every mistake.

    ``folder`` is where its key files lie, ``state`` the gateway's state directory, whose peers must fit.
    """
    found = config.parse_gateway(text, file, folder, {}, outside=True)
    problems = Problems(file, text)
    _refuse_readable_key(text, file, problems)
    problems.raise_if_any()
    if state is not None and (state / "peers.toml").exists():
        peerbook.check_peers_file(found, PeersFile(state))
    return found


def warnings(found: GatewayConfig) -> tuple[str, ...]:
    """What works and should not stay so. That credentials are the unit's is how it is meant here."""
    return tuple(text for text in found.warnings if "only the unit has it" not in text)


def _refuse_readable_key(text: str, file: str, problems: Problems) -> None:
    """The unit's user reads the file, and it cannot read key files of root: the key comes as a credential."""
    gateway = read_toml(text, file).get("gateway", {})
    if gateway.get("private_key"):
        problems.add("gateway.private_key", "leave it out: the key is /etc/jvpn/gateway.key")
    named = gateway.get("private_key_file", "")
    if named and not named.startswith(keysfile.CREDENTIAL_PREFIX):
        problems.add("gateway.private_key_file", 'must be "credential:gateway.key", or left out')


def ports(found: GatewayConfig) -> tuple[int, ...]:
    """UDP ports that clients call."""
    return tuple(sorted({one.port for one in found.listen if one.port}))


def stats_ports(found: GatewayConfig) -> tuple[int, ...]:
    """TCP ports of the stats endpoint that are not for this machine alone."""
    open_ = {one.port for one in found.stats.listen if not ip_address(one.host).is_loopback and one.port}
    return tuple(sorted(open_)) if found.stats.enabled else ()


class Seen(NamedTuple):
    """What a file is: a configuration, or mistakes."""

    config: GatewayConfig | None
    mistakes: tuple[str, ...]


def in_force(path: Path, folder: Path) -> GatewayConfig | None:
    """The configuration in ``path``; None when there is none or it is wrong."""
    return _seen(path, folder).config


def mistakes(path: Path, folder: Path) -> tuple[str, ...]:
    """What keeps the gateway from starting with this file."""
    return _seen(path, folder).mistakes


def _seen(path: Path, folder: Path) -> Seen:
    try:
        found = path.stat()
    except OSError as error:
        return Seen(None, (f"{path}: {error.strerror}",))
    return _parsed(path, folder, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=1)
def _parsed(path: Path, folder: Path, _stamp: tuple[int, int, int]) -> Seen:
    """Read again only when the file is another one: the console asks every few seconds."""
    try:
        data, _ = regularfile.read(path, 1 << 26)
        return Seen(config.parse_gateway(data.decode(), str(path), folder, {}, outside=True), ())
    except ConfigErrors as errors:
        return Seen(None, tuple(str(error) for error in errors.errors))
    except (OSError, UnicodeDecodeError) as error:
        return Seen(None, (f"{path}: {error}",))


def interface_of(found: GatewayConfig | None) -> str:
    """The tunnel's interface."""
    return found.interface if found is not None else DEFAULT_INTERFACE


def read(path: Path) -> str:
    """The text of a file that is to be applied. UsageError when it cannot be read."""
    try:
        data, _ = regularfile.read(path, 1 << 26)
        text = data.decode("utf-8-sig")
        tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    except tomllib.TOMLDecodeError:
        pass  # the check says where
    return text
