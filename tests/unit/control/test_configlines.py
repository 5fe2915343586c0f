# SPDX-License-Identifier: Apache-2.0
"""The line scanner against tomllib: it finds every key tomllib finds, on the line where it stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.configlines import key_at_line, key_lines, line_of

EVERYTHING = '''\
top = 1 # line 1
"quoted key" = "a # no comment"
a.b.c = 3
text = """
[not.a.table]
x = 1 \\"""
"""
raw = \'\'\'
[[no]]
\'\'\'
[table] # line 11
list = [
  1, # one
  [2, 3],

  { inline = true, deep = { er = [4] } },
]
empty = []
when = 1979-05-27 07:32:00
[table.sub]
y = 'z'
[[peer]]
name = "a"
[[peer]]
name = "b"
[peer.extra]
k = 1
[[peer.sub]]
k = 2
[[peer.sub]]
k = 3
'''


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            shown = (
                name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else f'"{name}"'
            )
            path = f"{prefix}.{shown}" if prefix else shown
            yield path
            yield from paths(item, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield f"{prefix}[{index}]"
            yield from paths(item, f"{prefix}[{index}]")


def test_every_key_of_a_document_with_everything() -> None:
    lines = key_lines(EVERYTHING)
    assert set(paths(tomllib.loads(EVERYTHING))) <= set(lines)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("top", 1),
        ('"quoted key"', 2),
        ("a.b.c", 3),
        ("text", 4),
        ("raw", 8),
        ("table", 11),
        ("table.list", 12),
        ("table.list[0]", 13),
        ("table.list[1][1]", 14),
        ("table.list[2].deep.er[0]", 16),
        ("table.empty", 18),
        ("table.sub.y", 21),
        ("peer[0].name", 23),
        ("peer[1]", 24),
        ("peer[1].extra.k", 27),
        ("peer[1].sub[0].k", 29),
        ("peer[1].sub[1].k", 31),
    ],
)
def test_lines(key: str, line: int) -> None:
    assert key_lines(EVERYTHING)[key] == line
    assert key_lines(EVERYTHING.replace("\n", "\r\n"))[key] == line


def test_an_absent_key_has_the_line_of_what_is_around_it() -> None:
    lines = key_lines(EVERYTHING)
    assert line_of(lines, "peer[1].nothing") == 24
    assert line_of(lines, "table.list[9]") == 12
    assert line_of(lines, "nothing.at.all") == 0


def test_the_key_of_a_line_that_is_not_toml() -> None:
    text = "[gateway]\nmtu = 1\n[[peer]]\nname = nope\n"
    assert key_at_line(text, 4) == "peer.name"
    assert key_at_line("mtu = = 3", 1) == "mtu"
    assert key_at_line(text, 99) == ""
    assert key_at_line("???", 1) == ""


@pytest.mark.parametrize(
    "text", ["", "[", "[[", "a", "a =", "a = [", 'a = "', "a = {b", "=", "\0", "[a", "a = ]\n"]
)
def test_what_is_not_toml_ends_the_scan_quietly(text: str) -> None:
    assert isinstance(key_lines(text), dict)


def test_deep_nesting_ends_the_scan_quietly() -> None:
    assert key_lines("a = " + "[" * 100_000)["a"] == 1


@given(st.text(alphabet=st.sampled_from("ab.=[]{}\"'#\\ \n,1"), max_size=60))
def test_never_raises_and_agrees_with_tomllib(text: str) -> None:
    lines = key_lines(text)
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    # Escapes inside quoted keys are not undone; everything else is found.
    if "\\" not in text and '"' not in text and "'" not in text:
        assert set(paths(document)) <= set(lines)


scalars = st.one_of(st.integers(-9, 9), st.booleans(), st.from_regex(r"[a-z#\[\]= ]{0,8}", fullmatch=True))
names = st.from_regex(r"[a-z]{1,4}", fullmatch=True)


def render(value: Any, breaks: bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        gap = "\n  " if breaks else ""
        return f"[{gap}{f',{gap}'.join(render(item, breaks) for item in value)}{gap}]"
    return str(value)


@given(
    st.dictionaries(
        names,
        st.dictionaries(names, st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=4),
        max_size=4,
    ),
    st.booleans(),
)
def test_generated_documents(document: dict[str, dict[str, Any]], breaks: bool) -> None:
    rows: list[str] = []
    expected = {}
    for table, values in document.items():
        rows.append(f"[{table}]")
        expected[table] = len("\n".join(rows).split("\n"))
        for name, value in values.items():
            rows.append(f"{name} = {render(value, breaks)}")
            expected[f"{table}.{name}"] = len("\n".join(rows[:-1]).split("\n")) + 1
    text = "\n".join(rows)
    assert tomllib.loads(text) == document
    lines = key_lines(text)
    assert {key: lines[key] for key in expected} == expected
