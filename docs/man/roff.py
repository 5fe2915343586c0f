# SPDX-License-Identifier: Apache-2.0
"""Text and the Markdown of our documents as man(7) macros.

Rule: what is between backticks can be copied from the page as it is; every line fits 80 columns of source.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

_WIDTH: Final = 78
_LETTERS: Final = {"…": "...", "→": r"\(->", "×": r"\(mu", "µ": r"\(mc", "–": r"\(en", "≤": r"\(<="}
# In code these must stay the ASCII characters that they are.
_LITERAL: Final = {"-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
_LINK: Final = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"`([^`]*)`|\*\*([^*]+)\*\*")
_LIST: Final = re.compile(r"^(?:-|\d+\.) ", re.MULTILINE)


def escape(text: str, *, code: bool = False) -> str:
    """Text without a meaning for roff. ValueError for a letter that this module does not know."""
    found = text.replace("\\", r"\e")
    for table in (_LETTERS, _LITERAL if code else {}):
        for letter, written in table.items():
            found = found.replace(letter, written)
    if not found.isascii():
        raise ValueError(f"no roff for {[letter for letter in found if not letter.isascii()]}: {text[:60]}")
    return found


def bold(text: str) -> str:
    """Something to be typed as it is."""
    return rf"\fB{escape(text, code=True)}\fR"


def inline(text: str) -> str:
    """A piece of Markdown: code and emphasis bold, links without their target."""
    plain = _LINK.sub(lambda link: link[1], text)
    found, at = "", 0
    for match in _CODE.finditer(plain):
        found += escape(plain[at : match.start()]) + bold(match[1] if match[1] is not None else match[2])
        at = match.end()
    return found + escape(plain[at:])


def filled(written: str) -> list[str]:
    """Lines of running text; none begins as a macro would."""
    lines = textwrap.wrap(" ".join(written.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [rf"\&{line}" if line.startswith((".", "'")) else line for line in lines]


def paragraph(text: str) -> list[str]:
    """Running text."""
    return [".PP", *filled(inline(text))]


def example(lines: Iterable[str]) -> list[str]:
    """Lines as they are."""
    shown = [escape(line, code=True) for line in lines]
    return [
        ".PP",
        ".RS 4",
        ".EX",
        *(rf"\&{line}" if line.startswith((".", r"\(aq")) else line for line in shown),
        ".EE",
        ".RE",
    ]


def tagged(tag: str, text: str) -> list[str]:
    """A term and what it means; the tag is roff already."""
    return [".TP", tag, *filled(inline(text))]


def section(title: str, *, below: bool = False) -> list[str]:
    """A heading."""
    shown = escape(title if below else title.upper(), code=True)
    return [
        f'.{"SS" if below else "SH"} "{shown}"' if " " in shown else f".{'SS' if below else 'SH'} {shown}"
    ]


# --- Markdown ------------------------------------------------------------------------------------------------------


def blocks(markdown: str) -> list[str]:
    """The paragraphs, lists, tables and blocks of code of a text."""
    return [block.rstrip() for block in re.split(r"\n\s*\n", markdown.strip("\n")) if block.strip()]


def rows(table: str) -> list[list[str]]:
    """The rows of a Markdown table without its heading."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def convert(markdown: str) -> Iterator[str]:
    """Everything below a heading. A table's first column becomes the tag, the last one its text."""
    for block in blocks(markdown):
        if block.startswith("    "):
            yield from example(textwrap.dedent(block).splitlines())
        elif block.startswith("|"):
            for row in rows(block):
                yield from tagged(_tag(row), row[-1])
        elif _LIST.match(block):
            for item in _LIST.split(block)[1:]:
                yield from [r".IP \(bu 2", *filled(inline(item))]
        else:
            yield from paragraph(block)


def _tag(row: Sequence[str]) -> str:
    """The term; of a key its type and its default as well."""
    tag = inline(row[0])
    if len(row) != 4:
        return tag
    default = "no default" if row[2] == "`-`" else f"default {inline(row[2])}"
    return f"{tag} ({inline(row[1])}; {default})"


def headed(markdown: str, mark: str) -> dict[str, str]:
    """Heading of this depth -> what stands below it; the beginning is under ''."""
    parts = re.split(rf"^{mark} (.*)$", markdown, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
