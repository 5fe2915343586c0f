# SPDX-License-Identifier: Apache-2.0
"""Reading a TOML document into typed tables so that every mistake is reported, not only the first.

A document without mistakes takes one ``msgspec.convert``; only a wrong one is walked key by key, and only
then are lines looked up.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec

from gateway.control import regularfile
from gateway.control.configlines import key_at_line, key_lines, line_of
from gateway.errors import ConfigError, ConfigErrors

T = TypeVar("T")
V = TypeVar("V")
D = TypeVar("D")

# 100,000 peers are 13 MB; beyond this the file is not a configuration.
CONFIG_MAX_BYTES: Final = 64 * 1024 * 1024
# A file that is wrong everywhere is not a list anybody reads to its end.
REPORTED_MAX: Final = 1_000

_AT_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)")
_TYPE_NAMES: Final = {
    "int": "a whole number",
    "float": "a decimal number",
    "str": "a string in quotes",
    "bool": "true or false",
    "array": "a list in brackets",
    "object": "a table",
}
_MISMATCH: Final = re.compile(r"Expected `([\w |]+)`, got `(\w+)`")


class Problems:
    """Collects the mistakes and warnings of one file. The first mistake of a key is the one that counts."""

    def __init__(self, file: str, text: str, lines: Callable[[str], dict[str, int]] = key_lines) -> None:
        self.file = file
        self.warnings: list[str] = []
        self._text = text
        self._scan = lines
        self._lines: dict[str, int] | None = None
        self._found: dict[str, str] = {}

    def add(self, key: str, problem: str) -> None:
        """Record one mistake."""
        if len(self._found) < REPORTED_MAX:
            self._found.setdefault(key, problem)

    def warn(self, key: str, text: str) -> None:
        """Record something that works but should not stay as it is."""
        self.warnings.append(f"{self.where(key)}: {key}: {text}")

    def check(self, key: str, convert: Callable[[V], T], value: V, default: D) -> T | D:
        """``convert(value)``; its ``ValueError`` becomes the key's mistake and ``default`` the result."""
        try:
            return convert(value)
        except ValueError as error:
            self.add(key, str(error))
            return default

    def check_text(self, key: str, convert: Callable[[str], T], text: str) -> T | None:
        """``check`` of an optional text: ``None`` when it is empty or wrong."""
        return self.check(key, convert, text, None) if text else None

    def check_each(self, key: str, convert: Callable[[str], T], values: Sequence[str]) -> tuple[T, ...]:
        """``convert`` over a list; a mistake names the element, which is left out."""
        try:
            return tuple(map(convert, values))
        except ValueError:
            return tuple(self._survivors(key, convert, values))

    def _survivors(self, key: str, convert: Callable[[str], T], values: Sequence[str]) -> list[T]:
        survivors = []
        for index, value in enumerate(values):
            try:
                survivors.append(convert(value))
            except ValueError as error:
                self.add(f"{key}[{index}]", str(error))
        return survivors

    def line(self, key: str) -> int:
        """1-based line of a key or of the nearest table around it; 0 when unknown."""
        if self._lines is None:
            self._lines = self._scan(self._text)
        return line_of(self._lines, key)

    def where(self, key: str) -> str:
        """``file:line`` of a key."""
        line = self.line(key)
        return f"{self.file}:{line}" if line else self.file

    def errors(self) -> tuple[ConfigError, ...]:
        """What was found, in file order."""
        found = (ConfigError(self.file, key, self.line(key), problem) for key, problem in self._found.items())
        return tuple(sorted(found, key=lambda error: error.line))

    def raise_if_any(self) -> None:
        """Raise ``ConfigErrors`` with everything found so far."""
        if self._found:
            raise ConfigErrors(self.errors())


