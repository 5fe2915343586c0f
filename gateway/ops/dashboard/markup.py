# SPDX-License-Identifier: Apache-2.0
"""HTML in pieces. Rule: text is escaped unless this file made it, so a name cannot become an element."""

from __future__ import annotations

from html import escape
from typing import Final

# Elements that have no end.
_VOID: Final = frozenset({"rect"})


class Markup(str):
    """HTML that is safe to put into a page as it is."""

    __slots__ = ()


def text(value: object) -> Markup:
    """``value`` as HTML; what is HTML already stays."""
    return value if isinstance(value, Markup) else Markup(escape(str(value), quote=True))


def join(*parts: object) -> Markup:
    """One after the other."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. ``class_`` is class, ``data_id`` is data-id; an attribute that is None is left out."""
    inside = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{inside}/>" if name in _VOID else f"<{name}{inside}>{join(*children)}</{name}>")
