# SPDX-License-Identifier: Apache-2.0
"""``user-data``: one document that configures an appliance without anybody at its console.

The first line is ``#jvpn-config``; the rest is TOML. [appliance] and [network.*] are ours, every other table goes into
gateway.toml as it stands. Nothing is applied here, and a document with one mistake is refused whole: ``ConfigErrors``
names line and key of each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from appliance.guest import password, settings
from appliance.guest.settings import Link, Settings
from gateway.control import configfields, keysfile
from gateway.control.configreport import Problems, decode, read_toml, suggestion
from gateway.errors import ConfigError, ConfigErrors

FIRST_LINE: Final = "#jvpn-config"
FILE: Final = "user-data"
# A gateway with a thousand peers has 130 KB; beyond a MiB it is something else.
MAX_BYTES: Final = 1 << 20
TOKEN: Final = re.compile(r"[\x21-\x7e]{16,512}\Z")
_OURS: Final = re.compile(r"\s*\[+\s*(?:\"|')?(appliance|network)(?:\"|')?\s*[.\]]")
_ROLE: Final = re.compile(r"(?:wan|lan)[2-9]?\Z")
_HOSTNAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")
_SSH_KEY: Final = re.compile(
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]+=*(?: .*)?\Z"
)


class ApplianceTable(msgspec.Struct, forbid_unknown_fields=True):
    """[appliance] as it stands."""

    hostname: str = ""
    reapply: bool = False
    ssh_keys: list[str] = []
    admin_password_hash: str = ""
    private_key: str = ""
    stats_token: str = ""
    management: list[str] = msgspec.field(default_factory=lambda: [settings.LAN])
    ntp: list[str] = []


class NetworkTable(msgspec.Struct, forbid_unknown_fields=True):
    """[network.wan] and its like as they stand. Without ``dhcp``: on where no address is given."""

    match: str = ""
    address: str | list[str] = ""
    gateway: str | list[str] = ""
    dns: str | list[str] = ""
    dhcp: bool | None = None
    mtu: int = 0


class Document(NamedTuple):
    """A document that holds no mistake of ours. ``gateway_text`` has its lines at their places, '' for none."""

    settings: Settings
    reapply: bool
    admin_password_hash: str
    private_key: str
    stats_token: str
    gateway_text: str

    def __repr__(self) -> str:
        return "Document(…)"


def is_ours(text: str) -> bool:
    """Whether ``text`` is such a document at all."""
    return text.lstrip("\ufeff").split("\n", 1)[0].strip() == FIRST_LINE


def parse(text: str, file: str = FILE) -> Document:
    """Raises ``ConfigErrors``."""
    if not is_ours(text):
        raise ConfigErrors((ConfigError(file, "", 1, f"the first line must be {FIRST_LINE}"),))
    tables = read_toml(text.lstrip("\ufeff"), file)
    problems = Problems(file, text)
    ours = decode(tables.get("appliance", {}), ApplianceTable, "appliance", problems)
    found = Document(
        settings=_settings(ours, tables.get("network", {}), problems),
        reapply=ours.reapply,
        admin_password_hash=_each_secret(ours, "admin_password_hash", password.check_hash, problems),
        private_key=_each_secret(ours, "private_key", keysfile.decode_key, problems),
        stats_token=_each_secret(ours, "stats_token", _check_token, problems),
        gateway_text=_rest(text, tables, problems),
    )
    problems.raise_if_any()
    return found


def _each_secret(table: ApplianceTable, name: str, check: Any, problems: Problems) -> str:
    text: str = getattr(table, name)
    if text:
        problems.check(f"appliance.{name}", check, text, None)
    return text


def _check_token(text: str) -> None:
    if not TOKEN.match(text):
        raise ValueError("must be 16 to 512 letters, digits and signs, such as `openssl rand -hex 32` writes")


def _settings(ours: ApplianceTable, network: object, problems: Problems) -> Settings:
    hostname = problems.check_text("appliance.hostname", hostname_, ours.hostname)
    return Settings(
        hostname=hostname or settings.DEFAULT_HOSTNAME,
        ssh_keys=problems.check_each("appliance.ssh_keys", ssh_key, ours.ssh_keys),
        management=problems.check_each("appliance.management", _side, ours.management),
        ntp=problems.check_each("appliance.ntp", _server, ours.ntp),
        links=_links(network, problems),
    )


def _links(network: object, problems: Problems) -> tuple[Link, ...]:
    if not isinstance(network, dict):
        problems.add("network", "must be tables, [network.wan] and [network.lan]")
        return ()
    found: list[Link] = []
    for role, table in network.items():
        if not _ROLE.match(role):
            near = suggestion(role, ("wan", "lan", "wan2", "lan2"))
            problems.add(f"network.{role}", f"must be wan, lan, or wan2, lan2 and so on for more{near}")
            continue
        link = _link(role, table, problems)
        if link.match and any(link.match == other.match for other in found):
            problems.add(f"network.{role}.match", f"{link.match} is another network's already")
        found.append(link)
    return tuple(found)


def _link(role: str, table: object, problems: Problems) -> Link:
    key = f"network.{role}"
    read = decode(table, NetworkTable, key, problems)
    addresses = problems.check_each(f"{key}.address", address, _list(read.address))
    gateways = problems.check_each(f"{key}.gateway", configfields.address, _list(read.gateway))
    dns = problems.check_each(f"{key}.dns", configfields.address, _list(read.dns))
    for one in gateways:
        inside = any(one in own.network for own in addresses)
        if not inside and not one.is_link_local:
            problems.add(f"{key}.gateway", f"{one} is in no network of {key}.address")
    return Link(
        role=role,
        match=problems.check(f"{key}.match", match_, read.match, ""),
        address=tuple(map(str, addresses)),
        gateway=tuple(map(str, gateways)),
        dns=tuple(map(str, dns)),
        dhcp=not read.address if read.dhcp is None else read.dhcp,
        mtu=problems.check(f"{key}.mtu", partial(_mtu, addresses), read.mtu, 0),
    )


def _mtu(addresses: Sequence[configfields.Interface], value: int) -> int:
    return configfields.mtu(value, any(one.version == 6 for one in addresses)) if value else 0


def _list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


# --- one value each: ValueError says what to write ----------------------------------------------------------------


def hostname_(text: str) -> str:
    """A name of one label (RFC 1123 §2.1)."""
    if not _HOSTNAME.match(text):
        raise ValueError(f"{configfields.shown(text)} is not a host name: up to 63 of a-z, 0-9 and -")
    return text


def ssh_key(text: str) -> str:
    """A line as ``ssh-keygen`` writes it into a .pub file."""
    line = text.strip()
    if not _SSH_KEY.match(line) or "\n" in line or len(line) > 4096:
        raise ValueError("not a public key: one line such as ssh-ed25519 AAAA… name")
    return line


def address(text: str) -> configfields.Interface:
    """An interface's address; without a length it would be alone in its network, which nobody means."""
    if "/" not in text:
        raise ValueError(f"{configfields.shown(text)} has no prefix length; write such as 192.0.2.10/24")
    return configfields.interface_address(text)


