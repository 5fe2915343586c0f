# SPDX-License-Identifier: Apache-2.0
"""The status page: who stands before the box sees what it is, whether it serves, and what is wrong with it.

Nothing here is a secret. The public key is a QR code too, where the window has room and nothing more important to say.
"""

from __future__ import annotations

import textwrap
from typing import Final

from appliance.guest.status import Network, Status
from gateway.ops.cli.qr import qr_text

PRODUCT: Final = "Jumping VPN"
_LABEL: Final = 11
# A QR code of 44 characters has 29 modules and a quiet zone of 4 on each side, two rows to a line.
_QR_COLUMNS, _QR_LINES = 37, 19
_HEAD_LINES: Final = 3


def text(found: Status, columns: int) -> str:
    """The page as lines."""
    return "\n".join([*_head(found), "", *_body(found, columns), "", hint(found)])


def screen(found: Status, rows: int, columns: int) -> str:
    """The page for a window, with the QR code beside it where there is room."""
    body = _body(found, columns - _QR_COLUMNS - 2)
    fits = rows >= _HEAD_LINES + _QR_LINES + 2 and columns >= 80 and len(body) <= _QR_LINES
    if not found.public_key or found.problems or not fits:
        return text(found, columns)
    code = qr_text(found.public_key, colour=True).split("\n")
    left = columns - _QR_COLUMNS
    body += [""] * (len(code) - len(body))
    beside = [f"{line:<{left}}{dots}" for line, dots in zip(body, code, strict=True)]
    return "\n".join([*_head(found), *beside, hint(found)])


def hint(found: Status) -> str:
    """What pressing a key does."""
    if not found.password_set:
        return "Not set up yet. Press Enter to set this box up. "
    return "Press Enter for the menu. "


def _head(found: Status) -> list[str]:
    slot = f"   slot {found.slot}" if found.slot else ""
    return [
        f"{PRODUCT} {found.version}{slot}   {found.hostname}",
        _row("gateway", found.gateway),
        _row("public key", found.public_key or "none yet"),
    ]


def _row(label: str, value: str) -> str:
    return f"{label:<{_LABEL}}{value}"


def _body(found: Status, columns: int) -> list[str]:
    lines = [line for network in found.networks for line in _network(network, columns)]
    lines += [""] if lines else []
    if found.source:
        lines += _wrapped("configured", found.source, columns)
    if found.pending_change:
        lines += _wrapped(
            "waiting", f"{found.pending_change} was changed and nobody has kept it yet", columns
        )
    if found.update:
        lines += [row for line in found.update.split("\n") for row in _wrapped("update", line, columns)]
    if found.problems:
        lines += ["", *(row for problem in found.problems for row in textwrap.wrap(problem, columns))]
    return lines


def _network(network: Network, columns: int) -> list[str]:
    state = "" if network.up else ", no link"
    where = f"{network.interface}{state}" if network.interface else "no interface"
    rows = [_row(network.role, where)]
    rows += [f"  {address}"[:columns] for address in network.addresses] or ["  no address"]
    return rows


def _wrapped(label: str, value: str, columns: int) -> list[str]:
    rows = textwrap.wrap(value, max(20, columns - _LABEL)) or [""]
    return [_row(label, rows[0]), *(_row("", row) for row in rows[1:])]