def read_text(path: Path) -> str:
    """A configuration file as text; ``ConfigErrors`` when it is none, cannot be read, is too large or is not UTF-8."""
    try:
        data, _ = regularfile.read(path, CONFIG_MAX_BYTES + 1)
    except OSError as error:
        raise _single(str(path), 0, error.strerror or "cannot be read") from None
    if len(data) > CONFIG_MAX_BYTES:
        raise _single(str(path), 0, f"larger than {CONFIG_MAX_BYTES} bytes: not a configuration file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _single(str(path), line, "not UTF-8 text") from None


def read_toml(text: str, file: str) -> dict[str, Any]:
    """The document of a TOML text; ``ConfigErrors`` with the line when it is not TOML."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _single(file, 0, "nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError is one; so is an integer of 5,000 digits
        raise _syntax_error(text, file, str(error)) from None


def _syntax_error(text: str, file: str, message: str) -> ConfigErrors:
    at = _AT_LINE.search(message)
    line = int(at[1]) if at else text.count("\n") + 1 if "end of document" in message else 0
    problem = f"not valid TOML: {_AT_LINE.sub('', message).strip()}"
    return ConfigErrors((ConfigError(file, key_at_line(text, line), line, problem),))


def _single(file: str, line: int, problem: str) -> ConfigErrors:
    return ConfigErrors((ConfigError(file, "", line, problem),))


def decode(value: object, kind: type[T], path: str, problems: Problems) -> T:
    """``value`` as the msgspec Struct ``kind``; each mistake is recorded and its field keeps its default."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return _decode_fields(value, kind, path, problems)


def _decode_fields(value: object, kind: type[T], path: str, problems: Problems) -> T:
    if not isinstance(value, dict):
        problems.add(path, f"must be a table, [{path}]")
        return kind()
    fields = msgspec.structs.fields(kind)  # type: ignore[arg-type]  # every kind given here is a Struct
    types = {field.encode_name: field.type for field in fields}
    found = {}
    for name, item in value.items():
        key = f"{path}.{name}" if path else name
        if name not in types:
            problems.add(key, unknown_key(name, tuple(types)))
            continue
        decoded = _decode_value(item, types[name], key, problems)
        if decoded is not msgspec.UNSET:
            found[name] = decoded
    return kind(**found)


def _decode_value(value: object, kind: Any, key: str, problems: Problems) -> Any:
    """One field's value, ``UNSET`` when nothing of it can be used."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return decode(value, kind, key, problems)
    if get_origin(kind) is list and isinstance(value, list):
        (element,) = get_args(kind)
        decoded = [
            _decode_value(item, element, f"{key}[{index}]", problems) for index, item in enumerate(value)
        ]
        # An unusable element keeps its place, so that the indices of later mistakes stay right.
        return ["" if item is msgspec.UNSET else item for item in decoded]
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.add(key, _mismatch(str(error), kind, value))
        return msgspec.UNSET


def _mismatch(message: str, kind: Any, value: object) -> str:
    """msgspec's text in the words of somebody who edits TOML; never shows a value that could be a key."""
    if get_origin(kind) is Literal and isinstance(value, str):
        choices = ", ".join(f'"{choice}"' for choice in get_args(kind))
        return f"must be one of {choices}{suggestion(value, get_args(kind))}"
    found = _MISMATCH.search(message)
    if found is None:
        return message.partition(" - at ")[0]
    # TOML has no null: a key that may be left out is left out.
    kinds = [name for name in found[1].split(" | ") if name != "null"]
    wanted = " or ".join(_TYPE_NAMES.get(name, name) for name in kinds)
    return f"must be {wanted}, not {_TYPE_NAMES.get(found[2], found[2])}"


def unknown_key(name: str, known: Sequence[str]) -> str:
    """The problem text of a key that does not exist, with the nearest one that does."""
    return f"unknown key{suggestion(name, known)}"


def suggestion(name: str, known: Sequence[str]) -> str:
    """``; did you mean "x"?`` when something known resembles ``name``, else ''."""
    near = difflib.get_close_matches(name[:64], known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