def match_(text: str) -> str:
    """A MAC address or the name of an interface; '' for the next free one."""
    lowered = text.strip().lower().replace("-", ":")
    if _MAC.match(lowered):
        return lowered
    return configfields.interface_name(text) if text else ""


def _side(text: str) -> str:
    if text not in (settings.LAN, settings.TUNNEL):
        raise ValueError(f'must be "lan" or "tunnel"{suggestion(text, (settings.LAN, settings.TUNNEL))}')
    return text


def _server(text: str) -> str:
    return configfields.endpoint(f"{text}:1").host if ":" not in text else str(configfields.address(text))


# --- the gateway's part --------------------------------------------------------------------------------------------


def _rest(text: str, tables: dict[str, Any], problems: Problems) -> str:
    """The document with our tables blanked out, so that what the checker says of a line is true of the document."""
    theirs = {name: value for name, value in tables.items() if name not in ("appliance", "network")}
    if not theirs:
        return ""
    kept, ours = [], False
    for row in text.lstrip("\ufeff").split("\n"):
        if row.lstrip().startswith("["):
            ours = _OURS.match(row) is not None
        kept.append("" if ours else row)
    rest = "\n".join(kept)
    try:
        same = read_toml(rest, problems.file) == theirs
    except ConfigErrors:
        same = False
    if not same:
        problems.add(
            "appliance", "write [appliance] and [network.…] as tables of their own, with a line [name] each"
        )
    return rest
