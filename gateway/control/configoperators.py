# SPDX-License-Identifier: Apache-2.0
"""Who may act through the stats endpoint by TCP: tokens from a file, and names of certificates.

Rule: an operator's token is nobody else's: no other user can read its file, and it is not the one for reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from gateway.control import configfields, keysfile, regularfile
from gateway.control.configmodel import Operator
from gateway.control.configpeers import Origin
from gateway.control.configreport import Problems

KEY: Final = "stats.operator_token_file"
# The name of a token that stands there without one.
UNNAMED: Final = "operator"
OPERATORS_MAX: Final = 64
# As of a token for reading.
TOKEN_MIN: Final = 16
TOKEN_MAX: Final = 512
_LINE: Final = re.compile(r"(?:(?P<name>[A-Za-z0-9._@-]{1,63})[ \t]+)?(?P<token>[!-~]+)")
_FILE_MAX: Final = OPERATORS_MAX * (TOKEN_MAX + 128)


def read_tokens(name: str, reader: bytes, problems: Problems, origin: Origin) -> tuple[Operator, ...]:
    """The file's operators: a line each, NAME TOKEN or a token alone; # begins a comment."""
    if not name or origin.lacks(name, KEY, problems):
        return ()
    found: tuple[Operator, ...] = problems.check(KEY, partial(_read, origin=origin), name, ())
    if reader and any(one.token == reader for one in found):
        problems.add(KEY, "holds the token of stats.token_file; who may only read could act with it")
    return found


def _read(name: str, origin: Origin) -> tuple[Operator, ...]:
    path = keysfile.resolve_key_path(name, origin.folder, origin.environ)
    try:
        data, mode = regularfile.read(path, _FILE_MAX + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if exposed := keysfile.exposed(path, mode):
        raise ValueError(exposed)
    lines = data.decode("ascii", "replace").splitlines()
    found = [
        _operator(str(path), number, line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not 1 <= len(found) <= OPERATORS_MAX or len(data) > _FILE_MAX:
        raise ValueError(f"{path} must hold 1 to {OPERATORS_MAX} tokens, one a line")
    if len({one.name for one in found}) < len(found) or len({one.token for one in found}) < len(found):
        raise ValueError(f"{path} has a name or a token twice")
    return tuple(found)


def _operator(path: str, number: int, line: str) -> Operator:
    match = _LINE.fullmatch(line)
    if match is None or not TOKEN_MIN <= len(match["token"]) <= TOKEN_MAX:
        raise ValueError(f"{path}:{number}: write NAME TOKEN, the token of {TOKEN_MIN} to {TOKEN_MAX} signs")
    return Operator(match["name"] or UNNAMED, match["token"].encode())


def read_names(names: Sequence[str], certified: bool, problems: Problems) -> frozenset[str]:
    """Common names whose certificates may act."""
    found = problems.check_each("stats.operator_certificates", _name, names)
    if found and not certified:
        problems.add("stats.operator_certificates", "needs stats.tls_client_ca_file, or nobody shows one")
    return frozenset(found)


def _name(text: str) -> str:
    if not text.strip() or len(text) > 64 or not text.isprintable():
        raise ValueError(f"{configfields.shown(text)} is not a common name")
    return text
