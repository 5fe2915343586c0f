# SPDX-License-Identifier: Apache-2.0
"""Where in a TOML text a key stands: dotted path -> 1-based line.

tomllib keeps no positions. This scanner runs only after tomllib has accepted the text and only when a mistake
or a warning needs a line, so it validates nothing: on anything it does not understand it stops with what it
has.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress
from typing import Final

_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'", re.DOTALL
)
_BARE: Final = re.compile(r"[^,\]}#\n]+")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_INDEX: Final = re.compile(r"\[\d+\]\Z")
_HEADER_LINE: Final = re.compile(r"^\s*\[+\s*([A-Za-z0-9_.\"' -]+?)\s*\]+", re.MULTILINE)
_KEY_LINE: Final = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=")


class _StopError(Exception):
    """The scanner met something it does not understand."""


def key_lines(text: str) -> dict[str, int]:
    """Map every key path of ``text``, such as ``peer[2].allowed_ips[0]``, to the line it starts on."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    with suppress(_StopError, RecursionError):
        scanner.document()
    return scanner.lines


def line_of(lines: dict[str, int], key: str) -> int:
    """Line of ``key``, or of the nearest table around it when the key itself is absent; 0 when unknown."""
    while key:
        if key in lines:
            return lines[key]
        key = _INDEX.sub("", key) if _INDEX.search(key) else key.rpartition(".")[0]
    return 0


def key_at_line(text: str, line: int) -> str:
    """Best guess of the key on ``line`` of a text that tomllib refused; '' when the line shows none."""
    rows = text.split("\n")
    found = _KEY_LINE.match(rows[line - 1]) if 0 < line <= len(rows) else None
    if found is None:
        return ""
    headers = _HEADER_LINE.findall("\n".join(rows[: line - 1]))
    return f"{headers[-1].strip()}.{found[1]}" if headers else found[1]


class _Scanner:
    """One pass over a TOML text. ``lines`` holds what was found so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.lines: dict[str, int] = {}
        self._newlines = [found.start() for found in re.finditer("\n", text)]
        self._arrays: dict[str, int] = {}  # path of an array of tables -> index of its last element

    def document(self) -> None:
        prefix = ""
        while True:
            self._skip(_BLANK)
            if self.pos >= len(self.text):
                return
            if self.text[self.pos] == "[":
                prefix = self._header()
            else:
                self._key_value(prefix)

    def _header(self) -> str:
        line = self._line()
        opening = "[[" if self.text.startswith("[[", self.pos) else "["
        self.pos += len(opening)
        path = ""
        parts = self._dotted_key()
        for position, part in enumerate(parts):
            path = join_key(path, part)
            if position == len(parts) - 1 and opening == "[[":
                self.lines.setdefault(path, line)
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path = f"{path}[{self._arrays[path]}]"
            self.lines.setdefault(path, line)
        self._expect("]" * len(opening))
        return path

    def _key_value(self, prefix: str) -> None:
        line = self._line()
        path = prefix
        for part in self._dotted_key():
            path = join_key(path, part)
            self.lines.setdefault(path, line)
        self._expect("=")
        self._skip(_SPACE)
        self._value(path)

    def _dotted_key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            parts.append(_bare_name(self._match(_KEY)))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.pos):
                return parts
            self.pos += 1

    def _value(self, path: str) -> None:
        first = self.text[self.pos : self.pos + 1]
        if first in ('"', "'") and first:
            self._match(_STRING)
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._match(_BARE)

    def _array(self, path: str) -> None:
        self.pos += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self.text.startswith("]", self.pos):
                self.pos += 1
                return
            element = f"{path}[{index}]"
            self.lines.setdefault(element, self._line())
            self._value(element)
            self._comma()
            index += 1

    def _inline_table(self, path: str) -> None:
        self.pos += 1
        while True:
            self._skip(_BLANK)
            if self.text.startswith("}", self.pos):
                self.pos += 1
                return
            self._key_value(path)
            self._comma()

    def _comma(self) -> None:
        self._skip(_BLANK)
        if self.text.startswith(",", self.pos):
            self.pos += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.pos)
        if found is not None:
            self.pos = found.end()

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.pos)
        if found is None:
            raise _StopError
        self.pos = found.end()
        return found[0]

    def _expect(self, token: str) -> None:
        self._skip(_SPACE)
        if not self.text.startswith(token, self.pos):
            raise _StopError
        self.pos += len(token)

    def _line(self) -> int:
        return bisect_right(self._newlines, self.pos - 1) + 1


def _bare_name(token: str) -> str:
    return token[1:-1] if token[0] in "\"'" else token


def join_key(prefix: str, part: str) -> str:
    """The path of ``part`` under ``prefix``; a part that is not a bare key is quoted."""
    name = part if _PLAIN_KEY.match(part) else f'"{part}"'
    return f"{prefix}.{name}" if prefix else name
