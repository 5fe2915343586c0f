# SPDX-License-Identifier: Apache-2.0
"""What a phone's camera does with a QR code, here with one that a terminal drew in half blocks.

ISO/IEC 18004, byte mode, without error correction: a screen that was read as text has no dirt on it. Where modules lie
and how codewords are spread over blocks is the standard's; the tables of it are segno's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from segno import consts

Matrix = list[list[int]]
BLOCKS: Final = " ▀▄█"
QUIET: Final = 4
FINDER: Final = 7
FORMAT_MASK: Final = 0b101010000010010
LEVELS: Final = {
    0b01: consts.ERROR_LEVEL_L,
    0b00: consts.ERROR_LEVEL_M,
    0b11: consts.ERROR_LEVEL_Q,
    0b10: consts.ERROR_LEVEL_H,
}
BYTE_MODE: Final = 0b0100
MASKS: Final[tuple[Callable[[int, int], bool], ...]] = (
    lambda i, j: (i + j) % 2 == 0,
    lambda i, _j: i % 2 == 0,
    lambda _i, j: j % 3 == 0,
    lambda i, j: (i + j) % 3 == 0,
    lambda i, j: (i // 2 + j // 3) % 2 == 0,
    lambda i, j: (i * j) % 2 + (i * j) % 3 == 0,
    lambda i, j: ((i * j) % 2 + (i * j) % 3) % 2 == 0,
    lambda i, j: ((i + j) % 2 + (i * j) % 3) % 2 == 0,
)


def scan(screen: str) -> str:
    """The text of the last QR code on a screen; ValueError when there is none."""
    found = [matrix for matrix in map(_matrix, _drawings(screen)) if matrix]
    if not found:
        raise ValueError("no QR code on the screen")
    return _text(found[-1])


def _drawings(screen: str) -> Iterator[list[str]]:
    """Runs of lines that are drawn in half blocks from their first column to their last."""
    lines: list[str] = []
    for line in [*screen.replace("\r", "").split("\n"), ""]:
        if re.fullmatch(f"[{BLOCKS}]{{29,}}", line):
            lines.append(line)
        elif lines:
            yield lines
            lines = []


def _matrix(lines: list[str]) -> Matrix | None:
    """The modules without the quiet zone; dark is 1, whichever way it was drawn."""
    width = max(map(len, lines))
    rows: Matrix = []
    for line in lines:
        indexes = [BLOCKS.index(char) for char in line.ljust(width)]
        rows += [[index & 1 for index in indexes], [index >> 1 for index in indexes]]
    # The quiet zone is light.
    if rows[0][0]:
        rows = [[1 - module for module in row] for row in rows]
    size = width - 2 * QUIET
    made = [row[QUIET : QUIET + size] for row in rows[QUIET : QUIET + size]]
    whole = size >= 21 and (size - 17) % 4 == 0 and len(made) == size
    return made if whole and made[0][:FINDER] == [1] * FINDER else None


def _text(matrix: Matrix) -> str:
    size = len(matrix)
    version = (size - 17) // 4
    level, mask = _format(matrix)
    bits = "".join(
        str(matrix[i][j] ^ MASKS[mask](i, j)) for i, j in _path(size) if not _function(i, j, size, version)
    )
    words = [int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8)]
    stream = "".join(f"{word:08b}" for word in _data(words, version, level))
    if int(stream[:4], 2) != BYTE_MODE:
        raise ValueError("not in byte mode")
    # The length's own length depends on the version (table 3).
    wide = 8 if version < 10 else 16
    length = int(stream[4 : 4 + wide], 2)
    payload = stream[4 + wide : 4 + wide + 8 * length]
    return bytes(int(payload[at : at + 8], 2) for at in range(0, len(payload), 8)).decode()


def _format(matrix: Matrix) -> tuple[int, int]:
    """Error level and mask, from beside the first finder."""
    cells = [(8, j) for j in (0, 1, 2, 3, 4, 5, 7, 8)] + [(i, 8) for i in (7, 5, 4, 3, 2, 1, 0)]
    found = int("".join(str(matrix[i][j]) for i, j in cells), 2) ^ FORMAT_MASK
    return LEVELS[found >> 13], found >> 10 & 0b111


def _path(size: int) -> Iterator[tuple[int, int]]:
    """Up and down in columns of two, from the right; the timing column is stepped over."""
    upwards = True
    for right in [*range(size - 1, 6, -2), 5, 3, 1]:
        for i in range(size - 1, -1, -1) if upwards else range(size):
            yield i, right
            yield i, right - 1
        upwards = not upwards


def _function(i: int, j: int, size: int, version: int) -> bool:
    """Whether the module is a pattern and not data."""
    if i == 6 or j == 6 or (i < 9 and (j < 9 or j >= size - 8)) or (j < 9 and i >= size - 8):
        return True
    if version >= 7 and ((i < 6 and size - 11 <= j < size - 8) or (j < 6 and size - 11 <= i < size - 8)):
        return True
    centres = consts.ALIGNMENT_POS[version - 2] if version > 1 else ()
    corners = ((6, 6), (6, size - 7), (size - 7, 6))
    return any(abs(i - a) <= 2 and abs(j - b) <= 2 for a in centres for b in centres if (a, b) not in corners)


def _data(words: list[int], version: int, level: int) -> list[int]:
    """The codewords of each block, one after the other: they were dealt out in turn."""
    sizes = [info.num_data for info in consts.ECC[version][level] for _ in range(info.num_blocks)]
    blocks: list[list[int]] = [[] for _ in sizes]
    dealt = iter(words)
    for turn in range(max(sizes)):
        for block, size in zip(blocks, sizes, strict=True):
            if turn < size:
                block.append(next(dealt))
    return [word for block in blocks for word in block]
