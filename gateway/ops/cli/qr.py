# SPDX-License-Identifier: Apache-2.0
"""A QR code as text: two rows of modules per line in half blocks, black on white where colour is allowed."""

from __future__ import annotations

from typing import Final

from gateway.errors import UsageError

_QUIET_ZONE: Final = 4  # modules; ISO/IEC 18004 §6.3.8
# (upper is dark, lower is dark) -> character drawn in dark on light
_HALF_BLOCKS: Final = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
_INVERTED: Final = str.maketrans(" ▀▄█", "█▄▀ ")
_BLACK_ON_WHITE, _RESET = "\x1b[38;5;16;48;5;231m", "\x1b[0m"


def qr_text(text: str, *, colour: bool) -> str:
    """The code of ``text``. Without colour it is drawn for light text on a dark background, as terminals are."""
    import segno  # only here: nothing else needs it

    try:
        code = segno.make(text, error="l", micro=False)
    except segno.DataOverflowError:
        raise UsageError("too long for a QR code; fewer --route or allowed_ips would help") from None
    rows = [[int(bool(module)) for module in row] for row in code.matrix_iter(border=_QUIET_ZONE)]
    rows.extend([[0] * len(rows[0])] * (len(rows) % 2))
    lines = (
        "".join(_HALF_BLOCKS[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    )
    if colour:
        return "\n".join(f"{_BLACK_ON_WHITE}{line}{_RESET}" for line in lines)
    return "\n".join(line.translate(_INVERTED) for line in lines)
